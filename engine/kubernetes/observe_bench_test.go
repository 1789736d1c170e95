package kubernetes

import (
	"fmt"
	"log/slog"
	"testing"

	"trellis/compose"
	"trellis/engine"
	"trellis/state"
)

// BenchmarkPlan is a plan of a project in a cluster: what the API server says of it is read, and compared with what is wanted.
// As many revisions are kept as there ever are.
func BenchmarkPlan(b *testing.B) {
	for _, n := range []int{10, 50, 100, 500} {
		b.Run(fmt.Sprint(n, " services"), func(b *testing.B) {
			_, c := cluster(b)
			e := New("shop", c, slog.New(slog.DiscardHandler))
			project := func(level string) compose.Project {
				p := compose.Project{Name: "shop", Services: map[string]compose.Service{}}
				for i := range n {
					p.Services[fmt.Sprint("s", i)] = compose.Service{Image: "web:1", Expose: []string{"8080"}, Environment: map[string]string{"LEVEL": level, "PORT": "8080"}}
				}
				return p
			}
			for i := range keptRevisions {
				if _, err := e.Apply(b.Context(), state.Revision{Project: project(fmt.Sprint(i)), Cause: "up", Actor: "me"}, ""); err != nil {
					b.Fatal(err)
				}
			}
			want := project("another")
			for b.Loop() {
				have, err := e.Observe(b.Context(), "shop")
				if err != nil {
					b.Fatal(err)
				}
				if changes := engine.Diff(want, have); len(changes) != n {
					b.Fatalf("%d changes, want %d", len(changes), n)
				}
			}
		})
	}
}
