package kubernetes

import (
	"errors"
	"strings"
	"testing"

	"trellis/compose"
	"trellis/errdefs"
	"trellis/state"
)

// TestProjectsThatACluterCannotTellApart: of two projects in a namespace whose names become the same in a cluster the second is refused, by
// whatever is asked of it, and nothing of the first is touched.
func TestProjectsThatAClusterCannotTellApart(t *testing.T) {
	for first, second := range map[string]string{"my-shop": "my_shop", "my_shop": "my-shop", "shop-": "shop", "shop": "shop_"} {
		t.Run(second+" beside "+first, func(t *testing.T) {
			s, client := cluster(t)
			of := func(name, image string) (*Engine, compose.Project) {
				e := quiet(client)
				e.project = name
				return e, compose.Project{Name: name, Services: map[string]compose.Service{image: {Name: image, Image: image}}}
			}
			e, p := of(first, "web")
			if _, err := e.Apply(t.Context(), state.Revision{Project: p}, ""); err != nil {
				t.Fatal(err)
			}
			s.mu.Lock()
			before := len(s.writes)
			s.mu.Unlock()
			e, p = of(second, "api")
			refused := func(what string, err error) {
				t.Helper()
				if !errors.Is(err, errdefs.ErrConflict) || !strings.Contains(err.Error(), "namespace shop has project "+first) {
					t.Errorf("%s: %v", what, err)
				}
			}
			_, err := e.Keep(t.Context(), p, nil, false)
			refused("keep", err)
			_, err = e.Apply(t.Context(), state.Revision{Project: p}, "")
			refused("apply", err)
			_, err = e.Observe(t.Context(), second)
			refused("observe", err)
			refused("runs", e.Runs(t.Context()))
			_, err = e.History(t.Context(), 0)
			refused("history", err)
			if len(s.writes) != before {
				t.Errorf("it writes %v", s.writes[before:])
			}
		})
	}
}
