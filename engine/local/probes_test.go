package local

import (
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"trellis/compose"
	"trellis/driver"
	"trellis/driver/fake"
	"trellis/engine"
	"trellis/probe"
	"trellis/state"
)

func probed(path string) func(*compose.Service) {
	return func(s *compose.Service) { s.Trellis.Probe = &compose.Probe{HTTP: path} }
}

// TestAnotherProbeIsAskedOfWhatRuns: a plan says of it that it is carried out in place.
func TestAnotherProbeIsAskedOfWhatRuns(t *testing.T) {
	bubble(t, func(b *bench) {
		var asked atomic.Pointer[probe.Spec]
		b.answers = func(s probe.Spec, _ string) *probe.Result {
			asked.Store(&s)
			return nil
		}
		b.apply(project(server("web", 1)))
		b.settled(state.Healthy)
		starts := b.world.Starts()
		b.apply(project(server("web", 1, probed("/ready"))))
		b.settled(state.Healthy)
		time.Sleep(time.Minute)
		if got := asked.Load().Path; got != "/ready" {
			t.Errorf("a minute later it is asked for %s, want /ready", got)
		}
		b.apply(project(server("web", 1, probed("/ready"), func(s *compose.Service) {
			s.Healthcheck = &compose.Healthcheck{Interval: duration(7 * time.Second)}
		})))
		b.settled(state.Healthy)
		time.Sleep(time.Minute)
		if got := asked.Load().Interval; got != 7*time.Second {
			t.Errorf("a minute later it is asked every %s, want 7s", got)
		}
		if b.world.Starts() != starts {
			t.Error("it was replaced")
		}
	})
}

// TestOldOnesAreAskedWhatTheirOwnDefinitionSays: what a rollout brings to be asked, they may know nothing of. A loop that
// comes later asks them no other thing.
func TestOldOnesAreAskedWhatTheirOwnDefinitionSays(t *testing.T) {
	silent := func(s *compose.Service) { s.Trellis.Probe = nil }
	for name, old := range map[string]func(*compose.Service){"another path": probed("/healthz"), "no probe": silent} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(b *bench) {
				b.answers = func(s probe.Spec, host string) *probe.Result {
					for _, i := range b.list() {
						if spec, _ := b.world.Spec(i.ID); i.Host == host && s.Path == "/ready" && !slices.Contains(spec.Env, "COLOR=green") {
							return &probe.Result{Message: "404 not found"}
						}
					}
					return nil
				}
				b.world.Choose("web", func(spec driver.Spec, _ int) fake.Script {
					return fake.Script{NeverReady: slices.Contains(spec.Env, "COLOR=green")}
				})
				b.apply(project(server("web", 3, old)))
				b.settled(state.Healthy)
				b.apply(project(server("web", 3, probed("/ready"), env("COLOR", "green"), onFailure(compose.OnFailurePause))))
				time.Sleep(time.Minute)
				if n := b.plane.serving("web"); n != 3 {
					t.Errorf("%d serve while the new one does not become ready", n)
				}
				b.kill()
				b.run()
				time.Sleep(time.Minute)
				if n := b.plane.serving("web"); n != 3 {
					t.Errorf("%d serve after another loop has taken over", n)
				}
				first := b.service("web").Instances
				at := slices.IndexFunc(first, func(i engine.Instance) bool { return i.Revision == 1 })
				b.world.Crash(full(projectName, first[at].ID), 1, "")
				b.until("an old one that crashed is back", func() bool { return b.plane.serving("web") == 3 })
			})
		})
	}
}

// list returns what the world has of the project.
func (b *bench) list() []driver.Instance {
	list, err := b.world.Driver().List(b.Context(), projectName)
	if err != nil {
		b.Error(err)
	}
	return list
}
