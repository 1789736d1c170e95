package kubernetes

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"trellis/engine"
)

// TestDriftIsToldOnce: what is there is told when it is new or another, and when it is gone; a service is told of with the time
// of its first drift; what heals by itself is not told.
func TestDriftIsToldOnce(t *testing.T) {
	begin := time.Date(2026, 1, 2, 3, 0, 0, 0, time.UTC)
	at := func(service, path string, to any) engine.Drift {
		return engine.Drift{Change: engine.Change{Path: "services." + service + "." + path, To: to}, Kind: engine.DriftChanged, Service: service}
	}
	var told toldDrift
	for i, step := range []struct {
		name           string
		found          []engine.Drift
		events, alerts []string
	}{
		{"nothing", nil, nil, nil},
		{"one", []engine.Drift{at("web", "init", true)}, []string{"drift.found"}, []string{"web 1 since 1"}},
		{"the same", []engine.Drift{at("web", "init", true)}, nil, nil},
		{
			"one more, and another service", []engine.Drift{at("web", "init", true), at("web", "user", "0"), at("db", "user", "0")},
			[]string{"drift.found", "drift.found"}, []string{"db 1 since 3", "web 2 since 1"},
		},
		{"another value", []engine.Drift{at("web", "init", true), at("web", "user", "1"), at("db", "user", "0")}, []string{"drift.found"}, []string{"web 2 since 1"}},
		{"one is gone", []engine.Drift{at("web", "user", "1")}, []string{"drift.gone", "drift.gone"}, []string{"db over since 3"}},
		{"what heals", []engine.Drift{{Change: engine.Change{Path: "services.web"}, Service: "web", Heals: true}}, []string{"drift.gone"}, []string{"web over since 1"}},
		{"nothing again", nil, nil, nil},
	} {
		now, services, happened := told.next(step.found, begin.Add(time.Duration(i)*time.Hour))
		told = now
		var events, alerts []string
		for _, ev := range happened {
			events = append(events, ev.Kind)
		}
		for _, s := range services {
			how := fmt.Sprint(s.Places)
			if !s.Until.IsZero() {
				how = "over"
			}
			alerts = append(alerts, fmt.Sprintf("%s %s since %.0f", s.Service, how, s.Since.Sub(begin).Hours()))
		}
		if !slices.Equal(events, step.events) || !slices.Equal(alerts, step.alerts) {
			t.Errorf("%s: told %q and %q, want %q and %q", step.name, events, alerts, step.events, step.alerts)
		}
	}
}

// TestDriftOfAVariable: a value is told, and adopted, as the file has it, not as Kubernetes has to be given it.
func TestDriftOfAVariable(t *testing.T) {
	for _, value := range []string{"plain", "a$b", "$(NAME)", "$$(NAME)", "$$", "${NAME}", "cost: 5$"} {
		if got := variable(map[string]any{"name": "X", "value": unexpanded(value)}); got != value {
			t.Errorf("%q is told as %q", value, got)
		}
		if got := variable(unexpanded(value)); got != value {
			t.Errorf("%q is told as %q", value, got)
		}
	}
	if got := variable(nil); got != nil {
		t.Errorf("none is told as %v", got)
	}
}
