package local

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"time"

	"trellis/driver"
	"trellis/engine"
	"trellis/errdefs"
	"trellis/state"
)

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
	defer e.touch() // also where it is not known whether the store took it
	if err := e.cfg.Store.SetValue(ctx, valueDeleted, d.rev.Number); err != nil {
		return nil, err
	}
	e.record(event{kind: "project.deleted", reason: "asked", message: "everything is stopped", revision: d.rev.Number})
	return d, nil
}

// deleteLimit is how long Delete waits, beyond the longest grace period, for anything to come closer to its end.
const deleteLimit = 30 * time.Second

// awayLimit is deleteLimit where a driver does not answer: no more is to be expected then.
const awayLimit = 3 * time.Second

// gone blocks until nothing is left of a deleted project, for as long as it becomes less.
func (e *Engine) gone(ctx context.Context, d *desired, opt engine.DeleteOptions) error {
	limit := deleteLimit
	for _, w := range d.want.services {
		limit = max(limit, deleteLimit+w.grace)
	}
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	killed := map[driver.ID]bool{}
	before, since := "", time.Now()
	for {
		if err := e.stillDeleting(ctx); err != nil {
			return err
		}
		c, err := e.list(ctx)
		if err != nil {
			return err
		}
		left := e.leftOf(c)
		if left == "" {
			break
		}
		if left != before {
			before, since = left, time.Now()
		}
		if len(c.away) > 0 && time.Since(since) > awayLimit {
			return fmt.Errorf("%w: left are: %s; they are removed when their driver answers again", errdefs.ErrUnavailable, left)
		}
		if time.Since(since) > limit {
			return fmt.Errorf("%w: nothing went on for %s; left are: %s%s", errdefs.ErrUnavailable, limit, left, e.troubles())
		}
		if opt.Now {
			e.killAll(ctx, c, killed)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
	}
	// Whoever applies from here on waits: what is forgotten and removed now is not what its instances begin with.
	e.writes.Lock()
	defer e.writes.Unlock()
	if err := e.stillDeleting(ctx); err != nil {
		return err
	}
	if err := e.cfg.Store.SetValue(ctx, valueHooks, nil); err != nil {
		return fmt.Errorf("forget hooks: %w", err)
	}
	e.mu.Lock()
	clear(e.memory.hooksDone)
	e.mu.Unlock()
	e.tellLeft(d, opt)
	if !opt.Volumes {
		return nil
	}
	return e.removeVolumes(ctx, d.rev, opt)
}

// tellLeft says what drivers could not remove: it is no failure of the deletion, but who asked for it should know.
func (e *Engine) tellLeft(d *desired, opt engine.DeleteOptions) {
	for _, name := range sortedKeys(e.cfg.Drivers) {
		leaver, ok := e.cfg.Drivers[name].(Leaver)
		if !ok {
			continue
		}
		for _, what := range leaver.Left() {
			e.left(d.rev, opt, what)
		}
	}
}

// left says one thing that stays.
func (e *Engine) left(rev state.Revision, opt engine.DeleteOptions, what string) {
	e.record(event{kind: "project.left", reason: "left", message: what, revision: rev.Number})
	if opt.Left != nil {
		opt.Left(what)
	}
}

// stillDeleting returns an error when somebody applied meanwhile: what runs then is wanted.
func (e *Engine) stillDeleting(ctx context.Context) error {
	d, err := e.refresh(ctx)
	if err != nil {
		return err
	}
	if d != nil && !d.deleting {
		return fmt.Errorf("%w: revision %d was applied meanwhile", errdefs.ErrConflict, d.rev.Number)
	}
	return nil
}

// leftOf says in words what is left: what drivers list, and starts that no list shows yet.
func (e *Engine) leftOf(c census) string {
	var words []string
	listed, counted := map[driver.ID]bool{}, map[string]int{}
	for _, inst := range c.list {
		listed[inst.ID] = true
		counted[c.drivers[inst.ID]]++
		words = append(words, fmt.Sprintf("%s (%s)", short(e.cfg.Project, inst.ID), inst.State))
	}
	for _, name := range sortedKeys(c.away) {
		if a := c.away[name]; counted[name] > 0 || !a.known {
			words = append(words, fmt.Sprintf("instances of driver %s (%s)", name, a.unknown()))
		}
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, id := range sortedKeys(e.memory.instances) {
		if e.memory.instances[id].busy != "" && !listed[id] {
			words = append(words, fmt.Sprintf("%s (%s)", short(e.cfg.Project, id), e.memory.instances[id].busy))
		}
	}
	return strings.Join(words, ", ")
}

// troubles says why the last steps failed, "" where none did.
func (e *Engine) troubles() string {
	e.mu.Lock()
	defer e.mu.Unlock()
	words := ""
	for _, id := range sortedKeys(e.memory.instances) {
		if trouble := e.memory.instances[id].trouble; trouble != "" {
			words += "; " + trouble
		}
	}
	return words
}

// killLimit bounds one kill: a program that the kernel cannot end must not keep the others alive.
const killLimit = 5 * time.Second

// killAll kills what runs, each instance once.
func (e *Engine) killAll(ctx context.Context, c census, killed map[driver.ID]bool) {
	ctx, cancel := context.WithTimeout(ctx, killLimit)
	defer cancel()
	var kills sync.WaitGroup
	for _, inst := range c.list {
		if inst.State == driver.Exited || killed[inst.ID] || c.isAway(inst.ID) {
			continue
		}
		killed[inst.ID] = true
		kills.Go(func() {
			if err := e.cfg.Drivers[c.drivers[inst.ID]].Stop(ctx, inst.ID, 0); err != nil && ctx.Err() == nil {
				e.log.Warn("instance could not be killed", "instance", string(inst.ID), "err", err)
			}
		})
	}
	kills.Wait()
}
