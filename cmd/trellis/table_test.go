package main

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"trellis/telemetry"
)

func TestATableIsMadeToFit(t *testing.T) {
	made := func() *table {
		return &table{head: []string{"NAME", "STATE", "REQUEST"}, rows: [][]string{{"web", "ready", "GET /a/long/path"}, {"a-long-name", "\x1b[31mfailed\x1b[0m", "GET /"}}}
	}
	for _, c := range []struct {
		width int
		do    func(*table)
		want  string
	}{
		{80, func(t *table) { t.narrow(80, 1) }, "NAME STATE REQUEST"},
		{22, func(t *table) { t.narrow(22, 1) }, "NAME STATE"},
		{5, func(t *table) { t.narrow(5, 1) }, "NAME"},
		{30, func(t *table) { t.crop(30, style{}) }, "NAME STATE REQUEST"},
	} {
		one := made()
		c.do(one)
		lines := one.lines(style{})
		if got := strings.Join(strings.Fields(lines[0]), " "); got != c.want {
			t.Errorf("%d wide: %q, not %q", c.width, got, c.want)
		}
		for _, line := range lines {
			if n := columns(unpainted(line)); n > max(c.width, len("a-long-name")) {
				t.Errorf("%d wide: %q is %d", c.width, line, n)
			}
		}
	}
}

func TestANumberIsShownInSixDigits(t *testing.T) {
	for given, want := range map[string]string{"1": "1", "1234567890": "1234567890", "10.585089936889883": "10.5851", "123456.789": "123457", "0.000012345678": "1.23457e-05", "NaN": "NaN", "1.2e+09": "1200000000"} {
		text, _ := json.Marshal(given)
		if got := (metricPoint{nil, text}).value(); got != want {
			t.Errorf("%s: %s, not %s", given, got, want)
		}
	}
}

func TestANameWithoutItsHash(t *testing.T) {
	for given, want := range map[string]string{"  web-1-ccd95c41": "  web-1", "web-frontend": "web-frontend", "  web-1": "  web-1"} {
		if got := withoutHash(given); got != want {
			t.Errorf("%q: %q", given, got)
		}
	}
}

// TestWhenSomethingWas: a time of day alone is today's.
func TestWhenSomethingWas(t *testing.T) {
	now := time.Date(2026, 11, 23, 12, 0, 0, 0, time.Local)
	for at, want := range map[time.Time]string{
		now.Add(-time.Hour):      "11:00:00",
		now.Add(-13 * time.Hour): "2026-11-22 23:00:00",
		now.AddDate(0, 0, -7):    "2026-11-16 12:00:00",
	} {
		if got := clock(at, now); got != want {
			t.Errorf("%s: %q, want %q", at, got, want)
		}
	}
	p := &program{now: func() time.Time { return now }}
	if got := p.recordLine(style{}, telemetry.Record{Time: now.Add(-36 * time.Hour), Service: "web", Body: "late"}, logStyle{prefix: true}); !strings.HasPrefix(got, "2026-11-22 00:00:00.000 ") {
		t.Errorf("a record of the day before yesterday: %q", got)
	}
}
