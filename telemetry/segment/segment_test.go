package segment

import (
	"bytes"
	"context"
	"database/sql"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

type item struct {
	at   time.Time
	text string
}

func config(dir string) Config[item] {
	return Config[item]{
		Dir: dir, Name: "items", Schema: "CREATE TABLE IF NOT EXISTS rows (at INTEGER NOT NULL, text TEXT NOT NULL) STRICT",
		Columns: []string{"at", "text"}, Row: func(i *item) []any { return []any{i.at.UnixNano(), i.text} },
		Time: func(i *item) time.Time { return i.at }, Size: func(i *item) int { return len(i.text) + 50 },
		Log: slog.New(slog.DiscardHandler),
	}
}

// run runs a store until the test ends, or stop is called.
func run(t testing.TB, cfg Config[item]) (s *Store[item], stop func()) {
	t.Helper()
	s = New(cfg)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); _ = s.Run(ctx) }()
	stop = func() { cancel(); <-done }
	t.Cleanup(stop)
	return s, stop
}

func flush(t testing.TB, s *Store[item]) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	if err := s.Flush(ctx); err != nil {
		t.Fatal(err)
	}
}

func count(t *testing.T, s *Store[item], from, to time.Time) (n int) {
	t.Helper()
	err := s.Each(t.Context(), from, to, func(db *sql.DB) (bool, error) {
		var one int
		err := db.QueryRow("SELECT count(*) FROM rows").Scan(&one)
		n += one
		return true, err
	})
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func TestRowsGoToTheFileOfTheirHour(t *testing.T) {
	dir := t.TempDir()
	now := time.Now()
	s, stop := run(t, config(dir))
	old := now.Add(-5 * time.Hour) // late
	if n, why := s.Add([]item{{now, "a"}, {old, "b"}, {now, "c"}}); n != 0 {
		t.Fatalf("dropped %d: %s", n, why)
	}
	flush(t, s)
	if got := count(t, s, old.Add(-time.Hour), old.Add(time.Hour)); got != 1 {
		t.Errorf("%d rows five hours ago", got)
	}
	if got := count(t, s, now.Add(-time.Minute), now.Add(time.Minute)); got != 2 {
		t.Errorf("%d rows now", got)
	}
	stop()
	again, _ := run(t, config(dir))
	if got := count(t, again, time.Time{}, now.Add(time.Hour)); got != 3 {
		t.Errorf("%d rows after a restart", got)
	}
}

func TestWhatIsDroppedIsCounted(t *testing.T) {
	cfg := config(t.TempDir())
	cfg.MaxQueue, cfg.MaxItem = 1000, 500
	s := New(cfg) // nothing empties the queue
	now := time.Now()
	dropped, _ := s.Add([]item{{now, strings.Repeat("x", 600)}, {now.Add(-10 * 24 * time.Hour), "old"}, {now.Add(time.Hour), "early"}, {now, "fits"}})
	if dropped != 3 {
		t.Errorf("dropped %d", dropped)
	}
	for range 30 {
		s.Add([]item{{now, strings.Repeat("y", 50)}})
	}
	h := s.Health()
	if h.Lost[LossTooLarge] != 1 || h.Lost[LossTooLate] != 2 || h.Lost[LossQueueFull] == 0 {
		t.Errorf("lost %v", h.Lost)
	}
}

func TestTheCapHolds(t *testing.T) {
	cfg := config(t.TempDir())
	cfg.MaxBytes = 4 << 20
	s, _ := run(t, cfg)
	now := time.Now()
	text := strings.Repeat("z", 1000)
	for range 20 {
		batch := make([]item, 1000)
		for i := range batch {
			batch[i] = item{now, text}
		}
		s.Add(batch)
		flush(t, s)
		s.files.checked = time.Time{} // the caps are looked at once a second otherwise
	}
	h := s.Health()
	if h.Accepted != 20_000 || h.Bytes > cfg.MaxBytes {
		t.Errorf("%d accepted, %d bytes of at most %d", h.Accepted, h.Bytes, cfg.MaxBytes)
	}
	if got := count(t, s, time.Time{}, now.Add(time.Hour)); got == 0 || got == 20_000 {
		t.Errorf("%d rows are kept", got)
	}
}

func TestAFullDiskIsSurvived(t *testing.T) {
	cfg := config(t.TempDir())
	cfg.MinFree = 1 << 60 // no disk has as much
	s, _ := run(t, cfg)
	s.Add([]item{{time.Now(), "a"}})
	flush(t, s)
	if h := s.Health(); h.Lost[LossDisk] != 1 || h.Problem == "" {
		t.Errorf("%+v", h)
	}
	s.cfg.MinFree = 1
	s.Add([]item{{time.Now(), "b"}})
	flush(t, s)
	if h := s.Health(); h.Accepted != 1 || h.Problem != "" {
		t.Errorf("%+v after space came back", h)
	}
}

func TestADamagedFileCostsNothingButItself(t *testing.T) {
	dir := t.TempDir()
	now := time.Now()
	s, stop := run(t, config(dir))
	s.Add([]item{{now, "a"}, {now.Add(-3 * time.Hour), "b"}})
	flush(t, s)
	stop()
	files, _ := filepath.Glob(filepath.Join(dir, "items-*.db"))
	if len(files) != 2 {
		t.Fatalf("files %v", files)
	}
	if err := os.WriteFile(files[1], []byte(strings.Repeat("garbage", 1000)), 0o600); err != nil { // that of now
		t.Fatal(err)
	}
	s, _ = run(t, config(dir))
	s.Add([]item{{now, "c"}})
	flush(t, s)
	if h := s.Health(); h.Accepted != 1 {
		t.Errorf("%+v", h)
	}
	if got := count(t, s, time.Time{}, now.Add(time.Hour)); got != 2 {
		t.Errorf("%d rows", got)
	}
}

// TestOneDamagedFileIsKept: of the files that were moved aside the newest is there, is counted, and goes when its time has come.
func TestOneDamagedFileIsKept(t *testing.T) {
	cfg := config(t.TempDir())
	now := time.Now()
	cfg.Now = func() time.Time { return now }
	s, stop := run(t, cfg)
	const size = 1 << 20
	for hours := range 3 {
		at := now.Add(time.Duration(hours-2) * time.Hour)
		for range 2 {
			if err := os.WriteFile(key{hour: hourOf(at)}.path(cfg.Dir, cfg.Name), bytes.Repeat([]byte("garbage!"), size/8), 0o600); err != nil {
				t.Fatal(err)
			}
			s.Add([]item{{at, "a"}})
			flush(t, s)
			stop()
			s, stop = run(t, cfg)
		}
		aside, _ := filepath.Glob(filepath.Join(cfg.Dir, "*.damaged"))
		if want := (key{hour: hourOf(at)}).name(cfg.Name) + ".damaged"; len(aside) != 1 || filepath.Base(aside[0]) != want {
			t.Errorf("%v were moved aside, want %s alone", aside, want)
		}
		if h := s.Health(); h.Bytes < size {
			t.Errorf("%d bytes, and %d of them are damaged", h.Bytes, size)
		}
	}
	if got := count(t, s, time.Time{}, now.Add(time.Hour)); got != 3 {
		t.Errorf("%d rows, want 3", got)
	}
	stop()
	now = now.Add(30 * 24 * time.Hour)
	s, _ = run(t, cfg)
	for range 2 { // the newest hour stays until there is another
		s.Add([]item{{now, "b"}})
		flush(t, s)
		s.files.checked = time.Time{}
	}
	if left, _ := os.ReadDir(cfg.Dir); s.Health().Bytes >= size {
		t.Errorf("%v are left a month later", left)
	}
}

// TestAFileWithoutItsTable: SQLite makes the file before the table is in it, and whoever is killed or loses power in between leaves
// it so. There is nothing in it to read, which is no reason to read nothing else.
func TestAFileWithoutItsTable(t *testing.T) {
	cfg := config(t.TempDir())
	now := time.Now()
	s, _ := run(t, cfg)
	s.Add([]item{{now.Add(-5 * time.Hour), "a"}, {now, "b"}})
	flush(t, s)
	empty := key{hour: hourOf(now.Add(-2 * time.Hour))}
	if err := os.WriteFile(empty.path(cfg.Dir, cfg.Name), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	begun := key{hour: hourOf(now.Add(-3 * time.Hour))}
	db, err := sql.Open("sqlite", dsn(begun.path(cfg.Dir, cfg.Name), "journal_mode(WAL)"))
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if err := db.Ping(); err != nil {
		t.Fatal(err)
	}
	if got := count(t, s, time.Time{}, now.Add(time.Hour)); got != 2 {
		t.Errorf("%d rows, want 2", got)
	}
	s.Add([]item{{now.Add(-2 * time.Hour), "c"}, {now.Add(-3 * time.Hour), "d"}})
	flush(t, s)
	if got := count(t, s, time.Time{}, now.Add(time.Hour)); got != 4 {
		t.Errorf("%d rows once they were written to, want 4", got)
	}
}

func BenchmarkAdd(b *testing.B) {
	cfg := config(b.TempDir())
	cfg.MaxBytes, cfg.MaxQueue = 4<<30, 1<<30
	s := New(cfg)
	rows := make([]item, batchRows)
	now := time.Now()
	for i := range rows {
		rows[i] = item{now, fmt.Sprintf("2026-11-26 request %d took 12ms and went to catalog-2, all is well", i)}
	}
	for b.Loop() {
		s.Add(rows)
		s.write()
	}
	b.ReportMetric(float64(b.N)*batchRows/b.Elapsed().Seconds(), "rows/s")
}
