package metrics

import (
	"cmp"
	"fmt"
	"io/fs"
	"log/slog"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"trellis/cputime"
	"trellis/telemetry"
	"trellis/telemetry/alerts"
)

// BenchmarkSamples keeps SAMPLES samples (a million) of 5,000 series over fifty minutes, and asks for them: what one costs to
// take in, what it takes in a block, which the store makes of two hours, and how long an answer takes, in the
// time of a processor, to which nothing is added by what else the machine does.
func BenchmarkSamples(b *testing.B) {
	const series = 5000
	n := 1_000_000
	if given, err := strconv.Atoi(os.Getenv("SAMPLES")); err == nil {
		n = given
	}
	s, stop := opened(b, Config{})
	defer stop()
	rounds := max(2, n/series)
	step := 50 * time.Minute / time.Duration(rounds)
	start := time.Now().Add(-50 * time.Minute)
	batch := make([]telemetry.Sample, series)
	for i := range batch {
		batch[i] = sample("bench_total", start, 0, "instance", fmt.Sprintf("web-%d", i), "service", fmt.Sprintf("service-%d", i%20), "route", "/api/courses/*")
	}
	before := cputime.Used(b)
	for round := range rounds {
		for i := range batch {
			batch[i].Time, batch[i].Value = start.Add(time.Duration(round)*step), float64(round*(i%97)+i)
		}
		if err := s.Append(b.Context(), uint64(round+1), batch); err != nil {
			b.Fatal(err)
		}
	}
	n = rounds * series
	b.ReportMetric(float64(n)/(cputime.Used(b)-before).Seconds(), "samples/cpu-s")
	block := b.TempDir()
	if err := s.db.Snapshot(block, true); err != nil {
		b.Fatal(err)
	}
	b.ReportMetric(float64(bytesIn(block))/float64(n), "B/sample")
	ask := func(name, expr string, step time.Duration) {
		began := cputime.Used(b)
		if _, err := s.Ask(b.Context(), expr, start, time.Now(), step); err != nil {
			b.Fatalf("%s: %v", name, err)
		}
		b.ReportMetric(float64((cputime.Used(b)-began).Microseconds())/1000, name+"-cpu-ms")
	}
	ask("one-series", `rate(bench_total{instance="web-7"}[5m])`, 15*time.Second)
	ask("all-series", `sum by (service) (rate(bench_total[5m]))`, 15*time.Second)
	b.ReportMetric(0, "ns/op")
}

// BenchmarkObjectives is what the alerts of a latency objective cost every 15 s, over the requests of SERIES series (10) and three
// days: with each window looked at every 15 s (all), and with the rules as they are (rules), in the time of a processor.
func BenchmarkObjectives(b *testing.B) {
	const step, days = 15 * time.Second, 3
	series := 10
	if given, err := strconv.Atoi(os.Getenv("SERIES")); err == nil {
		series = given
	}
	s, stop := opened(b, Config{Log: slog.New(slog.DiscardHandler), MaxAge: 2 * days * 24 * time.Hour})
	defer stop()
	end := time.Now()
	batch := make([]telemetry.Sample, series)
	for i := range batch {
		batch[i] = sample("trellis_request_duration_seconds", end, 0, "service", "web", "instance", "web-1", "caller", "", "route", fmt.Sprintf("/api/%d/*", i))
	}
	for at := end.Add(-days * 24 * time.Hour); at.Before(end); at = at.Add(step) {
		n := uint64(at.Sub(end.Add(-days*24*time.Hour))/step) + 1
		for i := range batch {
			counts := map[float64]uint64{}
			for k := range uint64(20) {
				counts[0.01*math.Pow(1.3, float64(k))] = n * (k%5 + 1)
			}
			batch[i].Time, batch[i].Distribution = at, &telemetry.Distribution{Counts: counts}
		}
		if err := s.Append(b.Context(), 1, batch); err != nil {
			b.Fatal(err)
		}
	}
	cost := func(expr string) float64 {
		before := cputime.Used(b)
		if _, err := s.Query(b.Context(), expr, end); err != nil {
			b.Fatal(err)
		}
		return float64((cputime.Used(b) - before).Microseconds()) / 1000
	}
	o := alerts.Objective{Service: "web", Name: "p99 250ms", Target: 0.99, Latency: 250 * time.Millisecond}
	var all, rules float64
	for _, window := range []string{"1h", "5m", "6h", "30m", "1d", "2h", "3d", "6h"} {
		all += cost(o.Bad(window))
	}
	for _, g := range alerts.OfObjectives([]alerts.Objective{o}) {
		for _, r := range g.Rules {
			rules += cost(r.Expr) * float64(step) / float64(cmp.Or(g.Interval, step))
		}
	}
	b.ReportMetric(all, "all-cpu-ms")
	b.ReportMetric(rules, "rules-cpu-ms")
	b.ReportMetric(0, "ns/op")
}

func bytesIn(dir string) (n int64) {
	_ = filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			if info, err := d.Info(); err == nil {
				n += info.Size()
			}
		}
		return nil
	})
	return n
}
