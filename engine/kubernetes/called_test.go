package kubernetes

import (
	"testing"

	"trellis/compose"
	"trellis/engine"
	"trellis/state"
)

// TestServiceOfAnotherName: a service whose name a cluster cannot have is seen by the name that its file has: its pods are its own, and its
// revision ends.
func TestServiceOfAnotherName(t *testing.T) {
	for _, name := range []string{"my_api", "Web", "api.v2", "2048"} {
		t.Run(name, func(t *testing.T) {
			s, client := cluster(t)
			e := quiet(client)
			p := compose.Project{Name: "shop", Services: map[string]compose.Service{name: {Name: name, Image: "i:1"}}}
			if _, err := e.Apply(t.Context(), state.Revision{Project: p}, ""); err != nil {
				t.Fatal(err)
			}
			s.well()
			got, err := e.Observe(t.Context(), "shop")
			if err != nil || len(got.Services) != 1 {
				t.Fatalf("%v, %+v", err, got.Services)
			}
			if svc := got.Services[0]; svc.Name != name || svc.State != engine.ServiceHealthy || svc.Ready != 1 || len(svc.Instances) != 1 {
				t.Errorf("%+v", svc)
			}
			if err := watching(e).step(t.Context()); err != nil {
				t.Fatal(err)
			}
			if all, err := e.History(t.Context(), 1); err != nil || all[0].Outcome != state.Healthy {
				t.Errorf("%v, the revision is %s", err, all[0].Outcome)
			}
		})
	}
}
