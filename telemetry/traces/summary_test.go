package traces

import (
	"encoding/binary"
	"fmt"
	"math"
	"math/rand/v2"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"trellis/telemetry"
)

// summary describes a trace by its spans, which are in order of their start: what SQLite has to find out as well.
func summary(id telemetry.TraceID, spans []telemetry.Span) telemetry.TraceSummary {
	root, end := spans[0], time.Time{}
	known := map[telemetry.SpanID]bool{}
	for _, s := range spans {
		known[s.ID] = true
	}
	services := map[string]bool{}
	t := telemetry.TraceSummary{Trace: id, Spans: len(spans), Start: spans[0].Start}
	for i := len(spans) - 1; i >= 0; i-- {
		s := spans[i]
		services[s.Service] = true
		end = later(end, s.Start.Add(s.Duration))
		if s.Status == telemetry.StatusError {
			t.Errors++
		}
		if !known[s.Parent] { // of several the first
			root = s
		}
	}
	for name := range services {
		t.Services = append(t.Services, name)
	}
	slices.Sort(t.Services)
	t.Duration, t.Root, t.Service, t.Status, t.Revision = end.Sub(t.Start), root.Name, root.Service, root.Status, root.Revision
	t.Path, _ = root.Attributes[telemetry.PathAttribute].(string)
	if n, err := strconv.Atoi(fmt.Sprint(root.Attributes["http.response.status_code"])); err == nil {
		t.HTTP = n
	}
	return t
}

// keep adds spans and waits until they are written.
func keep(t *testing.T, s *Store, spans []telemetry.Span) {
	t.Helper()
	for some := range slices.Chunk(spans, 5000) {
		if n, why := s.AddSpans(some); n > 0 {
			t.Fatalf("dropped %d: %s", n, why)
		}
		if err := s.Flush(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
}

// TestTracesAreSummedUpAsTheirSpansSay, in whatever order and hours they are, with parents that were lost, that are of another hour,
// or of a circle.
func TestTracesAreSummedUpAsTheirSpansSay(t *testing.T) {
	s := store(t)
	random := rand.New(rand.NewPCG(3, 4))
	hour := time.Now().UTC().Truncate(time.Hour)
	var all []telemetry.Span
	const traces = 100
	for i := range traces {
		id := traceOf(i)
		n := 1 + random.IntN(8)
		begin := hour.Add(-time.Duration(i) * time.Second)
		for k := range n {
			span := telemetry.Span{
				Trace: id, Service: fmt.Sprintf("s,%d\"", random.IntN(4)), Name: fmt.Sprintf("GET /%d/%d", i, k), Kind: telemetry.KindServer, Revision: int64(random.IntN(3)),
				Start: begin.Add(time.Duration(random.IntN(3600_000)-1800_000) * time.Millisecond), Duration: time.Duration(random.IntN(1e9)),
				Attributes: map[string]any{"url.path": fmt.Sprintf("/%d/%d", i, k), "http.response.status_code": int64(200 + k)},
			}
			if span.Start.After(time.Now()) {
				span.Start = begin.Add(-time.Duration(k+1) * time.Minute)
			}
			if random.IntN(3) == 0 {
				span.Status = telemetry.StatusError
			}
			binary.BigEndian.PutUint64(span.ID[:], uint64(k)+1)
			switch parent := random.IntN(n + 3); { // itself, another, or one that is not there
			case parent > 0:
				binary.BigEndian.PutUint64(span.Parent[:], uint64(parent))
			}
			all = append(all, span)
		}
	}
	keep(t, s, all)
	found, err := s.Search(t.Context(), telemetry.TraceFilter{Since: hour.Add(-3 * time.Hour), Limit: traces})
	if err != nil || len(found) != traces {
		t.Fatalf("%d traces, want %d: %v", len(found), traces, err)
	}
	for _, got := range found {
		spans, err := s.Trace(t.Context(), got.Trace)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(summary(got.Trace, spans), got); diff != "" {
			t.Errorf("%s\n%+v", diff, spans)
		}
	}
	if !slices.IsSortedFunc(found, func(a, b telemetry.TraceSummary) int { return b.Start.Compare(a.Start) }) {
		t.Error("not the newest first")
	}
}

// TestAListOfLongTracesCostsLittle: to say a few words of each trace nobody reads all that its spans carry, and no more traces are
// returned than a bounded number of spans makes.
func TestAListOfLongTracesCostsLittle(t *testing.T) {
	s := store(t)
	now := time.Now().UTC()
	const traces, long = 8, 4000
	var all []telemetry.Span
	ids := make([]telemetry.TraceID, traces)
	for i := range traces {
		ids[i] = traceOf(i)
		for k := range long {
			span := telemetry.Span{
				Trace: ids[i], Service: "worker", Name: "poll", Start: now.Add(-time.Duration(i)*time.Second - time.Duration(k)*time.Millisecond), Duration: time.Millisecond,
				Attributes: map[string]any{"message": strings.Repeat("x", 300)},
			}
			binary.BigEndian.PutUint64(span.ID[:], uint64(k)+1)
			if k > 0 {
				binary.BigEndian.PutUint64(span.Parent[:], 1)
			}
			all = append(all, span)
		}
	}
	all[7].Duration = math.MaxInt64 // what it says of its end is no time
	keep(t, s, all)
	filter := telemetry.TraceFilter{Attributes: map[string]string{"message": strings.Repeat("x", 300)}}
	if found, err := s.Search(t.Context(), filter); err != nil || len(found) != traces {
		t.Errorf("%d traces by an attribute, %v", len(found), err)
	}
	listed := used(func() {
		found, err := s.Search(t.Context(), telemetry.TraceFilter{})
		if err != nil || len(found) != traces || found[traces-1].Spans != long {
			t.Errorf("%+v, %v", found, err)
		}
	})
	read := used(func() {
		for _, id := range ids {
			if _, err := s.Trace(t.Context(), id); err != nil {
				t.Error(err)
			}
		}
	})
	t.Logf("a list took %d KiB, all spans %d", listed>>10, read>>10)
	if listed > read/5 {
		t.Errorf("a list took %d KiB, and all that it tells of %d", listed>>10, read>>10)
	}
	few, err := s.summaries(t.Context(), ids[:1], now.Add(-time.Hour), now, long)
	if err != nil || len(few) != 1 {
		t.Errorf("%+v, %v", few, err)
	}
	many := make([]telemetry.TraceID, 2*telemetry.DefaultTraceLimit)
	for i := range many {
		many[i] = ids[0]
	}
	few, err = s.summaries(t.Context(), many, now.Add(-time.Hour), now, long)
	if err != nil || len(few) != telemetry.DefaultTraceLimit {
		t.Errorf("%d, %v: want no more than the first, of whom there are enough spans", len(few), err)
	}
}

// used returns how many bytes of memory do has asked for.
func used(do func()) uint64 {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	do()
	runtime.ReadMemStats(&after)
	return after.TotalAlloc - before.TotalAlloc
}
