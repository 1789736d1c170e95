package probe

import (
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"google.golang.org/protobuf/encoding/protowire"
)

const healthPath = "/grpc.health.v1.Health/Check"

// The answers of grpc.health.v1.HealthCheckResponse.status.
var servingStatus = map[uint64]string{0: "UNKNOWN", 1: "SERVING", 2: "NOT_SERVING", 3: "SERVICE_UNKNOWN"}

const serving = 1

// The gRPC status codes that servers answer a health check with; others are printed as numbers.
var grpcStatus = map[string]string{
	"1": "CANCELLED", "2": "UNKNOWN", "4": "DEADLINE_EXCEEDED", "5": "NOT_FOUND", "7": "PERMISSION_DENIED",
	"8": "RESOURCE_EXHAUSTED", "12": "UNIMPLEMENTED", "13": "INTERNAL", "14": "UNAVAILABLE", "16": "UNAUTHENTICATED",
}

// askGRPC makes the one unary call over net/http's HTTP/2, which is in the binary anyway: grpc-go's client would start
// a resolver, a balancer and several goroutines for each call.
func (s Spec) askGRPC(ctx context.Context, conn net.Conn, address string) (bool, string) {
	service := strings.TrimPrefix(s.Path, "-") // "-" is the server as a whole
	name := "gRPC health of the server"
	if service != "" {
		name = "gRPC health of " + service
	}
	if s.TLS {
		secure := tls.Client(conn, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"h2"}})
		if err := secure.HandshakeContext(ctx); err != nil {
			return false, "TLS with " + address + ": " + s.cause(orDone(ctx, err))
		}
		conn = secure
	}
	status, err := check(ctx, conn, address, service, s.TLS)
	if err != nil {
		return false, name + ": " + s.cause(orDone(ctx, err))
	}
	text, known := servingStatus[status]
	if !known {
		text = fmt.Sprintf("unknown status %d", status)
	}
	return status == serving, name + ": " + text
}

// check calls Health/Check on conn, which it closes.
func check(ctx context.Context, conn net.Conn, address, service string, secure bool) (uint64, error) {
	already := func(context.Context, string, string) (net.Conn, error) { return conn, nil }
	protocols := new(http.Protocols)
	protocols.SetHTTP2(secure)
	protocols.SetUnencryptedHTTP2(!secure)
	transport := &http.Transport{
		DialContext: already, DialTLSContext: already, Protocols: protocols,
		DisableCompression: true, MaxResponseHeaderBytes: maxAnswer, IdleConnTimeout: time.Second,
	}
	scheme := "http"
	if secure {
		scheme = "https"
	}
	client, err := transport.NewClientConn(ctx, scheme, address)
	if err != nil {
		return 0, err
	}
	defer client.Close()
	request := &http.Request{
		Method: http.MethodPost,
		URL:    &url.URL{Scheme: scheme, Host: address, Path: healthPath},
		Header: http.Header{"Content-Type": {"application/grpc"}, "Te": {"trailers"}, "User-Agent": {"trellis-probe"}},
		Body:   io.NopCloser(strings.NewReader(healthRequest(service))),
	}
	answer, err := client.RoundTrip(request.WithContext(ctx))
	if err != nil {
		return 0, err
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		return 0, fmt.Errorf("HTTP status %d instead of a gRPC answer", answer.StatusCode)
	}
	message, err := io.ReadAll(io.LimitReader(answer.Body, maxMessage+1))
	if err != nil {
		return 0, err
	}
	if len(message) > maxMessage {
		return 0, errors.New("the answer is longer than a health check's")
	}
	if err := grpcError(answer); err != nil {
		return 0, err
	}
	return healthStatus(message)
}

// grpcError is the call's status; an answer without messages carries it in the headers instead of the trailers.
func grpcError(answer *http.Response) error {
	fields := answer.Trailer
	if fields.Get("Grpc-Status") == "" {
		fields = answer.Header
	}
	code := fields.Get("Grpc-Status")
	if code == "0" {
		return nil
	}
	if code == "" {
		return errors.New("not a gRPC answer: no grpc-status")
	}
	text := "status " + code
	if name, ok := grpcStatus[code]; ok {
		text = name
	}
	if detail, err := url.PathUnescape(fields.Get("Grpc-Message")); err == nil && detail != "" {
		text += ": " + detail
	}
	return errors.New(text)
}

// healthRequest is a HealthCheckRequest{service = 1} in gRPC's framing: not compressed, length, message.
func healthRequest(service string) string {
	frame := make([]byte, 5, 16+len(service))
	if service != "" {
		frame = protowire.AppendTag(frame, 1, protowire.BytesType)
		frame = protowire.AppendString(frame, service)
	}
	binary.BigEndian.PutUint32(frame[1:5], uint32(len(frame)-5))
	return string(frame)
}

// healthStatus reads the status of a framed HealthCheckResponse{status = 1}; an absent field is 0, UNKNOWN.
func healthStatus(frame []byte) (uint64, error) {
	malformed := errors.New("the answer is not a HealthCheckResponse")
	if len(frame) < 5 || frame[0] != 0 || uint64(binary.BigEndian.Uint32(frame[1:5])) != uint64(len(frame)-5) {
		return 0, malformed
	}
	status := uint64(0)
	for message := frame[5:]; len(message) > 0; {
		number, kind, n := protowire.ConsumeTag(message)
		if n < 0 {
			return 0, malformed
		}
		message = message[n:]
		if number == 1 && kind == protowire.VarintType {
			if status, n = protowire.ConsumeVarint(message); n < 0 {
				return 0, malformed
			}
		} else if n = protowire.ConsumeFieldValue(number, kind, message); n < 0 {
			return 0, malformed
		}
		message = message[n:]
	}
	return status, nil
}
