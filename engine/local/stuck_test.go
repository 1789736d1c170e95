package local

import (
	"context"
	"errors"
	"path/filepath"
	"strconv"
	"sync"
	"testing"
	"time"

	"trellis/compose"
	"trellis/driver"
	"trellis/driver/fake"
	"trellis/engine"
	"trellis/errdefs"
	"trellis/state"
)

// Observe reads what is wanted as the loop does, at any time; no apply may be lost between them. Real time and the real
// store: the moments that matter are those inside them.
func TestNoApplyIsLost(t *testing.T) {
	store, err := state.Open(filepath.Join(t.TempDir(), "state.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	const rounds = 4
	for i := range rounds {
		world := fake.NewWorld() // a fresh control plane, and what is deleted is gone
		eng, err := New(Config{
			Project: projectName, Store: store, Drivers: map[string]driver.Driver{"fake": world.Driver()}, Plane: &fakePlane{},
			Probe: world.Probe, BaseEnv: []string{},
		})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		var others sync.WaitGroup
		others.Go(func() {
			if err := eng.Run(ctx, func(string) {}); err != nil {
				t.Errorf("run: %v", err)
			}
		})
		for range 2 {
			others.Go(func() {
				for ctx.Err() == nil {
					if _, err := eng.Observe(ctx, projectName); err != nil && ctx.Err() == nil && !errors.Is(err, errdefs.ErrNotFound) {
						t.Errorf("observe: %v", err)
						return
					}
				}
			})
		}
		for change := range 3 {
			rev, err := eng.Apply(ctx, state.Revision{
				Project: project(server("web", 1, env("N", strconv.Itoa(3*i+change)), unwatched)), Cause: "up", Actor: "me@here",
			}, "")
			if err != nil {
				t.Fatal(err)
			}
			awaitSettled(t, store, rev.Number)
		}
		if err := eng.Delete(ctx, projectName, engine.DeleteOptions{}); err != nil {
			t.Errorf("delete: %v", err)
		}
		if left := world.Left(); len(left) > 0 {
			t.Errorf("left: %v", left)
		}
		cancel()
		others.Wait()
	}
}

func awaitSettled(t *testing.T, store state.Store, number int64) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(2 * time.Millisecond) {
		rev, err := store.Get(t.Context(), number)
		if err != nil {
			t.Fatal(err)
		}
		if rev.Outcome == state.Healthy {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("revision %d is %s still", number, rev.Outcome)
		}
	}
}

// A service without ports and probe is ready when it runs, whatever another one does.
func TestCalmBesideCrashLoop(t *testing.T) {
	bubble(t, func(b *bench) {
		b.world.Script("loopy", fake.Script{Exits: true, ExitCode: 3})
		plain := func(name string) compose.Service {
			return compose.Service{Name: name, Image: name, Command: []string{name}}
		}
		b.apply(project(plain("calm"), plain("loopy")))
		b.settled(state.Failed)
		if s := b.service("calm"); s.State != engine.ServiceHealthy || s.Ready != 1 {
			t.Errorf("calm is %s, %d of %d, %q", s.State, s.Ready, s.Want, s.Reason)
		}
	})
}

// However long a program takes until it listens, it is asked at once then, and not only when the pause is over.
func TestReadyAsSoonAsItListens(t *testing.T) {
	for _, after := range []time.Duration{0, 50 * time.Millisecond, 1234 * time.Millisecond, 7 * time.Second} {
		bubble(t, func(b *bench) {
			b.world.Script("web", fake.Script{ListenAfter: after})
			began := time.Now()
			b.apply(project(server("web", 1)))
			b.until("ready", func() bool { return b.service("web").Ready == 1 })
			if took := time.Since(began); took < after || took > after+30*time.Millisecond {
				t.Errorf("it listens after %s and was ready after %s", after, took)
			}
		})
	}
}

// unwatched has rollouts go on as soon as new instances are ready.
func unwatched(s *compose.Service) {
	s.Deploy.UpdateConfig = &compose.UpdateConfig{Monitor: duration(0)}
}
