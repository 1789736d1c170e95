package local

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"trellis/compose"
	"trellis/driver"
	"trellis/driver/fake"
	"trellis/engine"
	"trellis/errdefs"
	"trellis/state"
)

func TestDeleteEndsWhatCannotBeRemoved(t *testing.T) {
	for _, c := range []struct{ op, says string }{
		{"remove", "web-1-"}, {"stop", "(running)"}, {"list", "out of order"},
	} {
		t.Run(c.op, func(t *testing.T) {
			bubble(t, func(b *bench) {
				b.apply(project(server("web", 1)))
				b.settled(state.Healthy)
				b.world.Fault(func(op string, id driver.ID) error {
					if op == c.op {
						return errors.New("the world is out of order")
					}
					return nil
				})
				began := time.Now()
				err := b.eng.Delete(b.Context(), projectName, engine.DeleteOptions{})
				if !errors.Is(err, errdefs.ErrUnavailable) || !strings.Contains(err.Error(), c.says) || !strings.Contains(err.Error(), "out of order") {
					t.Errorf("delete: %v", err)
				}
				if took := time.Since(began); took > 2*time.Minute {
					t.Errorf("it took %s", took)
				}
				b.world.Fault(nil)
				if err := b.eng.Delete(b.Context(), projectName, engine.DeleteOptions{}); err != nil {
					t.Errorf("delete once it can be: %v", err)
				}
				if left := b.world.Left(); len(left) > 0 {
					t.Errorf("left: %v", left)
				}
			})
		})
	}
}

func TestDeleteTriesAgain(t *testing.T) {
	bubble(t, func(b *bench) {
		b.apply(project(server("web", 2)))
		b.settled(state.Healthy)
		busy := time.Now().Add(20 * time.Second)
		b.world.Fault(func(op string, _ driver.ID) error {
			if op == "remove" && time.Now().Before(busy) {
				return errors.New("device busy")
			}
			return nil
		})
		if err := b.eng.Delete(b.Context(), projectName, engine.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		if left := b.world.Left(); len(left) > 0 {
			t.Errorf("left: %v", left)
		}
	})
}

func TestDeleteEndsWhenSomebodyApplies(t *testing.T) {
	bubble(t, func(b *bench) {
		b.world.Script("deaf", fake.Script{IgnoreStop: true})
		b.apply(project(server("deaf", 1, func(s *compose.Service) { s.StopGracePeriod = duration(time.Minute) })))
		b.settled(state.Healthy)
		done := make(chan error, 1)
		go func() { done <- b.eng.Delete(b.Context(), projectName, engine.DeleteOptions{}) }()
		time.Sleep(time.Second)
		b.apply(project(server("web", 1)))
		if err := <-done; !errors.Is(err, errdefs.ErrConflict) {
			t.Errorf("delete while somebody applies: %v", err)
		}
		b.settled(state.Healthy)
		if s := b.service("web"); s.State != engine.ServiceHealthy {
			t.Errorf("web is %s", s.State)
		}
	})
}

// leaver is a store whose caller leaves as soon as a revision is written.
type leaver struct {
	state.Store
	leave context.CancelFunc
}

func (s *leaver) Put(ctx context.Context, rev state.Revision, after int64, overrides ...state.Override) (state.Revision, error) {
	rev, err := s.Store.Put(ctx, rev, after, overrides...)
	if s.leave != nil {
		s.leave()
	}
	return rev, err
}

// deaf is a store in which nobody can write an override by itself, as after the end of a process that had just put a revision.
type deaf struct{ state.Store }

func (s *deaf) SetOverride(context.Context, state.Override) error {
	return errors.New("nobody is there any more")
}

// TestWhatAnApplyEndsEndsWithItsRevision: a control plane that ends the moment after leaves no service stopped that was to be
// started.
func TestWhatAnApplyEndsEndsWithItsRevision(t *testing.T) {
	bubble(t, func(b *bench) {
		b.apply(project(server("web", 1)))
		b.settled(state.Healthy)
		if err := b.eng.Override(b.Context(), projectName, state.Override{Service: "web", Stopped: true}); err != nil {
			t.Fatal(err)
		}
		b.until("stopped", func() bool { return b.service("web").Ready == 0 })
		b.kill()
		store := b.store
		b.store = &deaf{store}
		b.run()
		_, _ = b.eng.Apply(b.Context(), state.Revision{Project: project(server("web", 1)), Cause: "up", Actor: "me@here"}, "")
		b.kill()
		b.store = store
		b.run()
		b.settled(state.Healthy)
		if svc := b.service("web"); svc.Ready != 1 {
			t.Errorf("revision 2 is in force, and web is %s", svc.State)
		}
	})
}

// What the store has taken is carried out, also when whoever asked for it is gone the moment after.
func TestApplyHoldsWhenItsCallerLeaves(t *testing.T) {
	bubble(t, func(b *bench) {
		b.apply(project(server("web", 1)))
		b.settled(state.Healthy)
		if err := b.eng.Delete(b.Context(), projectName, engine.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(b.Context())
		b.kill()
		b.store = &leaver{b.store, cancel}
		b.run()
		rev, err := b.eng.Apply(ctx, state.Revision{Project: project(server("web", 2)), Cause: "up", Actor: "me@here"}, "")
		if err != nil {
			t.Errorf("apply: %v", err)
		}
		b.rev = rev
		b.settled(state.Healthy)
		if s := b.service("web"); s.Ready != 2 {
			t.Errorf("%d of 2 are ready", s.Ready)
		}
	})
}

// remnant is a driver that could not remove something.
type remnant struct {
	driver.Driver
}

func (remnant) Left() []string { return []string{"the network stays: somebody is in it"} }

// TestDeleteTellsWhatIsLeft: what a driver had to leave is told to who asks, and stands in the events; the deletion is done all the same.
func TestDeleteTellsWhatIsLeft(t *testing.T) {
	bubble(t, func(b *bench) {
		b.kill()
		b.drivers = map[string]driver.Driver{"fake": remnant{b.driver()}}
		b.run()
		b.apply(project(server("web", 1)))
		b.settled(state.Healthy)
		var told []string
		opt := engine.DeleteOptions{Left: func(what string) { told = append(told, what) }}
		if err := b.eng.Delete(b.Context(), projectName, opt); err != nil {
			t.Fatal(err)
		}
		if want := (remnant{}).Left(); !slices.Equal(told, want) {
			t.Errorf("told %q, not %q", told, want)
		}
		b.until("an event", func() bool {
			for ev := range b.store.Events(b.Context(), state.EventFilter{}) {
				if ev.Kind == "project.left" && ev.Message == told[0] {
					return true
				}
			}
			return false
		})
	})
}
