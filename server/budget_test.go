package server

import (
	"context"
	"math"
	"strings"
	"testing"
	"time"

	"trellis/telemetry/alerts"
)

// TestABudgetIsReadAsAWholeSeldom: whoever asks for it every few seconds has what is new added to what was read, and what is left is
// right by the minute.
func TestABudgetIsReadAsAWholeSeldom(t *testing.T) {
	o := alerts.Objective{Service: "web", Name: "availability 99.9%", Target: 0.999}
	const window = 240 * time.Hour
	asked := map[string]int{}
	requests, failing := 1e6, 0.001
	number := func(_ context.Context, expr string, _ time.Time) (*float64, error) {
		over := expr[strings.LastIndex(expr, "[")+1 : strings.LastIndex(expr, "]")]
		asked[over]++
		all, bad := requests, failing
		if over != "864000s" { // an outage
			all, bad = 1e4, 1
		}
		if strings.Contains(expr, "increase") {
			return &all, nil
		}
		return &bad, nil
	}
	var s spending
	began := time.Now()
	for _, c := range []struct {
		passed time.Duration
		want   float64
		whole  int // how often all of it was read
	}{
		{0, 0.001, 1}, {5 * time.Second, 0.001, 1}, {30 * time.Minute, (1e3 + 1e4) / (1e6 + 1e4), 1}, {59 * time.Minute, (1e3 + 1e4) / (1e6 + 1e4), 1},
		{61 * time.Minute, 0.001, 2}, {62 * time.Minute, (1e3 + 1e4) / (1e6 + 1e4), 2},
	} {
		got, err := s.share(t.Context(), o, window, began.Add(c.passed), number)
		if err != nil || got == nil || math.Abs(*got-c.want) > 1e-9 || asked["864000s"] != 2*c.whole {
			t.Errorf("after %s: %v, %v, want %v; asked %v", c.passed, got, err, c.want, asked)
		}
	}
	requests = 0
	if got, err := s.share(t.Context(), alerts.Objective{Service: "api"}, window, began, number); got != nil || err != nil {
		t.Errorf("of no requests %v, %v", got, err)
	}
}
