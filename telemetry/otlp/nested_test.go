package otlp

import (
	"bytes"
	"errors"
	"net/http"
	"testing"

	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/plog/plogotlp"
	"go.opentelemetry.io/collector/pdata/pmetric/pmetricotlp"
	"go.opentelemetry.io/collector/pdata/ptrace/ptraceotlp"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protowire"
)

// deep makes v a list within a list, and so on.
func deep(v pcommon.Value, levels int) {
	for range levels {
		v = v.SetEmptySlice().AppendEmpty()
	}
	v.SetStr("the end")
}

// deepRequests are requests of every signal with a value of so many levels.
func deepRequests(levels int) (ptraceotlp.ExportRequest, plogotlp.ExportRequest, pmetricotlp.ExportRequest) {
	spans := traces()
	deep(spans.Traces().ResourceSpans().At(0).Resource().Attributes().PutEmpty("deep"), levels)
	logs := plogotlp.NewExportRequest()
	deep(logs.Logs().ResourceLogs().AppendEmpty().ScopeLogs().AppendEmpty().LogRecords().AppendEmpty().Body(), levels)
	metrics := pmetricotlp.NewExportRequest()
	metric := metrics.Metrics().ResourceMetrics().AppendEmpty().ScopeMetrics().AppendEmpty().Metrics().AppendEmpty()
	deep(metric.SetEmptyGauge().DataPoints().AppendEmpty().Attributes().PutEmpty("deep"), levels)
	return spans, logs, metrics
}

func TestValuesAreReadToADepth(t *testing.T) {
	address := serve(t, &sink{})
	conn, err := grpc.NewClient(address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	for _, c := range []struct {
		levels int
		http   int
		grpc   codes.Code
	}{{40, http.StatusOK, codes.OK}, {50, http.StatusBadRequest, codes.InvalidArgument}, {10_000, http.StatusBadRequest, codes.InvalidArgument}} {
		spans, logs, metrics := deepRequests(c.levels)
		for signal, req := range map[string]message{"traces": spans, "logs": logs, "metrics": metrics} {
			asProto, _ := req.MarshalProto()
			asJSON, _ := req.MarshalJSON()
			for kind, body := range map[string][]byte{"application/x-protobuf": asProto, "application/json": asJSON} {
				resp, err := http.Post("http://"+address+"/v1/"+signal, kind, bytes.NewReader(body))
				if err != nil {
					t.Fatal(err)
				}
				_ = resp.Body.Close()
				if resp.StatusCode != c.http {
					t.Errorf("%s of %d levels as %s: %d, want %d", signal, c.levels, kind, resp.StatusCode, c.http)
				}
			}
		}
		_, traceErr := ptraceotlp.NewGRPCClient(conn).Export(t.Context(), spans)
		_, logErr := plogotlp.NewGRPCClient(conn).Export(t.Context(), logs)
		_, metricErr := pmetricotlp.NewGRPCClient(conn).Export(t.Context(), metrics)
		for signal, err := range map[string]error{"traces": traceErr, "logs": logErr, "metrics": metricErr} {
			if status.Code(err) != c.grpc {
				t.Errorf("%s of %d levels by gRPC: %v, want %s", signal, c.levels, err, c.grpc)
			}
		}
	}
}

// within returns body as the field of a message that is the field of a message, and so on, outermost first.
func within(body []byte, path ...protowire.Number) []byte {
	for i := len(path) - 1; i >= 0; i-- {
		body = append(protowire.AppendVarint(protowire.AppendTag(nil, path[i], protowire.BytesType), uint64(len(body))), body...)
	}
	return body
}

// TestEveryValueThatIsReadHasABound asks the library where it reads messages and values, so that a place which a later
// version of it adds is missed here and not by whoever sends values there.
func TestEveryValueThatIsReadHasABound(t *testing.T) {
	var levels []protowire.Number // of a list within a list
	for range maxNested {
		levels = append(levels, 5, 1)
	}
	all := newShapes()
	for signal, of := range map[string]struct {
		shape shape
		read  func([]byte) error
	}{
		"traces":  {all.traces, func(b []byte) error { return ptraceotlp.NewExportRequest().UnmarshalProto(b) }},
		"logs":    {all.logs, func(b []byte) error { return plogotlp.NewExportRequest().UnmarshalProto(b) }},
		"metrics": {all.metrics, func(b []byte) error { return pmetricotlp.NewExportRequest().UnmarshalProto(b) }},
	} {
		// Of the same length and made of the same varints, but the second is no message: its field ends too late.
		message, none := []byte{15<<3 | 2, 0}, []byte{15<<3 | 2, 1}
		reads := func(path []protowire.Number) bool {
			return of.read(within(message, path...)) == nil && of.read(within(none, path...)) != nil
		}
		values := 0
		var look func(path []protowire.Number)
		look = func(path []protowire.Number) {
			if deep := append(path[:len(path):len(path)], levels...); reads(deep) {
				values++
				if err := protoNested(within(message, deep...), of.shape, maxNested); !errors.Is(err, errNested) {
					t.Errorf("%s: a value at the fields %d is read at any depth: %v", signal, path, err)
				}
				return
			}
			for field := protowire.Number(1); field <= 1000; field++ {
				if field == 50 {
					field = 1000
				}
				if next := append(path[:len(path):len(path)], field); reads(next) {
					look(next)
				}
			}
		}
		look(nil)
		if values < 5 {
			t.Errorf("%s: %d places of values found", signal, values)
		}
	}
}

// TestRequestsOfTooManyMessages: a body of a few kilobytes, packed, would be gigabytes as spans, records or attributes.
func TestRequestsOfTooManyMessages(t *testing.T) {
	s := &sink{}
	address := serve(t, s)
	many := func(unit string, n int) []byte { return bytes.Repeat([]byte(unit), n) }
	for _, c := range []struct {
		name, path, kind string
		body             []byte
		want             int
	}{
		{"spans", "traces", "application/x-protobuf", within(many("\x12\x00", maxMessages), 1, 2), http.StatusRequestEntityTooLarge},
		{"fewer spans", "traces", "application/x-protobuf", within(many("\x12\x00", 1000), 1, 2), http.StatusOK},
		{"attributes", "logs", "application/x-protobuf", within(many("\x0a\x00", maxMessages), 1, 1), http.StatusRequestEntityTooLarge},
		{"records of JSON", "logs", "application/json", []byte(`{"resourceLogs":[{"scopeLogs":[{"logRecords":[` + string(many("{},", maxMessages)) + `{}]}]}]}`), http.StatusRequestEntityTooLarge},
	} {
		resp, err := http.Post("http://"+address+"/v1/"+c.path, c.kind, bytes.NewReader(c.body))
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
		if resp.StatusCode != c.want {
			t.Errorf("%s: %s, want %d", c.name, resp.Status, c.want)
		}
	}
}
