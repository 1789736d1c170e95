package otlp

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/status"
)

// newGRPC returns the server of OTLP's three services.
func (r *Receiver) newGRPC() *grpc.Server {
	s := grpc.NewServer(grpc.MaxRecvMsgSize(maxBody), grpc.ForceServerCodecV2(codec{}))
	s.RegisterService(r.service("trace.v1.TraceService", r.traces), nil)
	s.RegisterService(r.service("logs.v1.LogsService", r.logs), nil)
	s.RegisterService(r.service("metrics.v1.MetricsService", r.metrics), nil)
	return s
}

// serveGRPC serves one call. What is read of calls before they have their places is bounded by mostHeld and patience, and stays packed until
// then: what thousands of bytes unpack to are millions, and calls that wait may be many. gRPC would unpack it before it asks anybody, so it is
// told that nothing is packed.
func (r *Receiver) serveGRPC(w http.ResponseWriter, req *http.Request) {
	_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(r.patience)) // a writer that knows none is a test's
	body := &held{ReadCloser: req.Body, by: r}
	if req.Header.Get(encoding) == "gzip" {
		req.Header.Del(encoding)
		body.packed = true
	}
	defer body.release()
	req.Body = body
	r.grpc.ServeHTTP(w, req)
}

const encoding = "Grpc-Encoding"

// held is the body of a call, of which all that is read stays in memory until the call is answered.
type held struct {
	io.ReadCloser
	by     *Receiver
	n      int64
	packed bool // the message may be; its first byte, which is still to come, says so
}

var errHeld = errors.New("too much is sent at a time: send it again later")

// Read implements io.Reader. The buffers are kept, however little is read into them. gRPC says of any error here that the service is
// unavailable, and so has the call sent again.
func (h *held) Read(p []byte) (int, error) {
	n := int64(len(p))
	if h.by.held.Add(n) > h.by.mostHeld {
		h.by.held.Add(-n)
		return 0, errHeld
	}
	h.n += n
	got, err := h.ReadCloser.Read(p)
	if h.packed && got > 0 {
		if h.packed = false; p[0] == 1 {
			p[0] = 0
		}
	}
	return got, err
}

func (h *held) release() { h.by.held.Add(-h.n) }

// service answers the one method of an OTLP service as serve answers a POST. A call takes its place once it is here as a whole: the
// calls of a connection share one window, and those that wait would keep what the others wait for from coming.
func (r *Receiver) service(name string, take func(ctx context.Context, body []byte, json bool) (message, error)) *grpc.ServiceDesc {
	export := func(_ any, ctx context.Context, decode func(any) error, _ grpc.UnaryServerInterceptor) (any, error) {
		var body []byte
		if err := decode(&body); err != nil {
			return nil, err
		}
		select {
		case r.free <- struct{}{}:
			defer func() { <-r.free }()
		case <-ctx.Done():
			return nil, status.FromContextError(ctx.Err()).Err()
		}
		if bytes.HasPrefix(body, []byte{0x1f, 0x8b}) { // how gzip begins, and no field of protobuf does
			var err error
			if body, err = gunzip(bytes.NewReader(body)); err != nil {
				return nil, rpc(err)
			}
		}
		answer, err := take(ctx, body, false)
		return answer, rpc(err)
	}
	return &grpc.ServiceDesc{
		ServiceName: "opentelemetry.proto.collector." + name, HandlerType: (*any)(nil),
		Methods: []grpc.MethodDesc{{MethodName: "Export", Handler: export}},
	}
}

// codec hands a request on as it is, so that its depth is looked at before it is read.
type codec struct{}

func (codec) Name() string { return "proto" }

func (codec) Marshal(v any) (mem.BufferSlice, error) {
	body, err := v.(message).MarshalProto()
	return mem.BufferSlice{mem.SliceBuffer(body)}, err
}

func (codec) Unmarshal(data mem.BufferSlice, v any) error {
	*v.(*[]byte) = data.Materialize()
	return nil
}
