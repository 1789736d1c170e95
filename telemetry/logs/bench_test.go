package logs

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"strconv"
	"testing"
	"time"

	"trellis/cputime"
	"trellis/telemetry"
)

// BenchmarkLines reads LINES lines of output (a million; LINES=10000000 is what it is to be measured at) as they come from
// programs, half of them JSON, keeps them over a day, and asks for some: what one costs to take in and to keep, and how long
// a look takes, in the time of a processor, to which nothing is added by what else the machine does.
func BenchmarkLines(b *testing.B) {
	n := 1_000_000
	if given, err := strconv.Atoi(os.Getenv("LINES")); err == nil {
		n = given
	}
	s := New(Config{Dir: b.TempDir(), MaxBytes: 16 << 30, Log: slog.New(slog.DiscardHandler)})
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
	var batch []telemetry.Record
	joiner := NewJoiner(func(r telemetry.Record) { batch = append(batch, r) })
	before, began := cputime.Used(b), time.Now()
	for i := range n {
		service := "service-" + strconv.Itoa(i%10)
		like := telemetry.Record{Time: now.Add(time.Duration(i-n) * (24 * time.Hour / time.Duration(n))), Service: service, Instance: service + "-1", Revision: 3, Stream: telemetry.StreamStdout}
		line := fmt.Sprintf("2026/11/26 20:00:00 INFO request %d of user %d took 12ms and went to catalog-2, all is well", i, i%977)
		if i%2 == 0 {
			line = fmt.Sprintf(`{"time":"2026-11-26T20:00:00Z","level":"INFO","msg":"request served","request":%d,"user":%d,"took":"12ms","route":"/api/courses"}`, i, i%977)
		}
		if i == n-n/50 {
			line = "2026/11/26 20:00:00 ERROR order 4711 cannot be paid: card declined"
		}
		joiner.Add(line, like)
		if len(batch) >= 5000 || i == n-1 {
			joiner.Flush()
			if lost, why := s.AddRecords(batch); lost > 0 {
				b.Fatalf("%d lines lost: %s", lost, why)
			}
			batch = batch[:0]
			if err := s.Flush(ctx); err != nil {
				b.Fatal(err)
			}
		}
	}
	b.ReportMetric(float64(n)/(cputime.Used(b)-before).Seconds(), "lines/cpu-s")
	b.ReportMetric(float64(n)/time.Since(began).Seconds(), "lines/s")
	b.ReportMetric(float64(s.Health().Bytes)/float64(n), "B/line")
	ask := func(name string, f telemetry.RecordFilter) {
		began, found := cputime.Used(b), 0
		err := s.Records(ctx, f, false, func(telemetry.Record) error { found++; return nil })
		if err != nil || found == 0 {
			b.Fatalf("%s: %d found, %v", name, found, err)
		}
		b.ReportMetric(float64((cputime.Used(b)-began).Microseconds())/1000, name+"-cpu-ms")
	}
	day, hour := now.Add(-25*time.Hour), now.Add(-time.Hour)
	ask("newest-1000", telemetry.RecordFilter{Since: day})
	ask("errors-of-a-day", telemetry.RecordFilter{Since: day, Severity: telemetry.SeverityError})
	ask("grep-an-hour", telemetry.RecordFilter{Since: hour, Grep: "order [0-9]+ cannot"})
	ask("grep-a-day", telemetry.RecordFilter{Since: day, Grep: "order [0-9]+ cannot"})
	b.ReportMetric(0, "ns/op")
}
