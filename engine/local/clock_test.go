package local

import (
	"testing"
	"testing/synctest"
	"time"

	"trellis/compose"
	"trellis/driver"
	"trellis/probe"
	"trellis/state"
)

// TestAClockThatIsSet: what a driver says of the start of a run is by the machine's clock, which may have been set since.
func TestAClockThatIsSet(t *testing.T) {
	const id = driver.ID("shop/web-1")
	// listed is how a run looks whose start, just now, is off by so much.
	listed := func(off time.Duration) (*loop, *desired, driver.Instance) {
		eng, err := New(Config{Project: projectName, Store: struct{ state.Store }{}, Drivers: map[string]driver.Driver{"fake": nil}})
		if err != nil {
			t.Fatal(err)
		}
		l := &loop{Engine: eng, ctx: t.Context()}
		d := &desired{services: map[string]*service{"web": {compose: compose.Service{Name: "web"}, probe: probe.Spec{Kind: probe.HTTP}}}}
		inst := driver.Instance{
			ID: id, Project: projectName, Service: "web", Slot: 1, State: driver.Running, StartedAt: time.Now().Add(off).Round(0),
		}
		l.observe(d, "fake", inst, nil, time.Now())
		return l, d, inst
	}
	t.Run("back", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			l, _, _ := listed(2 * time.Hour)
			m := l.memory.instances[id]
			p := prober{loop: l, spec: probe.Spec{Retries: 3}, id: id, known: m, run: m.run}
			p.heard(probe.Result{Ready: true})
			for range 3 {
				p.heard(probe.Result{Message: "no answer"})
			}
			if m.ready {
				t.Error("ready after three failures, because the clock was set back")
			}
		})
	})
	t.Run("forward", func(t *testing.T) { // not in a bubble, whose time has no clock that may leap
		l, d, inst := listed(-time.Second)
		s := l.seen(d, inst, l.memory.instances[id])
		if !s.started.Equal(inst.StartedAt) {
			t.Errorf("it was started at %s, not %s", s.started, inst.StartedAt)
		}
		if s.started.Round(0) == s.started {
			t.Error("the planner is told of the start by the machine's clock, which may leap")
		}
	})
}
