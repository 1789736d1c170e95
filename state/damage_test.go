package state

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"trellis/errdefs"
)

// filled makes a closed state file with three revisions, its copy beside it, and returns its content.
func filled(t *testing.T, path string) []byte {
	t.Helper()
	s, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	for n := range int64(3) {
		mustPut(t, s, testRevision(), n)
	}
	var events []Event
	for i := range 200 {
		events = append(events, Event{Message: strings.Repeat("x", i)})
	}
	if err := s.Append(t.Context(), events...); err != nil {
		t.Fatal(err)
	}
	if err := s.(*store).backup.wait(); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func write(t *testing.T, path string, data []byte) {
	t.Helper()
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestDamagedFileIsRefusedAndKept(t *testing.T) {
	cases := map[string]func(whole []byte) []byte{
		"empty":          func([]byte) []byte { return nil },
		"a few bytes":    func(b []byte) []byte { return b[:50] },
		"header only":    func(b []byte) []byte { return b[:100] },
		"half":           func(b []byte) []byte { return b[:len(b)/2] },
		"one page short": func(b []byte) []byte { return b[:len(b)-4096] },
		"text":           func([]byte) []byte { return []byte(strings.Repeat("not a database\n", 500)) },
		"zeros":          func(b []byte) []byte { return make([]byte, len(b)) },
		"schema page":    func(b []byte) []byte { return overwrite(b, 100, 300) },
		"table pages":    func(b []byte) []byte { return overwrite(b, 4096, 8*4096) },
	}
	for name, damage := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			path := filepath.Join(t.TempDir(), "state.db")
			bad := damage(filled(t, path))
			write(t, path, bad)
			s, err := Open(path)
			if err == nil {
				s.Close()
				t.Fatal("it was opened")
			}
			for _, want := range []string{path, path + ".bak", "damaged"} {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("the error does not say %q: %v", want, err)
				}
			}
			if now, err := os.ReadFile(path); err != nil || !bytes.Equal(now, bad) {
				t.Errorf("the damaged file was changed: %v", err)
			}
			followAdvice(t, path)
		})
	}
}

// followAdvice does what the error says and expects the revisions back.
func followAdvice(t *testing.T, path string) {
	t.Helper()
	copied, err := os.ReadFile(path + ".bak")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range []string{path, path + "-wal", path + "-shm"} {
		if err := os.Rename(f, f+".aside"); err != nil && !errors.Is(err, os.ErrNotExist) {
			t.Fatal(err)
		}
	}
	write(t, path, copied)
	s := openTest(t, path)
	h, err := s.History(t.Context(), 0)
	if err != nil || len(h) != 3 {
		t.Errorf("the copy has %d revisions, %v", len(h), err)
	}
}

func overwrite(b []byte, from, to int) []byte {
	b = bytes.Clone(b)
	for i := from; i < min(to, len(b)); i++ {
		b[i] = byte(i*7 + 13)
	}
	return b
}

func TestMissingFileWithCopyIsRefused(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state.db")
	filled(t, path)
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(path); err == nil || !strings.Contains(err.Error(), "missing") {
		t.Errorf("Open: %v", err)
	}
	if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a file was made in its place: %v", err)
	}
}

func TestNewerSchemaIsRefused(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state.db")
	filled(t, path)
	exec1(t, path, fmt.Sprintf("PRAGMA user_version = %d", len(migrations())+1))
	_, err := Open(path)
	if !errors.Is(err, errdefs.ErrUnsupported) || !strings.Contains(err.Error(), "newer Trellis") {
		t.Errorf("Open: %v", err)
	}
}

func TestForeignDatabaseIsRefused(t *testing.T) {
	path := filepath.Join(t.TempDir(), "other.db")
	exec1(t, path, "CREATE TABLE theirs (x); INSERT INTO theirs VALUES (1)")
	before, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Open(path); err == nil || !strings.Contains(err.Error(), "not a Trellis state file") {
		t.Errorf("Open: %v", err)
	}
	if after, err := os.ReadFile(path); err != nil || !bytes.Equal(after, before) {
		t.Errorf("the other program's file was changed: %v", err)
	}
}

func exec1(t *testing.T, path, query string) {
	t.Helper()
	db, err := sql.Open("sqlite", path)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if _, err := db.Exec(query); err != nil {
		t.Fatal(err)
	}
}

func TestModes(t *testing.T) {
	path := filepath.Join(t.TempDir(), "p", "state.db")
	s := openTest(t, path)
	mustPut(t, s, testRevision(), 0)
	if err := s.(*store).backup.wait(); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]os.FileMode{"": 0o600, "-wal": 0o600, "-shm": 0o600, ".bak": 0o600} {
		info, err := os.Stat(path + name)
		if err != nil || info.Mode().Perm() != want {
			t.Errorf("%s: %v, %v", path+name, info.Mode(), err)
		}
	}
	if info, err := os.Stat(filepath.Dir(path)); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("folder: %v, %v", info.Mode(), err)
	}
	entries, err := filepath.Glob(path + "*.tmp")
	if err != nil || len(entries) != 0 {
		t.Errorf("left behind: %v, %v", entries, err)
	}
}

func TestDurability(t *testing.T) {
	s := openTest(t, filepath.Join(t.TempDir(), "state.db")).(*store)
	for pragma, want := range map[string]string{"journal_mode": "wal", "synchronous": "2", "busy_timeout": "10000"} {
		var got string
		if err := s.write.QueryRow("PRAGMA " + pragma).Scan(&got); err != nil || got != want {
			t.Errorf("%s is %s, %v; want %s", pragma, got, err, want)
		}
	}
	if _, err := s.read.Exec("DELETE FROM revisions"); err == nil {
		t.Error("the reading connections can write")
	}
}

func TestPrune(t *testing.T) {
	s := openTest(t, filepath.Join(t.TempDir(), "state.db")).(*store)
	s.keepEvents = 1000
	old := time.Now().Add(-keepEventAge - time.Hour)
	var batch []Event
	for range 2 * pruneBatch {
		batch = append(batch, Event{Time: old})
	}
	for range 3 { // by age, a batch with each append
		if err := s.Append(t.Context(), batch[:pruneBatch]...); err != nil {
			t.Fatal(err)
		}
	}
	if got := collect(t, s, EventFilter{}); len(got) > pruneBatch+1 || got[len(got)-1].Seq != 3*pruneBatch {
		t.Errorf("%d old events are left, the last is %d", len(got), got[len(got)-1].Seq)
	}
	batch = make([]Event, 200)
	for i := range batch {
		batch[i].Time = time.Now()
	}
	for range 6 { // by count
		if err := s.Append(t.Context(), batch...); err != nil {
			t.Fatal(err)
		}
	}
	got := seqs(collect(t, s, EventFilter{}))
	if last := int64(3*pruneBatch + 1200); len(got) != 1000 || got[len(got)-1] != last {
		t.Errorf("%d events are left, the last is %d", len(got), got[len(got)-1])
	}
}

func TestDamagedRowsAreErrors(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state.db")
	filled(t, path)
	s := openTest(t, path).(*store)
	ctx := context.Background()
	if err := s.SetOverride(ctx, Override{Service: "web", Stopped: true}); err != nil {
		t.Fatal(err)
	}
	for _, q := range []string{"UPDATE revisions SET body = '{'", "UPDATE events SET body = '[]' WHERE seq = 1",
		"UPDATE overrides SET body = '1'", "INSERT INTO vals VALUES ('x', 'nonsense')"} {
		if _, err := s.write.Exec(q); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := s.Latest(ctx); err == nil || !strings.Contains(err.Error(), "revision 3") {
		t.Errorf("Latest: %v", err)
	}
	if _, err := s.Overrides(ctx); err == nil || !strings.Contains(err.Error(), "web") {
		t.Errorf("Overrides: %v", err)
	}
	var v any
	if err := s.Value(ctx, "x", &v); err == nil {
		t.Error("Value of nonsense worked")
	}
	for _, err := range s.Events(ctx, EventFilter{Limit: 300}) {
		if err == nil || !strings.Contains(err.Error(), "event 1 ") {
			t.Errorf("Events: %v", err)
		}
		break
	}
}

// FuzzOpen damages a whole state file at a place and reads everything: errors are expected, a panic is not.
func FuzzOpen(f *testing.F) {
	path := filepath.Join(f.TempDir(), "seed.db")
	s, err := Open(path)
	if err != nil {
		f.Fatal(err)
	}
	if _, err := s.Put(context.Background(), testRevision(), 0); err != nil {
		f.Fatal(err)
	}
	if err := s.Close(); err != nil {
		f.Fatal(err)
	}
	seed, err := os.ReadFile(path)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(uint(0), []byte("garbage"))
	f.Add(uint(4096), []byte{0xff, 0xff, 0xff, 0xff})
	f.Add(uint(len(seed)-100), bytes.Repeat([]byte{1}, 100))
	f.Fuzz(func(t *testing.T, at uint, with []byte) {
		data := bytes.Clone(seed)
		copy(data[at%uint(len(data)):], with)
		path := filepath.Join(t.TempDir(), "state.db")
		write(t, path, data)
		s, err := Open(path)
		if err != nil {
			return
		}
		defer s.Close()
		s.History(t.Context(), 0)
		s.Overrides(t.Context())
		for range s.Events(t.Context(), EventFilter{}) {
		}
		s.Put(t.Context(), testRevision(), 1)
	})
}

func BenchmarkAppend(b *testing.B) {
	s, err := Open(filepath.Join(b.TempDir(), "state.db"))
	if err != nil {
		b.Fatal(err)
	}
	defer s.Close()
	e := Event{Time: time.Now(), Service: "web", Kind: "instance.started", Message: "started"}
	for b.Loop() {
		if err := s.Append(b.Context(), e); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkEvents reads the last events of one service, as a page of the console does, where ten services have written ten thousand.
func BenchmarkEvents(b *testing.B) {
	s, err := Open(filepath.Join(b.TempDir(), "state.db"))
	if err != nil {
		b.Fatal(err)
	}
	defer s.Close()
	var all []Event
	for i := range 10_000 {
		all = append(all, Event{Time: time.Now(), Service: fmt.Sprint("s", i%10), Kind: "instance.started", Message: strings.Repeat("started ", 20)})
	}
	if err := s.Append(b.Context(), all...); err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		n := 0
		for _, err := range s.Events(b.Context(), EventFilter{Service: "s3", Limit: 200}) {
			if err != nil {
				b.Fatal(err)
			}
			n++
		}
		if n != 200 {
			b.Fatal(n)
		}
	}
}

func BenchmarkPut(b *testing.B) {
	s, err := Open(filepath.Join(b.TempDir(), "state.db"))
	if err != nil {
		b.Fatal(err)
	}
	defer s.Close()
	rev := testRevision()
	for n := int64(0); b.Loop(); n++ {
		if _, err := s.Put(b.Context(), rev, n); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkOpen(b *testing.B) {
	path := filepath.Join(b.TempDir(), "state.db")
	for b.Loop() {
		s, err := Open(path)
		if err != nil {
			b.Fatal(err)
		}
		s.Close()
	}
}
