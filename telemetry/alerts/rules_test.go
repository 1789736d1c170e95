package alerts

import (
	"regexp"
	"strings"
	"testing"
	"time"
)

func TestBurnRatesAreTheWorkbooks(t *testing.T) {
	groups := OfObjectives([]Objective{{Service: "web", Name: "availability 99.9%", Target: 0.999}, {Service: "web", Name: "p50 1s", Target: 0.5, Latency: time.Second}})
	if len(groups) != 2 || len(groups[0].Rules) != 2 || len(groups[1].Rules) != 1 {
		t.Fatalf("%+v", groups)
	}
	limit := regexp.MustCompile(`\[(\w+)\]\){2,3} > ([0-9.]+)`)
	for i, want := range []string{"1h 0.0144 5m 0.0144 6h 0.006 30m 0.006", "1d 0.003 2h 0.003 3d 0.001 6h 0.001"} {
		r, got := groups[0].Rules[i], ""
		for _, found := range limit.FindAllStringSubmatch(r.Expr, -1) {
			got += " " + found[1] + " " + found[2]
		}
		if got != " "+want || r.Labels["severity"] != []string{Page, Ticket}[i] {
			t.Errorf("%s: %q, want %q: %s", r.Labels["severity"], got, want, r.Expr)
		}
	}
	// A budget of half of all requests cannot be spent 3 times as fast, but as fast as it lasts.
	if r := groups[1].Rules[0]; r.Labels["severity"] != Ticket || !strings.Contains(r.Expr, "[3d]") || strings.Contains(r.Expr, "[1d]") {
		t.Errorf("%+v", r)
	}
}
