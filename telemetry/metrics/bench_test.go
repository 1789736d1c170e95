package metrics

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"trellis/cputime"
	"trellis/telemetry"
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
