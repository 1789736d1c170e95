package otlp

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.opentelemetry.io/collector/pdata/pmetric"
	"go.opentelemetry.io/collector/pdata/pmetric/pmetricotlp"

	"trellis/telemetry"
)

// forwarding runs a forwarder to a receiver until the test's end.
func forwarding(t *testing.T, to string, header http.Header) *Forwarder {
	t.Helper()
	f := NewForwarder(ForwarderConfig{Project: "shop", Log: slog.New(slog.DiscardHandler)})
	f.first = time.Millisecond
	f.SetTarget(to, header)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = f.Run(ctx)
	}()
	t.Cleanup(func() {
		cancel()
		<-done
		http.DefaultClient.CloseIdleConnections()
	})
	return f
}

func await(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !ok(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not in time: %s", what)
		}
	}
}

// TestWhatIsForwardedArrivesAsItWas: what the receiver of this package makes of it is what was given.
func TestWhatIsForwardedArrivesAsItWas(t *testing.T) {
	got := &sink{}
	f := forwarding(t, "http://"+serve(t, got), nil)
	start := time.Unix(1_700_000_000, 5000).UTC()
	spans := []telemetry.Span{
		{
			Trace: telemetry.TraceID{1}, ID: telemetry.SpanID{2}, Parent: telemetry.SpanID{3}, Service: "web", Instance: "web-1", Revision: 7, Name: "GET /",
			Kind: telemetry.KindServer, Start: start, Duration: time.Second, Status: telemetry.StatusError, Message: "no", Scope: "trellis",
			Attributes: map[string]any{"a": "b", "n": int64(3), "f": 1.5, "yes": true, "list": []any{"x", int64(1)}, "map": map[string]any{"k": "v"}},
			Events:     []telemetry.SpanEvent{{Time: start, Name: "retry", Attributes: map[string]any{"n": int64(1)}}},
			Links:      []telemetry.SpanLink{{Trace: telemetry.TraceID{9}, Span: telemetry.SpanID{8}}},
		},
		{Trace: telemetry.TraceID{1}, ID: telemetry.SpanID{4}, Service: "api", Name: "ask", Kind: telemetry.KindClient, Start: start, Status: telemetry.StatusOK},
	}
	records := []telemetry.Record{
		{Time: start, Service: "web", Instance: "web-1", Revision: 7, Stream: telemetry.StreamOTLP, Severity: telemetry.SeverityWarn, Body: "slow", Trace: telemetry.TraceID{1}, Span: telemetry.SpanID{2}, Attributes: map[string]any{"k": "v"}},
		{Time: start, Service: "web", Instance: "web-1", Revision: 7, Stream: telemetry.StreamOTLP, Body: "plain"},
	}
	f.AddSpans(spans)
	f.AddRecords(records)
	f.AddSamples([]telemetry.Sample{
		{Labels: map[string]string{"__name__": "trellis_requests_total", "service": "web", "instance": "web-1", "code": "2xx"}, Time: start, Value: 12, Created: start.Add(-time.Minute)},
		{Labels: map[string]string{"__name__": "trellis_disk_free_bytes"}, Time: start, Value: 5},
		{Labels: map[string]string{"__name__": "trellis_request_duration_seconds", "service": "web"}, Time: start, Distribution: &telemetry.Distribution{Counts: map[float64]uint64{0: 1, 0.1: 3, 4: 2}}},
	})
	await(t, "all of it", func() bool {
		got.mu.Lock()
		defer got.mu.Unlock()
		return len(got.spans) == 2 && len(got.records) == 2 && got.metrics != nil
	})
	if d := cmp.Diff(spans, got.spans); d != "" {
		t.Errorf("spans (-sent +received):\n%s", d)
	}
	if d := cmp.Diff(records, got.records); d != "" {
		t.Errorf("records (-sent +received):\n%s", d)
	}
	request := pmetricotlp.NewExportRequest()
	if err := request.UnmarshalProto(got.metrics); err != nil {
		t.Fatal(err)
	}
	found := map[string]pmetric.Metric{}
	for _, rm := range request.Metrics().ResourceMetrics().All() {
		service, _ := rm.Resource().Attributes().Get("service.name")
		for _, m := range rm.ScopeMetrics().At(0).Metrics().All() {
			found[service.Str()+" "+m.Name()] = m
		}
	}
	if m := found["web trellis_requests_total"]; m.Type() != pmetric.MetricTypeSum || !m.Sum().IsMonotonic() || m.Sum().DataPoints().At(0).DoubleValue() != 12 {
		t.Errorf("a count: %v", found)
	}
	if m := found["shop trellis_disk_free_bytes"]; m.Type() != pmetric.MetricTypeGauge || m.Gauge().DataPoints().At(0).DoubleValue() != 5 {
		t.Errorf("a number: %v", found)
	}
	m := found["web trellis_request_duration_seconds"]
	if m.Type() != pmetric.MetricTypeExponentialHistogram {
		t.Fatalf("a distribution: %v", found)
	}
	p := m.ExponentialHistogram().DataPoints().At(0)
	counts := p.Positive().BucketCounts().AsRaw()
	// 4 is 2^2: the last of the buckets up to it, whose index at 16 buckets a doubling is 31.
	if p.Count() != 6 || p.ZeroCount() != 1 || counts[0] != 3 || counts[len(counts)-1] != 2 || int(p.Positive().Offset())+len(counts)-1 != 31 {
		t.Errorf("a distribution: %d in all, %d at 0, from %d: %v", p.Count(), p.ZeroCount(), p.Positive().Offset(), counts)
	}
}

// TestAForwardedSumOnlyGrows: the same distribution has the same sum each time, to the last digit.
func TestAForwardedSumOnlyGrows(t *testing.T) {
	counts := map[float64]uint64{}
	for i := range 300 {
		counts[0.001+0.0137*float64(i)] = uint64(1000 + 7*i)
	}
	first := 0.0
	for round := range 100 {
		point := pmetric.NewExponentialHistogramDataPoint()
		writeDistribution(point, &telemetry.Distribution{Counts: counts})
		if round == 0 {
			first = point.Sum()
		}
		if point.Sum() != first {
			t.Fatalf("round %d: the sum went from %v to %v", round, first, point.Sum())
		}
	}
}

// TestAnOutageOfTheReceiverLosesNothing: what it could not take is sent again, in order, with the header that it wants.
func TestAnOutageOfTheReceiverLosesNothing(t *testing.T) {
	var down atomic.Int64
	down.Store(5)
	got := &sink{}
	inner := New(Config{Spans: got, Records: got, Metrics: got, Log: slog.New(slog.DiscardHandler)})
	defer inner.Close()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("X-Key") != "k" {
			t.Errorf("the header is %v", r.Header)
		}
		switch down.Add(-1) {
		case 4:
			w.WriteHeader(http.StatusServiceUnavailable)
		case 3:
			w.WriteHeader(http.StatusTooManyRequests)
		case 2, 1:
			panic(http.ErrAbortHandler)
		case 0:
			w.WriteHeader(http.StatusBadGateway)
		default:
			inner.ServeHTTP(w, r)
		}
	}))
	defer server.Close()
	f := forwarding(t, server.URL+"/", http.Header{"X-Key": {"k"}})
	for i := range 20 {
		f.AddRecords([]telemetry.Record{{Time: time.Unix(1_700_000_000, 0), Service: "web", Stream: telemetry.StreamOTLP, Body: fmt.Sprint(i)}})
	}
	await(t, "all records", func() bool {
		got.mu.Lock()
		defer got.mu.Unlock()
		return len(got.records) == 20
	})
	for i, r := range got.records {
		if r.Body != fmt.Sprint(i) {
			t.Fatalf("record %d is %q", i, r.Body)
		}
	}
	await(t, "it to be seen", func() bool { h := f.Health(); return h.Bytes == 0 && h.Problem == "" })
	if h := f.Health(); len(h.Lost) != 0 || h.Accepted != 20 {
		t.Errorf("%+v", h)
	}
}

// TestWhatCannotBeForwardedIsCounted: a receiver that refuses, one that is never there, and no receiver at all.
func TestWhatCannotBeForwardedIsCounted(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, "http://127.0.0.1:1/", http.StatusTemporaryRedirect) // the header is not for elsewhere
	}))
	defer server.Close()
	one := []telemetry.Record{{Time: time.Now(), Service: "web", Body: "x"}}
	f := forwarding(t, server.URL, nil)
	f.AddRecords(one)
	await(t, "the refusal", func() bool { return f.Health().Lost[telemetry.LossInvalid] == 1 })

	away := NewForwarder(ForwarderConfig{Project: "shop", Log: slog.New(slog.DiscardHandler)})
	if n, _ := away.AddRecords(one); n != 0 || away.Health().Bytes != 0 {
		t.Errorf("without a receiver: %+v", away.Health())
	}
	away.SetTarget("http://127.0.0.1:1", nil)
	large := []telemetry.Record{{Time: time.Now(), Service: "web", Body: string(make([]byte, 1<<20))}}
	dropped := 0
	for range 20 {
		n, _ := away.AddRecords(large)
		dropped += n
	}
	if h := away.Health(); dropped < 4 || h.Lost[telemetry.LossQueueFull] != uint64(dropped) || h.Bytes > maxWaiting {
		t.Errorf("%d dropped: %+v", dropped, h)
	}
	away.SetTarget("", nil)
	if h := away.Health(); h.Bytes != 0 {
		t.Errorf("no receiver any more: %+v", h)
	}
}
