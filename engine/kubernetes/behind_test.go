package kubernetes

import (
	"testing"

	"trellis/compose"
	"trellis/state"
)

// TestBehind: who was killed while they applied an older revision over the newest one has noted nothing, and what runs shows it; pods that
// are of an older revision because nothing about them has changed since show nothing.
func TestBehind(t *testing.T) {
	s, client := cluster(t)
	e := quiet(client)
	behind := func(want string) {
		t.Helper()
		if got, err := quiet(client).Behind(t.Context()); err != nil || got != want {
			t.Errorf("%q, %v; want %q", got, err, want)
		}
	}
	behind("")
	apply := func(p compose.Project) {
		t.Helper()
		if _, err := e.Apply(t.Context(), state.Revision{Project: p}, ""); err != nil {
			t.Fatal(err)
		}
		all, err := client.history(t.Context(), "shop")
		if err != nil {
			t.Fatal(err)
		}
		if err := client.settle(t.Context(), all[0], state.Healthy); err != nil {
			t.Fatal(err)
		}
	}
	const api = "/apis/apps/v1/namespaces/shop/deployments/api"
	apply(version("1"))
	first := s.objects[api]
	second := version("1")
	two, web := 2, second.Services["web"]
	web.Deploy.Replicas = &two
	second.Services["web"] = web
	apply(second)
	behind("") // of revision 1, and as revision 2 has them
	third := version("2")
	apply(third)
	behind("")
	s.objects[api] = first
	behind("api runs as revision 1 has it, not as revision 3")
	apply(third)
	behind("")
	if got := s.runs(t); got["api"] != "api:2" {
		t.Errorf("there is %v", got)
	}
}
