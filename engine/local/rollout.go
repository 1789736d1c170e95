package local

import (
	"fmt"
	"math"
	"slices"
	"time"

	"trellis/compose"
	"trellis/engine"
	"trellis/errdefs"
	"trellis/state"
)

// A rollout replaces the instances of a service by those of another revision. What it has decided stands in the store
// (state.Rollout) before it is carried out; the rest follows from what there is: which slots have a new instance, since
// when it is ready, how often it crashed. So whoever plans next, after a crash too, goes on where it was.

// failing is why a rollout fails, and which instance is to blame, nil where it is none in particular.
type failing struct {
	reason string
	inst   *seen
}

// guarded says whether the new instances of a service are watched and judged.
func (s *servicePlan) guarded() bool {
	return s.rollout != nil && !s.rollout.Over() && !s.rollout.Forced
}

// leaving says that the new instances are about to be taken back: none is started any more.
func (s *servicePlan) leaving() bool {
	return s.rollout != nil && s.rollout.Phase == state.TakenBack || s.failing != nil && s.want.onFailure == compose.OnFailureRollback
}

// guide takes the rollout of a service a step further, or begins one.
func (p *planner) guide(s *servicePlan) {
	r := s.rollout
	switch {
	case r == nil:
		if from := p.outgoing(s); from > 0 && p.want.pending && !s.want.awaited {
			s.hold, s.beginning = true, true // until it is written down
			p.write(p.begin(s, from))
		}
	case r.Phase == state.Paused:
		s.hold = true
	case s.guarded():
		s.failing = p.findFailing(s)
		s.hold = s.failing != nil && s.want.onFailure != compose.OnFailureContinue
		if !s.hold {
			p.canary(s)
		}
	}
}

// outgoing returns the newest revision of instances that have to be replaced with care, 0 where there is none: those
// whose slot has no instance of this definition, or one that could not be watched yet.
func (p *planner) outgoing(s *servicePlan) int64 {
	var newest int64
	for slot := 1; slot <= s.want.replicas; slot++ {
		cur := s.cur[slot]
		if cur != nil && (s.completed(*cur) || cur.ready && !p.now.Before(cur.readySince.Add(s.want.monitor))) {
			continue
		}
		for _, old := range s.olds[slot] {
			if s.worth(old) && old.revision < p.want.revision {
				newest = max(newest, old.revision)
			}
		}
	}
	return newest
}

func (p *planner) begin(s *servicePlan, from int64) state.Rollout {
	r := state.Rollout{
		Revision: p.want.revision, Service: s.want.name, From: from, Phase: state.Rolling, Began: p.now,
		Reason: "its definition changed", Steps: len(s.want.canary),
	}
	if s.want.stopFirst { // the old ones are gone before there is anything to compare with them
		r.Steps = 0
	}
	if r.Steps > 0 {
		r.Share, r.StepBegan = &s.want.canary[0], p.now
	}
	return r
}

// write has a rollout written down. The plan that does so rests on how it was before.
func (p *planner) write(r state.Rollout) { p.out.rollouts = append(p.out.rollouts, r) }

// canaries returns how many new instances the present step of a canary has, false where none is under way: as many as
// carry their share without more requests for each than the old ones have.
func (s *servicePlan) canaries() (int, bool) {
	if !s.guarded() || s.rollout.Step >= s.rollout.Steps || s.rollout.Step >= len(s.want.canary) {
		return 0, false
	}
	n := int(math.Ceil(s.want.canary[s.rollout.Step] * float64(s.want.replicas)))
	return min(max(n, 1), s.want.replicas), true
}

// canary passes to the next step when all instances of this one have been ready for its interval.
func (p *planner) canary(s *servicePlan) {
	n, ok := s.canaries()
	if !ok {
		return
	}
	began := s.rollout.StepBegan
	for slot, cur := range s.cur {
		switch {
		case cur != nil && cur.ready:
			began, n = latest(began, cur.readySince), n-1
		case cur != nil && p.slotFailure(s, slot) != "": // and failure_action is continue
			n--
		}
	}
	if n > 0 || !p.due(began.Add(s.want.interval)) {
		return
	}
	r := *s.rollout
	r.Step, r.StepBegan, r.Share = r.Step+1, p.now, nil
	if r.Step < r.Steps {
		r.Share = &s.want.canary[r.Step]
		r.Reason = fmt.Sprintf("canary step %d of %d passed", r.Step, r.Steps)
	} else {
		r.Reason = "the canary passed"
	}
	p.write(r)
}

// watched says whether the new instance of a slot, which is ready, has been watched for as long as it has to be.
func (p *planner) watched(s *servicePlan, slot int) bool {
	if !s.guarded() {
		return true
	}
	if _, ok := s.canaries(); ok {
		return false
	}
	if !s.want.monitorAll {
		proven := func(cur *seen) bool {
			return cur != nil && cur.ready && !p.now.Before(cur.readySince.Add(s.want.monitor))
		}
		if s.rollout.Steps > 0 || slices.ContainsFunc(s.cur[1:], proven) {
			return true
		}
	}
	return p.due(s.cur[slot].readySince.Add(s.want.monitor))
}

// unproven says that no new instance of a rollout can be relied on yet: slots that are added wait too.
func (p *planner) unproven(s *servicePlan) bool {
	if !s.beginning && !s.guarded() {
		return false
	}
	for slot := range s.cur {
		if slot > 0 && p.replaced(s, slot) {
			return false
		}
	}
	return true
}

// findFailing returns why a rollout fails now, nil if it does not.
func (p *planner) findFailing(s *servicePlan) *failing {
	if reason := p.have.judged[s.want.name]; reason != "" {
		return &failing{reason: reason, inst: s.newest()}
	}
	var first *failing
	failed := 0
	for slot := 1; slot <= s.want.replicas; slot++ {
		if reason := p.slotFailure(s, slot); reason != "" {
			if failed++; first == nil {
				first = &failing{reason: fmt.Sprintf("instance %d %s", slot, reason), inst: s.cur[slot]}
			}
		}
	}
	tolerated := s.want.maxFailures * float64(s.want.replicas)
	if _, ok := s.canaries(); ok {
		tolerated = 0 // the few that try it must all work
	}
	if float64(failed) > tolerated {
		return first
	}
	return nil
}

// newest returns the new instance that was ready last, nil where there is none.
func (s *servicePlan) newest() *seen {
	var last *seen
	for _, cur := range s.cur[1:] {
		if cur != nil && (last == nil || cur.readySince.After(last.readySince)) {
			last = cur
		}
	}
	return last
}

// slotFailure says why the new instance of a slot has failed, "" if it has not. One that was ready must not crash or
// lose its readiness while the rollout lasts; one that was not may crash a few times until what it needs is there.
func (p *planner) slotFailure(s *servicePlan, slot int) string {
	cur := s.cur[slot]
	id := instanceID(p.want.project, s.want.name, slot, s.want.hash)
	if r, ok := p.have.refused[id]; ok && r.revision >= p.want.revision {
		if r.final || r.vain || cur == nil && p.due(s.rollout.Began.Add(s.want.patience)) {
			return "cannot be started: " + r.reason
		}
	}
	switch {
	case cur == nil || s.completed(*cur):
		return ""
	case s.broken(*cur):
		return exitWords(cur.exit) + " and is not to be restarted"
	case !cur.alive() && cur.wasReady && cur.failures > 0:
		return fmt.Sprintf("%s, %s after it was ready", exitWords(cur.exit), cur.exit.Time.Sub(cur.readySince).Round(100*time.Millisecond))
	case cur.failures >= crashLoopAfter:
		if cur.exit == nil {
			return fmt.Sprintf("crashed %d times in a row", cur.failures)
		}
		return fmt.Sprintf("crashed %d times in a row: it %s", cur.failures, exitWords(cur.exit))
	case !cur.alive():
		return ""
	case cur.wasReady && !cur.ready:
		return "was ready and is not any more" + after(cur.said)
	case !cur.wasReady && !cur.started.IsZero() && p.due(cur.started.Add(s.want.patience)):
		return fmt.Sprintf("was not ready within %s", s.want.patience.Round(time.Second)) + after(cur.said)
	}
	return ""
}

// after puts what was said last behind a sentence.
func after(said string) string {
	if said == "" {
		return ""
	}
	return ": " + said
}

// turn decides what becomes of a rollout when everything else about its service is known: it is over, or it fails.
func (p *planner) turn(s *servicePlan, v *verdict) {
	r := s.rollout
	if r == nil || s.unknown != "" || r.Phase == state.Promoted || r.Phase == state.Overtaken {
		return
	}
	why := s.failing
	if why == nil && v.failed != "" && r.Phase == state.Rolling {
		why = &failing{reason: v.failed, inst: s.newest()}
	}
	switch {
	case r.Phase == state.Incomplete:
		if !v.done && v.failed == "" && p.want.pending {
			v.failed = r.Reason
		}
	case r.Phase == state.TakenBack:
		v.done, v.working, v.failed, v.reason = false, false, "", "goes back: "+r.Reason
	case r.Phase == state.Paused:
		v.done, v.working, v.failed, v.reason = false, false, "", "the rollout is paused: "+r.Reason
	case why != nil:
		p.fail(s, v, why)
	case v.done || p.exhausted(s):
		next := *r
		next.Phase, next.Ended = state.Promoted, &p.now
		next.Reason = fmt.Sprintf("%d of %d instances are replaced", v.current, s.want.replicas)
		p.write(next)
	}
}

// exhausted says that nothing more comes of a rollout: what is not replaced has failed.
func (p *planner) exhausted(s *servicePlan) bool {
	if !s.guarded() {
		return false
	}
	failed := 0
	for slot := 1; slot <= s.want.replicas; slot++ {
		switch {
		case p.slotFailure(s, slot) != "":
			failed++
		case !p.replaced(s, slot):
			return false
		}
	}
	return failed > 0
}

// fail decides what a failing rollout does.
func (p *planner) fail(s *servicePlan, v *verdict, why *failing) {
	next := *s.rollout
	next.Reason = why.reason
	switch action := s.want.onFailure; {
	case action == compose.OnFailureContinue && v.failed == "" && !p.exhausted(s):
		if s.rollout.Failure != nil {
			return // told already
		}
	case action == compose.OnFailurePause && p.want.pending && p.want.goal > 0:
		next.Phase = state.Paused
		v.failed = ""
	case action == compose.OnFailureRollback && p.want.goal > 0:
		next.Phase, next.Ended = state.TakenBack, &p.now
		v.failed = ""
	default:
		next.Phase, next.Ended = state.Incomplete, &p.now
		v.failed = why.reason
	}
	v.done, v.reason = false, why.reason
	next.Failure = &state.Failure{}
	if inst := why.inst; inst != nil {
		next.Failure.Instance, next.Failure.Probe = string(short(p.want.project, inst.id)), inst.said
	}
	p.write(next)
}

// instruct returns a rollout as it is after somebody promoted or aborted it; ErrConflict where it is over.
func instruct(r state.Rollout, action, actor string, now time.Time) (state.Rollout, error) {
	if r.Over() {
		return r, fmt.Errorf("%s the rollout of %s: %w: it is over (%s)", action, r.Service, errdefs.ErrConflict, r.Phase)
	}
	r.Actor = actor
	switch action {
	case engine.Promote:
		r.Phase, r.Forced, r.Step, r.Share = state.Rolling, true, r.Steps, nil
		r.Reason = "promoted by " + actor
	case engine.Abort:
		r.Phase, r.Ended = state.TakenBack, &now
		r.Reason = "aborted by " + actor
	default:
		return r, fmt.Errorf("rollout of %s: %w: no such action %q", r.Service, errdefs.ErrInvalid, action)
	}
	return r, nil
}
