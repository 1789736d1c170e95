package local

import (
	"testing"
	"testing/synctest"
	"time"

	"trellis/compose"
	"trellis/driver"
	"trellis/state"
)

// count returns how many events of a kind and reason there are.
func (b *bench) count(kind, reason string) int {
	b.Helper()
	n := 0
	for ev, err := range b.store.Events(b.Context(), state.EventFilter{}) {
		if err != nil {
			b.Fatal(err)
		}
		if ev.Kind == kind && ev.Reason == reason {
			n++
		}
	}
	return n
}

// TestFirstCrashIsAnsweredByTheDriver: the first crash of a good run is over before the loop looks, and is counted and
// told as if it had seen it; the next ones soon after wait, as documented.
func TestFirstCrashIsAnsweredByTheDriver(t *testing.T) {
	bubble(t, func(b *bench) {
		b.apply(project(server("web", 1)))
		b.settled(state.Healthy)
		id := full(projectName, b.service("web").Instances[0].ID)
		crash := func(reason string, atLeast, atMost time.Duration) {
			t.Helper()
			revived := b.count("instance.started", reason)
			died := time.Now()
			if !b.world.Crash(id, 1, "") {
				t.Fatal("it does not run")
			}
			b.until("ready again", func() bool { return b.service("web").Ready == 1 })
			if took := time.Since(died); took < atLeast || took > atMost {
				t.Errorf("ready again after %s, want %s to %s", took, atLeast, atMost)
			}
			synctest.Wait()
			if n := b.count("instance.started", reason); n != revived+1 {
				t.Errorf("%d starts told as %s, want %d", n, reason, revived+1)
			}
		}
		time.Sleep(time.Minute)
		crash("revived", 0, 50*time.Millisecond)
		crash("start", 100*time.Millisecond, 200*time.Millisecond) // the second in a row
		time.Sleep(5 * time.Second)
		crash("start", 200*time.Millisecond, 350*time.Millisecond) // ready for less than 10 s: the third
		time.Sleep(11 * time.Second)
		crash("revived", 0, 50*time.Millisecond)
		if n := b.service("web").Instances[0].Restarts; n != 4 {
			t.Errorf("%d restarts, want 4", n)
		}
		b.until("each end is told", func() bool { return b.count("instance.exited", "crashed") == 4 })
	})
}

// TestEndsBetweenTwoLoopsAreTold: what crashed and came back while no loop ran is counted by the next one, once.
func TestEndsBetweenTwoLoopsAreTold(t *testing.T) {
	bubble(t, func(b *bench) {
		b.apply(project(server("web", 1)))
		b.settled(state.Healthy)
		time.Sleep(time.Minute)
		id := full(projectName, b.service("web").Instances[0].ID)
		b.kill()
		b.world.Crash(id, 1, "")
		for range 2 {
			b.run()
			b.until("ready", func() bool { return b.service("web").Ready == 1 })
			synctest.Wait()
			b.kill()
		}
		b.run()
		b.until("told", func() bool { return b.count("instance.exited", "crashed") > 0 })
		time.Sleep(time.Second)
		if n := b.count("instance.exited", "crashed"); n != 1 {
			t.Errorf("told %d times, want once", n)
		}
	})
}

// TestTwoEndsBetweenTwoLooks: a run that crashed, and the next one that did so before anybody looked, are told both, to a loop
// that goes on and to one that comes later.
func TestTwoEndsBetweenTwoLooks(t *testing.T) {
	for _, away := range []bool{false, true} {
		bubble(t, func(b *bench) {
			b.apply(project(server("web", 1)))
			b.settled(state.Healthy)
			time.Sleep(time.Minute)
			id := full(projectName, b.service("web").Instances[0].ID)
			if away {
				b.kill()
			}
			b.world.Crash(id, 1, "")
			b.world.Crash(id, 1, "")
			if away {
				b.run()
			}
			b.until("ready", func() bool { return b.service("web").Ready == 1 })
			time.Sleep(time.Second)
			if n := b.count("instance.exited", "crashed"); n != 2 {
				t.Errorf("loop away: %v: %d ends were told, want 2", away, n)
			}
		})
	}
}

func TestWhoMayRevive(t *testing.T) {
	now := time.Now()
	ready := func(m *known) *known { m.ready, m.wasReady, m.readySince = true, true, now.Add(-time.Second); return m }
	inst := driver.Instance{ID: "shop/web-1-0000000a", Service: "web", Slot: 1, Hash: "a", State: driver.Running}
	always := restartPolicy{condition: restartAlways}
	for name, c := range map[string]struct {
		policy  restartPolicy
		known   *known
		rollout string
		outcome string
		want    driver.Revival
		later   bool
	}{
		"good":             {policy: always, known: ready(&known{}), want: driver.ReviveAlways},
		"not ready":        {policy: always, known: &known{}},
		"draining":         {policy: always, known: ready(&known{drainSince: now})},
		"crashed just now": {policy: always, known: ready(&known{failures: 1}), later: true},
		"on failure":       {policy: restartPolicy{condition: restartOnFailure}, known: ready(&known{}), want: driver.ReviveAfterFailure},
		"never":            {policy: restartPolicy{condition: restartNever}, known: ready(&known{})},
		"with a delay":     {policy: restartPolicy{condition: restartAlways, delay: time.Second}, known: ready(&known{})},
		"rolling":          {policy: always, known: ready(&known{}), rollout: state.Rolling},
		"rolled":           {policy: always, known: ready(&known{}), rollout: state.Promoted, want: driver.ReviveAlways},
		"not settled":      {policy: always, known: ready(&known{}), outcome: state.Pending},
	} {
		t.Run(name, func(t *testing.T) {
			d := &desired{
				rev:      state.Revision{Outcome: c.outcome},
				services: map[string]*service{"web": {hash: "a", want: wantService{replicas: 1, restart: c.policy}, compose: compose.Service{}}},
				rollouts: map[string]state.Rollout{},
			}
			if c.rollout != "" {
				d.rollouts["web"] = state.Rollout{Phase: c.rollout}
			}
			if c.outcome == "" {
				d.rev.Outcome = state.Healthy
			}
			got, again := revival(d, inst, c.known, now)
			if got != c.want || again.IsZero() == c.later {
				t.Errorf("got %q, again at %v; want %q, later: %v", got, again, c.want, c.later)
			}
		})
	}
}
