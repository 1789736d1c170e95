package local

import (
	"fmt"
	"slices"
)

// halt stops every instance of a service that is to have none. Those of a stopped one are kept for their logs.
func (p *planner) halt(s *servicePlan) {
	for _, inst := range slices.Concat(s.all, s.hooks) {
		switch {
		case inst.alive():
			p.retire(s, inst, "stopped")
		case !s.want.stopped || inst.hash != s.want.hash:
			p.retire(s, inst, "no replicas wanted")
		}
	}
}

// shrink retires the instances of slots that are not wanted any more: those that do not serve at once, those that do as
// long as enough others serve.
func (p *planner) shrink(s *servicePlan) {
	for i := len(s.all) - 1; i >= 0; i-- { // the highest slots first
		inst := s.all[i]
		if inst.slot <= s.want.replicas {
			continue
		}
		if inst.serving() && s.serving-1 < s.want.replicas && s.hopeful() {
			continue
		}
		p.retire(s, inst, fmt.Sprintf("scaled to %d", s.want.replicas))
	}
}

// hopeful says whether the wanted slots of a service may come to serve: a job never does.
func (s *servicePlan) hopeful() bool {
	return slices.ContainsFunc(s.cur[1:], func(cur *seen) bool { return cur == nil || !s.completed(*cur) })
}

// retire takes an instance out of rotation, stops it when nothing is in flight at it or its grace period is over, and
// removes what is left.
func (p *planner) retire(s *servicePlan, inst seen, reason string) {
	switch {
	case inst.busy != "":
	case !inst.alive():
		p.step(stepRemove, inst, reason)
	case s.want.routed && !inst.draining():
		if inst.serving() {
			s.serving--
		}
		p.step(stepDrain, inst, reason)
	case s.want.routed && !inst.idle && !p.due(inst.drainSince.Add(s.want.grace)):
	default:
		p.step(stepStop, inst, reason)
	}
}

// orphans retires the services that left the file, once nothing of an earlier definition can still be calling them.
func (p *planner) orphans(orphans []*servicePlan) {
	for _, s := range p.order {
		outdated := func(i seen) bool { return i.alive() && i.hash != s.want.hash }
		if slices.ContainsFunc(s.all, outdated) {
			return
		}
	}
	for _, s := range orphans {
		for _, inst := range slices.Concat(s.all, s.hooks) {
			p.retire(s, inst, "not in the file any more")
		}
	}
}

// deleteAll stops everything, dependents before what they depend on, and removes it.
func (p *planner) deleteAll(orphans []*servicePlan) {
	needed := map[string]bool{} // by something that is still alive
	for _, s := range p.order {
		if slices.ContainsFunc(slices.Concat(s.all, s.hooks), seen.alive) {
			for _, d := range s.want.dependsOn {
				needed[d.service] = true
			}
		}
	}
	left := 0
	for _, s := range slices.Concat(p.order, orphans) {
		for _, inst := range slices.Concat(s.all, s.hooks) {
			left++
			if needed[s.want.name] || inst.busy != "" {
				continue
			}
			if inst.alive() && s.want.routed && !inst.draining() {
				p.step(stepDrain, inst, "deleted")
			} else if inst.alive() {
				p.step(stepStop, inst, "deleted")
			} else {
				p.step(stepRemove, inst, "deleted")
			}
		}
	}
	p.out.done = left == 0
}
