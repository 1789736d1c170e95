package main

import (
	"encoding/json"
	"os"
	"regexp"
	"strings"
	"testing"

	"go.yaml.in/yaml/v4"

	"trellis/telemetry/metrics"
)

// TestDashboardsAskForWhatThereIs: every expression is PromQL, over metrics that the control plane writes.
func TestDashboardsAskForWhatThereIs(t *testing.T) {
	source, err := os.ReadFile("../../server/collect.go")
	if err != nil {
		t.Fatal(err)
	}
	written := map[string]bool{}
	for _, m := range regexp.MustCompile(`g\.add\("(trellis_\w+)"`).FindAllStringSubmatch(string(source), -1) {
		written[m[1]] = true
	}
	metric := regexp.MustCompile(`trellis_\w+`)
	asked := 0
	for _, row := range boards() {
		for _, p := range row.panels {
			for _, q := range p.queries {
				asked++
				for _, name := range metric.FindAllString(q[0], -1) {
					if !written[name] {
						t.Errorf("%s: nobody writes %s", p.title, name)
					}
				}
				expr := strings.NewReplacer("$__rate_interval", "1m", "$service", "web").Replace(q[0])
				rule, err := yaml.Marshal(object{"groups": []object{{"name": "g", "rules": []object{{"record": "a:b", "expr": expr}}}}})
				if err != nil {
					t.Fatal(err)
				}
				if _, err := metrics.ParseRules(rule); err != nil {
					t.Errorf("%s: %s: %v", p.title, expr, err)
				}
			}
		}
	}
	if asked < 20 || len(written) < 20 {
		t.Errorf("%d expressions over %d metrics: this says nothing", asked, len(written))
	}
}

// TestDashboardsHaveNoPanelOverAnother: Grafana would push them about.
func TestDashboardsHaveNoPanelOverAnother(t *testing.T) {
	text, err := json.Marshal(dashboardOf("shop", []string{"api", "web"}))
	if err != nil {
		t.Fatal(err)
	}
	var got struct {
		UID    string
		Panels []struct {
			ID      int
			Title   string
			GridPos struct{ X, Y, W, H int }
		}
	}
	if err := json.Unmarshal(text, &got); err != nil {
		t.Fatal(err)
	}
	taken := map[[2]int]string{}
	seen := map[int]bool{}
	for _, p := range got.Panels {
		if seen[p.ID] {
			t.Errorf("two panels have the id %d", p.ID)
		}
		seen[p.ID] = true
		g := p.GridPos
		if g.X+g.W > 24 || g.W < 1 || g.H < 1 {
			t.Errorf("%s is out of the grid: %+v", p.Title, g)
		}
		for x := g.X; x < g.X+g.W; x++ {
			for y := g.Y; y < g.Y+g.H; y++ {
				if other := taken[[2]int{x, y}]; other != "" {
					t.Fatalf("%s is over %s", p.Title, other)
				}
				taken[[2]int{x, y}] = p.Title
			}
		}
	}
}

// TestAChangedDashboardIsSeen: what was written is known by its own digest, and what somebody changed is not.
func TestAChangedDashboardIsSeen(t *testing.T) {
	text := sealed("trellis export grafana", []byte(`{"description": "`+madeHere+`", "title": "shop"}`+"\n"))
	if !asSealed(text) || !json.Valid(text) {
		t.Errorf("as it was written: %s", text)
	}
	for _, other := range []string{strings.Replace(string(text), "shop", "shops", 1), "{}", "", `{"a": "sha256:-"}`} {
		if asSealed([]byte(other)) {
			t.Errorf("taken for ours: %s", other)
		}
	}
}
