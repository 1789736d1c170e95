package local

import (
	"time"

	"trellis/driver"
	"trellis/engine/judge"
	"trellis/proxy"
	"trellis/state"
)

// window is what is measured of one rollout.
type window struct {
	*judge.Window
	revision int64
	saved    time.Time
}

// ledgerInterval is the pause between two writes of what was measured of a rollout that goes on.
const ledgerInterval = 5 * time.Second

// measure brings the windows of open rollouts up to date and judges them. It returns why new instances do worse, by
// service, and the rollouts whose ledger has grown and is due to be written. The caller holds mu.
func (l *loop) measure(d *desired, list []driver.Instance, now time.Time) (judged map[string]string, due []state.Rollout) {
	judged = map[string]string{}
	for name, w := range l.memory.windows {
		if r, ok := d.rollouts[name]; !ok || r.Over() || r.Revision != w.revision {
			delete(l.memory.windows, name)
		}
	}
	for name, r := range d.rollouts {
		svc := d.services[name]
		if r.Over() || svc == nil {
			continue
		}
		w := l.windowOf(r, svc, list, now)
		judged[name] = w.Judged()
		if r.Phase == state.Rolling && !r.Forced {
			judged[name] = w.Judge(svc.compose.Trellis.Objective, now)
		}
		if ledger := l.ledger(r); ledger.Requests > r.Ledger.Requests && now.Sub(w.saved) >= ledgerInterval {
			w.saved = now
			due = append(due, r)
		}
	}
	if len(l.memory.windows) == 0 {
		l.forgetMeasures()
	}
	return judged, due
}

// windowOf returns the window of an open rollout, with the instances that there are now.
func (l *loop) windowOf(r state.Rollout, svc *service, list []driver.Instance, now time.Time) *window {
	w := l.memory.windows[r.Service]
	if w == nil || w.revision != r.Revision {
		w = &window{judge.NewWindow(&l.tally, r.Ledger), r.Revision, now}
		l.memory.windows[r.Service] = w
	}
	serves := false
	for _, inst := range list {
		m := l.memory.instances[inst.ID]
		if inst.Service != r.Service || m == nil || m.hook > 0 || isOnce(inst.ID) {
			continue
		}
		id := string(short(l.cfg.Project, inst.ID))
		w.Add(id, inst.Hash == svc.hash)
		serves = serves || inst.Hash == svc.hash && m.ready
	}
	w.Mark(serves, now)
	return w
}

// verdictsOfWindows returns what was found so far, for who only looks. The caller holds mu.
func (e *Engine) verdictsOfWindows() map[string]string {
	judged := map[string]string{}
	for name, w := range e.memory.windows {
		judged[name] = w.Judged()
	}
	return judged
}

// ledger returns what was measured of a rollout so far. The caller holds mu.
func (e *Engine) ledger(r state.Rollout) state.Ledger {
	w := e.memory.windows[r.Service]
	if w == nil || w.revision != r.Revision {
		return r.Ledger
	}
	return w.Ledger()
}

// forgetMeasures forgets what instances did that are gone. The caller holds mu.
func (e *Engine) forgetMeasures() {
	ids := make(map[string]bool, len(e.memory.instances))
	for id := range e.memory.instances {
		ids[string(short(e.cfg.Project, id))] = true
	}
	e.tally.Keep(ids)
}

// followMeasures takes what data planes push, and wakes the loop where a rollout is judged by it.
func (l *loop) followMeasures() {
	for l.ctx.Err() == nil {
		err := l.cfg.Plane.Measures(l.ctx, func(m proxy.Measures) {
			l.tally.Take(m)
			for _, ev := range l.refusals.note(m, time.Now()) {
				l.record(ev)
			}
			l.mu.Lock()
			open := len(l.memory.windows) > 0
			l.mu.Unlock()
			if open {
				l.poke()
			}
		})
		if err != nil && l.ctx.Err() == nil {
			l.log.Warn("measures ended", "err", err)
		}
		l.sleep(retryAfter)
	}
}
