package local

import (
	"context"
	"fmt"
	"math"
	"reflect"
	"slices"
	"sync"
	"time"

	"trellis/autoscale"
	"trellis/compose"
	"trellis/driver"
	"trellis/engine"
	"trellis/errdefs"
	"trellis/proxy"
)

// Demander is the optional ability of a Plane to tell the load of services.
type Demander interface {
	// Demand calls told, one call at a time, with what each data plane says: at once when requests begin to wait and
	// otherwise several times a second, until ctx is done.
	Demand(ctx context.Context, told func(proxy.Demands)) error
}

// scaled is what the autoscaler has decided for a service. The store keeps it: no apply and no restart resets it.
type scaled struct {
	Replicas int       `json:"replicas"`
	Reason   string    `json:"reason"`
	At       time.Time `json:"at"`
}

const valueScaled = "engine/scaled"

// wakeHold is how long requests wait for a service that is scaled to nothing and started for them.
const wakeHold = 30 * time.Second

// autoscaled is the configuration of the autoscaler for a service, nil where it has none.
func autoscaled(svc compose.Service) *autoscale.Config {
	a := svc.Deploy.Trellis.Autoscale
	if a == nil {
		return nil
	}
	cfg := &autoscale.Config{Min: a.Min, Max: a.Max, StableWindow: a.Window.Or(autoscale.DefaultStableWindow)}
	cfg.PanicWindow = cfg.StableWindow / 10 // Knative's panic-window-percentage
	if a.DownDelay != nil {
		cfg.DownDelay = max(time.Duration(*a.DownDelay), 1) // 0 is a wish, not the default
	}
	for _, m := range []autoscale.Metric{autoscale.Concurrency, autoscale.RPS, autoscale.CPU} {
		if v, ok := a.Target[string(m)]; ok {
			cfg.Targets = append(cfg.Targets, autoscale.Target{Metric: m, Value: v})
		}
	}
	return cfg
}

// replicasOf is how many instances an autoscaled service is to have: what was decided last, at first what its file says.
func replicasOf(svc compose.Service, cfg autoscale.Config, was *scaled) int {
	n := engine.Replicas(svc)
	if was != nil {
		n = was.Replicas
	}
	return min(max(n, cfg.Min), cfg.Max)
}

// decided returns what was decided for a service, nil for nothing yet.
func decided(all map[string]scaled, service string) *scaled {
	if was, ok := all[service]; ok {
		return &was
	}
	return nil
}

// shown is what Observe says of the autoscaler of a service.
func (s *service) shown(was *scaled) *engine.Autoscale {
	if s.scaling == nil {
		return nil
	}
	a := &engine.Autoscale{Min: s.scaling.Min, Max: s.scaling.Max}
	if was != nil {
		a.Reason, a.DecidedAt = was.Reason, was.At
	}
	return a
}

// carryLoad sets what the data plane has to know of the bounds of a service, and of its autoscaling. A concurrency target is also what one
// instance is given at a time, as in Knative: what goes beyond waits in line until there are more of them.
func carryLoad(s *proxy.Service, svc compose.Service) {
	if b := svc.Trellis.Breaker; b != nil {
		s.Concurrency, s.Pending, s.Failures = b.Concurrency, b.Pending, b.Failures
	}
	a := svc.Deploy.Trellis.Autoscale
	if a == nil {
		return
	}
	s.Measured = true
	if most := int(math.Ceil(a.Target[string(autoscale.Concurrency)])); most > 0 && (s.Concurrency == 0 || most < s.Concurrency) {
		s.Concurrency = most
	}
	if a.Min == 0 {
		s.Hold, s.Wakes = wakeHold, true
	}
}

// scaling runs the autoscaler of every service that has one.
type scaling struct {
	e *Engine

	mu       sync.Mutex // guards what follows; e.mu may be taken inside of it, never the other way round
	services map[string]*scalingService
	stored   map[string]scaled // as this one wrote it last, nil: never; the loop reads it later
	decided  time.Time
}

// scalingService is the autoscaler of one service and what it was told.
type scalingService struct {
	cfg    autoscale.Config
	scaler *autoscale.Scaler
	want   int // as decided last
	totals autoscale.Totals
	seen   map[string]sighting         // by source
	toldAt time.Time                   // when any of them said something last
	cpu    map[driver.ID]time.Duration // by instance, as read last
	cpuAt  time.Time                   // when all were read last
}

// sighting is what one data plane said last.
type sighting struct {
	demand proxy.Demand
	at     time.Time
}

const (
	// scaleTick is how often is decided where nothing is told; Knative's tick.
	scaleTick = 2 * time.Second
	// scalePause is the least time between two decisions that no waiting request asks for.
	scalePause = 200 * time.Millisecond
	// sourceLife is how long a data plane may say nothing until it is forgotten.
	sourceLife = time.Minute
)

// run decides until ctx is done.
func (s *scaling) run(ctx context.Context, plane Demander) {
	var others sync.WaitGroup
	defer others.Wait()
	others.Go(func() {
		for ctx.Err() == nil {
			if err := plane.Demand(ctx, func(d proxy.Demands) { s.take(ctx, d) }); err != nil && ctx.Err() == nil {
				s.e.log.Warn("demand is not told; asked again in a second", "err", err)
			}
			select {
			case <-ctx.Done():
			case <-time.After(retryAfter):
			}
		}
	})
	tick := time.NewTicker(scaleTick)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case now := <-tick.C:
			s.readCPU(ctx, now)
			s.decide(ctx, now)
		}
	}
}

// take takes over what one data plane has told, and decides if it is time.
func (s *scaling) take(ctx context.Context, all proxy.Demands) {
	now, urgent := time.Now(), false
	s.mu.Lock()
	for name, d := range all.Services {
		if one := s.services[name]; one != nil {
			urgent = one.take(all.Source, d, now) || urgent
		}
	}
	due := urgent || now.Sub(s.decided) >= scalePause
	s.mu.Unlock()
	if due {
		s.decide(ctx, now)
	}
}

// take adds what one data plane has told; it says whether requests have begun to wait. What it has counted before it was heard of, or
// after it was forgotten, is no load of this moment: its first line only says from where on it counts.
func (o *scalingService) take(source string, d proxy.Demand, now time.Time) (urgent bool) {
	before, known := o.seen[source]
	was := before.demand
	if !known {
		was = proxy.Demand{Requests: d.Requests, BusySeconds: d.BusySeconds}
	}
	o.totals.Requests += float64(d.Requests - min(was.Requests, d.Requests))
	o.totals.BusySeconds += max(d.BusySeconds-was.BusySeconds, 0)
	o.seen[source], o.toldAt = sighting{d, now}, now
	for name, other := range o.seen {
		if now.Sub(other.at) > sourceLife {
			delete(o.seen, name)
		}
	}
	o.observe(now)
	return d.Waiting > 0 && was.Waiting == 0
}

// observe tells the scaler what there is. Demand that was not told for a while is not known, nor is CPU that was not read.
func (o *scalingService) observe(now time.Time) {
	t := o.totals
	if now.Sub(o.toldAt) > 3*scaleTick {
		t.Requests, t.BusySeconds = math.NaN(), math.NaN()
	}
	if now.Sub(o.cpuAt) > 3*scaleTick {
		t.CPUSeconds = math.NaN()
	}
	o.scaler.Observe(autoscale.Reading{At: now, Totals: t})
}

// readCPU adds what the instances of services have used that are scaled by it, from when each was first read. Where one
// cannot be read, none counts: what is missing must not look like idleness. A driver that does not answer keeps nobody waiting
// who is scaled by something else.
func (s *scaling) readCPU(ctx context.Context, now time.Time) {
	running := s.e.running()
	for name, o := range s.byCPU() {
		used, err := s.e.cpuOf(ctx, running[name])
		if err != nil {
			continue
		}
		limit := s.e.limitOf(name)
		s.mu.Lock()
		o.used(used, limit, now)
		s.mu.Unlock()
	}
}

// byCPU returns the services that are scaled by what they use.
func (s *scaling) byCPU() map[string]*scalingService {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := map[string]*scalingService{}
	for name, o := range s.services {
		if slices.ContainsFunc(o.cfg.Targets, func(t autoscale.Target) bool { return t.Metric == autoscale.CPU }) {
			all[name] = o
		}
	}
	return all
}

// cpuOf reads what instances have used so far.
func (e *Engine) cpuOf(ctx context.Context, running []runningInstance) (map[driver.ID]time.Duration, error) {
	ctx, cancel := context.WithTimeout(ctx, listLimit)
	defer cancel()
	used := make(map[driver.ID]time.Duration, len(running))
	for _, r := range running {
		if e.isAway(r.driver) {
			return nil, fmt.Errorf("usage of %s: %w: its driver does not answer", r.id, errdefs.ErrUnavailable)
		}
		u, err := e.cfg.Drivers[r.driver].Stats(ctx, r.id)
		if err != nil {
			return nil, err
		}
		used[r.id] = u.CPU
	}
	return used, nil
}

// used takes over what was read of all instances.
func (o *scalingService) used(all map[driver.ID]time.Duration, limit float64, now time.Time) {
	for id, cpu := range all {
		before, known := o.cpu[id]
		if !known {
			continue // what it used before is no load of this moment
		}
		grown := cpu - before
		if grown < 0 {
			grown = cpu // started anew
		}
		o.totals.CPUSeconds += grown.Seconds() / limit
	}
	o.cpu, o.cpuAt = all, now
	o.observe(now)
}

// decide asks every scaler, writes down what has changed and has the loop carry it out.
func (s *scaling) decide(ctx context.Context, now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.decided = now
	all, ready := s.sync()
	var changed []event
	before := map[string]int{}
	for _, name := range sortedKeys(s.services) {
		o := s.services[name]
		d := o.scaler.Decide(now, autoscale.Have{Want: o.want, Ready: ready[name]})
		if d.Replicas == o.want {
			continue
		}
		before[name] = o.want
		all[name] = scaled{Replicas: d.Replicas, Reason: d.Reason, At: now}
		changed = append(changed, event{
			kind: "service.scaled", service: name, reason: "autoscale", message: fmt.Sprintf("from %d to %d: %s", o.want, d.Replicas, d.Reason),
		})
		o.want = d.Replicas
	}
	if len(changed) == 0 {
		return
	}
	if err := s.e.cfg.Store.SetValue(ctx, valueScaled, all); err != nil {
		if ctx.Err() == nil {
			s.e.log.Error("a scaling decision could not be written", "err", err)
		}
		for name, want := range before {
			s.services[name].want = want // decided again, soon
		}
		return
	}
	s.stored = all
	for _, ev := range changed {
		s.e.record(ev)
	}
	s.e.touch()
}

// sync makes the scalers those of the services that are wanted now. It returns what was decided before, and how many
// instances of each service take requests.
func (s *scaling) sync() (all map[string]scaled, ready map[string]int) {
	e := s.e
	all, ready = map[string]scaled{}, map[string]int{}
	e.mu.Lock()
	defer e.mu.Unlock()
	wanted := map[string]bool{}
	if d := e.desired; d != nil && !d.deleting {
		before := d.scaled
		if s.stored != nil {
			before = s.stored
		}
		for name, svc := range d.services {
			was := decided(before, name)
			if was != nil && svc.scaling != nil {
				all[name] = *was
			}
			if svc.scaling == nil || svc.want.stopped {
				continue
			}
			wanted[name] = true
			o := s.services[name]
			if o != nil && reflect.DeepEqual(o.cfg, *svc.scaling) {
				continue
			}
			scaler, err := autoscale.New(*svc.scaling)
			if err != nil {
				continue // resolve has said so
			}
			s.services[name] = &scalingService{
				cfg: *svc.scaling, scaler: scaler, want: replicasOf(svc.compose, *svc.scaling, was), seen: map[string]sighting{},
				cpu: map[driver.ID]time.Duration{},
			}
		}
	}
	for name := range s.services {
		if !wanted[name] {
			delete(s.services, name)
		}
	}
	for _, m := range e.memory.instances {
		if m.ready && m.hook == 0 && m.drainSince.IsZero() {
			ready[m.service]++
		}
	}
	return all, ready
}

// runningInstance is where an instance is reached.
type runningInstance struct {
	id     driver.ID
	driver string
}

// running returns the instances that run and have been ready, by service. One that is not any more is as busy as it was.
func (e *Engine) running() map[string][]runningInstance {
	e.mu.Lock()
	defer e.mu.Unlock()
	all := map[string][]runningInstance{}
	for id, m := range e.memory.instances {
		if m.listed && m.hook == 0 && m.wasReady && m.over.IsZero() {
			all[m.service] = append(all[m.service], runningInstance{id, m.driver})
		}
	}
	return all
}

// limitOf returns the CPUs that one instance of a service may use; one where the file says nothing.
func (e *Engine) limitOf(service string) float64 {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.desired != nil && e.desired.services[service] != nil {
		if n := e.desired.services[service].compose.Deploy.Resources.Limits.CPUs; n > 0 {
			return n
		}
	}
	return 1
}
