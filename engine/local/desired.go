package local

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"trellis/autoscale"
	"trellis/compose"
	"trellis/driver"
	"trellis/engine"
	"trellis/engine/traffic"
	"trellis/errdefs"
	"trellis/probe"
	"trellis/proxy"
	"trellis/state"
)

// desired is what the store says a project is to be, ready to plan with. It never changes once made.
type desired struct {
	rev       state.Revision
	overrides []state.Override
	deleting  bool
	want      want
	services  map[string]*service
	addresses map[string]int           // of names; see names.go
	block     int                      // of Config
	rollouts  map[string]state.Rollout // of rev, by service
	told      []state.Rollout          // these, and those of the revision that rev undoes
	goal      int64                    // what a rollout that fails goes back to; 0: nothing
	scaled    map[string]scaled        // what the autoscaler has decided, by service
	routes    []proxy.Route
	schemes   map[string]proxy.Auth
	shift     *proxy.Shift  // nil: the gateway leads nothing elsewhere
	elsewhere proxy.Service // where it leads it
}

// service is one wanted service.
type service struct {
	compose  compose.Service
	driver   string
	spaces   bool // its instances have namespaces
	template template
	hash     string
	probe    probe.Spec
	ports    []int // TCP
	want     wantService
	scaling  *autoscale.Config // nil: not autoscaled
	callees  []*service        // that it reaches by name
	hosts    map[string]string // names that its instances resolve
	extraEnv []string          // where names do not resolve
}

// The names of the engine's values in the store.
const (
	valueDeleted   = "engine/deleted-revision" // the revision that was deleted: a later one is wanted
	valueHooks     = "engine/hooks"
	valueEpoch     = "engine/epoch"
	valueAddresses = "engine/addresses"
)

// load reads what is wanted from the store. Nothing applied yet: nil.
func (e *Engine) load(ctx context.Context) (*desired, error) {
	rev, err := e.cfg.Store.Latest(ctx)
	if errors.Is(err, errdefs.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read the newest revision: %w", err)
	}
	d := &desired{rev: rev, addresses: map[string]int{}, block: e.cfg.Block}
	if d.overrides, err = e.cfg.Store.Overrides(ctx); err != nil {
		return nil, fmt.Errorf("read overrides: %w", err)
	}
	deleted := int64(0)
	if err := e.value(ctx, valueDeleted, &deleted); err != nil {
		return nil, err
	}
	d.deleting = deleted == rev.Number
	if err := e.value(ctx, valueAddresses, &d.addresses); err != nil {
		return nil, err
	}
	if err := e.value(ctx, valueScaled, &d.scaled); err != nil {
		return nil, err
	}
	if d.allocate() {
		if err := e.cfg.Store.SetValue(ctx, valueAddresses, d.addresses); err != nil {
			return nil, fmt.Errorf("keep the addresses of names: %w", err)
		}
	}
	if err := e.loadRollouts(ctx, d); err != nil {
		return nil, err
	}
	e.resolve(d)
	content := e.secretIn(rev.Project)
	d.routes, d.schemes = traffic.Routes(rev.Project), traffic.Schemes(rev.Project, content)
	if d.shift, d.elsewhere, err = traffic.Shift(rev.Project, content); err != nil {
		e.log.Error("the gateway leads nothing elsewhere", "project", e.cfg.Project, "err", err)
	}
	return d, nil
}

// value reads a value that may not be there.
func (e *Engine) value(ctx context.Context, name string, v any) error {
	if err := e.cfg.Store.Value(ctx, name, v); err != nil && !errors.Is(err, errdefs.ErrNotFound) {
		return fmt.Errorf("read %s: %w", name, err)
	}
	return nil
}

// resolve works out every service of d.
func (e *Engine) resolve(d *desired) {
	p := d.rev.Project
	d.services = make(map[string]*service, len(p.Services))
	d.want = want{
		project: e.cfg.Project, revision: d.rev.Number, deleting: d.deleting, pending: d.rev.Outcome == state.Pending, goal: d.goal,
	}
	awaited := engine.Awaited(p)
	overrides := map[string]state.Override{}
	for _, o := range d.overrides {
		overrides[o.Service] = o
	}
	for _, name := range p.ServiceNames() {
		svc := p.Services[name]
		svc.Name = name
		s := e.resolveService(p, svc, overrides[name], awaited[name])
		if s.scaling = autoscaled(svc); s.scaling != nil {
			s.want.replicas = replicasOf(svc, *s.scaling, decided(d.scaled, name))
		}
		s.want.replacing(svc, d.rev.Undoes > 0)
		if d.rev.Cause == state.CauseWatch {
			s.want.monitor, s.want.monitorAll, s.want.canary = min(s.want.monitor, provenAfter), false, nil
		}
		// A program that cannot be given a port of its own cannot run beside its predecessor.
		s.want.stopFirst = s.want.stopFirst || !s.spaces && len(s.template.spec.Ports) > 1
		d.services[name] = s
		d.want.services = append(d.want.services, s.want)
	}
	for _, s := range d.services {
		s.callees = d.calleesOf(s)
		s.hosts, s.extraEnv = d.hostsOf(s), d.endpointsOf(s)
	}
}

func (e *Engine) resolveService(p compose.Project, svc compose.Service, o state.Override, awaited bool) *service {
	s := &service{compose: svc, probe: engine.Probe(svc), ports: engine.TCPPorts(svc)}
	w := wantService{
		name: svc.Name, replicas: engine.Replicas(svc), stopped: o.Stopped, awaited: awaited,
		restart: restartOf(svc, awaited), grace: svc.StopGracePeriod.Or(defaultGrace), routed: len(engine.Ports(svc)) > 0,
		patience: s.probe.StartPeriod + time.Duration(s.probe.Retries)*s.probe.Interval + e.cfg.Patience,
	}
	if o.Replicas != nil {
		w.replicas = *o.Replicas
	}
	for _, name := range sortedKeys(svc.DependsOn) {
		d := svc.DependsOn[name]
		w.dependsOn = append(w.dependsOn, dependency{name, d.Condition, d.Required})
	}
	var err error
	if s.driver, err = e.driverOf(svc); err == nil {
		s.spaces = e.cfg.Drivers[s.driver].Capabilities().Namespaces && svc.NetworkMode != "host"
		s.template, err = templateOf(p, svc)
	}
	if err != nil {
		w.problem = err.Error()
	}
	s.hash = s.template.hash(o.Restart)
	w.hash = s.hash
	for _, h := range s.template.hooks {
		w.hooks = append(w.hooks, hookWant{perReplica: h.perReplica})
	}
	s.want = w
	return s
}

// sid stands for everything that a decision about d may rest on.
func (d *desired) generation() int64 {
	var g int64
	for _, o := range d.overrides {
		g = max(g, o.Restart)
	}
	return g
}

// former finds the template of an instance that an earlier revision asked for, nil where it cannot be found: it is
// needed to start the instance again while its replacement is not ready. What was asked of it last is in the revision
// before this one, or where that was another passing one, in that which it was started by.
func (e *Engine) former(ctx context.Context, d *desired, inst driver.Instance) *template {
	for _, number := range []int64{d.rev.Number - 1, inst.Revision} {
		if t := e.formerIn(ctx, d, inst, number); t != nil {
			return t
		}
	}
	return nil
}

// formerIn returns the template of an instance as a revision has it, nil where it has none that makes this instance.
func (e *Engine) formerIn(ctx context.Context, d *desired, inst driver.Instance, number int64) *template {
	rev, err := e.cfg.Store.Get(ctx, number)
	if err != nil {
		return nil
	}
	svc, ok := rev.Project.Services[inst.Service]
	if !ok {
		return nil
	}
	svc.Name = inst.Service
	t, err := templateOf(rev.Project, svc)
	if err != nil {
		return nil
	}
	for restarts := d.generation(); restarts >= 0; restarts-- {
		if t.hash(restarts) == inst.Hash {
			return &t
		}
	}
	return nil
}

func sortedKeys[K cmp.Ordered, V any](m map[K]V) []K {
	return slices.Sorted(maps.Keys(m))
}
