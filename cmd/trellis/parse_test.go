package main

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"
	"time"
	"unicode"

	"github.com/google/go-cmp/cmp"

	"trellis/errdefs"
)

func TestDidYouMean(t *testing.T) {
	services := []string{"web", "worker", "catalog", "identity"}
	for name, want := range map[string]string{
		"wbe": "web", "wokrer": "worker", "cat": "catalog", "catlog": "catalog", "idnetity": "identity", "x": "", "postgres": "",
	} {
		if want != "" {
			want = `; did you mean "` + want + `"?`
		}
		if got := didYouMean(name, services); got != want {
			t.Errorf("%s: got %q, want %q", name, got, want)
		}
	}
}

func TestMoment(t *testing.T) {
	now := fixedNow()
	for text, want := range map[string]time.Time{
		"":                          {},
		"90s":                       now.Add(-90 * time.Second),
		"7d":                        now.Add(-7 * 24 * time.Hour),
		"2026-11-23T10:00:00Z":      now.Add(-2 * time.Hour),
		"2026-11-23T10:00:00+02:00": now.Add(-4 * time.Hour),
	} {
		got, err := moment(text, now)
		if err != nil || !got.Equal(want) {
			t.Errorf("%q: got %s, %v, want %s", text, got, err, want)
		}
	}
	for _, text := range []string{"-5m", "yesterday", "2026-13-01"} {
		if got, err := moment(text, now); err == nil {
			t.Errorf("%q: got %s, want an error", text, got)
		}
	}
}

func TestText(t *testing.T) {
	for d, want := range map[time.Duration]string{
		0: "0.0s", 12449 * time.Millisecond: "12.4s", 200 * time.Second: "3m20s", 125 * time.Minute: "2h05m", 99 * time.Hour: "4d03h",
	} {
		if got := shortly(d); got != want || len(got) > 6 {
			t.Errorf("%s: got %q, want %q", d, got, want)
		}
	}
	for n, want := range map[int64]string{0: "0", 999: "999", 1000: "1,000", 18204: "18,204", -1234567: "-1,234,567"} {
		if got := number(n); got != want {
			t.Errorf("%d: got %q, want %q", n, got, want)
		}
	}
	for n, want := range map[int64]string{0: "0 B", 1023: "1023 B", 1024: "1.0 KiB", 128 << 20: "128.0 MiB", 1 << 62: "4.0 EiB"} {
		if got := bytesOf(n); got != want {
			t.Errorf("%d: got %q, want %q", n, got, want)
		}
	}
}

func TestSealKnowsItsContents(t *testing.T) {
	contents := map[string][]byte{"secrets/a": []byte("hunter2"), "configs/b": nil}
	s := seal{Salt: []byte("salt")}
	var err error
	if s.Digest, err = digestOf(s.Salt, contents); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		contents map[string][]byte
		want     bool
	}{
		"the same":             {map[string][]byte{"configs/b": {}, "secrets/a": []byte("hunter2")}, true},
		"another value":        {map[string][]byte{"configs/b": {}, "secrets/a": []byte("hunter3")}, false},
		"moved between values": {map[string][]byte{"configs/b": []byte("2"), "secrets/a": []byte("hunter")}, false},
		"one more":             {map[string][]byte{"configs/b": {}, "secrets/a": []byte("hunter2"), "x": nil}, false},
		"none":                 {nil, false},
	} {
		if got, err := s.matches(c.contents); got != c.want || err != nil {
			t.Errorf("%s: got %v, %v", name, got, err)
		}
	}
}

// FuzzDecodePlan shows that a plan file from anywhere is either refused as invalid or can be written again unchanged.
func FuzzDecodePlan(f *testing.F) {
	f.Add([]byte(`{"format":"trellis plan","version":1,"project":{"name":"shop"},"state_dir":"/x"}`))
	f.Add([]byte(`{"format":"trellis plan","version":2}`))
	f.Add([]byte(`[]`))
	f.Fuzz(func(t *testing.T, b []byte) {
		file, err := decodePlan("x.plan", b)
		if err != nil {
			if errdefs.ExitCode(err) != errdefs.ExitUsage {
				t.Fatalf("%v is not of the kind invalid", err)
			}
			return
		}
		once, err := json.Marshal(file)
		if err != nil {
			t.Fatal(err)
		}
		again, err := decodePlan("x.plan", once)
		if err != nil {
			t.Fatalf("%v\n%s", err, once)
		}
		twice, err := json.Marshal(again)
		if err != nil || !bytes.Equal(once, twice) {
			t.Fatalf("%v\n%s", err, cmp.Diff(string(once), string(twice)))
		}
	})
}

// FuzzArguments shows that no argument of ours is a panic, and that what is understood is in its bounds.
func FuzzArguments(f *testing.F) {
	for _, s := range []string{"web=3", "500/s", "30/m", "NaN", "10m", "2026-11-23", "all", "7", "a: b", "1e9/h"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if name, n, err := scaleOf(s); err == nil && (name == "" || n < 0 || n > 10000) {
			t.Errorf("scale %q: %q %d", s, name, n)
		}
		if r, err := rateOf(s); err == nil && !(r > 0 && r <= 1e9) {
			t.Errorf("rate %q: %v", s, r)
		}
		if n, err := tailOf(s); err == nil && n < -1 {
			t.Errorf("tail %q: %d", s, n)
		}
		var d span
		if d.Set(s) == nil && d < 0 {
			t.Errorf("duration %q: %d", s, d)
		}
		_, _ = moment(s, fixedNow())
		_, _ = headerOf([]string{s})
		if oneLine(s) != oneLine(oneLine(s)) || strings.ContainsFunc(oneLine(s), unicode.IsControl) {
			t.Errorf("one line of %q: %q", s, oneLine(s))
		}
		if fitted := (style{}).fit(s, 10); columns(fitted) > 10 {
			t.Errorf("fit %q: %q", s, fitted)
		}
	})
}

// FuzzLogLines shows that a line of output, whatever its bytes, is one line.
func FuzzLogLines(f *testing.F) {
	f.Add([]byte(`{"service":"web","instance":"web-1-a","text":"hello"}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		var out bytes.Buffer
		p := linePrinter{w: &out, look: logStyle{prefix: true}}
		if p.print(b) == nil && !strings.HasSuffix(out.String(), "\n") {
			t.Errorf("%q", out.String())
		}
	})
}
