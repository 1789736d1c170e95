package local

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
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

var errDriver = errors.New("the driver cannot now")

// watchServing fails the test when fewer than floor instances of a service serve in any published snapshot.
func (b *bench) watchServing(service string, floor int) {
	b.plane.mu.Lock()
	defer b.plane.mu.Unlock()
	b.plane.check = func(s proxy.Snapshot) {
		n := 0
		for _, svc := range s.Services {
			for _, i := range svc.Instances {
				if svc.Name == service && i.Ready && !i.Draining {
					n++
				}
			}
		}
		if n < floor {
			b.Errorf("snapshot %d: %d instances of %s serve, want at least %d", s.Version, n, service, floor)
		}
	}
}

func TestRolloutIsStartFirst(t *testing.T) {
	bubble(t, func(b *bench) {
		b.world.Script("web", fake.Script{ReadyAfter: 2 * time.Second, StopAfter: time.Second})
		b.apply(project(server("web", 3)))
		b.settled(state.Healthy)
		b.watchServing("web", 3)
		b.apply(project(server("web", 3, env("COLOR", "green"))))
		b.settled(state.Healthy)
		b.checkExactly(t, map[string]int{"web": 3})
		for _, i := range b.service("web").Instances {
			if i.Revision != 2 || !i.Ready {
				t.Errorf("%s: revision %d, ready %t", i.ID, i.Revision, i.Ready)
			}
		}
	})
}

func TestDrainWaitsForWhatIsInFlight(t *testing.T) {
	bubble(t, func(b *bench) {
		b.apply(project(server("web", 1)))
		b.settled(state.Healthy)
		old := b.service("web").Instances[0].ID
		b.plane.mu.Lock()
		b.plane.inUse = map[string]int{string(old): 3}
		b.plane.mu.Unlock()
		b.apply(project(server("web", 1, env("COLOR", "green"))))
		b.until("draining", func() bool {
			return slices.ContainsFunc(b.service("web").Instances, func(i engine.Instance) bool { return i.State == engine.InstanceDraining })
		})
		time.Sleep(5 * time.Second)
		synctest.Wait()
		if _, ok := b.world.Spec(full(projectName, old)); !ok || len(b.service("web").Instances) != 2 {
			t.Fatal("stopped while 3 requests were in flight")
		}
		for _, i := range b.plane.snapshot().Services[0].Instances {
			if i.ID == string(old) && (!i.Draining || i.DrainBy.IsZero()) {
				t.Errorf("the data plane is not told: %+v", i)
			}
		}
		b.plane.mu.Lock()
		b.plane.inUse = nil
		b.plane.mu.Unlock()
		b.until("gone", func() bool { return len(b.service("web").Instances) == 1 })

		// And no longer than the grace period.
		last := b.service("web").Instances[0].ID
		b.plane.mu.Lock()
		b.plane.inUse = map[string]int{string(last): 1}
		b.plane.mu.Unlock()
		began := time.Now()
		b.apply(project(server("web", 1, env("COLOR", "red"))))
		b.settled(state.Healthy)
		if took := time.Since(began) - defaultMonitor; took < 9*time.Second || took > 12*time.Second {
			t.Errorf("a stream that never ends held the rollout for %s, the grace period is 10 s", took)
		}
	})
}

func TestFailedRolloutLeavesTheOldOnes(t *testing.T) {
	bubble(t, func(b *bench) {
		b.apply(project(server("web", 3)))
		b.settled(state.Healthy)
		b.watchServing("web", 3)
		b.world.Script("web", fake.Script{NeverReady: true})
		b.apply(project(server("web", 3, env("COLOR", "green"), onFailure(compose.OnFailurePause))))
		b.until("paused", func() bool { return b.rollout("web").Phase == state.Paused })
		s := b.service("web")
		if s.State != engine.ServiceDegraded && s.State != engine.ServiceStarting || !strings.Contains(s.Reason, "503 warming up") {
			t.Errorf("%s: %s", s.State, s.Reason)
		}
		time.Sleep(10 * time.Minute)
		synctest.Wait()
		if n := b.plane.serving("web"); n != 3 {
			t.Errorf("%d serve", n)
		}
		// An old one that dies comes back with its old definition.
		b.plane.mu.Lock()
		b.plane.check = nil
		b.plane.mu.Unlock()
		b.world.Script("web", fake.Script{})
		b.world.Choose("web", func(spec driver.Spec, _ int) fake.Script {
			return fake.Script{NeverReady: slices.Contains(spec.Env, "COLOR=green")}
		})
		old := slices.IndexFunc(s.Instances, func(i engine.Instance) bool { return i.Revision == 1 })
		b.world.Crash(full(projectName, s.Instances[old].ID), 1, "")
		b.until("three serve again", func() bool { return b.plane.serving("web") == 3 })
	})
}

func onFailure(action string) func(*compose.Service) {
	return func(s *compose.Service) { s.Deploy.UpdateConfig = &compose.UpdateConfig{FailureAction: action} }
}

// rollout returns the rollout of a service in the newest revision, or in the one that it undoes.
func (b *bench) rollout(service string) state.Rollout {
	b.Helper()
	for _, r := range b.observe().Rollouts {
		if r.Service == service {
			return r
		}
	}
	return state.Rollout{}
}

func TestStopFirst(t *testing.T) {
	database := func(version string) compose.Service {
		return server("db", 1, env("VERSION", version), func(s *compose.Service) {
			s.Volumes = []compose.Mount{{Type: compose.MountVolume, Source: "data", Target: "/data"}}
		})
	}
	bubble(t, func(b *bench) {
		b.world.Script("db", fake.Script{ReadyAfter: time.Second, StopAfter: 2 * time.Second})
		b.apply(project(database("1")))
		b.settled(state.Healthy)
		starts := b.world.Starts()
		b.apply(project(database("2")))
		for range 200 {
			synctest.Wait()
			running := 0
			for _, i := range b.service("db").Instances {
				if i.State != engine.InstanceExited {
					running++
				}
			}
			if running > 1 {
				t.Fatal("two instances run on one volume")
			}
			time.Sleep(50 * time.Millisecond)
		}
		b.settled(state.Healthy)
		if n := b.world.Starts() - starts; n != 1 {
			t.Errorf("%d starts, want 1", n)
		}
	})
}

func TestScaleInTheMiddleOfARollout(t *testing.T) {
	bubble(t, func(b *bench) {
		b.world.Script("web", fake.Script{ReadyAfter: time.Second})
		b.apply(project(server("web", 4)))
		b.settled(state.Healthy)
		b.watchServing("web", 2)
		b.apply(project(server("web", 4, env("COLOR", "green"))))
		time.Sleep(1500 * time.Millisecond)
		two, six := 2, 6
		if err := b.eng.Override(b.Context(), projectName, state.Override{Service: "web", Replicas: &two}); err != nil {
			t.Fatal(err)
		}
		b.settled(state.Healthy)
		b.checkExactly(t, map[string]int{"web": 2})
		b.apply(project(server("web", 4, env("COLOR", "red")))) // the scale outlives it: the file's number is the same
		time.Sleep(500 * time.Millisecond)
		if err := b.eng.Override(b.Context(), projectName, state.Override{Service: "web", Replicas: &six}); err != nil {
			t.Fatal(err)
		}
		b.settled(state.Healthy)
		b.checkExactly(t, map[string]int{"web": 6})
		b.apply(project(server("web", 3, env("COLOR", "red")))) // another number in the file ends it
		b.settled(state.Healthy)
		b.checkExactly(t, map[string]int{"web": 3})
	})
}

func TestOverrides(t *testing.T) {
	bubble(t, func(b *bench) {
		set := func(o state.Override) {
			t.Helper()
			o.Service = "web"
			if err := b.eng.Override(b.Context(), projectName, o); err != nil {
				t.Fatal(err)
			}
		}
		b.apply(project(server("web", 2)))
		b.settled(state.Healthy)
		before := b.service("web")
		b.watchServing("web", 2)
		set(state.Override{Restart: 1})
		b.until("restarted", func() bool {
			s := b.service("web")
			return s.State == engine.ServiceHealthy && len(s.Instances) == 2 && s.Instances[0].ID != before.Instances[0].ID
		})
		b.plane.mu.Lock()
		b.plane.check = nil
		b.plane.mu.Unlock()
		set(state.Override{Restart: 1, Stopped: true})
		b.until("stopped", func() bool { return b.service("web").State == engine.ServiceStopped })
		if s := b.service("web"); len(s.Instances) != 2 || s.Instances[0].State != engine.InstanceExited || s.Want != 0 {
			t.Errorf("stopped instances are kept for their logs: %+v", s)
		}
		b.kill()
		b.run()
		time.Sleep(time.Minute)
		if s := b.service("web"); s.State != engine.ServiceStopped {
			t.Errorf("another loop started a stopped service: %s", s.State)
		}
		set(state.Override{Restart: 1})
		b.until("started", func() bool { return b.service("web").Ready == 2 })
		err := b.eng.Override(b.Context(), projectName, state.Override{Service: "nobody"})
		if !errors.Is(err, errdefs.ErrNotFound) {
			t.Errorf("override of an unknown service: %v", err)
		}
	})
}

// TestOverridesAreToldWithWhoAsked, also one that leaves nothing to remember; what is wanted is the same, whoever asked.
func TestOverridesAreToldWithWhoAsked(t *testing.T) {
	bubble(t, func(b *bench) {
		b.apply(project(server("web", 1)))
		b.settled(state.Healthy)
		begin := b.observe().ID
		for _, stopped := range []bool{true, false} {
			if err := b.eng.Override(b.Context(), projectName, state.Override{Service: "web", Stopped: stopped, Actor: "kim@desk"}); err != nil {
				t.Fatal(err)
			}
		}
		if left, err := b.store.Overrides(b.Context()); err != nil || len(left) > 0 || b.observe().ID != begin {
			t.Errorf("left are %+v (%v), want nothing", left, err)
		}
		time.Sleep(time.Minute)
		told := 0
		for e, err := range b.store.Events(b.Context(), state.EventFilter{}) {
			if err != nil {
				t.Fatal(err)
			}
			if e.Kind == "service.override" {
				if told++; e.Actor != "kim@desk" {
					t.Errorf("asked for by %q", e.Actor)
				}
			}
		}
		if told != 2 {
			t.Errorf("told of %d", told)
		}
	})
}

func TestStopWhileStarting(t *testing.T) {
	bubble(t, func(b *bench) {
		b.world.Script("web", fake.Script{StartAfter: 5 * time.Second})
		b.apply(project(server("web", 2)))
		time.Sleep(time.Second)
		if err := b.eng.Override(b.Context(), projectName, state.Override{Service: "web", Stopped: true}); err != nil {
			t.Fatal(err)
		}
		b.until("stopped", func() bool {
			s := b.service("web")
			return s.State == engine.ServiceStopped && !slices.ContainsFunc(s.Instances, func(i engine.Instance) bool { return i.State != engine.InstanceExited })
		})
		b.settled(state.Healthy)
	})
}

func TestApplyRefuses(t *testing.T) {
	bubble(t, func(b *bench) {
		refused := func(what string, p compose.Project, base engine.StateID, kind error) {
			t.Helper()
			_, err := b.eng.Apply(b.Context(), state.Revision{Project: p}, base)
			if !errors.Is(err, kind) {
				t.Errorf("%s: %v, want %v", what, err, kind)
			}
		}
		circle := project(server("a", 1, needs("b", compose.ServiceStarted)), server("b", 1, needs("c", compose.ServiceHealthy)),
			server("c", 1, needs("a", compose.ServiceStarted)))
		refused("a circle", circle, "", errdefs.ErrInvalid)
		refused("a dependency that is not there", project(server("a", 1, needs("x", compose.ServiceStarted))), "", errdefs.ErrInvalid)
		other := project(server("a", 1))
		other.Name = "other"
		refused("another project", other, "", errdefs.ErrNotFound)
		b.apply(project(server("a", 1)))
		base := b.observe().ID
		b.apply(project(server("a", 2)))
		refused("a plan for a world that moved", project(server("a", 3)), base, errdefs.ErrConflict)
		if b.observe().ID == base {
			t.Error("the state has the ID it had before the apply")
		}
		if _, err := b.eng.Observe(b.Context(), "other"); !errors.Is(err, errdefs.ErrNotFound) {
			t.Errorf("observe of another project: %v", err)
		}
	})
}

func TestDelete(t *testing.T) {
	bubble(t, func(b *bench) {
		b.apply(project(server("db", 1), server("api", 2, needs("db", compose.ServiceHealthy)), server("web", 1, needs("api", compose.ServiceStarted))))
		b.settled(state.Healthy)
		b.world.Script("web", fake.Script{})
		if err := b.eng.Delete(b.Context(), projectName, engine.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		if left := b.world.Left(); len(left) != 0 {
			t.Errorf("left: %v", left)
		}
		var order []string
		for _, e := range b.events("instance.exited") {
			order = append(order, strings.TrimPrefix(e, "instance.exited "))
		}
		if want := []string{"web", "api", "api", "db"}; !slices.Equal(order, want) {
			t.Errorf("stopped in order %q, want %q", order, want)
		}
		b.kill()
		b.run()
		time.Sleep(time.Minute)
		synctest.Wait()
		if left := b.world.Left(); len(left) != 0 {
			t.Errorf("a new loop brought a deleted project back: %v", left)
		}
		b.apply(project(server("db", 1)))
		b.settled(state.Healthy)
	})
}

func TestDeleteNow(t *testing.T) {
	bubble(t, func(b *bench) {
		b.world.Script("deaf", fake.Script{IgnoreStop: true})
		b.apply(project(server("deaf", 1, func(s *compose.Service) { s.StopGracePeriod = duration(time.Hour) })))
		b.settled(state.Healthy)
		done := make(chan error, 1)
		go func() { done <- b.eng.Delete(b.Context(), projectName, engine.DeleteOptions{}) }()
		time.Sleep(time.Minute)
		began := time.Now()
		if err := b.eng.Delete(b.Context(), projectName, engine.DeleteOptions{Now: true}); err != nil {
			t.Fatal(err)
		}
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		if took := time.Since(began); took > time.Second {
			t.Errorf("took %s", took)
		}
	})
}

func TestPreStartHooks(t *testing.T) {
	hooked := func(n int, color string) compose.Project {
		return project(server("web", n, env("COLOR", color), func(s *compose.Service) {
			s.PreStart = []compose.PreStart{
				{Hook: compose.Hook{Command: fake.Command(fake.Script{Exits: true, ExitAfter: 2 * time.Second})}},
				{Hook: compose.Hook{Command: fake.Command(fake.Script{Exits: true, ExitAfter: time.Second})}, PerReplica: true},
			}
		}))
	}
	bubble(t, func(b *bench) {
		b.apply(hooked(2, "blue"))
		b.settled(state.Healthy)
		if n := b.world.Starts(); n != 5 {
			t.Errorf("%d starts, want one hook, two hooks for replicas and two instances", n)
		}
		b.kill()
		b.run()
		b.apply(hooked(3, "blue"))
		b.settled(state.Healthy)
		if n := b.world.Starts(); n != 7 {
			t.Errorf("%d starts, want a hook and an instance more for the new replica", n)
		}
		b.until("hooks are tidied away", func() bool { return len(b.world.Left()) == 3 })
		b.apply(hooked(3, "green"))
		b.settled(state.Healthy)
		if n := b.world.Starts(); n != 14 {
			t.Errorf("%d starts, want all hooks again and three instances", n)
		}
	})
}

func TestListFailureIsNotAnEmptyWorld(t *testing.T) {
	bubble(t, func(b *bench) {
		b.apply(project(server("web", 2)))
		b.settled(state.Healthy)
		starts := b.world.Starts()
		var blind atomic.Bool
		blind.Store(true)
		b.world.Fault(func(op string, _ driver.ID) error {
			if op == "list" && blind.Load() {
				return errDriver
			}
			return nil
		})
		b.eng.touch()
		time.Sleep(time.Minute)
		blind.Store(false)
		time.Sleep(time.Minute)
		synctest.Wait()
		if n := b.world.Starts() - starts; n != 0 {
			t.Errorf("%d starts because a list failed", n)
		}
		if b.plane.serving("web") != 2 {
			t.Error("taken out of rotation because a list failed")
		}
	})
}

func TestDataPlaneAway(t *testing.T) {
	bubble(t, func(b *bench) {
		b.apply(project(server("web", 1)))
		b.settled(state.Healthy)
		b.plane.mu.Lock()
		b.plane.err = fmt.Errorf("no data plane: %w", errdefs.ErrUnavailable)
		b.plane.mu.Unlock()
		b.world.Crash(full(projectName, b.service("web").Instances[0].ID), 1, "")
		b.until("healed all the same", func() bool { return b.service("web").Ready == 1 })
		b.plane.mu.Lock()
		b.plane.err = nil
		b.plane.mu.Unlock()
		time.Sleep(10 * time.Second)
		synctest.Wait()
		if b.plane.serving("web") != 1 {
			t.Error("the snapshot was not published again")
		}
	})
}

// TestIdleCostsNothing counts how often an engine with nothing to do looks at its drivers: when it looks for drift, and
// not otherwise.
func TestIdleCostsNothing(t *testing.T) {
	bubble(t, func(b *bench) {
		var all []compose.Service
		for i := range 200 {
			all = append(all, compose.Service{Name: fmt.Sprintf("s%03d", i), Image: "x", Deploy: compose.Deploy{Replicas: ptr(5)}})
		}
		b.apply(project(all...))
		b.settled(state.Healthy)
		time.Sleep(time.Minute)
		synctest.Wait()
		var lists atomic.Int64
		b.world.Fault(func(op string, _ driver.ID) error {
			if op == "list" {
				lists.Add(1)
			}
			return nil
		})
		published := b.plane.count
		time.Sleep(time.Hour)
		synctest.Wait()
		if lists.Load() > int64(time.Hour/driftEvery)+2 || b.plane.count != published {
			t.Errorf("in an idle hour: %d lists, %d snapshots", lists.Load(), b.plane.count-published)
		}
	})
}

func ptr[T any](v T) *T { return &v }

// TestWhatWaitsForAPersonGoesBackAtOnce: a rollout does not wait for a disk to become less full, nor for an image to be
// there again.
func TestWhatWaitsForAPersonGoesBackAtOnce(t *testing.T) {
	for _, cause := range []error{&fs.PathError{Op: "mkdir", Path: "/state", Err: syscall.ENOSPC}, fmt.Errorf("no image: %w", errdefs.ErrNotFound)} {
		goesBackAtOnce(t, cause)
	}
}

func goesBackAtOnce(t *testing.T, cause error) {
	bubble(t, func(b *bench) {
		b.apply(project(server("web", 2)))
		b.settled(state.Healthy)
		b.world.Fault(func(op string, _ driver.ID) error {
			if op == "start" {
				return cause
			}
			return nil
		})
		b.apply(project(server("web", 2, env("COLOR", "green"))))
		time.Sleep(5 * time.Second)
		synctest.Wait()
		rev, err := b.store.Get(b.Context(), 2)
		if err != nil || rev.Outcome != state.RolledBack {
			t.Errorf("revision 2 is %s, %v", rev.Outcome, err)
		}
		rollouts, err := b.store.Rollouts(b.Context(), 2)
		if err != nil || len(rollouts) != 1 || !strings.Contains(rollouts[0].Reason, cause.Error()) {
			t.Errorf("rollouts %+v, %v", rollouts, err)
		}
		if b.plane.serving("web") != 2 {
			t.Error("taken out of rotation because there is no room for the next")
		}
	})
}

// TestALoopThatComesLaterKeepsWhatAPausedRolloutHas: an old instance that crashed while no loop was there is started again
// from its own definition, and not replaced by what the rollout failed with.
func TestALoopThatComesLaterKeepsWhatAPausedRolloutHas(t *testing.T) {
	bubble(t, func(b *bench) {
		b.apply(project(server("web", 3)))
		b.settled(state.Healthy)
		b.world.Choose("web", func(spec driver.Spec, _ int) fake.Script {
			return fake.Script{NeverReady: slices.Contains(spec.Env, "COLOR=green")}
		})
		b.apply(project(server("web", 3, env("COLOR", "green"), onFailure(compose.OnFailurePause))))
		b.until("paused", func() bool { return b.rollout("web").Phase == state.Paused })
		var olds []driver.ID
		for _, i := range b.service("web").Instances {
			if i.Revision == 1 {
				olds = append(olds, full(projectName, i.ID))
			}
		}
		b.kill()
		b.world.Crash(olds[len(olds)-1], 1, "")
		b.run()
		b.until("three serve again", func() bool { return b.plane.serving("web") == 3 })
		var now []driver.ID
		for _, i := range b.service("web").Instances {
			if i.Revision == 1 {
				now = append(now, full(projectName, i.ID))
			}
		}
		if !slices.Equal(now, olds) || len(b.service("web").Instances) != 4 {
			t.Errorf("old ones %q, want %q: %s", now, olds, b.words())
		}
	})
}

// TestWhatWasStoppedStaysStoppedWhenARevisionGoesBack: nobody asked for it to be started.
func TestWhatWasStoppedStaysStoppedWhenARevisionGoesBack(t *testing.T) {
	bubble(t, func(b *bench) {
		b.apply(project(server("web", 2), server("batch", 1)))
		b.settled(state.Healthy)
		b.world.Choose("web", func(spec driver.Spec, _ int) fake.Script {
			return fake.Script{NeverReady: slices.Contains(spec.Env, "COLOR=green")}
		})
		b.apply(project(server("web", 2, env("COLOR", "green")), server("batch", 1)))
		if err := b.eng.Override(b.Context(), projectName, state.Override{Service: "batch", Stopped: true}); err != nil {
			t.Fatal(err)
		}
		b.until("it is back", func() bool { return b.observe().Revision == 3 })
		b.settled(state.Healthy)
		time.Sleep(time.Minute)
		if svc := b.service("batch"); svc.State != engine.ServiceStopped || svc.Want != 0 {
			t.Errorf("batch is %s, and %d are wanted", svc.State, svc.Want)
		}
	})
}

// TestAbortOfWhatDoesNotRun: a rollout that is aborted goes back, also where its service was stopped or sleeps meanwhile.
func TestAbortOfWhatDoesNotRun(t *testing.T) {
	asleep := func(s *compose.Service) {
		s.Deploy.Trellis.Autoscale = &compose.Autoscale{Min: 0, Max: 3, Target: map[string]float64{"concurrency": 10}}
	}
	for name, c := range map[string]struct {
		file func(*compose.Service)
		halt func(b *bench) error
	}{
		"stopped": {func(*compose.Service) {}, func(b *bench) error {
			return b.eng.Override(b.Context(), projectName, state.Override{Service: "web", Stopped: true})
		}},
		"asleep": {asleep, func(b *bench) error {
			defer b.eng.touch()
			return b.store.SetValue(b.Context(), valueScaled, map[string]scaled{"web": {Replicas: 0, Reason: "nothing came"}})
		}},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(b *bench) {
				b.apply(project(server("web", 1, c.file)))
				b.settled(state.Healthy)
				b.world.Script("web", fake.Script{NeverReady: true})
				b.apply(project(server("web", 1, c.file, env("COLOR", "green"), onFailure(compose.OnFailurePause))))
				b.until("paused", func() bool { return b.rollout("web").Phase == state.Paused })
				if err := c.halt(b); err != nil {
					t.Fatal(err)
				}
				time.Sleep(time.Minute)
				if err := b.eng.Instruct(b.Context(), projectName, "web", engine.Abort, "me@here"); err != nil {
					t.Fatal(err)
				}
				time.Sleep(time.Minute)
				b.settled(state.Healthy)
				if rev, err := b.store.Latest(b.Context()); err != nil || rev.Undoes != 2 || rev.Project.Services["web"].Environment["COLOR"] != "" {
					t.Errorf("revision %d undoes %d, %v", rev.Number, rev.Undoes, err)
				}
				if svc := b.service("web"); svc.State != engine.ServiceStopped || svc.Want != 0 {
					t.Errorf("it is %s, and %d are wanted", svc.State, svc.Want)
				}
			})
		})
	}
}

// TestRefusedStartsAreForgotten: what a driver refused to start says nothing of a later revision, and is not kept beyond it.
func TestRefusedStartsAreForgotten(t *testing.T) {
	bubble(t, func(b *bench) {
		b.apply(project(server("web", 2)))
		b.settled(state.Healthy)
		b.world.Fault(func(op string, _ driver.ID) error {
			if op == "start" {
				return fmt.Errorf("%w: no such image", errdefs.ErrNotFound)
			}
			return nil
		})
		for i := range 20 {
			b.apply(project(server("web", 2, env("N", fmt.Sprint(i)))))
			b.until("it goes back", func() bool { return b.observe().Revision == 2*int64(i)+3 })
			b.settled(state.Healthy)
		}
		b.eng.mu.Lock()
		defer b.eng.mu.Unlock()
		if n := len(b.eng.memory.refused); n > 0 {
			t.Errorf("%d refused starts are remembered", n)
		}
	})
}
