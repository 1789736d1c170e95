package local

import (
	"context"
	"fmt"
	"maps"
	"sync"
	"time"

	"trellis/driver"
	"trellis/state"
)

const (
	// retryAfter is the pause after a round that could not see or remember what it has to.
	retryAfter = time.Second
	// flushLimit bounds how long the end of Run waits for the last events to be written.
	flushLimit = 5 * time.Second
)

// Run implements engine.Engine. It returns after everything it started has ended; instances go on.
func (e *Engine) Run(ctx context.Context, changed func(project string)) error {
	before, err := e.prepare(ctx)
	if ctx.Err() != nil {
		return nil // it was over before it began
	}
	if err != nil {
		return fmt.Errorf("run %s: %w", e.cfg.Project, err)
	}
	ctx, cancel := context.WithCancel(ctx)
	l := &loop{Engine: e, ctx: ctx, before: before, changed: changed, hooks: make(chan struct{}, 1)}
	var others sync.WaitGroup
	for name, d := range e.cfg.Drivers {
		others.Go(func() { l.watch(name, d) })
		others.Go(func() { l.attend(name) })
	}
	if e.cfg.Plane != nil {
		others.Go(func() { e.publish(ctx) })
		others.Go(l.followMeasures)
	}
	if plane, ok := e.cfg.Plane.(Demander); ok {
		others.Go(func() { (&scaling{e: e, services: map[string]*scalingService{}}).run(ctx, plane) })
	}
	others.Go(l.watchDrift)
	recorded := make(chan struct{})
	stopRecording := make(chan struct{})
	go func() {
		defer close(recorded)
		e.recordAll(stopRecording)
	}()
	l.rounds()
	cancel()
	l.stopProbes()
	l.tasks.Wait()
	others.Wait()
	close(stopRecording)
	<-recorded
	return nil
}

// prepare reads what the loop before left.
func (e *Engine) prepare(ctx context.Context) (map[driver.ID]kept, error) {
	if err := e.nextEpoch(ctx); err != nil {
		return nil, err
	}
	before := map[driver.ID]kept{}
	if err := e.value(ctx, valueKept, &before); err != nil {
		return nil, err
	}
	if err := e.recall(ctx); err != nil {
		return nil, err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.stale = true
	if err := e.value(ctx, valueHooks, &e.memory.hooksDone); err != nil {
		return nil, err
	}
	return before, nil
}

// loop is one Run.
type loop struct {
	*Engine
	ctx     context.Context // of Run: a loop lives no longer than the call
	before  map[driver.ID]kept
	changed func(string)
	tasks   sync.WaitGroup      // steps and probes under way
	hooks   chan struct{}       // capacity 1: one at a time writes which are done, so that no older map replaces a newer one
	writing bool                // rollouts are being written down; guarded by mu
	polling bool                // a poll of what is in flight is under way; guarded by mu
	waiting []chan uint64       // starts that wait for the next snapshot; guarded by mu
	missed  map[string]*absence // the drivers that were away in the last round
}

// watch wakes the loop when a driver has news, for as long as it runs.
func (l *loop) watch(name string, d driver.Driver) {
	for l.ctx.Err() == nil {
		if err := d.Watch(l.ctx, l.cfg.Project, func(driver.ID) { l.poke() }); err != nil && l.ctx.Err() == nil && !l.isAway(name) {
			l.log.Warn("watch of a driver ended; the list is asked each second", "driver", name, "err", err)
		}
		select {
		case <-l.ctx.Done():
		case <-time.After(retryAfter):
			l.poke()
		}
	}
}

// rounds plans and acts until ctx is done. Whatever happens only wakes it; each round looks at everything.
func (l *loop) rounds() {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-l.ctx.Done():
			return
		case <-l.wake:
		case <-timer.C:
		}
		next, err := l.round()
		if err != nil {
			if l.ctx.Err() != nil {
				return
			}
			l.log.Error("round failed", "err", err)
			next = time.Now().Add(retryAfter)
		}
		timer.Stop()
		if !next.IsZero() {
			timer.Reset(max(time.Until(next), 0))
		}
		if l.changed != nil {
			l.changed(l.cfg.Project)
		}
	}
}

// round looks, decides and sets steps going. It returns when to look again if nothing happens.
func (l *loop) round() (time.Time, error) {
	d, err := l.refresh(l.ctx)
	if err != nil || d == nil {
		return time.Time{}, err
	}
	l.endSteps()
	c, err := l.list(l.ctx)
	if err != nil {
		return time.Time{}, err
	}
	list := c.list
	l.findFormer(d, list)
	now := time.Now()
	l.mu.Lock()
	l.giveTime(d, c, now)
	l.takeOver(d, c, now)
	judged, grown := l.measure(d, list, now)
	dec := plan(d.want, l.have(d, c, judged), now)
	l.noteProgress(d, dec, now)
	steps := l.routeNow(dec.steps, now)
	if l.cfg.Plane != nil {
		version := l.offerSnapshot(d, list)
		l.stampDrains(version)
		for _, waiting := range l.waiting {
			waiting <- version // has room
		}
		l.waiting = nil
		l.pollInUse(now)
	} else {
		l.idleAtOnce()
	}
	for _, st := range steps {
		l.begin(d, st)
	}
	l.sweep(d, c)
	l.probeAll(d, list)
	l.setHosts(d, c)
	dec.wake = sooner(dec.wake, l.letRevive(d, c, now))
	l.keep(list)
	l.remember(c)
	l.writeDown(dec.rollouts, grown)
	again := len(steps) < len(dec.steps) // what was carried out at once changes the next plan
	l.mu.Unlock()
	switch {
	case len(dec.rollouts) > 0: // first written down
	case dec.back != "":
		err = l.goBack(d, dec.back, now)
	default:
		err = l.settle(d, dec, now)
	}
	if err != nil {
		return time.Time{}, err
	}
	if again {
		l.poke()
	}
	return dec.wake, nil
}

// refresh returns what is wanted, read anew if the store holds something newer. One reads at a time, so that what was
// read earlier never replaces what was read later.
func (e *Engine) refresh(ctx context.Context) (*desired, error) {
	e.reads.Lock()
	defer e.reads.Unlock()
	e.mu.Lock()
	d, stale := e.desired, e.stale
	e.stale = false
	e.mu.Unlock()
	if !stale {
		return d, nil
	}
	d, err := e.load(ctx)
	e.mu.Lock()
	defer e.mu.Unlock()
	if err != nil {
		e.stale = true
		return nil, err
	}
	if d != nil && d.rev.Number != e.memory.revision {
		e.memory.revision = d.rev.Number
		clear(e.memory.progress)
		for _, m := range e.memory.instances {
			m.failures = 0 // whoever applies asks for another try, now
		}
		maps.DeleteFunc(e.memory.refused, func(_ driver.ID, r refusal) bool { return r.revision < d.rev.Number }) // as the planner takes them
		maps.DeleteFunc(e.memory.lastLog, func(name string, _ []string) bool { return d.services[name] == nil })
	}
	e.desired = d
	return d, nil
}

// endSteps lets go of the instances whose step has ended: what is listed from now on shows what it did.
func (l *loop) endSteps() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, m := range l.memory.instances {
		if m.ended {
			m.busy, m.ended = "", false
		}
	}
}

// findFormer looks for the definitions of instances that are not as wanted, once for each.
func (l *loop) findFormer(d *desired, list []driver.Instance) {
	for _, inst := range list {
		svc := d.services[inst.Service]
		if svc == nil {
			continue
		}
		l.mu.Lock()
		m := l.memory.instances[inst.ID]
		if m != nil && svc.hash == inst.Hash {
			m.formerDone = false // once it is not wanted any more, its definition may be another
		}
		search := m != nil && !m.formerDone && svc.hash != inst.Hash
		l.mu.Unlock()
		if !search {
			continue
		}
		t := l.former(l.ctx, d, inst)
		l.mu.Lock()
		m.former, m.formerOf, m.formerDone = t, inst.Revision, true
		l.mu.Unlock()
	}
}

// takeOver brings the memory up to date with what drivers list.
func (l *loop) takeOver(d *desired, c census, now time.Time) {
	for _, m := range l.memory.instances {
		m.listed = false
	}
	for _, inst := range c.list {
		l.observe(d, c.drivers[inst.ID], inst, l.before, now)
		delete(l.before, inst.ID) // it is adopted once
	}
	for id, m := range l.memory.instances {
		if !m.listed && m.busy == "" {
			m.stopProbing()
			delete(l.memory.instances, id)
		}
	}
	l.memory.forget(now)
	for _, a := range c.away {
		if !a.known {
			return // what it is going to list is yet to be adopted
		}
	}
	l.before = nil
}

// noteProgress starts the clock of services that have to make progress.
func (l *loop) noteProgress(d *desired, dec decision, now time.Time) {
	for _, v := range dec.services {
		switch {
		case v.done:
			delete(l.memory.progress, v.name)
			delete(l.memory.lastLog, v.name)
		case v.working && l.memory.progress[v.name].IsZero():
			l.memory.progress[v.name] = now
		}
	}
}

// routeNow carries out the steps that only change what the data plane is told, and returns the others.
func (l *loop) routeNow(steps []step, now time.Time) []step {
	var rest []step
	for _, st := range steps {
		m := l.memory.instances[st.id]
		switch {
		case st.kind == stepDrain && m != nil:
			m.drainSince, m.drainedBy, m.idle = now, 0, false
			l.record(event{kind: "instance.draining", service: st.service, id: st.id, reason: st.reason, message: "takes nothing new"})
		case st.kind == stepRoute && m != nil:
			m.drainSince, m.drainedBy, m.idle = time.Time{}, 0, false
			l.record(event{kind: "instance.routed", service: st.service, id: st.id, reason: st.reason, message: "takes requests again"})
		default:
			rest = append(rest, st)
		}
	}
	return rest
}

func (l *loop) sleep(d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-l.ctx.Done():
	}
}

// settle writes the outcome of a revision when it is known.
func (l *loop) settle(d *desired, dec decision, now time.Time) error {
	failed := dec.failed
	if taken := l.pub.taken(); failed == "" && taken != "" {
		failed = taken
	}
	switch {
	case d.deleting || d.rev.Outcome != state.Pending:
		return nil
	case failed != "":
		return l.settleAs(d, state.Failed, failed, now)
	case dec.done:
		return l.settleAs(d, state.Healthy, "every service is as wanted", now)
	}
	return nil
}

func (l *loop) settleAs(d *desired, outcome, message string, now time.Time) error {
	if err := l.cfg.Store.Settle(l.ctx, d.rev.Number, outcome, now); err != nil {
		l.mu.Lock()
		l.stale = true // somebody else settled or replaced it: read again
		l.mu.Unlock()
		return fmt.Errorf("settle revision %d: %w", d.rev.Number, err)
	}
	l.record(event{kind: "revision." + outcome, reason: d.rev.Cause, message: message, revision: d.rev.Number})
	l.mu.Lock()
	l.stale = true
	l.mu.Unlock()
	l.poke()
	return nil
}
