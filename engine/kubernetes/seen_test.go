package kubernetes

import (
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"trellis/compose"
	"trellis/engine"
	"trellis/engine/judge"
	"trellis/state"
)

// controlled returns the control plane of a project in a cluster, which serves, with the ref of a secret that it has; nothing is left
// to be done.
func controlled(t *testing.T) (s *apiServer, w *watcher, ref string) {
	t.Helper()
	const image = "registry.example.org/trellis:1"
	s, c := cluster(t)
	e := quiet(c)
	e.UsePlane(Plane{Default: image})
	e.UseControl(Control{Image: image, Tally: &judge.Tally{}})
	p := compose.Project{
		Name: "shop", Services: map[string]compose.Service{"web": {Name: "web", Image: "web:1", Expose: []string{"8080"}}},
		Secrets: map[string]compose.FileValue{"certificate": {}},
	}
	p, err := e.Keep(t.Context(), p, map[string][]byte{"secrets/certificate": []byte("PEM")}, false)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := e.Apply(t.Context(), state.Revision{Project: p}, ""); err != nil {
		t.Fatal(err)
	}
	for path, o := range s.objects {
		if strings.Contains(path, "/deployments/") {
			o["status"] = map[string]any{"availableReplicas": int64(2)}
		}
	}
	all, err := c.history(t.Context(), "shop")
	if err != nil {
		t.Fatal(err)
	}
	if err := c.settle(t.Context(), all[0], state.Healthy); err != nil {
		t.Fatal(err)
	}
	w = watching(e)
	for range 4 { // what leads to the data plane does so once that serves
		if err := w.step(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if before := len(s.writes); w.step(t.Context()) != nil || len(s.writes) != before || !w.idle {
		t.Fatalf("it is idle: %v, and writes %v", w.idle, s.writes[before:])
	}
	return s, w, p.Secrets["certificate"].Ref
}

// spent returns how many requests do makes.
func (s *apiServer) spent(do func()) []string {
	s.mu.Lock()
	before := len(s.asked)
	s.mu.Unlock()
	do()
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.asked[before:])
}

// TestIdleProjectAsksLittle counts what a control plane asks the API server while nothing happens, over one idleLook of 10 s: what its
// parts do in that time they do here one after the other. The kinds of a project, of which there are a dozen, are listed once.
func TestIdleProjectAsksLittle(t *testing.T) {
	for name, measured := range map[string]bool{"with a metrics API": true, "without one": false} {
		t.Run(name, func(t *testing.T) {
			s, w, ref := controlled(t)
			if measured {
				s.more = map[string]map[string]string{"metrics.k8s.io/v1beta1": {"pods": "PodMetrics"}}
			}
			e, ctx := w.engine, t.Context()
			own := &lease{leases: leasesOf(t, e.client), name: notesName("shop"), who: "pod"}
			must := func(_ any, err error) {
				t.Helper()
				if err != nil {
					t.Error(err)
				}
			}
			_, _ = e.Stats(ctx, "shop") // whether there is such an API is asked once, or once a minute
			asked := s.spent(func() {
				must(nil, w.step(ctx))
				for range 1 + 5 { // when the loop has looked, and for what looks every 2 s
					must(e.Observe(ctx, "shop"))
					must(e.History(ctx, 0))
					_, _, err := e.DataPlanes(ctx)
					must(nil, err)
				}
				for range 2 { // rounds of metrics, every 5 s
					must(e.Observe(ctx, "shop"))
					if _, err := e.Stats(ctx, "shop"); (err == nil) != measured {
						t.Error(err)
					}
					must(e.Content(ctx, ref))
					must(own.take(ctx, time.Now()))
				}
				for range 3 { // looks at the cluster's events, every 3 s
					must(nil, e.Events(ctx, state.EventFilter{}, false, func(state.Event) error { return nil }))
				}
			})
			listed := map[string]int{}
			for _, one := range asked {
				if strings.Contains(one, "labelSelector=") && !strings.Contains(one, podMetrics.Group) {
					listed[one]++
				}
			}
			for what, n := range listed {
				if n > 1 {
					t.Errorf("%d times: %s", n, what)
				}
			}
			rate := float64(len(asked)) / idleLook.Seconds()
			if t.Logf("%d requests in %s, of which %d for lists of a project: %.1f a second", len(asked), idleLook, len(listed), rate); rate > 2.5 {
				t.Errorf("they are:\n%s", strings.Join(asked, "\n"))
			}
		})
	}
}

// TestALookIsKeptWhileItIsGood: whatever may have changed something has the next one look again.
func TestALookIsKeptWhileItIsGood(t *testing.T) {
	s, w, _ := controlled(t)
	e, ctx := w.engine, t.Context()
	observe := func() (engine.State, bool) {
		t.Helper()
		var st engine.State
		asked := s.spent(func() {
			var err error
			if st, err = e.Observe(ctx, "shop"); err != nil {
				t.Fatal(err)
			}
		})
		return st, len(asked) > 0
	}
	two := 2
	own := &lease{leases: leasesOf(t, e.client), name: notesName("shop"), who: "pod"}
	for _, step := range []struct {
		what  string
		do    func() error
		again bool
	}{
		{"nothing", func() error { return nil }, false},
		{"the Lease was renewed", func() error { _, err := own.take(ctx, time.Now()); return err }, false},
		{"a watch has told", func() error { e.woken.Add(1); return nil }, true},
		{"the service was scaled here", func() error { return e.Override(ctx, "shop", state.Override{Service: "web", Replicas: &two}) }, true},
		{"the loop has looked", func() error { return w.step(ctx) }, false},
		{"time has passed", func() error { e.last.at = e.last.at.Add(-keptLook); return nil }, true},
	} {
		if err := step.do(); err != nil {
			t.Fatalf("%s: %v", step.what, err)
		}
		st, again := observe()
		if again != step.again {
			t.Errorf("%s: looked again: %v", step.what, again)
		}
		if step.what == "the service was scaled here" && st.Services[0].Want != two {
			t.Errorf("%d are wanted", st.Services[0].Want)
		}
		if _, again := observe(); again {
			t.Errorf("%s: looked twice", step.what)
		}
	}
	other := quiet(e.client) // not the control plane: nobody tells it when something changes
	for range 2 {
		if asked := s.spent(func() { _, _ = other.Observe(ctx, "shop") }); len(asked) == 0 {
			t.Error("another engine has looked at nothing")
		}
	}
}

// TestAWriteDuringALook has that look kept by nobody: it may have seen what was before.
func TestAWriteDuringALook(t *testing.T) {
	s, w, _ := controlled(t)
	e, ctx := w.engine, t.Context()
	fired := false
	s.before = func(_ http.ResponseWriter, r *http.Request) bool {
		if !fired && strings.HasSuffix(r.URL.Path, "/deployments") {
			fired = true
			e.woken.Add(1)
		}
		return false
	}
	e.woken.Add(1)
	for i, again := range []bool{true, true, false} {
		if asked := s.spent(func() { _, _ = e.Observe(ctx, "shop") }); (len(asked) > 0) != again {
			t.Errorf("look %d: %d requests", i, len(asked))
		}
	}
}
