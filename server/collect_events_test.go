package server

import (
	"path/filepath"
	"testing"
	"time"

	"trellis/engine"
	"trellis/state"
)

// TestWhatHappensBeforeTheFirstRoundIsCounted: what goes wrong in the first seconds of a control plane is counted, once, and
// seen as a rise; what was before is another's.
func TestWhatHappensBeforeTheFirstRoundIsCounted(t *testing.T) {
	store, err := state.Open(filepath.Join(t.TempDir(), "state.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	started := time.Now()
	happens := func(at time.Time, kind, reason string) {
		t.Helper()
		if err := store.Append(t.Context(), state.Event{Time: at, Project: "shop", Service: "web", Kind: kind, Reason: reason}); err != nil {
			t.Fatal(err)
		}
	}
	st := engine.State{Services: []engine.Service{{Name: "web"}}}
	var e ends
	counted := func(at time.Time, back, crashed float64) {
		t.Helper()
		g := &gathering{at: at, started: started}
		if err := e.add(t.Context(), store.Events, g, st); err != nil {
			t.Fatal(err)
		}
		for _, s := range g.samples {
			want := 0.0
			switch {
			case s.Labels["__name__"] == "trellis_deploys_rolled_back_total":
				want = back
			case s.Labels["reason"] == "crashed":
				want = crashed
			}
			if s.Value != want || s.Created.Before(started) || !s.Created.Before(at) {
				t.Errorf("%v: %v since %s, want %v", s.Labels, s.Value, s.Created.Sub(started), want)
			}
		}
	}
	happens(started.Add(-time.Hour), "revision.rolled-back", "up")
	happens(started.Add(time.Second), "revision.rolled-back", "up")
	happens(started.Add(2*time.Second), "instance.exited", "crashed")
	counted(started.Add(4*time.Second), 1, 1)
	counted(started.Add(9*time.Second), 1, 1)
	happens(started.Add(10*time.Second), "instance.exited", "crashed")
	counted(started.Add(14*time.Second), 1, 2)
}
