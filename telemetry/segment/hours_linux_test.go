package segment

import (
	"os"
	"runtime/debug"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// TestHoursLeaveNothingBehind: a file that is closed because its hour is over leaves no file open, and not more memory with each
// of them: SQLite's pages are taken again.
func TestHoursLeaveNothingBehind(t *testing.T) {
	var passed atomic.Int64
	start := time.Now()
	cfg := config(t.TempDir())
	cfg.Now = func() time.Time { return start.Add(time.Duration(passed.Load())) }
	s, _ := run(t, cfg)
	rows, text := make([]item, 2000), strings.Repeat("x", 150)
	hour := func() (files int, memory float64) {
		for range 3 { // the file before is closed a minute after the last write to it
			for i := range rows {
				rows[i] = item{cfg.Now(), text}
			}
			s.Add(rows)
			flush(t, s)
			passed.Add(int64(20 * time.Minute))
		}
		debug.FreeOSMemory()
		return held(t)
	}
	for range 4 {
		hour()
	}
	files, memory := hour()
	var after float64
	var open int
	for range 12 {
		open, after = hour()
	}
	t.Logf("%d files and %.1f MB, twelve hours later %d and %.1f", files, memory, open, after)
	if open > files || after > memory+3 {
		t.Errorf("%d files and %.1f MB, twelve hours later %d and %.1f", files, memory, open, after)
	}
}

// BenchmarkNextFile is how much memory it takes that the next hour's file is open before the last one is closed.
func BenchmarkNextFile(b *testing.B) {
	rows, text := make([]item, 2000), strings.Repeat("x", 150)
	more := 0.0
	for b.Loop() {
		var passed atomic.Int64
		start := time.Now().Truncate(time.Hour)
		cfg := config(b.TempDir())
		cfg.Now = func() time.Time { return start.Add(time.Duration(passed.Load())) }
		s, stop := run(b, cfg)
		hour := func() float64 {
			for range 10 {
				for i := range rows {
					rows[i] = item{cfg.Now(), text}
				}
				s.Add(rows)
				flush(b, s)
			}
			debug.FreeOSMemory()
			_, memory := held(b)
			return memory
		}
		before := hour()
		passed.Add(int64(time.Hour))
		more = max(more, hour()-before)
		stop()
	}
	b.ReportMetric(more, "MB")
}

// held returns how many files this process has open, and the MB of its memory that are in no file.
func held(t testing.TB) (files int, memory float64) {
	t.Helper()
	open, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(status), "RssAnon:")
	kib, err := strconv.ParseFloat(strings.Fields(rest)[0], 64)
	if err != nil {
		t.Fatal(err)
	}
	return len(open), kib * 1024 / 1e6
}
