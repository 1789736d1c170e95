package kubernetes

import (
	"slices"
	"testing"

	"trellis/compose"
	"trellis/state"
)

// TestNothingWaitsForAProvider: nothing runs of a service that a provider is to make, so nobody waits for it, on whatever condition, and
// the project is well without it.
func TestNothingWaitsForAProvider(t *testing.T) {
	for _, condition := range []string{compose.ServiceStarted, compose.ServiceHealthy, compose.ServiceCompletedSuccessfully} {
		s, c := cluster(t)
		e := quiet(c)
		p := compose.Project{Name: "shop", Services: map[string]compose.Service{
			"ai":  {Name: "ai", Other: map[string]any{"provider": map[string]any{"type": "model"}}},
			"web": {Name: "web", Image: "web:1", DependsOn: map[string]compose.Dependency{"ai": {Condition: condition, Required: true}}},
		}}
		if _, err := e.Apply(t.Context(), state.Revision{Project: p}, ""); err != nil {
			t.Fatal(err)
		}
		if !slices.Contains(s.names(), "deployments/web") {
			t.Errorf("%s: web is not there", condition)
		}
		now, err := e.Observe(t.Context(), "shop")
		if err != nil {
			t.Fatal(err)
		}
		if _, there := stateIn(now, "ai"); there {
			t.Errorf("%s: it is told of what does not run: %+v", condition, now.Services)
		}
		s.well()
		if err := watching(e).step(t.Context()); err != nil {
			t.Fatal(err)
		}
		if all, err := e.History(t.Context(), 1); err != nil || all[0].Outcome != state.Healthy {
			t.Errorf("%s: %v, and the revision is %s", condition, err, all[0].Outcome)
		}
	}
}
