package alerts

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"trellis/telemetry"
)

func TestBurnRatesAreTheWorkbooks(t *testing.T) {
	all := OfObjectives([]Objective{{Service: "web", Name: "availability 99.9%", Target: 0.999}, {Service: "web", Name: "p50 1s", Target: 0.5, Latency: time.Second}})
	groups := slices.DeleteFunc(all, func(g telemetry.RuleGroup) bool { return g.Rules[0].Alert == "" })
	if len(groups) != 2 || len(groups[0].Rules) != 2 || len(groups[1].Rules) != 1 {
		t.Fatalf("%+v", groups)
	}
	limit := regexp.MustCompile(`(?:\[(\w+)\]\){2,3}|window="(\w+)"}\[\d+s\]\){3}) > ([0-9.]+)`)
	for i, want := range []string{"1h 0.0144 5m 0.0144 6h 0.006 30m 0.006", "1d 0.003 2h 0.003 3d 0.001 6h 0.001"} {
		r, got := groups[0].Rules[i], ""
		for _, found := range limit.FindAllStringSubmatch(r.Expr, -1) {
			got += " " + found[1] + found[2] + " " + found[3]
		}
		if got != " "+want || r.Labels["severity"] != []string{Page, Ticket}[i] {
			t.Errorf("%s: %q, want %q: %s", r.Labels["severity"], got, want, r.Expr)
		}
	}
	// A budget of half of all requests cannot be spent 3 times as fast, but as fast as it lasts.
	if r := groups[1].Rules[0]; r.Labels["severity"] != Ticket || !strings.Contains(r.Expr, `window="3d"`) || strings.Contains(r.Expr, `window="1d"`) {
		t.Errorf("%+v", r)
	}
}

// TestLongWindowsAreLookedAtSeldom: what an alert asks for at each evaluation is an hour at most. Of longer windows it asks for what a
// group of its own has recorded, which is as often as keeps the cost of each at that of the hour, and all that it asks for is recorded.
func TestLongWindowsAreLookedAtSeldom(t *testing.T) {
	for _, o := range []Objective{{Service: "web", Name: "availability 99.9%", Target: 0.999}, {Service: "web", Name: "p99 250ms", Target: 0.99, Latency: 250 * time.Millisecond}, {Service: "web", Name: "p50 1s", Target: 0.5, Latency: time.Second}} {
		recorded, asked := map[string]bool{}, map[string]bool{}
		for _, g := range OfObjectives([]Objective{o}) {
			for _, r := range g.Rules {
				if r.Record == RecordedShare {
					of := r.Labels["window"]
					recorded[fmt.Sprintf("{service=%q,objective=%q,window=%q}", r.Labels["service"], r.Labels["objective"], of)] = true
					want := map[string]time.Duration{"2h": 30 * time.Second, "6h": 90 * time.Second, "1d": 6 * time.Minute, "3d": 18 * time.Minute}[of]
					if r.Expr != o.Bad(of) || g.Interval != want {
						t.Errorf("%s every %s: %s", of, g.Interval, r.Expr)
					}
					continue
				}
				if g.Interval != 0 {
					t.Errorf("%s is evaluated every %s only", g.Name, g.Interval)
				}
				for _, found := range regexp.MustCompile(`({service="web"(?:,objective=[^}]*)?})\[(\w+)\]`).FindAllStringSubmatch(r.Expr, -1) {
					if strings.Contains(found[1], "window") {
						asked[found[1]] = true
					} else if !slices.Contains([]string{"5m", "30m", "1h"}, found[2]) {
						t.Errorf("%s asks for %s of requests", g.Name, found[2])
					}
				}
			}
		}
		if fmt.Sprint(recorded) != fmt.Sprint(asked) || len(asked) == 0 {
			t.Errorf("recorded: %v, asked for: %v", recorded, asked)
		}
	}
}
