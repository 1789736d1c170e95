package local

import (
	"slices"
	"time"
)

// fill starts what slots lack.
func (p *planner) fill(s *servicePlan) {
	inFlight := s.inFlight()
	for slot := 1; slot <= s.want.replicas; slot++ {
		if s.cur[slot] != nil || !p.hooksDone(s, slot) {
			continue
		}
		old, reason := s.olds[slot], "wanted"
		if len(old) > 0 {
			reason = "definition changed"
		}
		if slices.ContainsFunc(old, s.worth) {
			if s.want.parallelism > 0 && inFlight >= s.want.parallelism || !p.due(s.nextReplacement()) {
				continue
			}
			inFlight++
		}
		s.filled[slot] = true
		if s.want.stopFirst && slices.ContainsFunc(old, seen.alive) {
			p.makeWay(s, old)
			continue
		}
		p.start(s, seen{
			id: instanceID(p.want.project, s.want.name, slot, s.want.hash), service: s.want.name, slot: slot, hash: s.want.hash,
		}, time.Time{}, reason)
	}
}

// makeWay stops the old instances of a slot before its new one starts.
func (p *planner) makeWay(s *servicePlan, old []seen) {
	for _, inst := range old {
		if inst.alive() {
			p.retire(s, inst, "definition changed, and it has to stop first")
		}
	}
}

// inFlight counts the slots whose replacement has begun and does not serve yet.
func (s *servicePlan) inFlight() int {
	n := 0
	for slot := 1; slot <= s.want.replicas; slot++ {
		switch cur, old := s.cur[slot], s.olds[slot]; {
		case cur != nil && !s.replaced(slot):
			n++
		case cur == nil && s.want.stopFirst && len(old) > 0 && !slices.ContainsFunc(old, s.worth):
			n++
		}
	}
	return n
}

// worth says whether an instance of another definition is still good for something: then its slot is replaced with
// care, else at once.
func (s *servicePlan) worth(inst seen) bool {
	if inst.alive() {
		return !inst.draining() && inst.busy != stepStop
	}
	return inst.startable && !inst.stoppedOnPurpose() && inst.failures < crashLoopAfter && s.want.restart.wants(inst)
}

// nextReplacement returns when the next instance may be replaced: a pause after the last one became ready.
func (s *servicePlan) nextReplacement() time.Time {
	var last time.Time
	for _, inst := range s.all {
		if inst.hash == s.want.hash {
			last = latest(last, inst.readySince)
		}
	}
	if last.IsZero() || s.want.delay == 0 {
		return time.Time{}
	}
	return last.Add(s.want.delay)
}

// old looks after an instance of another definition in a wanted slot.
func (p *planner) old(s *servicePlan, inst seen) {
	cur, replaced := s.cur[inst.slot], s.replaced(inst.slot)
	serves := inst.serving()
	switch {
	case inst.busy != "":
	case !inst.alive() && s.worth(inst) && !replaced && (!s.want.stopFirst || cur == nil && !s.filled[inst.slot]):
		// The old ones carry the service until the new ones can: one that crashes comes back.
		p.start(s, inst, s.want.restart.at(inst), "still needed: its replacement is not ready")
	case !inst.alive():
		if cur != nil || !s.want.stopFirst {
			p.retire(s, inst, "replaced")
		}
	case cur == nil && s.want.stopFirst:
		if inst.draining() && !s.filled[inst.slot] { // makeWay began it
			p.retire(s, inst, "definition changed, and it has to stop first")
		}
	case cur == nil && inst.draining() && !s.better(inst):
		p.step(stepRoute, inst, "still needed: its replacement is not there")
		s.serving++
	case inst.draining():
		p.retire(s, inst, "replaced")
	case replaced && (!serves || s.serving-1 >= s.want.replicas || s.completed(*cur)):
		p.retire(s, inst, "replaced")
	case !inst.ready && !inst.wasReady && s.better(inst):
		p.retire(s, inst, "never became ready, and is not wanted any more")
	}
}

// better says whether the slot of inst has another instance that serves.
func (s *servicePlan) better(inst seen) bool {
	return slices.ContainsFunc(s.all, func(o seen) bool { return o.slot == inst.slot && o.id != inst.id && o.serving() })
}
