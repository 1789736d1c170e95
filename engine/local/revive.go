package local

import (
	"time"

	"trellis/driver"
	"trellis/state"
)

// unknownRevival is what a loop knows of a run that it took over from the loop before.
const unknownRevival driver.Revival = "unknown"

// letRevive tells the drivers which instances they may start again by themselves when they crash, and returns when that
// changes by time alone. It is the same decision as the planner's, made before the crash: what would be started again at
// once is, by whoever sees its end first; whatever would wait, or has to be judged, is left to the loop. See
// docs/decisions/035. The caller holds mu.
func (l *loop) letRevive(d *desired, c census, now time.Time) (again time.Time) {
	for _, inst := range c.list {
		m := l.memory.instances[inst.ID]
		if m == nil || m.busy != "" || c.isAway(inst.ID) || inst.State != driver.Running {
			continue
		}
		reviver, ok := l.cfg.Drivers[m.driver].(Reviver)
		if !ok {
			continue
		}
		when, at := revival(d, inst, m, now)
		again = sooner(again, at)
		if when == m.revival {
			continue
		}
		if err := reviver.Revive(inst.ID, inst.Restarts, when); err != nil {
			l.log.Warn("a crash will be answered by the loop", "service", inst.Service, "instance", string(inst.ID), "err", err)
		}
		m.revival = when
	}
	return again
}

// revival says after which end of its run an instance is started again at once, and when the answer may become another
// one without anything happening.
func revival(d *desired, inst driver.Instance, m *known, now time.Time) (driver.Revival, time.Time) {
	svc := d.services[inst.Service]
	if svc == nil || svc.hash != inst.Hash || m.hook > 0 || isOnce(inst.ID) || !m.ready || !m.drainSince.IsZero() || m.hung {
		return driver.ReviveNever, time.Time{}
	}
	if r, ok := d.rollouts[inst.Service]; ok && !r.Over() || d.deleting || d.rev.Outcome == state.Pending {
		return driver.ReviveNever, time.Time{} // how an instance ends decides about the rollout
	}
	w := svc.want
	if w.stopped || w.awaited || w.problem != "" || inst.Slot > w.replicas || w.restart.condition == restartNever || w.restart.delay > 0 {
		return driver.ReviveNever, time.Time{}
	}
	if good := m.readySince.Add(w.restart.good()); m.failures > 0 && now.Before(good) {
		return driver.ReviveNever, good
	}
	if w.restart.condition == restartOnFailure {
		return driver.ReviveAfterFailure, time.Time{}
	}
	return driver.ReviveAlways, time.Time{}
}

// revived counts and tells the end of a run that was over, and followed by the next, before anybody looked; it says
// whether there was one. The caller holds mu.
func (l *loop) revived(svc *service, inst driver.Instance, m *known) bool {
	if inst.Before == nil || m.exitSeen || m.told.Equal(inst.Before.Time) || isOnce(inst.ID) {
		return false
	}
	over := inst
	over.State, over.Exit = driver.Exited, inst.Before
	l.exited(svc, over, m)
	l.record(event{
		kind: "instance.started", service: inst.Service, id: inst.ID, reason: "revived", revision: inst.Revision,
		message: "restarted: " + exitWords(inst.Before), at: inst.StartedAt,
	})
	return true
}

// sooner returns the earlier of two times; the zero time is never.
func sooner(a, b time.Time) time.Time {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}
