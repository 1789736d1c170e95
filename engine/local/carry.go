package local

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"trellis/driver"
	"trellis/engine"
	"trellis/errdefs"
	"trellis/state"
)

// evidenceLimit bounds how long the last lines of a failed instance are waited for before its rollout goes back.
const evidenceLimit = 2 * time.Second

// writeDown writes what a plan decided about rollouts, in the background, and has the loop plan again on it; where it
// decided nothing, what was measured of those that go on. The caller holds mu.
func (l *loop) writeDown(decided, grown []state.Rollout) {
	rollouts := decided
	if len(decided) == 0 {
		rollouts = grown
	}
	if l.writing || len(rollouts) == 0 {
		return
	}
	l.writing = true
	l.tasks.Go(func() {
		for _, r := range rollouts {
			if r.Failure != nil && r.Failure.Instance != "" && len(r.Failure.Log) == 0 {
				l.addEvidence(&r)
			}
			l.mu.Lock()
			r.Ledger = l.ledger(r)
			l.mu.Unlock()
			if _, err := l.cfg.Store.SetRollout(l.ctx, r); err == nil {
				if len(decided) > 0 {
					l.tellRollout(r)
				}
			} else if !errors.Is(err, errdefs.ErrConflict) && l.ctx.Err() == nil { // else somebody promoted or aborted it: plan on that
				l.log.Error("rollout could not be written", "service", r.Service, "err", err)
				l.sleep(retryAfter)
			}
		}
		l.mu.Lock()
		l.writing, l.stale = false, true
		l.mu.Unlock()
		l.poke()
	})
}

// addEvidence adds the last lines of the instance that made a rollout fail, before it is removed.
func (l *loop) addEvidence(r *state.Rollout) {
	id := full(l.cfg.Project, engine.InstanceID(r.Failure.Instance))
	l.mu.Lock()
	m := l.memory.instances[id]
	l.mu.Unlock()
	if m == nil {
		return
	}
	ctx, cancel := context.WithTimeout(l.ctx, evidenceLimit)
	defer cancel()
	failure := *r.Failure
	failure.Log = tail(ctx, l.cfg.Drivers[m.driver], id)
	r.Failure = &failure
}

func (e *Engine) tellRollout(r state.Rollout) {
	kind := "rollout." + r.Phase
	switch {
	case r.Phase == state.Rolling && r.Version == 0:
		kind = "rollout.began"
	case r.Phase == state.Rolling && r.Failure != nil:
		kind = "rollout.failing"
	case r.Phase == state.Rolling:
		kind = "rollout.step"
	}
	ev := event{kind: kind, service: r.Service, reason: "rollout", message: r.Reason, revision: r.Revision, actor: r.Actor}
	if r.Failure != nil && r.Failure.Instance != "" {
		ev.id = full(e.cfg.Project, engine.InstanceID(r.Failure.Instance))
	}
	e.record(ev)
}

// goBack makes the revision before the wanted one again, after a rollout that failed. It may be cut short anywhere and
// begun again: what it has to do follows from the rollout that was taken back.
func (l *loop) goBack(d *desired, reason string, now time.Time) error {
	if !l.writes.TryLock() { // an apply or a deletion is under way, and decides what is wanted
		time.AfterFunc(retryAfter/10, l.poke)
		return nil
	}
	defer l.writes.Unlock()
	fresh, err := l.load(l.ctx)
	if err != nil {
		return err
	}
	defer l.touch()
	if fresh == nil || fresh.deleting || fresh.rev.Number != d.rev.Number {
		return nil
	}
	goal, err := l.cfg.Store.Get(l.ctx, d.want.goal)
	if err != nil {
		return fmt.Errorf("go back to revision %d: %w", d.want.goal, err)
	}
	if fresh.rev.Outcome == state.Pending {
		if err := l.cfg.Store.Settle(l.ctx, d.rev.Number, state.RolledBack, now); err != nil {
			return fmt.Errorf("settle revision %d: %w", d.rev.Number, err)
		}
		l.record(event{kind: "revision." + state.RolledBack, reason: d.rev.Cause, message: reason, revision: d.rev.Number})
	}
	rev, err := l.cfg.Store.Put(l.ctx, state.Revision{
		Project: goal.Project, Commit: goal.Commit, AppliedAt: now, Actor: "trellis", Undoes: d.rev.Number,
		Cause: fmt.Sprintf("automatic rollback to %d", goal.Number),
	}, d.rev.Number, fresh.remaining(goal.Project, true)...)
	if err != nil {
		return fmt.Errorf("go back to revision %d: %w", goal.Number, err)
	}
	l.overtake(l.ctx, fresh, rev.Number)
	l.record(event{kind: "revision.applied", reason: rev.Cause, message: reason, revision: rev.Number})
	return nil
}

// Instruct implements engine.Engine.
func (e *Engine) Instruct(ctx context.Context, project, service, action, actor string) error {
	fail := func(err error) error { return fmt.Errorf("%s the rollout: %w", action, err) }
	if err := e.checkProject(project); err != nil {
		return fail(err)
	}
	e.writes.Lock()
	defer e.writes.Unlock()
	d, err := e.load(ctx)
	if err != nil {
		return fail(err)
	}
	var open []state.Rollout
	if d != nil && !d.deleting {
		for _, r := range d.rollouts {
			if !r.Over() && (service == "" || r.Service == service) {
				open = append(open, r)
			}
		}
	}
	switch {
	case len(open) == 0 && service != "":
		return fail(fmt.Errorf("%w: none of %s is under way", errdefs.ErrConflict, service))
	case len(open) == 0:
		return fail(fmt.Errorf("%w: none is under way", errdefs.ErrConflict))
	case action == engine.Abort && d.want.goal == 0:
		return fail(fmt.Errorf("%w: there is no healthy revision to go back to", errdefs.ErrConflict))
	}
	defer e.touch()
	for _, r := range open {
		next := func(r state.Rollout) (state.Rollout, error) { return instruct(r, action, actor, time.Now()) }
		if err := e.change(ctx, r, next); err != nil {
			return fail(err)
		}
	}
	return nil
}

// change writes a rollout as next makes it of how it is, also where the loop writes down meanwhile what was measured of it.
func (e *Engine) change(ctx context.Context, r state.Rollout, next func(state.Rollout) (state.Rollout, error)) error {
	for {
		changed, err := next(r)
		if err != nil {
			return err
		}
		if _, err = e.cfg.Store.SetRollout(ctx, changed); err == nil {
			e.tellRollout(changed)
			return nil
		}
		if !errors.Is(err, errdefs.ErrConflict) {
			return err
		}
		all, err := e.cfg.Store.Rollouts(ctx, r.Revision)
		if err != nil {
			return err
		}
		at := slices.IndexFunc(all, func(o state.Rollout) bool { return o.Service == r.Service })
		if at < 0 || all[at].Version == r.Version {
			return fmt.Errorf("%w: it is not there any more", errdefs.ErrConflict)
		}
		r = all[at]
	}
}

// overtake ends the open rollouts of a revision that another one has replaced. Where that fails they only look open:
// nobody plans with those of an earlier revision.
func (e *Engine) overtake(ctx context.Context, d *desired, by int64) {
	if d == nil {
		return
	}
	for _, r := range d.rollouts {
		if err := e.end(ctx, r, fmt.Sprintf("revision %d came in between", by)); err != nil {
			e.log.Warn("rollout could not be ended", "service", r.Service, "err", err)
		}
	}
}

// end makes an open rollout overtaken.
func (e *Engine) end(ctx context.Context, r state.Rollout, reason string) error {
	err := e.change(ctx, r, func(r state.Rollout) (state.Rollout, error) {
		if r.Over() {
			return r, errOver
		}
		now := time.Now()
		r.Phase, r.Ended, r.Reason = state.Overtaken, &now, reason
		return r, nil
	})
	if errors.Is(err, errOver) {
		return nil
	}
	return err
}

var errOver = errors.New("it is over")

// loadRollouts reads the rollouts of the wanted revision and of the one that it undoes, and finds what a failed one goes
// back to.
func (e *Engine) loadRollouts(ctx context.Context, d *desired) error {
	all, err := e.cfg.Store.Rollouts(ctx, d.rev.Number)
	if err != nil {
		return fmt.Errorf("read rollouts: %w", err)
	}
	d.rollouts = make(map[string]state.Rollout, len(all))
	for _, r := range all {
		d.rollouts[r.Service] = r
	}
	d.told = all
	if d.rev.Undoes > 0 {
		undone, err := e.cfg.Store.Rollouts(ctx, d.rev.Undoes)
		if err != nil {
			return fmt.Errorf("read rollouts: %w", err)
		}
		d.told = append(d.told, undone...)
		return nil // one that goes back has nothing behind it
	}
	open := func(r state.Rollout) bool { return !r.Over() || r.Phase == state.TakenBack }
	if d.rev.Outcome != state.Pending && !slices.ContainsFunc(all, open) {
		return nil
	}
	goal, err := e.cfg.Store.LastHealthy(ctx, d.rev.Number)
	if err != nil && !errors.Is(err, errdefs.ErrNotFound) {
		return fmt.Errorf("read the revision to go back to: %w", err)
	}
	d.goal = goal.Number
	return nil
}

// shares are the weights of the instances of a service; zero: none are set.
type shares struct{ old, new int }

// weigh gives the instances of a service their weights while a canary lasts.
func weigh(r state.Rollout, hash string, list []driver.Instance, memory map[driver.ID]*known) shares {
	if r.Over() || r.Share == nil {
		return shares{}
	}
	olds, news := 0, 0
	for _, inst := range list {
		m := memory[inst.ID]
		if inst.Service != r.Service || m == nil || !m.ready || !m.drainSince.IsZero() {
			continue
		}
		if inst.Hash == hash {
			news++
		} else {
			olds++
		}
	}
	if olds == 0 || news == 0 {
		return shares{}
	}
	const whole = 100_000
	return shares{max(1, int(whole*(1-*r.Share))/olds), max(1, int(whole**r.Share)/news)}
}
