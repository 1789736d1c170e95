package server

import (
	"bytes"
	"context"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/plog/plogotlp"
	"go.opentelemetry.io/collector/pdata/pmetric/pmetricotlp"
	"go.opentelemetry.io/collector/pdata/ptrace/ptraceotlp"

	"trellis/telemetry"
)

// TestWhatIsSentAgainIsForwardedOnce: a program sends again what is refused for now, so what is refused goes nowhere before; and
// what Trellis itself has heard, and nobody repeats, is forwarded where the store has no room for it too.
func TestWhatIsSentAgainIsForwardedOnce(t *testing.T) {
	s := newSight(watching{subject: rotated{}, project: "shop", dir: t.TempDir(), changed: &broadcast{}}, slog.New(slog.DiscardHandler))
	now := time.Now()
	text := strings.Repeat("x", 2<<10)
	for _, size := range []int{200 << 10, len(text)} { // no store runs, so that their queues stay full
		for full, one := 0, strings.Repeat("x", size); full == 0; {
			full, _ = s.logs.AddRecords([]telemetry.Record{{Time: now, Body: one}})
		}
		for full, one := 0, strings.Repeat("x", size); full == 0; {
			full, _ = s.traces.AddSpans([]telemetry.Span{{Start: now, Message: one}})
		}
	}
	s.forward.SetTarget("http://127.0.0.1:1", nil)
	r := s.receiver()
	defer r.Close()
	bodies := requests(t, now)
	send := func(want int) {
		t.Helper()
		for path, body := range bodies {
			req := httptest.NewRequest(http.MethodPost, path, bytes.NewReader(body))
			req.Header.Set("Content-Type", "application/x-protobuf")
			w := httptest.NewRecorder()
			r.ServeHTTP(w, req)
			if ok := w.Code == http.StatusOK; ok != (want == http.StatusOK) {
				t.Errorf("%s: %d %s, want %d", path, w.Code, w.Body, want)
			}
		}
	}
	forwarded := func(want uint64) {
		t.Helper()
		if h := s.forward.Health(); h.Accepted != want || len(h.Lost) != 0 {
			t.Errorf("%d were forwarded, want %d: %v", h.Accepted, want, h.Lost)
		}
	}
	send(http.StatusServiceUnavailable)
	send(http.StatusServiceUnavailable)
	forwarded(0)
	s.AddRecords([]telemetry.Record{{Time: now, Body: text}})
	s.AddSpans([]telemetry.Span{{Start: now, Message: text}})
	forwarded(2)

	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	for _, run := range []func(context.Context) error{s.logs.Run, s.traces.Run, s.metrics.Run} {
		running.Go(func() {
			if err := run(ctx); err != nil {
				t.Error(err)
			}
		})
	}
	defer func() { cancel(); running.Wait() }()
	<-s.metrics.Opened()
	for _, flush := range []func(context.Context) error{s.logs.Flush, s.traces.Flush} {
		if err := flush(ctx); err != nil {
			t.Fatal(err)
		}
	}
	send(http.StatusOK)
	forwarded(5)
}

// requests are one of each kind, by path.
func requests(t *testing.T, now time.Time) map[string][]byte {
	t.Helper()
	at := pcommon.NewTimestampFromTime(now)
	logs, traces, metrics := plogotlp.NewExportRequest(), ptraceotlp.NewExportRequest(), pmetricotlp.NewExportRequest()
	l := logs.Logs().ResourceLogs().AppendEmpty().ScopeLogs().AppendEmpty().LogRecords().AppendEmpty()
	l.SetTimestamp(at)
	l.Body().SetStr(strings.Repeat("z", 8<<10))
	span := traces.Traces().ResourceSpans().AppendEmpty().ScopeSpans().AppendEmpty().Spans().AppendEmpty()
	span.SetTraceID(pcommon.TraceID{1})
	span.SetSpanID(pcommon.SpanID{1})
	span.SetStartTimestamp(at)
	span.SetEndTimestamp(at)
	span.SetName(strings.Repeat("z", 8<<10))
	m := metrics.Metrics().ResourceMetrics().AppendEmpty().ScopeMetrics().AppendEmpty().Metrics().AppendEmpty()
	m.SetName("orders")
	p := m.SetEmptyGauge().DataPoints().AppendEmpty()
	p.SetTimestamp(at)
	p.SetIntValue(1)
	all := map[string][]byte{}
	for path, one := range map[string]interface{ MarshalProto() ([]byte, error) }{"/v1/logs": logs, "/v1/traces": traces, "/v1/metrics": metrics} {
		body, err := one.MarshalProto()
		if err != nil {
			t.Fatal(err)
		}
		all[path] = body
	}
	return all
}
