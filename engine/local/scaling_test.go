package local

import (
	"context"
	"errors"
	"maps"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"trellis/autoscale"
	"trellis/compose"
	"trellis/driver"
	"trellis/engine"
	"trellis/errdefs"
	"trellis/proxy"
	"trellis/state"
)

// measuring is a data plane that tells demand.
type measuring struct {
	*fakePlane
	*fakeLoad
}

// fakeLoad is the load of services; a test sets what arrives and waits.
type fakeLoad struct {
	mu       sync.Mutex
	services map[string]oneLoad
	silent   bool
	asked    int
	urgent   chan struct{}
}

type oneLoad struct {
	concurrency float64
	waiting     int
}

// webLoad is made in the bubble: its channel belongs to it. The service "web" has a load of nothing.
func webLoad() *fakeLoad {
	return &fakeLoad{services: map[string]oneLoad{"web": {}}, urgent: make(chan struct{}, 1)}
}

func (l *fakeLoad) set(concurrency float64, waiting int) { l.setOf("web", concurrency, waiting) }

func (l *fakeLoad) setOf(service string, concurrency float64, waiting int) {
	l.mu.Lock()
	l.services[service] = oneLoad{concurrency, waiting}
	l.mu.Unlock()
	l.urgent <- struct{}{}
}

func (l *fakeLoad) be(silent bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.silent = silent
}

// Demand implements Demander.
func (l *fakeLoad) Demand(ctx context.Context, told func(proxy.Demands)) error {
	l.mu.Lock()
	l.asked++
	source := string(rune('a' + l.asked))
	l.mu.Unlock()
	tick := time.NewTicker(250 * time.Millisecond)
	defer tick.Stop()
	sums := map[string]proxy.Demand{}
	for last := time.Now(); ; last = time.Now() {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		case <-l.urgent:
		}
		l.mu.Lock()
		for name, one := range l.services {
			sum := sums[name]
			sum.BusySeconds += one.concurrency * time.Since(last).Seconds()
			sum.Requests += uint64(one.concurrency)
			sum.Waiting = one.waiting
			sums[name] = sum
		}
		silent := l.silent
		l.mu.Unlock()
		if !silent {
			all := maps.Clone(sums)
			all["unknown"] = proxy.Demand{Requests: 5}
			told(proxy.Demands{Source: source, Services: all})
		}
	}
}

// autoscaledBubble is a bubble with a service "web" that is scaled between bounds by a concurrency of 10 a replica.
func autoscaledBubble(t *testing.T, low, high int, f func(b *bench, p compose.Project)) {
	bubbleUnder(t, webLoad, func(b *bench) {
		f(b, project(server("web", 1, func(s *compose.Service) {
			s.Deploy.Trellis.Autoscale = &compose.Autoscale{Min: low, Max: high, Target: map[string]float64{"concurrency": 10}}
		})))
	})
}

func (b *bench) wants(n int, within time.Duration) {
	b.Helper()
	began := time.Now()
	b.until("another number of replicas", func() bool { return b.service("web").Want == n })
	if took := time.Since(began); took > within {
		b.Errorf("took %s to want %d, at most %s", took, n, within)
	}
}

func TestAutoscalingFollowsItsTarget(t *testing.T) {
	autoscaledBubble(t, 1, 6, func(b *bench, p compose.Project) {
		b.apply(p)
		b.settled(state.Healthy)
		if s := b.service("web"); s.Want != 1 || s.Autoscale == nil || s.Autoscale.Max != 6 {
			t.Errorf("%+v", s)
		}
		b.load.set(31, 0) // 7 a replica: 5
		b.until("five are ready", func() bool { return b.plane.serving("web") == 5 })
		if s := b.service("web"); !strings.Contains(s.Autoscale.Reason, "concurrency") {
			t.Errorf("reason %q", s.Autoscale.Reason)
		}
		b.load.set(500, 0)
		b.wants(6, 10*time.Second)
		b.load.set(12, 0)
		time.Sleep(30 * time.Second)
		if s := b.service("web"); s.Want != 6 {
			t.Errorf("%d replicas soon after a peak: %s", s.Want, s.Autoscale.Reason)
		}
		b.wants(2, 4*time.Minute)
		b.until("four are gone", func() bool { return len(b.service("web").Instances) == 2 })
		if n := len(b.events("service.scaled")); n < 3 {
			t.Errorf("%d events of it", n)
		}
		one := b.plane.snapshot().Services[0]
		if !one.Measured || one.Concurrency != 10 || one.Wakes || one.Hold != 0 {
			t.Errorf("the data plane is told %+v", one)
		}
	})
}

// TestAnApplyNeverResetsTheScale, nor does another control plane, nor a rollout of the service itself.
func TestAnApplyNeverResetsTheScale(t *testing.T) {
	autoscaledBubble(t, 1, 9, func(b *bench, p compose.Project) {
		b.apply(p)
		b.load.set(31, 0)
		b.until("five are ready", func() bool { return b.plane.serving("web") == 5 })
		b.plane.mu.Lock()
		b.plane.check = func(s proxy.Snapshot) {
			n := 0
			for _, i := range s.Services[0].Instances {
				if i.Ready && !i.Draining {
					n++
				}
			}
			if n < 5 {
				t.Errorf("%d serve, while five are needed", n)
			}
		}
		b.plane.mu.Unlock()
		next := p.Services["web"]
		next.Environment = map[string]string{"COLOR": "green"}
		p.Services = maps.Clone(p.Services)
		p.Services["web"] = next
		b.apply(p)
		b.settled(state.Healthy)
		b.load.be(true)
		b.kill()
		b.run()
		time.Sleep(5 * time.Minute) // nothing is told
		if s := b.service("web"); s.Want != 5 || s.Ready != 5 {
			t.Errorf("want %d, ready %d: %s", s.Want, s.Ready, s.Autoscale.Reason)
		}
	})
}

// TestLoadDuringACanary is answered at once, by instances of the definition that carries the service, also where another control plane goes
// on with it.
func TestLoadDuringACanary(t *testing.T) {
	autoscaledBubble(t, 2, 9, func(b *bench, p compose.Project) {
		b.apply(p)
		b.settled(state.Healthy)
		old := b.service("web").Instances[0].Revision
		later := old + 1
		next := p.Services["web"]
		next.Environment = map[string]string{"COLOR": "green"}
		next.Deploy.Trellis.Canary = &compose.Canary{Steps: []compose.Share{0.1}, Interval: duration(time.Hour)}
		p.Services = maps.Clone(p.Services)
		p.Services["web"] = next
		b.apply(p)
		of := func(revision int64) (n int) {
			for _, inst := range b.service("web").Instances {
				if inst.Ready && inst.Revision == revision {
					n++
				}
			}
			return n
		}
		b.until("the canary is there", func() bool { return of(later) == 1 })
		b.load.set(31, 0)
		began := time.Now()
		b.until("five of the earlier revision serve", func() bool { return of(old) == 5 })
		if took := time.Since(began); took > time.Minute || of(later) != 1 {
			t.Errorf("after %s there are %d of the new one", took, of(later))
		}
		b.kill()
		b.run()
		b.load.set(45, 0)
		b.until("seven do", func() bool { return of(old) == 7 })
		if err := b.eng.Instruct(b.Context(), projectName, "web", engine.Promote, "me@here"); err != nil {
			t.Fatal(err)
		}
		b.settled(state.Healthy)
		if of(later) != 7 || of(old) > 0 {
			t.Errorf("at the end %d are new and %d old", of(later), of(old))
		}
	})
}

func TestScaleToZeroAndBack(t *testing.T) {
	autoscaledBubble(t, 0, 3, func(b *bench, p compose.Project) {
		b.apply(p)
		b.settled(state.Healthy)
		for range 5 {
			b.load.set(0, 0)
			b.wants(0, 5*time.Minute)
			b.until("none is left", func() bool { return len(b.service("web").Instances) == 0 })
			if s := b.service("web"); s.State != engine.ServiceStopped || !strings.Contains(s.Reason, "asleep") {
				t.Errorf("asleep it is %s: %q", s.State, s.Reason)
			}
			b.load.set(1, 1)
			b.wants(1, 100*time.Millisecond)
			b.until("it serves", func() bool { return b.plane.serving("web") == 1 })
			b.load.set(1, 0)
			time.Sleep(20 * time.Second)
			if s := b.service("web"); s.Want != 1 {
				t.Errorf("%d replicas while it is used: %s", s.Want, s.Autoscale.Reason)
			}
		}
		one := b.plane.snapshot().Services[0]
		if !one.Wakes || one.Hold != wakeHold {
			t.Errorf("the data plane is told %+v", one)
		}
	})
}

// TestAutoscalingByCPU reads what instances use from their driver; what cannot be read is no idleness.
func TestAutoscalingByCPU(t *testing.T) {
	bubbleUnder(t, webLoad, func(b *bench) {
		b.apply(project(server("web", 2, func(s *compose.Service) {
			s.Deploy.Resources.Limits.CPUs = 0.5
			s.Deploy.Trellis.Autoscale = &compose.Autoscale{Min: 1, Max: 8, Target: map[string]float64{"cpu": 0.5}}
		})))
		b.settled(state.Healthy)
		// Each of however many uses 0.4 CPUs of 0.5: 0.8 of it where 0.5 is aimed at, so there are never enough.
		b.world.Burn("web", 0.4)
		b.wants(8, 10*time.Minute)
		b.world.Burn("web", 0.01)
		b.wants(1, 10*time.Minute)
		b.world.Burn("web", 0.4)
		b.wants(8, 10*time.Minute)
		b.world.Fault(func(op string, _ driver.ID) error {
			if op == "stats" {
				return errdefs.ErrUnavailable
			}
			return nil
		})
		time.Sleep(10 * time.Minute)
		if s := b.service("web"); s.Want != 8 {
			t.Errorf("%d replicas where nothing is known: %s", s.Want, s.Autoscale.Reason)
		}
	})
}

// TestDemandThatIsNotToldIsNoIdleness, though CPU is read on.
func TestDemandThatIsNotToldIsNoIdleness(t *testing.T) {
	bubbleUnder(t, webLoad, func(b *bench) {
		b.apply(project(server("web", 2, func(s *compose.Service) {
			s.Deploy.Trellis.Autoscale = &compose.Autoscale{Min: 1, Max: 20, Target: map[string]float64{"cpu": 0.5, "concurrency": 10}}
		})))
		b.settled(state.Healthy)
		b.world.Burn("web", 0.01)
		b.load.set(60, 0)
		b.wants(9, 10*time.Minute)
		b.load.be(true)
		time.Sleep(10 * time.Minute)
		if s := b.service("web"); s.Want != 9 {
			t.Errorf("%d replicas where nobody tells the demand: %s", s.Want, s.Autoscale.Reason)
		}
		b.load.be(false)
		b.load.set(0, 0)
		b.wants(1, 10*time.Minute)
	})
}

// TestCPUFromBeforeIsNoLoad: what instances used before they were read counts as nothing, whoever begins to read them.
func TestCPUFromBeforeIsNoLoad(t *testing.T) {
	for name, disturb := range map[string]func(b *bench){
		"another control plane": func(b *bench) {
			b.kill()
			b.run()
		},
		"a flap of readiness": func(b *bench) {
			sick := b.service("web").Instances[0].Address
			b.deaf.Store(&sick)
			b.until("it is not ready", func() bool { return b.service("web").Ready == 4 })
			time.Sleep(2 * scaleTick)
			b.deaf.Store(nil)
			b.until("it is ready", func() bool { return b.service("web").Ready == 5 })
		},
		"statistics that were away": func(b *bench) {
			b.world.Fault(func(op string, _ driver.ID) error {
				if op == "stats" {
					return errdefs.ErrUnavailable
				}
				return nil
			})
			time.Sleep(10 * time.Minute)
			b.world.Fault(nil)
		},
	} {
		t.Run(name, func(t *testing.T) {
			bubbleUnder(t, webLoad, func(b *bench) {
				b.apply(project(server("web", 5, func(s *compose.Service) {
					s.Deploy.Trellis.Autoscale = &compose.Autoscale{Min: 1, Max: 20, Target: map[string]float64{"cpu": 0.5}}
				})))
				b.world.Burn("web", 0.45)
				b.settled(state.Healthy)
				time.Sleep(10 * time.Minute)
				disturb(b)
				for range 100 {
					time.Sleep(time.Second)
					if s := b.service("web"); s.Want != 5 {
						b.Fatalf("%d replicas of a load of five: %s", s.Want, s.Autoscale.Reason)
					}
				}
			})
		})
	}
}

// TestADataPlaneThatIsHeardOfLaterIsNoPeak: what one has counted before this scaler heard of it, or while it said nothing for long,
// counts as nothing. Nobody knows when it came.
func TestADataPlaneThatIsHeardOfLaterIsNoPeak(t *testing.T) {
	const perSecond = 10
	cfg := autoscale.Config{Min: 1, Max: 50, Targets: []autoscale.Target{
		{Metric: autoscale.RPS, Value: 100}, {Metric: autoscale.Concurrency, Value: 100},
	}}
	scaler, err := autoscale.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	begun := time.Unix(1e9, 0)
	o := &scalingService{cfg: cfg, scaler: scaler, want: 1, seen: map[string]sighting{}, cpu: map[driver.ID]time.Duration{}}
	for second := range 600 {
		now := begun.Add(time.Duration(second) * time.Second)
		say := func(source string, before int) {
			n := before + perSecond*second
			o.take(source, proxy.Demand{Requests: uint64(n), BusySeconds: float64(n)}, now)
		}
		say("new", 0)
		if second < 100 || second > 300 { // one that drains, an hour old
			say("old", 36000)
		}
		if d := scaler.Decide(now, autoscale.Have{Want: 1, Ready: 1}); d.Replicas != 1 || d.Panic {
			t.Fatalf("%d replicas after %d s of a steady load of two data planes, panic %v: %s", d.Replicas, second, d.Panic, d.Reason)
		}
	}
}

// TestNoDecisionUndoesAnother: what was decided of one service stands, however late the loop gets to see it.
func TestNoDecisionUndoesAnother(t *testing.T) {
	bubbleUnder(t, webLoad, func(b *bench) {
		scaled := func(low int) func(*compose.Service) {
			return func(s *compose.Service) {
				s.Deploy.Trellis.Autoscale = &compose.Autoscale{Min: low, Max: 6, Target: map[string]float64{"concurrency": 10}}
			}
		}
		b.apply(project(server("api", 0, scaled(0)), server("web", 1, scaled(1))))
		b.load.setOf("api", 0, 0)
		b.settled(state.Healthy)
		time.Sleep(time.Second)
		b.world.Fault(func(op string, _ driver.ID) error {
			if op == "list" {
				time.Sleep(5 * time.Second)
			}
			return nil
		})
		b.eng.poke()
		time.Sleep(100 * time.Millisecond) // the round lists
		b.load.setOf("api", 1, 1)
		time.Sleep(300 * time.Millisecond)
		b.load.set(1000, 1)
		time.Sleep(time.Second)
		b.world.Fault(nil)
		b.until("both are scaled", func() bool { return b.plane.serving("api") == 1 && b.plane.serving("web") == 6 })
	})
}

func TestScaleByHandIsRefusedWhereTheLoadDecides(t *testing.T) {
	autoscaledBubble(t, 1, 3, func(b *bench, p compose.Project) {
		b.apply(p)
		b.settled(state.Healthy)
		three := 3
		err := b.eng.Override(b.Context(), projectName, state.Override{Service: "web", Replicas: &three})
		if !errors.Is(err, errdefs.ErrConflict) || !strings.Contains(err.Error(), "deploy.x-trellis.autoscale") {
			t.Errorf("%v", err)
		}
		if err := b.eng.Override(b.Context(), projectName, state.Override{Service: "web", Stopped: true}); err != nil {
			t.Fatal(err)
		}
		b.load.set(100, 1)
		b.until("stopped", func() bool { return b.plane.serving("web") == 0 && b.service("web").State == engine.ServiceStopped })
		time.Sleep(time.Minute)
		if s := b.service("web"); s.Want != 0 || s.State != engine.ServiceStopped || b.plane.serving("web") > 0 {
			t.Errorf("what was stopped by hand is %s, want %d", s.State, s.Want)
		}
	})
}

// hangingStats is a driver that does not say what instances use.
type hangingStats struct {
	driver.Driver
	hangs atomic.Bool
}

func (d *hangingStats) Stats(ctx context.Context, id driver.ID) (driver.Usage, error) {
	if d.hangs.Load() {
		<-ctx.Done()
		return driver.Usage{}, ctx.Err()
	}
	return d.Driver.Stats(ctx, id)
}

// TestADriverThatHangsKeepsNobodyAsleep: who is scaled by what it uses waits for its driver, and nobody with it.
func TestADriverThatHangsKeepsNobodyAsleep(t *testing.T) {
	bubbleUnder(t, webLoad, func(b *bench) {
		synctest.Wait()
		b.kill()
		hanging := &hangingStats{Driver: b.world.Driver()}
		b.drivers = map[string]driver.Driver{"fake": hanging}
		b.run()
		by := func(low int, metric string, target float64) func(*compose.Service) {
			return func(s *compose.Service) {
				s.Deploy.Trellis.Autoscale = &compose.Autoscale{Min: low, Max: 3, Target: map[string]float64{metric: target}}
			}
		}
		b.apply(project(server("web", 0, by(0, "concurrency", 10)), server("maths", 1, by(1, "cpu", 0.5))))
		b.until("web sleeps", func() bool { return b.service("web").Want == 0 && b.service("maths").Ready == 1 })
		time.Sleep(10 * time.Second)
		hanging.hangs.Store(true)
		time.Sleep(3 * time.Second)
		b.load.set(1, 1)
		b.wants(1, time.Second)
	})
}
