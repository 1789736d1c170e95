package traces

import (
	"context"
	"encoding/binary"
	"fmt"
	"log/slog"
	"os"
	"strconv"
	"testing"
	"time"

	"trellis/cputime"
	"trellis/telemetry"
)

// BenchmarkSpans keeps SPANS spans (100,000; with SPANS=1000000 as many as a busy day has) of the last six hours, and asks for
// them: what one costs to take in and to keep, and how long a look takes, in the time of a processor, to which nothing is added
// by what else the machine does.
func BenchmarkSpans(b *testing.B) {
	n := 100_000
	if given, err := strconv.Atoi(os.Getenv("SPANS")); err == nil {
		n = given
	}
	s := New(Config{Dir: b.TempDir(), MaxBytes: 8 << 30, Log: slog.New(slog.DiscardHandler)})
	ctx, cancel := context.WithCancel(b.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = s.Run(ctx)
	}()
	defer func() {
		cancel()
		<-done
	}()
	now := time.Now()
	before, began := cputime.Used(b), time.Now()
	for i := 0; i < n; i += 1000 {
		if lost, why := s.AddSpans(someSpans(now.Add(-6*time.Hour+time.Duration(i)*(6*time.Hour/time.Duration(n))), i, 1000)); lost > 0 {
			b.Fatalf("%d spans lost: %s", lost, why)
		}
		if i%10_000 == 0 {
			if err := s.Flush(ctx); err != nil {
				b.Fatal(err)
			}
		}
	}
	if err := s.Flush(ctx); err != nil {
		b.Fatal(err)
	}
	b.ReportMetric(float64(n)/(cputime.Used(b)-before).Seconds(), "spans/cpu-s")
	b.ReportMetric(float64(n)/time.Since(began).Seconds(), "spans/s")
	b.ReportMetric(float64(s.Health().Bytes)/float64(n), "B/span")
	ask := func(name string, query func() (found int, err error)) {
		began := cputime.Used(b)
		if found, err := query(); err != nil || found == 0 {
			b.Fatalf("%s: %d found, %v", name, found, err)
		}
		b.ReportMetric(float64((cputime.Used(b)-began).Microseconds())/1000, name+"-cpu-ms")
	}
	ask("trace", func() (int, error) {
		spans, err := s.Trace(ctx, traceOf(n/2/10))
		return len(spans), err
	})
	all := telemetry.TraceFilter{Since: now.Add(-7 * time.Hour)}
	ask("newest", func() (int, error) { found, err := s.Search(ctx, all); return len(found), err })
	slow := all
	slow.Service, slow.Errors = "service-3", true
	ask("errors-of-one", func() (int, error) { found, err := s.Search(ctx, slow); return len(found), err })
	ask("graph-1h", func() (int, error) { edges, _, err := s.Graph(ctx, now.Add(-time.Hour), now); return len(edges), err })
	b.ReportMetric(0, "ns/op")
}

func traceOf(i int) (id telemetry.TraceID) {
	binary.BigEndian.PutUint64(id[:8], uint64(i)+1)
	return id
}

// someSpans returns traces of ten spans each, as the data plane records them.
func someSpans(at time.Time, first, n int) []telemetry.Span {
	spans := make([]telemetry.Span, n)
	for k := range spans {
		i := first + k
		service := fmt.Sprintf("service-%d", i%10)
		spans[k] = telemetry.Span{
			Trace: traceOf(i / 10), Service: service, Instance: service + "-1", Revision: 3, Name: "GET /api/courses/*", Kind: telemetry.KindServer,
			Start: at.Add(time.Duration(k) * time.Millisecond), Duration: time.Duration(i%500) * time.Millisecond, Scope: "trellis.proxy",
			Attributes: map[string]any{
				"http.request.method": "GET", "url.path": "/api/courses/" + strconv.Itoa(i), "server.address": "evergreen.localhost",
				CallerAttribute: fmt.Sprintf("service-%d", (i+9)%10), "trellis.request_id": strconv.Itoa(i), "http.response.status_code": int64(200),
			},
		}
		binary.BigEndian.PutUint64(spans[k].ID[:], uint64(i)+1)
		if i%10 > 0 {
			binary.BigEndian.PutUint64(spans[k].Parent[:], uint64(i))
		}
		if i%1000 == 3 {
			spans[k].Status = telemetry.StatusError
		}
	}
	return spans
}
