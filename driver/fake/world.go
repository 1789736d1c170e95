// Package fake is a driver whose instances do not exist: each follows a Script. It keeps the whole contract of package
// driver, costs a few microseconds an instance, and takes its time from package time alone, so that a test in a
// testing/synctest bubble runs hours in no time and always the same way.
package fake

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"trellis/driver"
)

// World holds instances. It outlives the drivers that are made on it, as a machine outlives a program.
type World struct {
	mu       sync.Mutex
	projects map[string]*projectWorld
	choosers map[string]Chooser
	fault    func(op string, id driver.ID) error
	nextPID  int
	nextHost int
	hosts    map[string]*instance // by address
	watchers map[*watcher]struct{}
	starts   int
	rates    map[string]float64 // CPUs that each process of a service uses; defaultRate where it is not in it
}

const defaultRate = 0.01

type projectWorld struct {
	instances map[driver.ID]*instance
	order     []driver.ID // sorted; nil: to be made anew
}

// NewWorld returns an empty world.
func NewWorld() *World {
	return &World{
		projects: map[string]*projectWorld{},
		choosers: map[string]Chooser{},
		hosts:    map[string]*instance{},
		watchers: map[*watcher]struct{}{},
		nextPID:  1000,
		rates:    map[string]float64{},
	}
}

// Driver returns a driver on w.
func (w *World) Driver() *Driver { return &Driver{w: w} }

// Script makes every run of a service follow s from its next start on.
func (w *World) Script(service string, s Script) {
	w.Choose(service, func(driver.Spec, int) Script { return s })
}

// Choose makes c choose the script of every run of a service from its next start on.
func (w *World) Choose(service string, c Chooser) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.choosers[service] = c
}

// Fault makes f decide, at the beginning of every call of a driver ("start", "stop", "remove", "list", "stats", "examine"), whether the
// call fails and does nothing. nil: none does.
func (w *World) Fault(f func(op string, id driver.ID) error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.fault = f
}

func (w *World) failing(op string, id driver.ID) error {
	w.mu.Lock()
	f := w.fault
	w.mu.Unlock()
	if f == nil {
		return nil
	}
	if err := f(op, id); err != nil {
		return fmt.Errorf("%s %s: %w", op, id, err)
	}
	return nil
}

// Crash ends a running instance as if its program had died: by the signal, or with the code where signal is "". It
// returns false where no such instance runs.
func (w *World) Crash(id driver.ID, code int, signal string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	inst := w.get(id)
	if inst == nil || inst.State != driver.Running {
		return false
	}
	w.end(inst, exitOf(code, signal))
	return true
}

// Hang makes Probe get no answer from a running instance until it is started again.
func (w *World) Hang(id driver.ID) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if inst := w.get(id); inst != nil {
		inst.hung = true
	}
}

// Burn makes each process of a service use so many CPUs from now on.
func (w *World) Burn(service string, cpus float64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, p := range w.projects {
		for _, inst := range p.instances {
			if inst.Service == service {
				w.burn(inst)
			}
		}
	}
	w.rates[service] = cpus
}

// burn brings an instance's CPU time up to date. The caller holds mu.
func (w *World) burn(inst *instance) {
	rate, ok := w.rates[inst.Service]
	if !ok {
		rate = defaultRate
	}
	if inst.burntAt.Before(inst.StartedAt) {
		inst.burnt, inst.burntAt = 0, inst.StartedAt
	}
	now := time.Now()
	inst.burnt += time.Duration(rate * float64(1+inst.script.Children) * float64(now.Sub(inst.burntAt)))
	inst.burntAt = now
}

// Starts returns how many programs were started in this world so far.
func (w *World) Starts() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.starts
}

// Left returns the IDs of everything the world still knows of, sorted.
func (w *World) Left() []driver.ID {
	w.mu.Lock()
	defer w.mu.Unlock()
	var ids []driver.ID
	for _, p := range w.projects {
		ids = slices.AppendSeq(ids, maps.Keys(p.instances))
	}
	slices.Sort(ids)
	return ids
}

// Spec returns the specification that an instance was last started with.
func (w *World) Spec(id driver.ID) (driver.Spec, bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	inst := w.get(id)
	if inst == nil {
		return driver.Spec{}, false
	}
	return inst.spec, true
}

// get returns an instance, nil where there is none. The caller holds mu.
func (w *World) get(id driver.ID) *instance {
	for _, p := range w.projects {
		if inst, ok := p.instances[id]; ok {
			return inst
		}
	}
	return nil
}

func (w *World) script(spec driver.Spec, run int) Script {
	if s, ok := parse(spec.Command); ok {
		return s
	}
	if c, ok := w.choosers[spec.Service]; ok {
		return c(spec, run)
	}
	return Script{}
}

// watcher is one Watch: the instances it has still to tell of.
type watcher struct {
	project string
	mu      sync.Mutex
	due     map[driver.ID]struct{}
	wake    chan struct{} // capacity 1
}

func (w *World) changed(inst *instance) {
	close(inst.moved)
	inst.moved = make(chan struct{})
	for watch := range w.watchers {
		if watch.project != inst.Project {
			continue
		}
		watch.mu.Lock()
		watch.due[inst.ID] = struct{}{}
		watch.mu.Unlock()
		select {
		case watch.wake <- struct{}{}:
		default:
		}
	}
}

// Watch is driver.Driver's.
func (d *Driver) Watch(ctx context.Context, project string, changed func(driver.ID)) error {
	watch := &watcher{project: project, due: map[driver.ID]struct{}{}, wake: make(chan struct{}, 1)}
	d.w.mu.Lock()
	d.w.watchers[watch] = struct{}{}
	d.w.mu.Unlock()
	defer func() {
		d.w.mu.Lock()
		delete(d.w.watchers, watch)
		d.w.mu.Unlock()
	}()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-watch.wake:
		}
		watch.mu.Lock()
		due := slices.Sorted(maps.Keys(watch.due))
		clear(watch.due)
		watch.mu.Unlock()
		for _, id := range due {
			if ctx.Err() != nil {
				return nil
			}
			changed(id)
		}
	}
}

// Deviate makes Examine say that a running instance is otherwise than it was started, until it is started again.
func (w *World) Deviate(id driver.ID, all ...driver.Deviation) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if inst := w.get(id); inst != nil {
		inst.deviations = all
	}
}
