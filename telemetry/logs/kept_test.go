package logs

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"trellis/telemetry"
)

// TestOutputGoesOnWhereItIsKept: whatever of an instance's output is kept when its reader dies, with the rest read after it each
// line is there once.
func TestOutputGoesOnWhereItIsKept(t *testing.T) {
	began := time.Now().Add(-time.Minute)
	at := func(n int, texts ...string) (all []telemetry.Record) {
		for _, text := range texts {
			all = append(all, telemetry.Record{
				Time: began.Add(time.Duration(n) * time.Second), Service: "web", Instance: "web-1", Stream: telemetry.StreamStderr, Body: text,
			})
		}
		return all
	}
	for name, lines := range map[string][]telemetry.Record{
		"a burst":    slices.Concat(at(0, "one"), at(1, "two", "same", "same", `{"msg":"parsed","n":1}`, "", "same", "three"), at(2, "four")),
		"a trace":    slices.Concat(at(0, "panic: boom", ""), at(1, "goroutine 1 [running]:"), at(2, "main.main()"), at(3, "\t/src/main.go:7", "after")),
		"two traces": slices.Concat(at(0, "panic: boom", "main.main()", "panic: boom", "main.main()", "exit status 2")),
		"a secret":   slices.Concat(at(0, "one hunter2hunter2"), at(1, "panic: hunter2hunter2", "main.hunter2hunter2()", "end")),
	} {
		want := join(lines, nil)
		for n := range len(want) + 1 {
			s := store(t)
			s.AddRecords(slices.Clone(want[:n]))
			if err := s.Flush(t.Context()); err != nil {
				t.Fatal(err)
			}
			newest, err := s.Newest(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			from := newest["web-1"]
			again := join(lines, &from)
			if d := cmp.Diff(texts(want), texts(append(slices.Clone(want[:n]), again...))); d != "" {
				t.Errorf("%s, %d records were kept (-want +got):\n%s", name, n, d)
			}
			if last := want[len(want)-1]; !from.Time.Equal(last.Time) || from.Records[len(from.Records)-1].Body != last.Body {
				t.Errorf("%s, %d records were kept: it ends at %v, want %v", name, n, from, last)
			}
		}
	}
}

// join makes records of the lines from a place on.
func join(lines []telemetry.Record, from *Kept) (all []telemetry.Record) {
	if from == nil {
		from = &Kept{}
	}
	redactor := NewRedactor([]string{"hunter2hunter2"})
	repeated := from.Repeats(redactor.Record)
	start := from.Time
	j := NewJoiner(func(r telemetry.Record) {
		redactor.Record(&r)
		from.Add(r)
		all = append(all, r)
	})
	for _, l := range lines {
		if like := l; !l.Time.Before(start) && !repeated(l.Body, like) {
			like.Body = ""
			j.Add(l.Body, like)
		}
	}
	j.Flush()
	return all
}

func texts(records []telemetry.Record) (all []string) {
	for _, r := range records {
		all = append(all, fmt.Sprint(r.Time.Unix(), " ", strings.ReplaceAll(r.Body, "\n", "|")))
	}
	return all
}

// TestATraceThatWasCutGoesOn: of a record that is kept without its last lines these alone are new.
func TestATraceThatWasCutGoesOn(t *testing.T) {
	now := time.Now()
	like := telemetry.Record{Time: now, Stream: telemetry.StreamStderr}
	from := Kept{Time: now, Records: []telemetry.Record{{Stream: telemetry.StreamStderr, Body: "panic: boom\nmain.main()"}}}
	repeated := from.Repeats(NewRedactor(nil).Record)
	var fresh []string
	for _, line := range []string{"panic: boom\r", "main.main()\r", "\t/src/main.go:7\r", "panic: boom\r"} {
		if !repeated(line, like) {
			fresh = append(fresh, strings.TrimSpace(line))
		}
		like.Time = like.Time.Add(time.Nanosecond)
	}
	if d := cmp.Diff([]string{"/src/main.go:7", "panic: boom"}, fresh); d != "" {
		t.Error(d)
	}
}
