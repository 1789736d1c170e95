package local

import (
	"slices"
	"time"
)

// fill starts what slots lack, or where that is not open only what was added to them and replaces nothing.
func (p *planner) fill(s *servicePlan, open bool) {
	if s.leaving() {
		return
	}
	room, unproven := p.room(s), p.unproven(s)
	for slot := 1; slot <= s.want.replicas; slot++ {
		added := len(s.olds[slot]) == 0
		careful := unproven && added || slices.ContainsFunc(s.olds[slot], s.worth)
		if s.cur[slot] != nil || !open && !added {
			continue
		}
		if added && (s.hold || unproven && (!open || room <= 0)) && (p.grow(s, slot, open) || unproven) {
			continue
		}
		if careful && s.hold || !p.hooksDone(s, slot) {
			continue
		}
		old, reason := s.olds[slot], "wanted"
		if len(old) > 0 {
			reason = "definition changed"
		}
		if careful {
			if room <= 0 || !p.due(s.nextReplacement()) {
				continue
			}
			room--
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

// grow starts an instance of the definition that carries the service in a slot that was added while its rollout takes long: load that
// asks for more does not wait for the end of a canary, nor is a part of it that nobody decided upon given to what is on trial. It is
// replaced as all others are. Where the new ones are only watched for a moment the slot waits for them. False: the service cannot grow so.
func (p *planner) grow(s *servicePlan, slot int, open bool) bool {
	_, canary := s.canaries()
	if s.want.stopFirst || !s.guarded() || open && !canary && !s.hold {
		return false
	}
	var like *seen
	for i := range s.all {
		inst := &s.all[i]
		if inst.hash != s.want.hash && inst.copyable && inst.serving() && (like == nil || inst.revision > like.revision) {
			like = inst
		}
	}
	if like == nil {
		return false
	}
	id := instanceID(p.want.project, s.want.name, slot, like.hash)
	// A refusal is nothing that the rollout is to blame for.
	if r, ok := p.have.refused[id]; !ok || r.revision < p.want.revision || !r.final && p.due(r.retryAt) {
		p.step(stepStart, seen{id: id, service: s.want.name, slot: slot, hash: like.hash}, "wanted before the rollout is over")
	}
	return true
}

// makeWay stops the old instances of a slot before its new one starts.
func (p *planner) makeWay(s *servicePlan, old []seen) {
	for _, inst := range old {
		if inst.alive() {
			p.retire(s, inst, "definition changed, and it has to stop first")
		}
	}
}

// room returns how many slots may begin to be replaced.
func (p *planner) room(s *servicePlan) int {
	if n, ok := s.canaries(); ok {
		for _, cur := range s.cur[1:] {
			if cur != nil {
				n--
			}
		}
		return n
	}
	if s.want.parallelism == 0 {
		return s.want.replicas
	}
	return s.want.parallelism - p.inFlight(s)
}

// inFlight counts the slots whose replacement has begun and may not be relied on yet. One that has failed, where that is
// put up with, holds nobody up.
func (p *planner) inFlight(s *servicePlan) int {
	n := 0
	for slot := 1; slot <= s.want.replicas; slot++ {
		switch cur, old := s.cur[slot], s.olds[slot]; {
		case cur != nil && s.rollout != nil && p.slotFailure(s, slot) != "":
		case cur != nil && !p.replaced(s, slot):
			n++
		case cur == nil && s.want.stopFirst && len(old) > 0 && !slices.ContainsFunc(old, s.worth):
			n++
		}
	}
	return n
}

// replaced says whether the instance that a slot should have can do without the old ones: it is ready, and has been
// watched for long enough.
func (p *planner) replaced(s *servicePlan, slot int) bool {
	cur := s.cur[slot]
	switch {
	case cur == nil:
		return false
	case s.completed(*cur):
		return true
	case !cur.ready:
		return false
	}
	return p.watched(s, slot)
}

// worth says whether an instance of another definition is still good for something: then its slot is replaced with
// care, else at once.
func (s *servicePlan) worth(inst seen) bool {
	if inst.alive() {
		return !inst.draining() && inst.busy != stepStop
	}
	return inst.startable && !inst.stoppedOnPurpose() && inst.failures < crashLoopAfter && s.want.restart.wants(inst)
}

// nextReplacement returns when the next instance may be replaced: a pause after the last one was relied on.
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
	if s.guarded() && s.want.monitorAll {
		last = last.Add(s.want.monitor)
	}
	return last.Add(s.want.delay)
}

// old looks after an instance of another definition in a wanted slot.
func (p *planner) old(s *servicePlan, inst seen) {
	cur, replaced := s.cur[inst.slot], p.replaced(s, inst.slot)
	serves := inst.serving()
	switch {
	case inst.busy != "":
	case !inst.alive() && s.beginning:
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
	case s.hold && serves: // it may be all that is left when the rollout goes back
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
