package local

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"trellis/compose"
	"trellis/engine"
	"trellis/errdefs"
	"trellis/state"
)

// Apply implements engine.Engine.
func (e *Engine) Apply(ctx context.Context, rev state.Revision, base engine.StateID) (state.Revision, error) {
	fail := func(err error) (state.Revision, error) {
		return state.Revision{}, fmt.Errorf("apply %s: %w", e.cfg.Project, err)
	}
	if err := e.checkProject(rev.Project.Name); err != nil {
		return fail(err)
	}
	if err := e.check(rev.Project); err != nil {
		return fail(err)
	}
	e.writes.Lock()
	defer e.writes.Unlock()
	d, err := e.load(ctx)
	if err != nil {
		return fail(err)
	}
	after := int64(0)
	if d != nil {
		after = d.rev.Number
	}
	if base != "" && base != d.id() {
		return fail(fmt.Errorf("%w: the project is no longer as it was when this was planned: plan again", errdefs.ErrConflict))
	}
	rev.Outcome, rev.HealthyAt = state.Pending, nil
	if rev.AppliedAt.IsZero() {
		rev.AppliedAt = time.Now()
	}
	defer e.touch() // also where it is not known whether the store took it
	if rev, err = e.cfg.Store.Put(ctx, rev, after, d.remaining(rev.Project, false)...); err != nil {
		return fail(err)
	}
	// From here on it is what is wanted, whether or not the caller still waits.
	e.overtake(context.WithoutCancel(ctx), d, rev.Number)
	e.record(event{kind: "revision.applied", reason: rev.Cause, message: "applied", revision: rev.Number, actor: rev.Actor})
	return rev, nil
}

// remaining is what an apply of p leaves of the wishes beside the file, or with back what the engine does where it goes back to p by
// itself.
func (d *desired) remaining(p compose.Project, back bool) []state.Override {
	if d == nil {
		return nil
	}
	var all []state.Override
	for _, o := range d.overrides {
		all = append(all, engine.Remaining(o, engine.ServiceOf(&d.rev.Project, o.Service), engine.ServiceOf(&p, o.Service), back))
	}
	return all
}

// touch makes the loop read what is wanted anew.
func (e *Engine) touch() {
	e.mu.Lock()
	e.stale = true
	e.mu.Unlock()
	e.poke()
}

// check refuses a project that can never run here, with everything that is wrong with it.
func (e *Engine) check(p compose.Project) error {
	var all []error
	if cycle := findCycle(p); cycle != nil {
		all = append(all, fmt.Errorf("%w: depends_on goes in a circle: %s", errdefs.ErrInvalid, strings.Join(cycle, " -> ")))
	}
	for _, name := range p.ServiceNames() {
		svc := p.Services[name]
		svc.Name = name
		if _, err := e.driverOf(svc); err != nil {
			all = append(all, err)
		}
		for _, dep := range sortedKeys(svc.DependsOn) {
			if _, ok := p.Services[dep]; !ok && svc.DependsOn[dep].Required {
				all = append(all, fmt.Errorf("service %s: %w: depends on %s, which is not there", name, errdefs.ErrInvalid, dep))
			}
		}
	}
	return errors.Join(all...)
}

// findCycle returns the services of a circle of dependencies, the first one again at its end; nil where there is none.
func findCycle(p compose.Project) []string {
	const (
		entered = 1
		left    = 2
	)
	marks := map[string]int{}
	var path, cycle []string
	var visit func(name string) bool
	visit = func(name string) bool {
		switch marks[name] {
		case left:
			return false
		case entered:
			cycle = append(slices.Clone(path[slices.Index(path, name):]), name)
			return true
		}
		marks[name] = entered
		path = append(path, name)
		for _, dep := range sortedKeys(p.Services[name].DependsOn) {
			if visit(dep) {
				return true
			}
		}
		path = path[:len(path)-1]
		marks[name] = left
		return false
	}
	for _, name := range p.ServiceNames() {
		if visit(name) {
			return cycle
		}
	}
	return nil
}

// Override implements engine.Engine.
func (e *Engine) Override(ctx context.Context, project string, o state.Override) error {
	fail := func(err error) error { return fmt.Errorf("override %s: %w", o.Service, err) }
	if err := e.checkProject(project); err != nil {
		return fail(err)
	}
	actor := o.Actor
	o.Actor = ""
	e.writes.Lock()
	defer e.writes.Unlock()
	d, err := e.load(ctx)
	if err != nil {
		return fail(err)
	}
	if d == nil || d.services[o.Service] == nil {
		return fail(fmt.Errorf("%w: no such service", errdefs.ErrNotFound))
	}
	if o.Replicas != nil && *o.Replicas < 0 {
		return fail(fmt.Errorf("%w: %d replicas", errdefs.ErrInvalid, *o.Replicas))
	}
	if a := d.services[o.Service].scaling; a != nil && o.Replicas != nil {
		return fail(fmt.Errorf("%w: %s is scaled by its load, between %d and %d; change deploy.x-trellis.autoscale in the file and run up",
			errdefs.ErrConflict, o.Service, a.Min, a.Max))
	}
	defer e.touch() // also where it is not known whether the store took it
	if err := e.cfg.Store.SetOverride(ctx, o); err != nil {
		return fail(err)
	}
	e.record(event{kind: "service.override", service: o.Service, reason: "asked", message: engine.Wish(o), revision: d.rev.Number, actor: actor})
	return nil
}
