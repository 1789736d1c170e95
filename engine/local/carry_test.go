package local

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"trellis/compose"
	"trellis/driver"
	"trellis/driver/fake"
	"trellis/engine"
	"trellis/errdefs"
	"trellis/proxy"
	"trellis/state"
)

// badly are the ways in which a new version of a service fails while it is watched.
var badly = map[string]struct {
	script fake.Script
	reason string
}{
	"never ready":  {fake.Script{NeverReady: true}, "was not ready within"},
	"exits":        {fake.Script{Exits: true, ExitAfter: 20 * time.Millisecond, ExitCode: 3}, "exited with code 3"},
	"ready, crash": {fake.Script{ReadyAfter: time.Second, Exits: true, ExitAfter: 4 * time.Second, ExitCode: 3}, "exited with code 3"},
}

// green plays bad for the instances of the version that has COLOR=green.
func (b *bench) green(bad fake.Script) {
	b.world.Choose("web", func(spec driver.Spec, _ int) fake.Script {
		if slices.Contains(spec.Env, "COLOR=green") {
			return bad
		}
		return fake.Script{ReadyAfter: 500 * time.Millisecond}
	})
}

func TestFailedRolloutGoesBackByItself(t *testing.T) {
	for name, bad := range badly {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(b *bench) {
				b.green(bad.script)
				b.apply(project(server("web", 3), server("api", 1)))
				b.settled(state.Healthy)
				before := b.service("web").Instances
				b.watchServing("web", 3)
				b.apply(project(server("web", 3, env("COLOR", "green")), server("api", 1, env("V", "2"))))
				b.until("revision 3", func() bool { return b.observe().Revision == 3 })
				b.settled(state.Healthy)
				b.checkExactly(t, map[string]int{"web": 3, "api": 1})
				for i, in := range b.service("web").Instances {
					if in.ID != before[i].ID || in.StartedAt != before[i].StartedAt {
						t.Errorf("%s was stopped, though it was well", before[i].ID)
					}
				}
				rev, err := b.store.Get(b.Context(), 2)
				if err != nil || rev.Outcome != state.RolledBack {
					t.Errorf("revision 2 is %s, %v", rev.Outcome, err)
				}
				r := b.rollout("web")
				if r.Phase != state.TakenBack || r.From != 1 || r.Revision != 2 || !strings.Contains(r.Reason, bad.reason) ||
					r.Failure == nil || !strings.HasPrefix(r.Failure.Instance, "web-1-") {
					t.Errorf("the rollout: %+v", r)
				}
				last := b.observe()
				if undoing, err := b.store.Latest(b.Context()); err != nil || undoing.Undoes != 2 || undoing.Cause != "automatic rollback to 1" {
					t.Errorf("revision 3: %+v, %v", undoing.Cause, err)
				}
				time.Sleep(time.Hour)
				synctest.Wait()
				if now := b.observe(); now.Revision != last.Revision || now.Outcome != state.Healthy {
					t.Errorf("an hour later revision %d is %s", now.Revision, now.Outcome)
				}
			})
		})
	}
}

// TestNoRolloutStaysOpenBehind: when one service makes a revision go back, the rollouts of the others are over too.
func TestNoRolloutStaysOpenBehind(t *testing.T) {
	bubble(t, func(b *bench) {
		b.green(badly["ready, crash"].script)
		b.world.Script("api", fake.Script{ReadyAfter: 20 * time.Second})
		b.apply(project(server("web", 2), server("api", 2)))
		b.settled(state.Healthy)
		b.apply(project(server("web", 2, env("COLOR", "green")), server("api", 2, env("V", "2"))))
		b.until("revision 3", func() bool { return b.observe().Revision == 3 })
		b.settled(state.Healthy)
		all, err := b.store.Rollouts(b.Context(), 2)
		if err != nil || len(all) != 2 || all[0].Phase != state.Overtaken || all[0].Ended == nil || all[1].Phase != state.TakenBack {
			t.Errorf("%+v, %v", all, err)
		}
	})
}

// TestRolloutOutlivesItsLoop kills the loop again and again while a version that works, or one that fails, is rolled
// out: the end is the same as without.
func TestRolloutOutlivesItsLoop(t *testing.T) {
	for seed := range 12 {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			bubble(t, func(b *bench) {
				c := chance{rand.New(rand.NewPCG(uint64(seed), 6))}
				fails := seed%2 == 1
				if fails {
					b.green(badly["ready, crash"].script)
				}
				b.apply(project(server("web", 3)))
				b.settled(state.Healthy)
				b.watchServing("web", 3)
				b.apply(project(server("web", 3, env("COLOR", "green"))))
				for range 20 {
					time.Sleep(time.Duration(c.IntN(1200)) * time.Millisecond)
					b.kill()
					time.Sleep(time.Duration(c.IntN(300)) * time.Millisecond)
					b.run()
				}
				want := int64(2)
				if fails {
					want = 3
				}
				b.until("the last revision", func() bool { return b.observe().Revision == want })
				b.settled(state.Healthy)
				b.checkExactly(t, map[string]int{"web": 3})
				if outcomes := b.outcomes(); fails && outcomes[1] != state.RolledBack {
					t.Errorf("outcomes %q", outcomes)
				}
			})
		})
	}
}

// outcomes returns those of all revisions, oldest first.
func (b *bench) outcomes() []string {
	b.Helper()
	revs, err := b.store.History(b.Context(), 0)
	if err != nil {
		b.Fatal(err)
	}
	var all []string
	for _, rev := range revs {
		all = append([]string{rev.Outcome}, all...)
	}
	return all
}

func TestPromoteAndAbort(t *testing.T) {
	bubble(t, func(b *bench) {
		instruct := func(action string) error { return b.eng.Instruct(b.Context(), projectName, "", action, "ann@desk") }
		b.apply(project(server("web", 2)))
		b.settled(state.Healthy)
		if err := instruct(engine.Promote); !errors.Is(err, errdefs.ErrConflict) {
			t.Errorf("promote of nothing: %v", err)
		}
		slowly := func(s *compose.Service) { s.Deploy.UpdateConfig = &compose.UpdateConfig{Monitor: duration(time.Hour)} }
		b.apply(project(server("web", 2, env("COLOR", "green"), slowly)))
		b.until("watched", func() bool { return b.plane.serving("web") == 3 })
		if err := instruct(engine.Promote); err != nil {
			t.Fatal(err)
		}
		b.settled(state.Healthy)
		b.checkExactly(t, map[string]int{"web": 2})
		if r := b.rollout("web"); r.Phase != state.Promoted || r.Actor != "ann@desk" {
			t.Errorf("%+v", r)
		}
		b.watchServing("web", 2)
		b.apply(project(server("web", 2, env("COLOR", "red"), slowly)))
		b.until("watched", func() bool { return b.plane.serving("web") == 3 })
		if err := instruct(engine.Abort); err != nil {
			t.Fatal(err)
		}
		b.until("gone back", func() bool { return b.observe().Revision == 4 })
		b.settled(state.Healthy)
		b.checkExactly(t, map[string]int{"web": 2})
		if outcomes := b.outcomes(); !slices.Equal(outcomes, []string{state.Healthy, state.Healthy, state.RolledBack, state.Healthy}) {
			t.Errorf("outcomes %q", outcomes)
		}
	})
}

// TestCanaryIsWeighed looks at the weights that the data plane is told in each step.
func TestCanaryIsWeighed(t *testing.T) {
	bubble(t, func(b *bench) {
		canary := func(s *compose.Service) {
			s.Deploy.Trellis.Canary = &compose.Canary{Steps: []compose.Share{0.05, 0.5}, Interval: duration(20 * time.Second)}
		}
		b.apply(project(server("web", 4, canary)))
		b.settled(state.Healthy)
		b.watchServing("web", 4)
		old := b.service("web").Instances[0].ID[len("web-1-"):]
		b.apply(project(server("web", 4, canary, env("COLOR", "green"))))
		share := func() (news int, part float64) {
			var sum, fresh int
			for _, i := range b.plane.snapshot().Services[0].Instances {
				if i.Draining || !i.Ready {
					continue
				}
				sum += i.Weight
				if !strings.HasSuffix(i.ID, string(old)) {
					news, fresh = news+1, fresh+i.Weight
				}
			}
			return news, float64(fresh) / float64(max(sum, 1))
		}
		for _, step := range []struct {
			news int
			part float64
		}{{1, 0.05}, {2, 0.5}} {
			b.until(fmt.Sprintf("%d new ones with %g", step.news, step.part), func() bool {
				news, part := share()
				return news == step.news && part > step.part-0.001 && part < step.part+0.001
			})
			began := time.Now()
			b.until("the next step", func() bool { _, part := share(); return part != step.part })
			if took := time.Since(began); took < 19*time.Second || took > 22*time.Second {
				t.Errorf("the step to %g took %s, want 20 s", step.part, took)
			}
		}
		b.settled(state.Healthy)
		b.checkExactly(t, map[string]int{"web": 4})
		for _, i := range b.plane.snapshot().Services[0].Instances {
			if i.Weight != 0 {
				t.Errorf("%s keeps the weight %d", i.ID, i.Weight)
			}
		}
	})
}

func TestAnApplyOvertakesARollout(t *testing.T) {
	bubble(t, func(b *bench) {
		b.apply(project(server("web", 2)))
		b.settled(state.Healthy)
		b.watchServing("web", 2)
		b.apply(project(server("web", 2, env("COLOR", "green"))))
		b.until("watched", func() bool { return b.plane.serving("web") == 3 })
		b.apply(project(server("web", 2, env("COLOR", "red"))))
		b.settled(state.Healthy)
		b.checkExactly(t, map[string]int{"web": 2})
		first, err := b.store.Rollouts(b.Context(), 2)
		if err != nil || len(first) != 1 || first[0].Phase != state.Overtaken {
			t.Errorf("%+v, %v", first, err)
		}
		if r := b.rollout("web"); r.Phase != state.Promoted || r.Revision != 3 {
			t.Errorf("%+v", r)
		}
	})
}

// pushes sends traffic of so many requests a second to every instance that serves, of which the green version fails a
// share, until the returned function is called.
func (b *bench) pushes(rate uint64, failing float64) (stop func()) {
	done := make(chan struct{})
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		total := map[string]proxy.Measure{}
		for {
			m := proxy.Measures{Boot: "one"}
			for _, s := range b.plane.snapshot().Services {
				for _, i := range s.Instances {
					if !i.Ready || i.Draining {
						continue
					}
					c := total[i.ID]
					c.Service, c.Instance, c.Requests = s.Name, i.ID, c.Requests+rate/5
					if c.Latency == nil {
						c.Latency = proxy.Histogram{}
					}
					c.Latency = maps.Clone(c.Latency)
					for range rate / 5 {
						c.Latency.Add(10 * time.Millisecond)
					}
					spec, _ := b.world.Spec(full(projectName, engine.InstanceID(i.ID)))
					if slices.Contains(spec.Env, "COLOR=green") {
						c.Failed = uint64(float64(c.Requests) * failing)
					}
					total[i.ID] = c
					m.Instances = append(m.Instances, c)
				}
			}
			select {
			case b.plane.measures <- m:
			case <-done:
				return
			}
			select {
			case <-time.After(200 * time.Millisecond):
			case <-done:
				return
			}
		}
	}()
	return func() { close(done); <-ended }
}

func TestRolloutThatBurnsTheObjectiveGoesBack(t *testing.T) {
	for _, failing := range []float64{0, 0.02} {
		t.Run(fmt.Sprint(failing), func(t *testing.T) {
			bubble(t, func(b *bench) {
				monitored := func(s *compose.Service) {
					s.Deploy.UpdateConfig = &compose.UpdateConfig{Monitor: duration(10 * time.Second)}
				}
				b.apply(project(server("web", 3, monitored)))
				b.settled(state.Healthy)
				b.watchServing("web", 3)
				stop := b.pushes(100, failing)
				defer stop()
				b.apply(project(server("web", 3, monitored, env("COLOR", "green"))))
				if failing == 0 {
					b.settled(state.Healthy)
					r := b.rollout("web")
					l := r.Ledger
					if r.Phase != state.Promoted || l.Failed != 0 || l.Requests < 3*100*30 || l.Old.P99 == nil || l.New.P99 == nil || *l.New.P99 < 10 || *l.New.P99 > 11 {
						t.Errorf("%+v", r)
					}
					return
				}
				began := time.Now()
				b.until("gone back", func() bool { return b.observe().Revision == 3 })
				if took := time.Since(began); took > 8*time.Second {
					t.Errorf("seen after %s", took)
				}
				b.settled(state.Healthy)
				r := b.rollout("web")
				if r.Phase != state.TakenBack || !strings.Contains(r.Reason, "new instances fail") || r.Ledger.New.Failed == 0 ||
					r.Ledger.Old.Requests == 0 || r.Failure == nil || !strings.HasPrefix(r.Failure.Instance, "web-1-") {
					t.Errorf("%+v", r)
				}
			})
		})
	}
}

// TestEditsAreSeenSoon: what `up --watch` applies is watched for a moment only, and goes back where it does not start.
func TestEditsAreSeenSoon(t *testing.T) {
	bubble(t, func(b *bench) {
		b.green(badly["exits"].script)
		b.apply(project(server("web", 2)))
		b.settled(state.Healthy)
		b.watchServing("web", 2)
		edit := func(colour string) {
			t.Helper()
			rev := state.Revision{Project: project(server("web", 2, env("COLOR", colour))), Cause: state.CauseWatch, Actor: "me@here"}
			if _, err := b.eng.Apply(b.Context(), rev, ""); err != nil {
				t.Fatal(err)
			}
		}
		began := time.Now()
		edit("red")
		b.settled(state.Healthy)
		if took := time.Since(began); took > 3*time.Second {
			t.Errorf("an edit takes %s", took)
		}
		edit("green")
		b.until("gone back", func() bool { return b.observe().Revision == 4 })
		b.settled(state.Healthy)
		b.checkExactly(t, map[string]int{"web": 2})
	})
}

// measuredMeanwhile is a store in which the loop writes what was measured just before somebody else writes.
type measuredMeanwhile struct {
	state.Store
	due atomic.Bool
}

func (s *measuredMeanwhile) SetRollout(ctx context.Context, r state.Rollout) (state.Rollout, error) {
	if s.due.CompareAndSwap(true, false) {
		all, err := s.Store.Rollouts(ctx, r.Revision)
		if err != nil {
			return r, err
		}
		for _, one := range all {
			one.Ledger.Requests += 100
			if _, err := s.Store.SetRollout(ctx, one); err != nil {
				return r, err
			}
		}
	}
	return s.Store.SetRollout(ctx, r)
}

// TestWhatIsAskedOfARolloutHoldsWhateverIsMeasured: neither a promotion nor an abort fails because the loop has just written.
func TestWhatIsAskedOfARolloutHoldsWhateverIsMeasured(t *testing.T) {
	for action, phase := range map[string]string{engine.Promote: state.Rolling, engine.Abort: state.TakenBack} {
		t.Run(action, func(t *testing.T) {
			bubble(t, func(b *bench) {
				synctest.Wait()
				b.kill()
				store := &measuredMeanwhile{Store: b.store}
				b.store = store
				b.run()
				b.green(fake.Script{NeverReady: true})
				b.apply(project(server("web", 2)))
				b.settled(state.Healthy)
				b.apply(project(server("web", 2, env("COLOR", "green"), onFailure(compose.OnFailurePause))))
				b.until("paused", func() bool { return b.rollout("web").Phase == state.Paused })
				store.due.Store(true)
				if err := b.eng.Instruct(b.Context(), projectName, "web", action, "me@here"); err != nil {
					t.Fatal(err)
				}
				all, err := b.store.Rollouts(b.Context(), 2)
				if err != nil || len(all) != 1 || all[0].Phase != phase || all[0].Actor != "me@here" || all[0].Ledger.Requests < 100 {
					t.Errorf("%+v, %v", all, err)
				}
			})
		})
	}
}
