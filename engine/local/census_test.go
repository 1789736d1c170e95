package local

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"trellis/compose"
	"trellis/driver"
	"trellis/driver/fake"
	"trellis/engine"
	"trellis/errdefs"
	"trellis/state"
)

// How a daemon answers.
const (
	answers = iota
	refuses
	hangs
)

// daemon is a driver of some services of a world whose instances are another program's.
type daemon struct {
	driver.Driver
	services []string
	mode     *atomic.Int32
}

// closed is the error of what does not answer.
type closed struct{}

func (closed) Error() string  { return "the engine does not answer: connection refused" }
func (closed) Unwrap() error  { return errdefs.ErrUnavailable }
func (closed) Remedy() string { return "start it again" }

func (d daemon) asked(ctx context.Context) error {
	switch d.mode.Load() {
	case refuses:
		return closed{}
	case hangs:
		<-ctx.Done()
		return ctx.Err()
	}
	return nil
}

func (d daemon) Capabilities() driver.Capabilities {
	c := d.Driver.Capabilities()
	c.Apart = true
	return c
}

func (d daemon) List(ctx context.Context, project string) ([]driver.Instance, error) {
	if err := d.asked(ctx); err != nil {
		return nil, err
	}
	list, err := d.Driver.List(ctx, project)
	return d.only(list), err
}

func (d daemon) only(list []driver.Instance) []driver.Instance {
	return slices.DeleteFunc(list, func(inst driver.Instance) bool { return !slices.Contains(d.services, inst.Service) })
}

func (d daemon) Start(ctx context.Context, spec driver.Spec) error {
	if err := d.asked(ctx); err != nil {
		return err
	}
	return d.Driver.Start(ctx, spec)
}

func (d daemon) Stop(ctx context.Context, id driver.ID, grace time.Duration) error {
	if err := d.asked(ctx); err != nil {
		return err
	}
	return d.Driver.Stop(ctx, id, grace)
}

func (d daemon) Exec(ctx context.Context, id driver.ID, cmd driver.Command) (int, error) {
	if err := d.asked(ctx); err != nil {
		return 0, err
	}
	return d.Driver.Exec(ctx, id, cmd)
}

// rest is the driver of all services but a daemon's.
type rest struct {
	*fake.Driver
	daemon daemon
}

func (d rest) List(ctx context.Context, project string) ([]driver.Instance, error) {
	list, err := d.Driver.List(ctx, project)
	return slices.DeleteFunc(list, func(inst driver.Instance) bool { return slices.Contains(d.daemon.services, inst.Service) }), err
}

// beside runs f with a service of processes (api), and two of containers of a daemon: web is asked by HTTP, db by a command.
func beside(t *testing.T, f func(b *bench, d daemon, api, web, db compose.Service)) {
	t.Helper()
	bubble(t, func(b *bench) {
		b.kill()
		d := daemon{b.world.Driver(), []string{"web", "db"}, &atomic.Int32{}}
		b.drivers = map[string]driver.Driver{"process": rest{b.world.Driver(), d}, "docker": d}
		b.run()
		api := server("api", 2, func(s *compose.Service) { s.Trellis.Process = &compose.Process{} })
		web := server("web", 2)
		db := server("db", 1, func(s *compose.Service) {
			s.Trellis.Probe = nil
			s.Healthcheck = &compose.Healthcheck{Test: []string{"CMD", "ready"}}
		})
		b.apply(project(api, web, db))
		b.settled(state.Healthy)
		time.Sleep(time.Minute)
		f(b, d, api, web, db)
	})
}

func (b *bench) crash(service string) {
	b.Helper()
	for _, inst := range b.service(service).Instances {
		if b.world.Crash(full(projectName, inst.ID), 1, "") {
			return
		}
	}
	b.Fatalf("no instance of %s runs", service)
}

// TestADaemonIsAway: while one driver does not answer, or hangs, its instances keep their routes and are left alone, those
// of the others are healed, scaled and deployed, and it is said why, since when and what to do.
func TestADaemonIsAway(t *testing.T) {
	for mode, name := range map[int32]string{refuses: "refuses", hangs: "hangs"} {
		t.Run(name, func(t *testing.T) {
			beside(t, func(b *bench, d daemon, api, web, db compose.Service) {
				before := b.service("web").Instances
				d.mode.Store(mode)
				gone := time.Now()
				b.crash("api")
				time.Sleep(listLimit + 2*time.Second)
				if s := b.service("api"); s.State != engine.ServiceHealthy || s.Ready != 2 || s.Unknown != nil {
					t.Errorf("beside it api is %s, %d ready: %s", s.State, s.Ready, s.Reason)
				}
				if err := b.eng.Override(b.Context(), projectName, state.Override{Service: "api", Replicas: ptr(3)}); err != nil {
					t.Fatal(err)
				}
				time.Sleep(time.Minute)
				if s := b.service("api"); s.Ready != 3 {
					t.Errorf("api scaled to 3 has %d ready: %s", s.Ready, s.Reason)
				}
				for _, name := range []string{"web", "db"} {
					s := b.service(name)
					if s.State != engine.ServiceDegraded || s.Unknown == nil || s.Unknown.Driver != "docker" || s.Unknown.Since.Before(gone) ||
						s.Unknown.Since.After(gone.Add(2*listLimit)) || !strings.Contains(s.Reason, "unknown since") {
						t.Errorf("%s is %s: %s, unknown %+v", name, s.State, s.Reason, s.Unknown)
					}
					if mode == refuses && (s.Unknown.Remedy != "start it again" || !strings.Contains(s.Reason, "connection refused; start it again")) {
						t.Errorf("%s: %s, unknown %+v", name, s.Reason, s.Unknown)
					}
					if n := b.plane.serving(name); n != s.Want {
						t.Errorf("%d of %s have a route", n, name)
					}
				}
				if after := b.service("web").Instances; fmt.Sprint(after) != fmt.Sprint(before) {
					t.Errorf("instances of web\n%v\nwere\n%v", after, before)
				}
				d.mode.Store(answers)
				time.Sleep(returnLimit + 5*time.Second)
				if s := b.service("web"); s.State != engine.ServiceHealthy || s.Unknown != nil || fmt.Sprint(s.Instances) != fmt.Sprint(before) {
					t.Errorf("web is %s afterwards: %s\n%v\nwas\n%v", s.State, s.Reason, s.Instances, before)
				}
				if gone, back, unready := len(b.events("driver.away")), len(b.events("driver.back")), len(b.events("instance.unready")); gone != 1 || back != 1 || unready != 0 {
					t.Errorf("told %d times that it is away, %d that it is back; %d instances unready", gone, back, unready)
				}
			})
		})
	}
}

// TestADaemonIsAwayAndItsInstancesEnd: what does not answer any more loses its route; what ended is started again when the
// daemon is back, and once.
func TestADaemonIsAwayAndItsInstancesEnd(t *testing.T) {
	beside(t, func(b *bench, d daemon, api, web, db compose.Service) {
		starts := b.world.Starts()
		d.mode.Store(refuses)
		b.crash("web")
		time.Sleep(time.Minute)
		if n := b.plane.serving("web"); n != 1 {
			t.Errorf("%d of web have a route, one answers", n)
		}
		web.Environment = map[string]string{"COLOR": "green"}
		b.apply(project(api, web, db))
		time.Sleep(5 * time.Minute) // longer than any patience
		if n := b.world.Starts() - starts; n != 0 {
			t.Errorf("%d starts while it was away", n)
		}
		if s := b.observe(); s.Settled {
			t.Errorf("the revision is %s", s.Outcome)
		}
		if n := b.plane.serving("web"); n != 1 {
			t.Errorf("%d of web have a route after a deploy that has to wait", n)
		}
		d.mode.Store(answers)
		b.settled(state.Healthy)
		if s := b.service("web"); s.Ready != 2 || s.Revision != 2 {
			t.Errorf("%d of web ready, revision %d: %s", s.Ready, s.Revision, s.Reason)
		}
	})
}

// TestAControlPlaneStartsWithoutTheDaemon: it knows the instances from the one before, until the machine starts anew.
func TestAControlPlaneStartsWithoutTheDaemon(t *testing.T) {
	beside(t, func(b *bench, d daemon, api, web, db compose.Service) {
		before, starts := b.service("web").Instances, b.world.Starts()
		d.mode.Store(refuses)
		b.kill()
		b.run()
		time.Sleep(time.Minute)
		if n := b.plane.serving("web"); n != 2 {
			t.Errorf("%d of web have a route", n)
		}
		if s := b.service("web"); s.Unknown == nil || fmt.Sprint(s.Instances) != fmt.Sprint(before) {
			t.Errorf("web is %s: %s\n%v\nwas\n%v", s.State, s.Reason, s.Instances, before)
		}
		if s := b.service("api"); s.State != engine.ServiceHealthy {
			t.Errorf("api is %s: %s", s.State, s.Reason)
		}
		b.kill() // twice
		b.run()
		time.Sleep(time.Second)
		d.mode.Store(answers)
		time.Sleep(returnLimit)
		if s := b.service("web"); s.State != engine.ServiceHealthy || fmt.Sprint(s.Instances) != fmt.Sprint(before) {
			t.Errorf("web is %s afterwards: %s\n%v\nwas\n%v", s.State, s.Reason, s.Instances, before)
		}
		if n := b.world.Starts() - starts + len(b.events("instance.unready")); n != 0 {
			t.Errorf("%d were started or lost their route", n)
		}
		b.kill()
		if err := b.store.SetValue(b.Context(), valueListed, map[string]listed{"docker": {Boot: "another", Instances: []driver.Instance{{
			ID: projectName + "/web-1-0", Project: projectName, Service: "web", Slot: 1, State: driver.Running, Host: "10.9.9.9",
		}}}}); err != nil {
			t.Fatal(err)
		}
		d.mode.Store(refuses)
		b.run()
		time.Sleep(time.Minute)
		if s := b.service("web"); s.Unknown == nil || len(s.Instances) > 0 {
			t.Errorf("after another start of the machine web has %v", s.Instances)
		}
		d.mode.Store(answers)
		time.Sleep(returnLimit)
		if s := b.service("web"); s.State != engine.ServiceHealthy || fmt.Sprint(s.Instances) != fmt.Sprint(before) {
			t.Errorf("web is %s in the end: %s\n%v\nwas\n%v", s.State, s.Reason, s.Instances, before)
		}
		if n := b.world.Starts() - starts; n != 0 {
			t.Errorf("%d were started", n)
		}
	})
}

// TestDeleteWithoutTheDaemon says what is left, and leaves it to be removed when the daemon is back.
func TestDeleteWithoutTheDaemon(t *testing.T) {
	beside(t, func(b *bench, d daemon, api, web, db compose.Service) {
		d.mode.Store(refuses)
		began := time.Now()
		err := b.eng.Delete(b.Context(), projectName, engine.DeleteOptions{})
		if err == nil || !strings.Contains(err.Error(), "web-1-") || !strings.Contains(err.Error(), "connection refused; start it again") {
			t.Errorf("deleted without its containers: %v", err)
		}
		if took := time.Since(began); took > 20*time.Second {
			t.Errorf("it took %s to say so", took)
		}
		for _, inst := range b.observe().Services {
			if inst.Name == "api" && len(inst.Instances) > 0 {
				t.Errorf("left of api: %v", inst.Instances)
			}
		}
		d.mode.Store(answers)
		time.Sleep(time.Minute)
		if left := b.world.Left(); len(left) > 0 {
			t.Errorf("left when the daemon was back: %v", left)
		}
	})
}

// TestADaemonThatHangsHoldsNoSeat: starts that it does not answer keep no other driver from starting.
func TestADaemonThatHangsHoldsNoSeat(t *testing.T) {
	beside(t, func(b *bench, d daemon, api, web, db compose.Service) {
		d.mode.Store(hangs)
		web.Deploy.Replicas = ptr(b.eng.cfg.Parallel + 2)
		b.apply(project(api, web, db))
		time.Sleep(time.Second)
		b.crash("api")
		time.Sleep(2 * listLimit)
		if s := b.service("api"); s.State != engine.ServiceHealthy {
			t.Errorf("api is %s: %s", s.State, s.Reason)
		}
		d.mode.Store(answers)
	})
}
