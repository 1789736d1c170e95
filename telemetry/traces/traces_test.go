package traces

import (
	"context"
	"errors"
	"log/slog"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"trellis/errdefs"
	"trellis/telemetry"
)

func store(t testing.TB) *Store {
	t.Helper()
	s := New(Config{Dir: t.TempDir(), Log: slog.New(slog.DiscardHandler)})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); _ = s.Run(ctx) }()
	t.Cleanup(func() { cancel(); <-done })
	return s
}

func TestTracesAreFound(t *testing.T) {
	s := store(t)
	now := time.Now().UTC()
	a, b := telemetry.TraceID{1}, telemetry.TraceID{2}
	span := func(trace telemetry.TraceID, id, parent byte, service, name string, at, took time.Duration) telemetry.Span {
		return telemetry.Span{
			Trace: trace, ID: telemetry.SpanID{id}, Parent: telemetry.SpanID{parent}, Service: service, Name: name,
			Kind: telemetry.KindServer, Start: now.Add(at), Duration: took,
		}
	}
	root := span(a, 1, 0, "web", "GET /", -10*time.Second, 300*time.Millisecond)
	root.Attributes = map[string]any{"http.response.status_code": int64(200), CallerAttribute: "", "user": "u1", "order": int64(1793827364518273645), "paid": 1234567.5, "url.path": "/lists/4711"}
	child := span(a, 2, 1, "api", "GET /items", -9900*time.Millisecond, 200*time.Millisecond)
	failed := span(a, 3, 2, "db", "SELECT", -9800*time.Millisecond, 100*time.Millisecond)
	failed.Status, failed.Message = telemetry.StatusError, "dead lock"
	failed.Events = []telemetry.SpanEvent{{Time: now, Name: "retry"}}
	early := span(b, 4, 0, "web", "GET /other", -2*time.Hour, time.Millisecond)
	if n, why := s.AddSpans([]telemetry.Span{failed, child, root, early}); n > 0 {
		t.Fatalf("dropped %d: %s", n, why)
	}
	if err := s.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	got, err := s.Trace(t.Context(), a)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]telemetry.Span{root, child, failed}, got); diff != "" {
		t.Error(diff)
	}
	if _, err := s.Trace(t.Context(), telemetry.TraceID{9}); !errors.Is(err, errdefs.ErrNotFound) {
		t.Errorf("a trace that is not there: %v", err)
	}
	for _, c := range []struct {
		f    telemetry.TraceFilter
		want int
	}{
		{telemetry.TraceFilter{}, 1}, {telemetry.TraceFilter{Since: now.Add(-3 * time.Hour)}, 2}, {telemetry.TraceFilter{Service: "db"}, 1},
		{telemetry.TraceFilter{Errors: true}, 1}, {telemetry.TraceFilter{Service: "web", Errors: true}, 0},
		{telemetry.TraceFilter{MinDuration: 250 * time.Millisecond}, 1}, {telemetry.TraceFilter{MinDuration: time.Second}, 0},
		{telemetry.TraceFilter{Attributes: map[string]string{"user": "u1"}}, 1}, {telemetry.TraceFilter{Attributes: map[string]string{"user": "u2"}}, 0},
		{telemetry.TraceFilter{Attributes: map[string]string{"order": "1793827364518273645"}}, 1}, {telemetry.TraceFilter{Attributes: map[string]string{"paid": "1234567.5"}}, 1},
		{telemetry.TraceFilter{Name: "/items"}, 1}, {telemetry.TraceFilter{Name: "lists/4"}, 1}, {telemetry.TraceFilter{Name: "u1"}, 0},
		{telemetry.TraceFilter{Since: now.Add(-3 * time.Hour), Limit: 1}, 1},
	} {
		found, err := s.Search(t.Context(), c.f)
		if err != nil || len(found) != c.want {
			t.Errorf("%+v: %d, %v", c.f, len(found), err)
		}
	}
	found, _ := s.Search(t.Context(), telemetry.TraceFilter{Service: "db"})
	want := telemetry.TraceSummary{
		Trace: a, Start: root.Start, Duration: 300 * time.Millisecond, Root: "GET /", Path: "/lists/4711", Service: "web", Services: []string{"api", "db", "web"},
		Spans: 3, Errors: 1, HTTP: 200,
	}
	if len(found) == 1 {
		if diff := cmp.Diff(want, found[0]); diff != "" {
			t.Error(diff)
		}
	}
	edges, since, err := s.Graph(t.Context(), now.Add(-time.Minute), now)
	wantEdges := []telemetry.Edge{
		{Caller: "", Callee: "web", Calls: 1, P50: 300 * time.Millisecond, P99: 300 * time.Millisecond},
		{Caller: "api", Callee: "db", Calls: 1, Errors: 1, P50: 100 * time.Millisecond, P99: 100 * time.Millisecond},
		{Caller: "web", Callee: "api", Calls: 1, P50: 200 * time.Millisecond, P99: 200 * time.Millisecond},
	}
	if diff := cmp.Diff(wantEdges, edges); diff != "" || err != nil || !since.Equal(now.Add(-time.Minute)) {
		t.Error(diff, since, err)
	}
}

func TestAGraphOfTooManySpansRestsOnTheNewest(t *testing.T) {
	s := store(t)
	now := time.Now()
	const n, most = 3000, 2000
	spans := make([]telemetry.Span, n)
	for i := range spans {
		spans[i] = telemetry.Span{
			Trace: telemetry.TraceID{1}, ID: telemetry.SpanID{byte(i), byte(i >> 8)}, Service: "web", Kind: telemetry.KindServer,
			Start: now.Add(time.Duration(i-n) * time.Millisecond), Duration: 12345 * time.Microsecond, Attributes: map[string]any{CallerAttribute: ""},
		}
	}
	if lost, why := s.AddSpans(spans); lost > 0 {
		t.Fatal(why)
	}
	if err := s.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	edges, since, err := s.graphOf(t.Context(), now.Add(-time.Hour), now, most)
	if err != nil || len(edges) != 1 || edges[0].P50 != 12300*time.Microsecond {
		t.Fatalf("%+v, %v", edges, err)
	}
	if edges[0].Calls != most || !since.Equal(now.Add(-most*time.Millisecond)) {
		t.Errorf("%d calls since %v of now", edges[0].Calls, since.Sub(now))
	}
}

// TestATraceThatNeverEnds: what is returned of one is bounded, however many hours it goes on.
func TestATraceThatNeverEnds(t *testing.T) {
	s := store(t)
	now := time.Now().UTC()
	id := telemetry.TraceID{1}
	for hour := range 3 {
		var some []telemetry.Span
		for i := range 4500 {
			some = append(some, telemetry.Span{
				Trace: id, ID: telemetry.SpanID{byte(hour), byte(i >> 8), byte(i), 1}, Service: "worker", Name: "poll",
				Start: now.Add(-time.Duration(hour) * time.Hour), Duration: time.Millisecond,
			})
		}
		if n, why := s.AddSpans(some); n > 0 {
			t.Fatalf("dropped %d: %s", n, why)
		}
	}
	if err := s.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	got, err := s.Trace(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	if len(got) != maxSpans || !got[len(got)-1].Start.Equal(now) || !got[len(got)-4501].Start.Equal(now.Add(-time.Hour)) {
		t.Errorf("%d spans from %s to %s: want the newest %d", len(got), got[0].Start, got[len(got)-1].Start, maxSpans)
	}
}

// TestACallHasOneParent: a program that gives one ID to many spans, or sends them more than once, makes no more calls of them, and the
// question takes no longer.
func TestACallHasOneParent(t *testing.T) {
	s := store(t)
	now := time.Now().UTC()
	var all []telemetry.Span
	for range 500 {
		all = append(all, telemetry.Span{Trace: telemetry.TraceID{1}, ID: telemetry.SpanID{1}, Service: "web", Name: "ask", Start: now, Duration: time.Millisecond})
		all = append(all, telemetry.Span{Trace: telemetry.TraceID{1}, ID: telemetry.SpanID{2}, Parent: telemetry.SpanID{1}, Service: "api", Name: "answer", Start: now, Duration: time.Millisecond})
	}
	if n, why := s.AddSpans(all); n > 0 {
		t.Fatalf("dropped %d: %s", n, why)
	}
	if err := s.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	edges, _, err := s.Graph(t.Context(), now.Add(-time.Minute), now.Add(time.Minute))
	want := []telemetry.Edge{{Caller: "web", Callee: "api", Calls: 500, P50: time.Millisecond, P99: time.Millisecond}}
	if diff := cmp.Diff(want, edges); err != nil || diff != "" {
		t.Errorf("%v (-want +got):\n%s", err, diff)
	}
}
