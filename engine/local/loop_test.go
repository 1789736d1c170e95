package local

import (
	"context"
	"fmt"
	"net"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"trellis/compose"
	"trellis/driver"
	"trellis/driver/fake"
	"trellis/engine"
	"trellis/probe"
	"trellis/proxy"
	"trellis/state"
)

// bench is an engine on a fake world in a bubble of fake time.
type bench struct {
	*testing.T
	world *fake.World
	store state.Store
	plane *fakePlane
	// lateLists is how much older than its arrival what the driver lists is.
	lateLists time.Duration
	drivers   map[string]driver.Driver                      // nil: the world's
	load      *fakeLoad                                     // nil: nothing is measured
	deaf      atomic.Pointer[string]                        // the address of an instance that answers no probe; nil: none
	answers   func(s probe.Spec, host string) *probe.Result // what an instance answers instead of the world; nil: as the world
	eng       *Engine
	stop      context.CancelFunc
	done      chan error
	rev       state.Revision
}

const projectName = "shop"

// bubble runs f in a bubble of fake time with a world of its own.
func bubble(t *testing.T, f func(b *bench)) {
	t.Helper()
	bubbleUnder(t, nil, f)
}

// bubbleUnder is bubble with a data plane that tells load.
func bubbleUnder(t *testing.T, load func() *fakeLoad, f func(b *bench)) {
	t.Helper()
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		store, err := state.Open(filepath.Join(dir, "state.db"))
		if err != nil {
			t.Fatal(err)
		}
		b := &bench{T: t, world: fake.NewWorld(), store: store, plane: &fakePlane{measures: make(chan proxy.Measures)}}
		if load != nil {
			b.load = load()
		}
		b.run()
		f(b)
		b.kill()
		if err := store.Close(); err != nil {
			t.Error(err)
		}
	})
}

// run starts an engine; kill ends it as a crash would: what it knows is gone, the world goes on.
func (b *bench) run() {
	b.Helper()
	var plane Plane = b.plane
	if b.load != nil {
		plane = measuring{b.plane, b.load}
	}
	drivers := b.drivers
	if drivers == nil {
		drivers = map[string]driver.Driver{"fake": b.driver()}
	}
	eng, err := New(Config{
		Project: projectName, Store: b.store, Drivers: drivers, Plane: plane,
		Probe: b.probe, BaseEnv: []string{},
	})
	if err != nil {
		b.Fatal(err)
	}
	ctx, cancel := context.WithCancel(b.Context())
	b.eng, b.stop, b.done = eng, cancel, make(chan error, 1)
	done := b.done
	go func() { done <- eng.Run(ctx, func(string) {}) }()
}

// probe asks an instance of the world.
func (b *bench) probe(ctx context.Context, s probe.Spec, host string, port int, exec probe.Executor) probe.Result {
	if deaf := b.deaf.Load(); deaf != nil && *deaf == net.JoinHostPort(host, strconv.Itoa(port)) {
		return probe.Result{Message: "it does not answer", Time: time.Now()}
	}
	if b.answers != nil {
		if r := b.answers(s, host); r != nil {
			return *r
		}
	}
	return b.world.Probe(ctx, s, host, port, exec)
}

func (b *bench) kill() {
	b.Helper()
	b.stop()
	if err := <-b.done; err != nil {
		b.Errorf("run: %v", err)
	}
}

// driver returns the driver of the bench: with lateLists one whose lists arrive a moment after they were made.
func (b *bench) driver() driver.Driver {
	if b.lateLists == 0 {
		return b.world.Driver()
	}
	return lateLists{b.world.Driver(), b.lateLists}
}

type lateLists struct {
	driver.Driver
	late time.Duration
}

func (d lateLists) List(ctx context.Context, project string) ([]driver.Instance, error) {
	list, err := d.Driver.List(ctx, project)
	time.Sleep(d.late)
	return list, err
}

// fakePlane takes every snapshot; what is in flight is what the test says.
type fakePlane struct {
	mu    sync.Mutex
	last  proxy.Snapshot
	count int
	inUse map[string]int
	err   error
	check func(proxy.Snapshot)
	// measures are what is pushed.
	measures chan proxy.Measures
}

func (p *fakePlane) Publish(_ context.Context, s proxy.Snapshot) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if s.Epoch < p.last.Epoch || s.Epoch == p.last.Epoch && s.Version <= p.last.Version {
		return fmt.Errorf("snapshot %d.%d after %d.%d", s.Epoch, s.Version, p.last.Epoch, p.last.Version)
	}
	p.last = s
	p.count++
	if p.check != nil {
		p.check(s)
	}
	return p.err
}

func (p *fakePlane) Epoch(context.Context) (uint64, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.last.Epoch, nil
}

func (p *fakePlane) InUse(context.Context) (map[string]int, uint64, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.inUse, p.last.Version, nil
}

func (p *fakePlane) Measures(ctx context.Context, fn func(proxy.Measures)) error {
	for {
		select {
		case m := <-p.measures:
			fn(m)
		case <-ctx.Done():
			return nil
		}
	}
}

func (p *fakePlane) snapshot() proxy.Snapshot {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.last
}

// serving returns how many instances of a service the data plane would send a new request to.
func (p *fakePlane) serving(service string) int {
	n := 0
	for _, s := range p.snapshot().Services {
		for _, i := range s.Instances {
			if s.Name == service && i.Ready && !i.Draining {
				n++
			}
		}
	}
	return n
}

// project makes a project of services.
func project(services ...compose.Service) compose.Project {
	p := compose.Project{Name: projectName, Services: map[string]compose.Service{}, Volumes: map[string]compose.Volume{}}
	for _, s := range services {
		if s.Networks == nil {
			s.Networks = map[string]compose.Attachment{"default": {}}
		}
		p.Services[s.Name] = s
	}
	return p
}

// server makes a service with a port and a probe.
func server(name string, replicas int, change ...func(*compose.Service)) compose.Service {
	s := compose.Service{
		Name: name, Image: name, Command: []string{name}, Ports: []compose.Port{{Target: 8080, Protocol: "tcp", Mode: "ingress"}},
		Deploy:  compose.Deploy{Replicas: &replicas},
		Trellis: compose.ServiceExtension{Probe: &compose.Probe{HTTP: "/healthz"}},
	}
	for _, f := range change {
		f(&s)
	}
	return s
}

func needs(name, condition string) func(*compose.Service) {
	return func(s *compose.Service) {
		if s.DependsOn == nil {
			s.DependsOn = map[string]compose.Dependency{}
		}
		s.DependsOn[name] = compose.Dependency{Condition: condition, Required: true}
	}
}

func env(name, value string) func(*compose.Service) {
	return func(s *compose.Service) { s.Environment = map[string]string{name: value} }
}

func duration(d time.Duration) *compose.Duration {
	v := compose.Duration(d)
	return &v
}

func (b *bench) apply(p compose.Project) {
	b.Helper()
	rev, err := b.eng.Apply(b.Context(), state.Revision{Project: p, Cause: "up", Actor: "me@here"}, "")
	if err != nil {
		b.Fatal(err)
	}
	b.rev = rev
}

func (b *bench) observe() engine.State {
	b.Helper()
	s, err := b.eng.Observe(b.Context(), projectName)
	if err != nil {
		b.Fatal(err)
	}
	return s
}

func (b *bench) service(name string) engine.Service {
	b.Helper()
	for _, s := range b.observe().Services {
		if s.Name == name {
			return s
		}
	}
	b.Fatalf("no service %s", name)
	return engine.Service{}
}

// settled lets time go on until the newest revision has an outcome, and checks it.
func (b *bench) settled(outcome string) {
	b.Helper()
	for range 10000 {
		synctest.Wait()
		if s := b.observe(); s.Settled {
			if s.Outcome != outcome {
				b.Fatalf("revision %d is %s, want %s: %s", s.Revision, s.Outcome, outcome, b.words())
			}
			return
		}
		time.Sleep(50 * time.Millisecond)
	}
	b.Fatalf("never settled: %s", b.words())
}

// until lets time go on until ok holds.
func (b *bench) until(what string, ok func() bool) {
	b.Helper()
	for range 100000 {
		synctest.Wait()
		if ok() {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	b.Fatalf("never: %s: %s", what, b.words())
}

func (b *bench) words() string {
	var w strings.Builder
	for _, s := range b.observe().Services {
		fmt.Fprintf(&w, "\n%s %s want=%d ready=%d: %s", s.Name, s.State, s.Want, s.Ready, s.Reason)
		for _, i := range s.Instances {
			fmt.Fprintf(&w, "\n  %s %s restarts=%d %s", i.ID, i.State, i.Restarts, i.Probe)
		}
	}
	return w.String()
}

// events returns "kind instance-or-service" of every event so far.
func (b *bench) events(kinds ...string) []string {
	b.Helper()
	synctest.Wait()
	var all []string
	for ev, err := range b.store.Events(b.Context(), state.EventFilter{}) {
		if err != nil {
			b.Fatal(err)
		}
		if len(kinds) == 0 || slices.Contains(kinds, ev.Kind) {
			all = append(all, strings.TrimSpace(ev.Kind+" "+ev.Service))
		}
	}
	return all
}

func TestFirstDeployFollowsDependsOn(t *testing.T) {
	bubble(t, func(b *bench) {
		b.world.Script("db", fake.Script{StartAfter: time.Second, ReadyAfter: 3 * time.Second})
		b.world.Script("migrate", fake.Script{Exits: true, ExitAfter: 2 * time.Second})
		began := time.Now()
		b.apply(project(
			server("web", 2, needs("migrate", compose.ServiceCompletedSuccessfully), needs("cache", compose.ServiceStarted)),
			server("db", 1), server("cache", 1),
			compose.Service{Name: "migrate", Image: "migrate", DependsOn: map[string]compose.Dependency{
				"db": {Condition: compose.ServiceHealthy, Required: true}}},
		))
		b.settled(state.Healthy)
		if took := time.Since(began); took > 7*time.Second {
			t.Errorf("took %s, the chain itself takes 5 to 6 s", took)
		}
		got := b.events("instance.started")
		want := []string{"instance.started cache", "instance.started db", "instance.started migrate", "instance.started web", "instance.started web"}
		if !slices.Equal(got, want) {
			t.Errorf("started in order %q, want %q", got, want)
		}
		if s := b.service("migrate"); s.State != engine.ServiceCompleted {
			t.Errorf("migrate is %s: %s", s.State, s.Reason)
		}
		starts := b.world.Starts()
		b.apply(b.rev.Project) // the same again
		b.settled(state.Healthy)
		if n := b.world.Starts() - starts; n != 0 {
			t.Errorf("applying the same again started %d instances", n)
		}
	})
}

// TestNoStepIsTakenTwice: a list that is older than the step that has just ended leads to no second one.
func TestNoStepIsTakenTwice(t *testing.T) {
	bubble(t, func(b *bench) {
		synctest.Wait()
		b.kill()
		b.lateLists = 30 * time.Millisecond
		b.run()
		b.world.Script("web", fake.Script{StartAfter: 10 * time.Millisecond, ReadyAfter: 20 * time.Millisecond})
		b.apply(project(server("web", 5), server("api", 3)))
		b.settled(state.Healthy)
		b.apply(project(server("web", 5, env("COLOR", "green")), server("api", 3)))
		b.settled(state.Healthy)
		counts := map[string]int{}
		for ev, err := range b.store.Events(b.Context(), state.EventFilter{}) {
			if err != nil {
				t.Fatal(err)
			}
			if ev.Instance != "" {
				counts[ev.Kind+" "+ev.Instance]++
			}
		}
		for what, n := range counts {
			if n > 1 {
				t.Errorf("%s: %d times", what, n)
			}
		}
	})
}
