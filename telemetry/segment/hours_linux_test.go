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

// held returns how many files this process has open, and the MB of its memory that are in no file.
func held(t *testing.T) (files int, memory float64) {
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
