package logs

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"

	"trellis/errdefs"
	"trellis/telemetry"
)

func TestParse(t *testing.T) {
	trace := telemetry.TraceID{0x4b, 0xf9, 0x2f, 0x35, 0x77, 0xb3, 0x4d, 0xa6, 0xa3, 0xce, 0x92, 0x9d, 0x0e, 0x0e, 0x47, 0x36}
	for line, want := range map[string]telemetry.Record{
		"hello world": {Body: "hello world"},
		`{"time":"2026-11-26T20:00:00Z","level":"INFO","msg":"started","port":8080}`:        {Body: "started", Severity: "info", Attributes: map[string]any{"port": int64(8080), "time": "2026-11-26T20:00:00Z"}},
		`{"severity":"ERROR","message":"no","trace_id":"4bf92f3577b34da6a3ce929d0e0e4736"}`: {Body: "no", Severity: "error", Trace: trace},
		`{"level":30,"msg":"pino"}`: {Body: "pino", Severity: "info"},
		`{"body":"paid=yes","msg":"got a call","message":"m","severity":"warn","level":"x"}`: {
			Body: "got a call", Severity: "warn", Attributes: map[string]any{"body": "paid=yes", "message": "m", "level": "x"},
		},
		`{"dd.trace_id":"4bf92f3577b34da6a3ce929d0e0e4736","trace_id":"","msg":"no trace of its own"}`: {Body: "no trace of its own", Trace: trace},
		`{"msg":"no ID","trace_id":"4bf92f3577b34da6a3ce929d0e0e473z"}`:                                {Body: "no ID", Attributes: map[string]any{"trace_id": "4bf92f3577b34da6a3ce929d0e0e473z"}},
		`body="paid=yes" level=info msg="got a call"`:                                                  {Body: "got a call", Severity: "info", Attributes: map[string]any{"body": "paid=yes"}},
		`{not json`: {Body: "{not json"},
		`time=2026-11-26T20:00:00Z level=WARN msg="disk is slow" took=12ms`: {Body: "disk is slow", Severity: "warn", Attributes: map[string]any{"took": "12ms", "time": "2026-11-26T20:00:00Z"}},
		"a=b is no logfmt":                         {Body: "a=b is no logfmt"},
		"2026/11/26 20:00:00 ERROR cannot connect": {Body: "2026/11/26 20:00:00 ERROR cannot connect", Severity: "error"},
		"[warn] 7 files":                           {Body: "[warn] 7 files", Severity: "warn"},
		"there was no error today":                 {Body: "there was no error today"},
		"panic: runtime error: index out of range": {Body: "panic: runtime error: index out of range", Severity: "fatal"},
	} {
		got := telemetry.Record{}
		Parse(line, &got)
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s\n%s", line, diff)
		}
	}
}

func TestLinesThatBelongTogether(t *testing.T) {
	lines := strings.Split(`started
panic: boom

goroutine 1 [running]:
main.main()
	/src/main.go:7 +0x1d
exit status 2
next
Traceback (most recent call last):
  File "a.py", line 1, in <module>
    f()
ValueError: no
after
Exception in thread "main" java.lang.RuntimeException: x
	at A.b(A.java:1)
Caused by: java.io.IOException: y
	at C.d(C.java:2)
end`, "\n")
	var got []string
	j := NewJoiner(func(r telemetry.Record) { got = append(got, strings.SplitN(r.Body, "\n", 2)[0]+"|"+r.Severity) })
	for _, l := range lines {
		j.Add(l, telemetry.Record{Stream: telemetry.StreamStderr})
	}
	j.Flush()
	want := []string{"started|", "panic: boom|fatal", "next|", "Traceback (most recent call last):|error", "after|",
		`Exception in thread "main" java.lang.RuntimeException: x|error`, "end|"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

// TestRecordsAreText: programs write other encodings than UTF-8, and escapes of no character at all. What is made of it is text in all its
// parts, and read once more it is known as what is kept.
func TestRecordsAreText(t *testing.T) {
	var all []telemetry.Record
	j := NewJoiner(func(r telemetry.Record) { all = append(all, r) })
	at := time.Unix(1_700_000_000, 0)
	lines := []string{
		"caf\xe9", "level=info msg=caf\xe9 place=caf\xe9 caf\xe9=1", `level=info msg="caf\xe9"`, "{\"level\":\"info\",\"msg\":\"caf\xe9\"}", "Exception: caf\xe9", "  at caf\xe9",
	}
	for _, line := range lines {
		j.Add(line, telemetry.Record{Time: at, Stream: telemetry.StreamStdout})
	}
	j.Flush()
	if len(all) != 5 {
		t.Fatalf("%d records: %v", len(all), all)
	}
	for _, r := range all {
		texts := []string{r.Body}
		for k, v := range r.Attributes {
			texts = append(texts, k, fmt.Sprint(v))
		}
		for _, text := range texts {
			if !utf8.ValidString(text) || !strings.Contains(text+r.Body, "caf\ufffd") {
				t.Errorf("%q of %q", text, r.Body)
			}
		}
	}
	var k Kept
	for _, r := range all {
		k.Add(r)
	}
	repeats := k.Repeats(func(*telemetry.Record) {})
	for _, line := range lines {
		if !repeats(line, telemetry.Record{Time: at, Stream: telemetry.StreamStdout}) {
			t.Errorf("%q is not known", line)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{`{"msg":1}`, `a="b\"c" level=info`, "\xff{", `level=`, `{"a":[{"b":1e999}]}`} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		var r telemetry.Record
		Parse(s, &r)
		if !utf8.ValidString(r.Body) {
			t.Errorf("%q", r.Body)
		}
		NewRedactor([]string{"hunter2hunter2"}).Record(&r)
	})
}

func TestSecretsAreTakenOut(t *testing.T) {
	r := NewRedactor([]string{"s3cr3t-value", "abc", "line one of a key\nline two of a key\n"})
	for in, want := range map[string]string{
		"the value is s3cr3t-value.":                         "the value is [redacted].",
		"abc is too short to be looked for":                  "abc is too short to be looked for",
		"got line two of a key here":                         "got [redacted] here",
		"Authorization: Bearer abcdefgh12345678":             "Authorization: Bearer [redacted]",
		"dial postgres://app:hunter2@db:5432/x":              "dial postgres://app:[redacted]@db:5432/x",
		"dial redis://:hunter2@cache:6379":                   "dial redis://:[redacted]@cache:6379",
		"dial http://cache:6379/a@b":                         "dial http://cache:6379/a@b",
		`{"password":"hunter2"}`:                             `{"password":"[redacted]"}`,
		"GET /x?api_key=0123456789abcdef&a=b":                "GET /x?api_key=[redacted]&a=b",
		"jwt eyJhbGciOiJIUzI1.eyJzdWIiOiIxMjM0.c2lnbmF0dXJl": "jwt [redacted]",
		"nothing here":                                       "nothing here",
	} {
		if got := r.Text(in); got != want {
			t.Errorf("%q became %q, want %q", in, got, want)
		}
	}
	a := map[string]any{"db.password": "x", "http.request.header.cookie": []any{"a=b"}, "n": int64(1), "in": map[string]any{"v": "s3cr3t-value"}}
	r.Attributes(a)
	want := map[string]any{"db.password": Redacted, "http.request.header.cookie": []any{Redacted}, "n": int64(1), "in": map[string]any{"v": Redacted}}
	if diff := cmp.Diff(want, a); diff != "" {
		t.Error(diff)
	}
	span := telemetry.Span{Name: "s3cr3t-value", Message: "s3cr3t-value", Events: []telemetry.SpanEvent{{Name: "login with s3cr3t-value"}}}
	if r.Span(&span); span.Name != Redacted || span.Message != Redacted || span.Events[0].Name != "login with "+Redacted {
		t.Errorf("%+v", span)
	}
}

func store(t *testing.T) *Store {
	t.Helper()
	return storeIn(t, t.TempDir())
}

func storeIn(t *testing.T, dir string) *Store {
	t.Helper()
	s := New(Config{Dir: dir, Log: slog.New(slog.DiscardHandler)})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); _ = s.Run(ctx) }()
	t.Cleanup(func() { cancel(); <-done })
	return s
}

func bodies(t *testing.T, s *Store, f telemetry.RecordFilter) (all []string) {
	t.Helper()
	if err := s.Records(t.Context(), f, false, func(r telemetry.Record) error { all = append(all, r.Body); return nil }); err != nil {
		t.Fatal(err)
	}
	return all
}

func TestRecordsAreFound(t *testing.T) {
	s := store(t)
	now := time.Now()
	trace := telemetry.TraceID{7}
	s.AddRecords([]telemetry.Record{
		{Time: now.Add(-2 * time.Second), Service: "web", Instance: "web-1-a", Stream: "stdout", Severity: "info", Body: "order 17 placed", Attributes: map[string]any{"n": 1.5}},
		{Time: now.Add(-time.Second), Service: "api", Stream: "stderr", Severity: "error", Body: "order 18 failed", Trace: trace},
		{Time: now.Add(-3 * time.Hour), Service: "api", Stream: "stdout", Body: "order 1 failed"},
	})
	if err := s.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		f    telemetry.RecordFilter
		want []string
	}{
		{telemetry.RecordFilter{}, []string{"order 17 placed", "order 18 failed"}},
		{telemetry.RecordFilter{Since: now.Add(-4 * time.Hour)}, []string{"order 1 failed", "order 17 placed", "order 18 failed"}},
		{telemetry.RecordFilter{Services: []string{"web"}}, []string{"order 17 placed"}},
		{telemetry.RecordFilter{Grep: `order \d+ failed`}, []string{"order 18 failed"}},
		{telemetry.RecordFilter{Grep: "placed"}, []string{"order 17 placed"}},
		{telemetry.RecordFilter{Grep: "(?i)ORDER 18"}, []string{"order 18 failed"}},
		{telemetry.RecordFilter{Severity: "warn"}, []string{"order 18 failed"}},
		{telemetry.RecordFilter{Trace: trace}, []string{"order 18 failed"}},
		{telemetry.RecordFilter{Limit: 1}, []string{"order 18 failed"}},
		{telemetry.RecordFilter{Instance: "web-1-a"}, []string{"order 17 placed"}},
	} {
		if diff := cmp.Diff(c.want, bodies(t, s, c.f)); diff != "" {
			t.Errorf("%+v\n%s", c.f, diff)
		}
	}
	for _, bad := range []telemetry.RecordFilter{{Grep: "("}, {Severity: "loud"}} {
		if err := s.Records(t.Context(), bad, false, nil); !errors.Is(err, errdefs.ErrInvalid) {
			t.Errorf("%+v: %v", bad, err)
		}
	}
	newest, err := s.Newest(t.Context())
	if err != nil || !newest["web-1-a"].Time.Equal(now.Add(-2*time.Second)) {
		t.Errorf("%v, %v", newest, err)
	}
}

// TestQuestionsUseTheirIndex asks SQLite how it looks for what is asked for.
func TestQuestionsUseTheirIndex(t *testing.T) {
	s := store(t)
	s.AddRecords([]telemetry.Record{{Time: time.Now(), Service: "web", Body: "served"}})
	if err := s.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		f    telemetry.RecordFilter
		want string
	}{
		{telemetry.RecordFilter{Severity: "info"}, "INDEX rows_time (time>?"},
		{telemetry.RecordFilter{Severity: "warn"}, "INDEX rows_grave (time>?"},
		{telemetry.RecordFilter{Severity: "fatal", Services: []string{"web"}, Grep: "e"}, "INDEX rows_grave (time>?"},
		{telemetry.RecordFilter{Trace: telemetry.TraceID{7}, Since: time.Now().Add(-time.Hour)}, "INDEX rows_trace (trace=?"},
		{telemetry.RecordFilter{After: 1, Severity: "warn"}, "PRIMARY KEY (rowid>?"},
	} {
		sel, err := selectionOf(c.f)
		if err != nil {
			t.Fatal(err)
		}
		asked := false
		err = s.Each(t.Context(), sel.since, sel.until, func(db *sql.DB) (bool, error) {
			asked = true
			query, args := sel.query(nanos(sel.since), nanos(sel.until), 10)
			var id, parent, unused int
			var plan string
			if err := db.QueryRowContext(t.Context(), "EXPLAIN QUERY PLAN "+query, args...).Scan(&id, &parent, &unused, &plan); err != nil {
				return false, err
			}
			if !strings.Contains(plan, c.want) {
				t.Errorf("%+v: %s, want %s", c.f, plan, c.want)
			}
			return false, nil
		})
		if err != nil || !asked {
			t.Errorf("%+v: asked: %t, %v", c.f, asked, err)
		}
	}
}

func TestFollowSeesWhatComes(t *testing.T) {
	s := store(t)
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	s.AddRecords([]telemetry.Record{{Time: time.Now(), Service: "a", Body: "before"}})
	_ = s.Flush(ctx)
	got := make(chan string, 10)
	go func() {
		_ = s.Records(ctx, telemetry.RecordFilter{}, true, func(r telemetry.Record) error { got <- r.Body; return nil })
	}()
	for _, want := range []string{"before", "one", "two"} {
		if want != "before" {
			s.AddRecords([]telemetry.Record{{Time: time.Now(), Service: "a", Body: want}})
		}
		select {
		case have := <-got:
			if have != want {
				t.Errorf("got %q, want %q", have, want)
			}
		case <-ctx.Done():
			t.Fatalf("%q did not come", want)
		}
	}
}

// TestFollowSeesWhatComesMeanwhile: while a look goes from file to file the writer goes on. What it wrote to a file that was looked
// into already comes with the next look, although a file that was looked into later had what was written after it.
func TestFollowSeesWhatComesMeanwhile(t *testing.T) {
	dir := t.TempDir()
	s := storeIn(t, dir)
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	now := time.Now()
	write := func(at time.Time, body string) {
		t.Helper()
		if n, why := s.AddRecords([]telemetry.Record{{Time: at, Service: "a", Body: body}}); n > 0 {
			t.Fatal(why)
		}
		if err := s.Flush(ctx); err != nil {
			t.Fatal(err)
		}
	}
	write(now, "newest file")
	write(now.Add(-2*time.Hour), "oldest file")
	release := holdHour(t, dir, now.Add(-time.Hour)) // readers wait for it for five seconds
	got := make(chan string, 10)
	go func() {
		f := telemetry.RecordFilter{Since: now.Add(-3 * time.Hour)}
		_ = s.Records(ctx, f, true, func(r telemetry.Record) error { got <- r.Body; return nil })
	}()
	time.Sleep(500 * time.Millisecond) // the newest file is looked into; were it not, all would be found at once
	write(now, "into the newest")
	write(now.Add(-2*time.Hour), "into the oldest")
	release()
	want := map[string]bool{"newest file": true, "oldest file": true, "into the newest": true, "into the oldest": true}
	write(now, "end")
	for len(want) > 0 {
		select {
		case body := <-got:
			if body == "end" {
				t.Fatalf("%v did not come", want)
			}
			if !want[body] {
				t.Errorf("%q came once more", body)
			}
			delete(want, body)
		case <-ctx.Done():
			t.Fatalf("%v did not come", want)
		}
	}
}

// TestFollowersLookIntoWhatIsNew: a follower that has looked into everything once looks into those files alone that were written to
// since, however many hours it follows.
func TestFollowersLookIntoWhatIsNew(t *testing.T) {
	dir := t.TempDir()
	s := storeIn(t, dir)
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	now := time.Now()
	got := make(chan string, 10)
	failed := make(chan error, 1)
	s.AddRecords([]telemetry.Record{{Time: now, Service: "a", Body: "before"}})
	if err := s.Flush(ctx); err != nil {
		t.Fatal(err)
	}
	go func() {
		f := telemetry.RecordFilter{Since: now.Add(-4 * time.Hour)}
		failed <- s.Records(ctx, f, true, func(r telemetry.Record) error { got <- r.Body; return nil })
	}()
	for _, want := range []string{"before", "now", "late"} {
		switch want {
		case "now":
			defer holdHour(t, dir, now.Add(-2*time.Hour))() // whoever looks into it fails after five seconds
			s.AddRecords([]telemetry.Record{{Time: time.Now(), Service: "a", Body: want}})
		case "late":
			s.AddRecords([]telemetry.Record{{Time: now.Add(-time.Hour), Service: "a", Body: want}})
		}
		select {
		case have := <-got:
			if have != want {
				t.Errorf("got %q, want %q", have, want)
			}
		case err := <-failed:
			t.Fatalf("%q did not come: %v", want, err)
		case <-ctx.Done():
			t.Fatalf("%q did not come", want)
		}
	}
}

// holdHour makes a file of an hour without rows that nobody can read until release is called.
func holdHour(t *testing.T, dir string, at time.Time) (release func()) {
	t.Helper()
	path := filepath.Join(dir, "logs-"+at.UTC().Format("2006010215")+"-000.db")
	db, err := sql.Open("sqlite", path)
	if err != nil {
		t.Fatal(err)
	}
	db.SetMaxOpenConns(1)
	for _, do := range []string{schema, "BEGIN EXCLUSIVE"} {
		if _, err := db.ExecContext(t.Context(), do); err != nil {
			t.Fatal(err)
		}
	}
	return sync.OnceFunc(func() { _ = db.Close() })
}
