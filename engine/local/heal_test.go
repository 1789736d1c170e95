package local

import (
	"context"
	"encoding/json"
	"io"
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
	"trellis/proxy"
	"trellis/state"
)

// starts returns when each run of a service began, from the first on.
func (b *bench) starts(service string) func() []time.Duration {
	var first time.Time
	var all []time.Duration
	b.world.Choose(service, func(driver.Spec, int) fake.Script {
		if first.IsZero() {
			first = time.Now()
		}
		all = append(all, time.Since(first))
		return fake.Script{Exits: true, ExitCode: 3, Print: []string{"starting up", "cannot read the configuration"}}
	})
	return func() []time.Duration { return all }
}

func TestCrashLoopBacksOff(t *testing.T) {
	bubble(t, func(b *bench) {
		starts := b.starts("web")
		b.apply(project(server("web", 1)))
		time.Sleep(5 * time.Minute)
		synctest.Wait()
		got := starts()
		for i, wait := range []time.Duration{0, 100, 200, 400, 800, 1600, 3200, 6400, 12800, 25600, 51200, 60000, 60000} {
			if i+1 >= len(got) {
				break
			}
			wait *= time.Millisecond
			if gap := got[i+1] - got[i]; gap < wait || gap > wait+wait/4+50*time.Millisecond {
				t.Errorf("restart %d came after %s, want %s to %s", i+1, gap, wait, wait+wait/4)
			}
		}
		if len(got) < 12 || len(got) > 16 {
			t.Errorf("%d starts in 5 minutes: %v", len(got), got)
		}
		s := b.service("web")
		if s.State != engine.ServiceCrashLooping || !strings.Contains(s.Reason, "code 3") {
			t.Errorf("state %s: %s", s.State, s.Reason)
		}
		if !slices.Contains(s.LastLog, "cannot read the configuration") {
			t.Errorf("last log: %q", s.LastLog)
		}
		b.settled(state.Failed)
	})
}

// TestKilledAgainAndAgain: an instance that serves for a while each time is there most of the time, however often it dies.
func TestKilledAgainAndAgain(t *testing.T) {
	bubble(t, func(b *bench) {
		b.apply(project(server("web", 1)))
		b.settled(state.Healthy)
		for i := range 30 {
			time.Sleep(4 * time.Second)
			id := b.service("web").Instances[0].ID
			b.world.Crash(full(projectName, id), 137, "SIGKILL")
			died := time.Now()
			b.until("replaced", func() bool { return b.service("web").Ready == 1 })
			if took := time.Since(died); took > 3*time.Second {
				t.Errorf("kill %d: replaced after %s", i+1, took)
			}
		}
	})
}

// TestReplicasKilledEverySecond: whichever of three replicas is killed, for minutes, soon after it was ready too, some
// replica serves again soon.
func TestReplicasKilledEverySecond(t *testing.T) {
	bubble(t, func(b *bench) {
		b.apply(project(server("web", 3)))
		b.settled(state.Healthy)
		random := rand.New(rand.NewPCG(1, 2))
		for i := range 120 {
			var ready []engine.InstanceID
			none := time.Now()
			b.until("one that serves", func() bool {
				for _, in := range b.service("web").Instances {
					if in.Ready {
						ready = append(ready, in.ID)
					}
				}
				return len(ready) > 0
			})
			if took := time.Since(none); took > 1500*time.Millisecond {
				t.Errorf("kill %d: none serves for %s", i+1, took)
			}
			b.world.Crash(full(projectName, ready[random.IntN(len(ready))]), 137, "SIGKILL")
			time.Sleep(time.Second)
		}
	})
}

func TestCrashLoopEndsWhenTheProgramIsWell(t *testing.T) {
	bubble(t, func(b *bench) {
		runs := 0
		b.world.Choose("web", func(driver.Spec, int) fake.Script {
			runs++
			return fake.Script{Exits: runs < 5, ExitCode: 1}
		})
		b.apply(project(server("web", 1)))
		b.settled(state.Healthy)
		if s := b.service("web"); s.State != engine.ServiceHealthy || s.Reason != "" || len(s.LastLog) != 0 {
			t.Errorf("after it became well: %s: %s, log %q", s.State, s.Reason, s.LastLog)
		}
		time.Sleep(time.Minute)
		id := b.service("web").Instances[0].ID
		crashed := time.Now()
		b.world.Crash(full(projectName, id), 1, "")
		b.until("replaced", func() bool { return b.service("web").Ready == 1 })
		if took := time.Since(crashed); took > 50*time.Millisecond {
			t.Errorf("after a good minute the first restart took %s", took)
		}
	})
}

func TestRestartPolicies(t *testing.T) {
	job := func(name, restart string) compose.Service {
		return compose.Service{Name: name, Image: name, Restart: restart}
	}
	bubble(t, func(b *bench) {
		b.world.Script("good", fake.Script{Exits: true, ExitAfter: time.Second})
		b.world.Script("bad", fake.Script{Exits: true, ExitAfter: time.Second, ExitCode: 2})
		b.world.Script("twice", fake.Script{Exits: true, ExitAfter: time.Second, ExitCode: 2})
		b.world.Script("always", fake.Script{Exits: true, ExitAfter: 20 * time.Second})
		b.apply(project(job("good", "on-failure"), job("bad", "no"), job("twice", "on-failure:2"), job("always", "always")))
		time.Sleep(59 * time.Second)
		synctest.Wait()
		for name, want := range map[string]string{
			"good": engine.ServiceCompleted, "bad": engine.ServiceFailed, "twice": engine.ServiceFailed, "always": engine.ServiceHealthy,
		} {
			if s := b.service(name); s.State != want {
				t.Errorf("%s is %s, want %s: %s", name, s.State, want, s.Reason)
			}
		}
		for name, want := range map[string]int{"good": 0, "bad": 0, "twice": 2, "always": 2} {
			if n := b.service(name).Instances[0].Restarts; n != want {
				t.Errorf("%s was restarted %d times, want %d", name, n, want)
			}
		}
	})
}

func TestHungInstanceIsReplaced(t *testing.T) {
	bubble(t, func(b *bench) {
		b.apply(project(server("web", 2)))
		b.settled(state.Healthy)
		id := b.service("web").Instances[0].ID
		b.world.Hang(full(projectName, id))
		hung := time.Now()
		b.until("out of rotation", func() bool { return b.plane.serving("web") == 1 })
		if took := time.Since(hung); took > 15*time.Second {
			t.Errorf("unready after %s", took)
		}
		b.until("replaced", func() bool { return b.plane.serving("web") == 2 })
		if n := b.service("web").Instances[0].Restarts; n != 1 {
			t.Errorf("%d restarts, want 1", n)
		}
	})
}

func TestHealingDoesNotWaitForDependencies(t *testing.T) {
	bubble(t, func(b *bench) {
		b.apply(project(server("db", 1), server("web", 1, needs("db", compose.ServiceHealthy))))
		b.settled(state.Healthy)
		b.world.Script("db", fake.Script{Exits: true, ExitCode: 1})
		b.world.Crash("shop/"+driver.ID(b.service("db").Instances[0].ID), 1, "")
		time.Sleep(5 * time.Second)
		b.world.Crash("shop/"+driver.ID(b.service("web").Instances[0].ID), 0, "SIGKILL")
		began := time.Now()
		b.until("web is back", func() bool { return b.plane.serving("web") == 1 })
		if took := time.Since(began); took > time.Second {
			t.Errorf("took %s", took)
		}
		if s := b.service("db"); s.State != engine.ServiceCrashLooping {
			t.Errorf("db is %s", s.State)
		}
	})
}

// TestRunsForAMoment: nobody asks a program without ports whether it is ready, so one that dies after each moment of work
// looks well in between. It is called what it is all the time, and its revision does not count on it.
func TestRunsForAMoment(t *testing.T) {
	bubble(t, func(b *bench) {
		b.world.Script("jobs", fake.Script{Exits: true, ExitAfter: 900 * time.Millisecond, ExitCode: 3})
		b.apply(project(compose.Service{Name: "jobs", Image: "jobs", Restart: "always"}))
		b.until("it crashes again and again", func() bool { return b.service("jobs").State == engine.ServiceCrashLooping })
		served := false
		for end := time.Now().Add(20 * time.Second); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
			s := b.service("jobs")
			served = served || s.Ready == 1
			if s.State != engine.ServiceCrashLooping || !strings.Contains(s.Reason, "instance 1 ") {
				t.Fatalf("%s, %d ready: %s", s.State, s.Ready, s.Reason)
			}
		}
		if !served {
			t.Error("it was never ready")
		}
		b.settled(state.Failed)

		b.world.Script("jobs", fake.Script{})
		b.until("it is well", func() bool { return b.service("jobs").State == engine.ServiceHealthy })
	})
}

func TestProgramThatCannotStart(t *testing.T) {
	bubble(t, func(b *bench) {
		b.world.Script("web", fake.Script{StartError: "exec bin/web: no such file"})
		b.apply(project(server("web", 1)))
		b.settled(state.Failed)
		s := b.service("web")
		if !strings.Contains(s.Reason, "no such file") || s.State != engine.ServiceCrashLooping {
			t.Errorf("%s: %s", s.State, s.Reason)
		}
	})
}

func TestRefusedStartsAreTriedAgain(t *testing.T) {
	bubble(t, func(b *bench) {
		var refusals atomic.Int64
		b.world.Fault(func(op string, _ driver.ID) error {
			if op == "start" && refusals.Add(1) <= 4 {
				return errDriver
			}
			return nil
		})
		b.apply(project(server("web", 1)))
		b.settled(state.Healthy)
		if n := refusals.Load(); n != 5 {
			t.Errorf("%d calls of start, want 5", n)
		}
	})
}

// TestLoopKilledAtEveryStep ends the engine at the k-th call of a driver or the data plane, for every k, and starts
// another one: it always gets there, nothing runs twice, and no program is started more often than without the crash.
func TestLoopKilledAtEveryStep(t *testing.T) {
	t.Parallel()
	v1 := project(server("db", 1), server("web", 2, needs("db", compose.ServiceHealthy)),
		compose.Service{Name: "migrate", Image: "migrate", DependsOn: map[string]compose.Dependency{
			"db": {Condition: compose.ServiceHealthy, Required: true}}})
	v2 := project(server("db", 1), server("web", 3, needs("db", compose.ServiceHealthy), env("COLOR", "green")),
		server("cache", 1))
	steps := 0 // that it takes without a crash, counted in the first turn
	for k := 0; k <= steps; k++ {
		bubble(t, func(b *bench) {
			b.world.Script("migrate", fake.Script{Exits: true, ExitAfter: time.Second})
			var calls atomic.Int64
			call := func() {
				if calls.Add(1) == int64(k) {
					b.stop() // whatever is under way ends here
				}
			}
			b.plane.check = func(proxy.Snapshot) { call() }
			b.world.Fault(func(op string, _ driver.ID) error {
				if op != "list" {
					call()
				}
				return nil
			})
			revive := func() {
				if k > 0 && calls.Load() >= int64(k) {
					select {
					case err := <-b.done:
						if err != nil {
							t.Errorf("run: %v", err)
						}
						b.run()
						calls.Store(-1 << 30)
					default:
					}
				}
			}
			b.apply(v1)
			b.until("v1 is healthy", func() bool { revive(); s := b.observe(); return s.Outcome == state.Healthy })
			b.apply(v2)
			b.until("v2 is healthy", func() bool { revive(); s := b.observe(); return s.Outcome == state.Healthy })
			if k == 0 {
				steps = int(calls.Load())
			}
			b.checkExactly(t, map[string]int{"db": 1, "web": 3, "cache": 1})
			if n := b.world.Starts(); n != 8 { // db, web x2, migrate, web x3, cache
				t.Errorf("killed at call %d: %d programs were started, want 8", k, n)
			}
		})
		if t.Failed() {
			t.Fatalf("at call %d", k)
		}
	}
	if steps < 20 {
		t.Errorf("only %d calls were tried", steps)
	}
}

// checkExactly checks what runs.
func (b *bench) checkExactly(t *testing.T, want map[string]int) {
	t.Helper()
	list, err := b.world.Driver().List(b.Context(), projectName)
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]int{}
	for _, inst := range list {
		if inst.State != driver.Running {
			t.Errorf("%s is %s", inst.ID, inst.State)
		}
		got[inst.Service]++
	}
	for name := range want {
		if got[name] != want[name] {
			t.Errorf("%d instances of %s, want %d", got[name], name, want[name])
		}
		delete(got, name)
	}
	for name, n := range got {
		t.Errorf("%d instances of %s, want none", n, name)
	}
}

// TestStoreThatIsOlderThanTheWorld: somebody went back to a copy of the state, and what is published counts all the same.
func TestStoreThatIsOlderThanTheWorld(t *testing.T) {
	bubble(t, func(b *bench) {
		b.apply(project(server("web", 2)))
		b.settled(state.Healthy)
		b.kill()
		b.plane.mu.Lock()
		b.plane.last.Epoch = 41
		b.plane.mu.Unlock()
		b.run()
		b.until("published", func() bool { return b.plane.snapshot().Epoch == 42 && b.plane.serving("web") == 2 })
	})
}

func TestNextLoopAdopts(t *testing.T) {
	bubble(t, func(b *bench) {
		b.apply(project(server("web", 2), server("job", 1, func(s *compose.Service) { s.Restart = "no" })))
		b.settled(state.Healthy)
		starts := b.world.Starts()
		b.kill()
		// While nobody looks, one instance dies and another ends its work.
		b.world.Crash("shop/"+driver.ID(b.service("web").Instances[1].ID), 9, "")
		b.world.Crash("shop/"+driver.ID(b.service("job").Instances[0].ID), 7, "")
		time.Sleep(time.Minute)
		b.plane.mu.Lock()
		lowest := 2
		b.plane.mu.Unlock()
		began := time.Now()
		b.run()
		b.until("adopted", func() bool {
			if b.plane.snapshot().Epoch == 2 {
				lowest = min(lowest, b.plane.serving("web"))
			}
			return b.plane.snapshot().Epoch == 2 && b.plane.serving("web") == 2
		})
		if took := time.Since(began); took > 500*time.Millisecond {
			t.Errorf("adoption took %s", took)
		}
		if lowest < 1 {
			t.Error("the healthy instance was taken out of rotation by the new loop")
		}
		if n := b.world.Starts() - starts; n != 1 {
			t.Errorf("%d starts, want that of the crashed one alone", n)
		}
		if x := b.service("job").Instances[0].Exit; x == nil || x.Code != 7 {
			t.Errorf("exit of the job: %+v", x)
		}
		exits := b.events("instance.exited")
		if len(exits) != 2 {
			t.Errorf("exits told: %q, want those of the time between, once", exits)
		}
	})
}

// TestWhatHangsIsFoundByTheNextLoop: that an instance was ready once, and only then what it does not answer counts, is known
// to a loop that takes over while it is out of rotation.
func TestWhatHangsIsFoundByTheNextLoop(t *testing.T) {
	bubble(t, func(b *bench) {
		b.apply(project(server("web", 1)))
		b.settled(state.Healthy)
		id := b.instance("web", 1)
		b.world.Hang(id)
		b.until("out of rotation", func() bool { return b.service("web").Ready == 0 })
		b.kill()
		b.run()
		b.until("it is taken over", func() bool { return len(b.service("web").Instances) == 1 })
		if b.service("web").Ready != 0 {
			t.Error("it is in rotation again")
		}
		time.Sleep(time.Minute)
		if svc := b.service("web"); svc.Ready != 1 || svc.Instances[0].Restarts != 1 {
			t.Errorf("a minute later: %s", b.words())
		}
	})
}

// wordy is a driver whose instances have written what it is.
type wordy struct {
	driver.Driver
	lines []string
}

func (w wordy) Logs(context.Context, driver.ID, driver.LogOptions) (io.ReadCloser, error) {
	var b strings.Builder
	for _, text := range w.lines {
		if err := json.NewEncoder(&b).Encode(driver.LogLine{Text: text}); err != nil {
			return nil, err
		}
	}
	return io.NopCloser(strings.NewReader(b.String())), nil
}

// TestLastLinesAfterALongOne: what a program says last is kept, however long a line before it is.
func TestLastLinesAfterALongOne(t *testing.T) {
	said := []string{"begin", strings.Repeat("x", 64<<10), "panic: why"}
	if got := tail(t.Context(), wordy{lines: said}, "web-1"); !slices.Equal(got, said) {
		t.Errorf("%d lines are kept of %d", len(got), len(said))
	}
}
