package local

import (
	"fmt"
	"slices"

	"trellis/compose"
	"trellis/driver"
)

// gate says whether instances of a service may be made, and otherwise what they wait for. For a service that was never
// started, its dependencies have to be as the file says. One that runs already is held back only from replacing its
// instances, and only while a dependency is being replaced itself: nothing that is down waits for anything, and it may grow.
func (p *planner) gate(s *servicePlan) bool {
	deployed, open := s.deployed(), true
	s.grows = deployed
	for _, d := range s.want.dependsOn {
		dep := p.byName[d.service]
		if dep == nil || dep.cur == nil || dep.want.stopped || dep.want.replicas == 0 {
			continue // not in the file, or not to run: nothing to wait for
		}
		waits, broken := p.unmet(dep, d.condition, deployed)
		if waits == "" || broken && !d.required {
			continue
		}
		s.grows = s.grows && d.condition != compose.ServiceCompletedSuccessfully && dep.want.problem == ""
		if !open {
			continue
		}
		s.waits, open = waits, false
		if broken {
			s.failed = waits
		}
	}
	return open
}

// conditionWords say in words when a dependency is as its dependent needs it.
var conditionWords = map[string]string{
	compose.ServiceStarted:               "is started",
	compose.ServiceHealthy:               "is healthy",
	compose.ServiceCompletedSuccessfully: "has completed",
}

// unmet returns what a dependent still waits for, "" if nothing, and whether that can no longer come by itself.
func (p *planner) unmet(dep *servicePlan, condition string, deployed bool) (waits string, broken bool) {
	name := dep.want.name
	if dep.want.problem != "" {
		return fmt.Sprintf("depends on %s: %s", name, dep.want.problem), true
	}
	if deployed && condition != compose.ServiceCompletedSuccessfully {
		if dep.rolling && dep.unknown == "" {
			return fmt.Sprintf("waits until %s is replaced", name), false
		}
		return "", false
	}
	for _, cur := range dep.cur[1:] {
		switch {
		case cur == nil:
			waits = fmt.Sprintf("waits until %s %s", name, conditionWords[condition])
		case condition == compose.ServiceStarted && (cur.state == driver.Running || cur.state == driver.Exited):
			continue
		case condition == compose.ServiceHealthy && cur.ready, dep.completed(*cur):
			continue
		case dep.broken(*cur) && cur.revision >= p.want.revision:
			return fmt.Sprintf("depends on %s, which %s", name, exitWords(cur.exit)), true
		default:
			waits = fmt.Sprintf("waits until %s %s", name, conditionWords[condition])
		}
	}
	return waits, false
}

// hooksDone says whether everything that has to precede the first start of a slot has succeeded, and sees to what has
// not.
func (p *planner) hooksDone(s *servicePlan, slot int) bool {
	for i, h := range s.want.hooks {
		at := 0
		if h.perReplica {
			at = slot
		}
		key := hookKey(s.want.name, at, i)
		if p.have.hooksDone[key] == s.want.hash {
			continue
		}
		if !s.decided[key] { // for an earlier slot
			s.decided[key] = true
			p.hook(s, at, i)
		}
		return false
	}
	return true
}

// hook starts a pre_start hook, records that it succeeded, or gives the service up.
func (p *planner) hook(s *servicePlan, slot, index int) {
	next := seen{
		id:      hookID(p.want.project, s.want.name, slot, index, s.want.hash),
		service: s.want.name, slot: slot, hook: index + 1, hash: s.want.hash,
	}
	at := slices.IndexFunc(s.hooks, func(h seen) bool { return h.id == next.id })
	if at < 0 {
		p.startHook(s, next)
		return
	}
	switch inst := s.hooks[at]; {
	case inst.busy != "" || inst.alive():
		s.waits = fmt.Sprintf("waits until pre_start[%d] has succeeded", index)
	case inst.exit != nil && inst.exit.Code == 0 && inst.exit.Error == "" && !inst.exit.Asked:
		p.step(stepRecord, inst, "succeeded")
	case inst.revision < p.want.revision || inst.stoppedOnPurpose():
		p.startHook(s, inst)
	default:
		s.failed = fmt.Sprintf("pre_start[%d] failed: it %s", index, exitWords(inst.exit))
	}
}

func (p *planner) startHook(s *servicePlan, inst seen) {
	r, refused := p.have.refused[inst.id]
	switch {
	case refused && r.final && r.revision >= p.want.revision:
		s.failed = r.reason
	case !refused || p.due(r.retryAt):
		p.step(stepHook, inst, "before the first start")
	}
}

// tidyHooks removes hooks that are done with: of other definitions, or recorded.
func (p *planner) tidyHooks(s *servicePlan) {
	for _, inst := range s.hooks {
		done := p.have.hooksDone[hookKey(s.want.name, inst.slot, inst.hook-1)] == inst.hash
		switch {
		case inst.busy != "" || inst.hash == s.want.hash && !done && s.lacks(inst.slot):
		case inst.alive():
			p.step(stepStop, inst, "its definition changed")
		default:
			p.step(stepRemove, inst, "done")
		}
	}
}

// lacks says whether a slot has no instance yet; slot 0 stands for any.
func (s *servicePlan) lacks(slot int) bool {
	if slot == 0 {
		return slices.Contains(s.cur[1:], nil)
	}
	return slot < len(s.cur) && s.cur[slot] == nil
}
