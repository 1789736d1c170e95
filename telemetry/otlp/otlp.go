// Package otlp receives traces, logs and metrics by OTLP, and sends them onwards (Forwarder). It receives over gRPC, and over
// HTTP as protobuf or JSON, with gzip, all at one address. What a store drops is answered as OTLP asks: as a partial success, or as a refusal that may be repeated
// where nothing of a request could be taken.
package otlp

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"mime"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/collector/pdata/plog/plogotlp"
	"go.opentelemetry.io/collector/pdata/pmetric/pmetricotlp"
	"go.opentelemetry.io/collector/pdata/ptrace/ptraceotlp"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"trellis/telemetry"
)

// Bounds of a request.
const (
	maxBody = 16 << 20 // unpacked
	workers = 8        // requests that are unpacked at a time
	// patience is how long the body of a request may take to come: meanwhile it has one of the workers' places.
	patience = 10 * time.Second
)

// Config says where what is received goes.
type Config struct {
	Spans   telemetry.SpanSink
	Records telemetry.RecordSink
	// Metrics takes an ExportMetricsServiceRequest as protobuf by POST, as Prometheus' own receiver does; telemetry.RefusedHeader says
	// how much of it was not taken.
	Metrics http.Handler
	Log     *slog.Logger
}

// Receiver is the receiver. It is safe for concurrent use.
type Receiver struct {
	cfg    Config
	grpc   *grpc.Server
	http   *http.ServeMux
	free   chan struct{}
	shapes shapes
	held   atomic.Int64 // bytes of gRPC's calls that were read

	patience time.Duration
	mostHeld int64 // of held; what comes then is refused
}

// New returns a receiver; its ServeHTTP serves HTTP/1.1, and gRPC where the server speaks HTTP/2 with prior knowledge.
func New(cfg Config) *Receiver {
	r := &Receiver{cfg: cfg, http: http.NewServeMux(), free: make(chan struct{}, workers), shapes: newShapes(), patience: patience, mostHeld: workers * maxBody}
	r.grpc = r.newGRPC()
	r.http.HandleFunc("POST /v1/traces", r.serve(r.traces))
	r.http.HandleFunc("POST /v1/logs", r.serve(r.logs))
	r.http.HandleFunc("POST /v1/metrics", r.serve(r.metrics))
	return r
}

// ServeHTTP implements http.Handler.
func (r *Receiver) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	if req.ProtoMajor == 2 && strings.HasPrefix(req.Header.Get("Content-Type"), "application/grpc") {
		r.serveGRPC(w, req)
		return
	}
	r.http.ServeHTTP(w, req)
}

// Close ends the gRPC streams under way.
func (r *Receiver) Close() { r.grpc.Stop() }

// message is a request or an answer in both of OTLP's forms.
type message interface {
	MarshalProto() ([]byte, error)
	MarshalJSON() ([]byte, error)
}

// refusal is why a request is not taken.
type refusal struct {
	status int
	text   string
}

func (r *refusal) Error() string { return r.text }

// serve unpacks a body and answers in its form.
func (r *Receiver) serve(take func(ctx context.Context, body []byte, json bool) (message, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, req *http.Request) {
		select {
		case r.free <- struct{}{}:
			defer func() { <-r.free }()
		case <-req.Context().Done():
			return
		}
		in := http.NewResponseController(w)
		_ = in.SetReadDeadline(time.Now().Add(r.patience)) // a writer that knows none is a test's
		kind, _, err := mime.ParseMediaType(req.Header.Get("Content-Type"))
		json := kind == "application/json"
		if err != nil || !json && kind != "application/x-protobuf" {
			http.Error(w, "want application/x-protobuf or application/json", http.StatusUnsupportedMediaType)
			return
		}
		body, err := unpack(w, req)
		var answer message
		if err == nil {
			_ = in.SetReadDeadline(time.Time{}) // it would end what is done with the body
			answer, err = take(req.Context(), body, json)
		}
		if err != nil {
			refuse(w, kind, err)
			return
		}
		out, err := answer.MarshalProto()
		if json {
			out, err = answer.MarshalJSON()
		}
		if err != nil {
			refuse(w, kind, err)
			return
		}
		w.Header().Set("Content-Type", kind)
		_, _ = w.Write(out)
	}
}

// refuse answers with a Status in the form of the request (OpenTelemetry Protocol, "Failures").
func refuse(w http.ResponseWriter, kind string, err error) {
	var r *refusal
	if !errors.As(err, &r) {
		r = &refusal{http.StatusBadRequest, err.Error()}
	}
	if r.status == http.StatusTooManyRequests || r.status == http.StatusServiceUnavailable {
		w.Header().Set("Retry-After", "1")
	}
	says := status.Convert(rpc(r)).Proto()
	encode := proto.Marshal
	if kind == "application/json" {
		encode = protojson.Marshal
	}
	body, err := encode(says)
	if err != nil {
		http.Error(w, r.text, r.status)
		return
	}
	w.Header().Set("Content-Type", kind)
	w.WriteHeader(r.status)
	_, _ = w.Write(body)
}

// unpack reads a body of at most maxBody bytes, packed or not.
func unpack(w http.ResponseWriter, req *http.Request) ([]byte, error) {
	in := http.MaxBytesReader(w, req.Body, maxBody)
	switch req.Header.Get("Content-Encoding") {
	case "", "identity":
		return readAll(in)
	case "gzip":
		return gunzip(in)
	default:
		return nil, &refusal{http.StatusUnsupportedMediaType, "want gzip or no content encoding"}
	}
}

func gunzip(in io.Reader) ([]byte, error) {
	z, err := gzip.NewReader(in)
	if err != nil {
		return nil, unread("gzip", err)
	}
	return readAll(z)
}

func readAll(in io.Reader) ([]byte, error) {
	body, err := io.ReadAll(io.LimitReader(in, maxBody+1))
	if err != nil {
		return nil, unread("body", err)
	}
	if len(body) > maxBody {
		return nil, &refusal{http.StatusRequestEntityTooLarge, "more than 16 MiB unpacked: send smaller batches"}
	}
	return body, nil
}

// unread says why a body could not be read.
func unread(what string, err error) error {
	var tooLarge *http.MaxBytesError
	switch {
	case errors.As(err, &tooLarge):
		return &refusal{http.StatusRequestEntityTooLarge, "more than 16 MiB: send smaller batches"}
	case errors.Is(err, os.ErrDeadlineExceeded):
		return &refusal{http.StatusRequestTimeout, "the body took longer than " + patience.String() + " to come: send it at once"}
	}
	return fmt.Errorf("read %s: %w", what, err)
}

// SentAgain says whether a request of so many items, of which a store has dropped some, is refused and will be repeated: nothing
// of it could be taken for now.
func SentAgain(dropped, all int, why string) bool {
	return dropped > 0 && dropped == all && why == telemetry.LossQueueFull
}

// verdict makes an error of a request that is to be repeated.
func verdict(dropped, all int, why string) error {
	if SentAgain(dropped, all, why) {
		return &refusal{http.StatusTooManyRequests, "too much at a time: " + why}
	}
	return nil
}

func (r *Receiver) traces(_ context.Context, body []byte, json bool) (message, error) {
	req := ptraceotlp.NewExportRequest()
	if err := read(body, json, r.shapes.traces, req.UnmarshalJSON, req.UnmarshalProto); err != nil {
		return nil, err
	}
	return r.takeTraces(req)
}

func (r *Receiver) takeTraces(req ptraceotlp.ExportRequest) (ptraceotlp.ExportResponse, error) {
	resp := ptraceotlp.NewExportResponse()
	spans, bad := spansOf(req.Traces())
	dropped, why := r.cfg.Spans.AddSpans(spans)
	if err := verdict(dropped, len(spans), why); err != nil {
		return resp, err
	}
	if bad > 0 && dropped == 0 {
		why = "no valid trace or span ID"
	}
	if dropped+bad > 0 {
		resp.PartialSuccess().SetRejectedSpans(int64(dropped + bad))
		resp.PartialSuccess().SetErrorMessage(why)
	}
	return resp, nil
}

func (r *Receiver) logs(_ context.Context, body []byte, json bool) (message, error) {
	req := plogotlp.NewExportRequest()
	if err := read(body, json, r.shapes.logs, req.UnmarshalJSON, req.UnmarshalProto); err != nil {
		return nil, err
	}
	return r.takeLogs(req)
}

func (r *Receiver) takeLogs(req plogotlp.ExportRequest) (plogotlp.ExportResponse, error) {
	resp := plogotlp.NewExportResponse()
	records := recordsOf(req.Logs())
	dropped, why := r.cfg.Records.AddRecords(records)
	if err := verdict(dropped, len(records), why); err != nil {
		return resp, err
	}
	if dropped > 0 {
		resp.PartialSuccess().SetRejectedLogRecords(int64(dropped))
		resp.PartialSuccess().SetErrorMessage(why)
	}
	return resp, nil
}

func (r *Receiver) metrics(ctx context.Context, body []byte, json bool) (message, error) {
	req := pmetricotlp.NewExportRequest()
	if err := read(body, json, r.shapes.metrics, req.UnmarshalJSON, req.UnmarshalProto); err != nil {
		return nil, err
	}
	return r.takeMetrics(ctx, req)
}

// takeMetrics hands metrics on as protobuf.
func (r *Receiver) takeMetrics(ctx context.Context, req pmetricotlp.ExportRequest) (pmetricotlp.ExportResponse, error) {
	resp := pmetricotlp.NewExportResponse()
	body, err := req.MarshalProto()
	if err != nil {
		return resp, err
	}
	to, err := http.NewRequestWithContext(ctx, http.MethodPost, "/", bytes.NewReader(body))
	if err != nil {
		return resp, err
	}
	to.Header.Set("Content-Type", "application/x-protobuf")
	w := &answer{header: http.Header{}, status: http.StatusOK}
	r.cfg.Metrics.ServeHTTP(w, to)
	text := strings.TrimSpace(w.body.String())
	switch {
	case w.status/100 == 2:
	case w.status == http.StatusBadRequest: // some of it, which must not be sent again
		all := req.Metrics().DataPointCount()
		if n, err := strconv.Atoi(w.header.Get(telemetry.RefusedHeader)); err == nil { // a histogram's point is several samples
			all = min(all, n)
		}
		resp.PartialSuccess().SetErrorMessage(text)
		resp.PartialSuccess().SetRejectedDataPoints(int64(all))
	default:
		return resp, &refusal{http.StatusServiceUnavailable, text}
	}
	return resp, nil
}

func read(body []byte, json bool, s shape, fromJSON, fromProto func([]byte) error) error {
	unmarshal, nested := fromProto, func(body []byte) error { return protoNested(body, s, maxNested) }
	if json {
		unmarshal, nested = fromJSON, jsonNested
	}
	err := nested(body)
	if err == nil {
		err = unmarshal(body)
	}
	if err != nil {
		return fmt.Errorf("read request: %w", err)
	}
	return nil
}

// answer is an HTTP answer in memory.
type answer struct {
	header http.Header
	status int
	body   bytes.Buffer
}

func (a *answer) Header() http.Header         { return a.header }
func (a *answer) WriteHeader(status int)      { a.status = status }
func (a *answer) Write(b []byte) (int, error) { return a.body.Write(b) }

// rpc gives a refusal its gRPC status; both may be repeated by OTLP's rules.
func rpc(err error) error {
	var r *refusal
	switch {
	case err == nil:
		return nil
	case errors.As(err, &r) && r.status == http.StatusServiceUnavailable:
		return status.Error(codes.Unavailable, err.Error())
	case errors.As(err, &r) && r.status != http.StatusBadRequest:
		return status.Error(codes.ResourceExhausted, err.Error())
	}
	return status.Error(codes.InvalidArgument, err.Error())
}
