package local

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"trellis/compose"
	"trellis/driver"
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
	if rev, err = e.cfg.Store.Put(ctx, rev, after); err != nil {
		return fail(err)
	}
	if err := e.clearOverrides(ctx, d, rev.Project); err != nil {
		return fail(err)
	}
	if err := e.cfg.Store.SetValue(ctx, valueDeleted, nil); err != nil {
		return fail(err)
	}
	e.record(event{kind: "revision.applied", reason: rev.Cause, message: "applied", revision: rev.Number, actor: rev.Actor})
	e.touch()
	return rev, nil
}

// clearOverrides removes the wishes that an apply ends: stop always, scale where the file's own number changed, and
// everything for a service that is gone.
func (e *Engine) clearOverrides(ctx context.Context, before *desired, p compose.Project) error {
	if before == nil {
		return nil
	}
	for _, o := range before.overrides {
		svc, there := p.Services[o.Service]
		was, known := before.rev.Project.Services[o.Service]
		next := state.Override{Service: o.Service, Replicas: o.Replicas, Restart: o.Restart}
		if known && engine.Replicas(svc) != engine.Replicas(was) {
			next.Replicas = nil
		}
		if !there {
			next = state.Override{Service: o.Service}
		}
		if err := e.cfg.Store.SetOverride(ctx, next); err != nil {
			return err
		}
	}
	return nil
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
	if err := e.cfg.Store.SetOverride(ctx, o); err != nil {
		return fail(err)
	}
	e.record(event{kind: "service.override", service: o.Service, reason: "asked", message: overrideWords(o), revision: d.rev.Number})
	e.touch()
	return nil
}

func overrideWords(o state.Override) string {
	var words []string
	if o.Replicas != nil {
		words = append(words, fmt.Sprintf("scaled to %d", *o.Replicas))
	}
	if o.Restart > 0 {
		words = append(words, fmt.Sprintf("restart %d", o.Restart))
	}
	if o.Stopped {
		words = append(words, "stopped")
	}
	if len(words) == 0 {
		return "as the file says"
	}
	return strings.Join(words, ", ")
}

// Delete implements engine.Engine. Run has to be running: it does the work.
func (e *Engine) Delete(ctx context.Context, project string, opt engine.DeleteOptions) error {
	fail := func(err error) error { return fmt.Errorf("delete %s: %w", project, err) }
	if err := e.checkProject(project); err != nil {
		return fail(err)
	}
	d, err := e.markDeleted(ctx)
	if err != nil {
		return fail(err)
	}
	if d == nil {
		return nil // nothing was ever made
	}
	if err := e.gone(ctx, d, opt); err != nil {
		return fail(err)
	}
	return nil
}

// markDeleted makes it known, durably, that nothing is wanted any more.
func (e *Engine) markDeleted(ctx context.Context) (*desired, error) {
	e.writes.Lock()
	defer e.writes.Unlock()
	d, err := e.load(ctx)
	if err != nil || d == nil {
		return nil, err
	}
	if err := e.cfg.Store.SetValue(ctx, valueDeleted, true); err != nil {
		return nil, err
	}
	e.record(event{kind: "project.deleted", reason: "asked", message: "everything is stopped", revision: d.rev.Number})
	e.touch()
	return d, nil
}

// gone blocks until nothing is left of a deleted project.
func (e *Engine) gone(ctx context.Context, d *desired, opt engine.DeleteOptions) error {
	killed := map[driver.ID]bool{}
	for tick := time.NewTicker(20 * time.Millisecond); ; {
		list, drivers, err := e.list(ctx)
		if err == nil && len(list) == 0 {
			tick.Stop()
			break
		}
		for _, inst := range list {
			if opt.Now && inst.State != driver.Exited && !killed[inst.ID] {
				killed[inst.ID] = true
				if err := e.cfg.Drivers[drivers[inst.ID]].Stop(ctx, inst.ID, 0); err != nil {
					e.log.Warn("instance could not be killed", "instance", string(inst.ID), "err", err)
				}
			}
		}
		select {
		case <-ctx.Done():
			tick.Stop()
			return ctx.Err()
		case <-tick.C:
		}
	}
	if err := e.cfg.Store.SetValue(ctx, valueHooks, nil); err != nil {
		return fmt.Errorf("forget hooks: %w", err)
	}
	e.mu.Lock()
	clear(e.memory.hooksDone)
	e.mu.Unlock()
	if !opt.Volumes {
		return nil
	}
	return e.removeVolumes(ctx, d)
}

// removeVolumes removes the volumes that a project made: named ones that are not external, and those without a name.
func (e *Engine) removeVolumes(ctx context.Context, d *desired) error {
	byDriver := map[string][]string{}
	external := map[string]bool{}
	p := d.rev.Project
	for key, v := range p.Volumes {
		external[volumeName(p, key)] = v.External
	}
	for _, name := range p.ServiceNames() {
		s := d.services[name]
		for _, m := range s.template.spec.Mounts {
			switch {
			case m.Kind != compose.MountVolume || external[m.Source]:
			case m.Source != "":
				byDriver[s.driver] = append(byDriver[s.driver], m.Source)
			default:
				for slot := 1; slot <= max(s.want.replicas, 1); slot++ {
					byDriver[s.driver] = append(byDriver[s.driver], anonymous(e.cfg.Project, name, slot, m.Target))
				}
			}
		}
	}
	for _, name := range sortedKeys(byDriver) {
		remover, ok := e.cfg.Drivers[name].(VolumeRemover)
		if !ok {
			return fmt.Errorf("remove volumes: %w: driver %s keeps none", errdefs.ErrUnsupported, name)
		}
		names := byDriver[name]
		slices.Sort(names)
		if err := remover.RemoveVolumes(ctx, slices.Compact(names)); err != nil {
			return fmt.Errorf("remove volumes: %w", err)
		}
	}
	return nil
}
