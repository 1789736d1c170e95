package local

import (
	"fmt"
	"time"

	"trellis/engine"
	"trellis/state"
)

// verdict is what the planner says of one service.
type verdict struct {
	name    string
	state   string // of package engine
	reason  string
	done    bool // as wanted
	working bool // not done, and waiting for nobody else: it has to make progress
	current int  // slots that are as wanted and serve or have completed
	failed  string
}

// judge says how every service is doing, and whether the whole is as wanted or will not become so.
func (p *planner) judge(orphans []*servicePlan) {
	p.out.done = true
	for _, s := range orphans {
		if len(s.all)+len(s.hooks) > 0 {
			p.out.done = false
		}
	}
	for _, s := range p.order {
		v := p.verdict(s)
		p.turn(s, &v)
		p.out.services = append(p.out.services, v)
		p.out.done = p.out.done && v.done
		if v.failed != "" && p.out.failed == "" {
			p.out.failed = fmt.Sprintf("%s: %s", v.name, v.failed)
		}
	}
	p.out.done = p.out.done && len(p.out.rollouts) == 0 // first written down
	if p.out.back != "" {
		p.out.failed = "" // a way out is known
	}
}

// count is what the instances of a service add up to.
type count struct {
	serving   int   // of any definition
	current   int   // as wanted, and serving or completed
	completed int   // as wanted and completed
	alive     int   // of any definition
	others    int   // instances that are not wanted any more
	worst     *seen // the wanted instance with the most failures
	unready   *seen // a wanted instance that runs and is not ready
	broken    *seen // a wanted instance that will not be started again
	shaky     *seen // a wanted instance that serves, having crashed again and again a moment ago
	first     bool  // a wanted instance is on its way for the first time
}

func (p *planner) count(s *servicePlan) count {
	var c count
	for i := range s.all {
		inst := &s.all[i]
		if inst.serving() {
			c.serving++
		}
		if inst.alive() {
			c.alive++
		}
		if inst.slot > s.want.replicas || inst.hash != s.want.hash {
			c.others++
			continue
		}
		switch {
		case s.completed(*inst):
			c.current++
			c.completed++
			continue
		case inst.serving():
			c.current++
			if inst.failures >= crashLoopAfter && !p.due(inst.readySince.Add(s.want.restart.good())) {
				c.shaky = inst
			}
			continue
		case s.broken(*inst):
			c.broken = inst
		case inst.alive():
			c.unready = inst
			c.first = c.first || inst.failures == 0 && !inst.wasReady
		}
		if inst.failures > 0 && (c.worst == nil || inst.failures > c.worst.failures) {
			c.worst = inst
		}
	}
	return c
}

// provenAfter is how long a program that nothing can be asked of has to run until a revision counts on it: one that
// crashes mostly does so at once. One that has crashed has to run until that is forgotten.
const provenAfter = time.Second

// proven says whether the instances of a service that takes no traffic, and is ready because it runs, have run for long
// enough.
func (p *planner) proven(s *servicePlan) bool {
	if s.want.routed {
		return true
	}
	for i := range s.all {
		if inst := &s.all[i]; inst.serving() {
			wait := provenAfter
			if inst.failures > 0 {
				wait = s.want.restart.good()
			}
			if !p.due(inst.readySince.Add(wait)) {
				return false
			}
		}
	}
	return true
}

// allReplaced says whether the new instances of a service can be relied on.
func (p *planner) allReplaced(s *servicePlan) bool {
	for slot := 1; slot <= s.want.replicas; slot++ {
		if !p.replaced(s, slot) {
			return false
		}
	}
	return true
}

func (p *planner) verdict(s *servicePlan) verdict {
	v := verdict{name: s.want.name, failed: s.failed}
	c := p.count(s)
	v.current = c.current
	if s.want.problem == "" && (s.want.stopped || s.want.replicas == 0) {
		v.state, v.done = engine.ServiceStopped, c.alive == 0 && (s.want.stopped || len(s.all) == 0)
		if c.alive > 0 {
			v.state, v.reason = engine.ServiceDegraded, "it is being stopped"
		}
		return v
	}
	if s.unknown != "" && s.want.problem == "" {
		v.state, v.reason = engine.ServiceDegraded, s.unknown
		return v
	}
	missing := s.want.replicas - c.current
	v.done = missing <= 0 && c.others == 0 && s.failed == ""
	v.done = v.done && c.shaky == nil && p.proven(s) && p.allReplaced(s)
	v.working = !v.done && s.waits == "" && s.failed == ""
	p.judgeFailure(s, c, &v)
	switch {
	case missing <= 0 && c.completed == s.want.replicas:
		v.state = engine.ServiceCompleted
	case missing <= 0 && s.rollout != nil && s.rollout.Phase == state.Rolling && !v.done:
		v.state = engine.ServiceStarting
	case missing <= 0 && c.shaky != nil:
		v.state = engine.ServiceCrashLooping
	case missing <= 0:
		v.state = engine.ServiceHealthy
	case c.worst != nil && c.worst.failures >= crashLoopAfter && c.broken == nil:
		v.state = engine.ServiceCrashLooping
	case v.failed != "" && c.serving == 0:
		v.state = engine.ServiceFailed
	case c.serving == 0 || c.serving >= s.want.replicas && v.failed == "" || c.first && v.failed == "":
		v.state = engine.ServiceStarting
	default:
		v.state = engine.ServiceDegraded
	}
	if v.state != engine.ServiceHealthy && v.state != engine.ServiceCompleted {
		v.reason = p.reason(s, c, v)
	}
	return v
}

// judgeFailure sets v.failed where the service will not become as wanted by itself, or takes too long about it.
func (p *planner) judgeFailure(s *servicePlan, c count, v *verdict) {
	switch {
	case v.failed != "" || v.done:
	case c.broken != nil && c.broken.revision >= p.want.revision:
		v.failed = fmt.Sprintf("instance %d %s and is not to be restarted", c.broken.slot, exitWords(c.broken.exit))
	case c.worst != nil && c.worst.failures >= giveUpAfter:
		v.failed = fmt.Sprintf("crashed %d times in a row", c.worst.failures)
		if c.worst.exit != nil {
			v.failed += fmt.Sprintf(": instance %d %s", c.worst.slot, exitWords(c.worst.exit))
		}
	default:
		since := p.have.progress[s.want.name]
		if since.IsZero() || s.guarded() || // then each instance has its time
			s.waits != "" || c.current == s.want.replicas || p.runsJob(s, c) {
			return
		}
		if p.due(since.Add(s.want.patience)) {
			v.failed = fmt.Sprintf("not ready within %s", s.want.patience.Round(time.Second))
			if c.unready != nil && c.unready.said != "" {
				v.failed += ": " + c.unready.said
			}
		}
	}
}

// runsJob says whether all that misses is the end of a job, which may take as long as it takes.
func (p *planner) runsJob(s *servicePlan, c count) bool {
	return s.want.awaited && c.unready != nil && c.broken == nil && c.worst == nil
}

// reason says in one sentence why a service is not healthy.
func (p *planner) reason(s *servicePlan, c count, v verdict) string {
	switch {
	case v.failed != "":
		return v.failed
	case s.waits != "":
		return s.waits
	case c.worst != nil && c.worst.state == "exited":
		at := s.want.restart.at(*c.worst)
		return fmt.Sprintf("instance %d %s; restart %d in %s", c.worst.slot, exitWords(c.worst.exit), c.worst.failures,
			max(at.Sub(p.now), 0).Round(100*time.Millisecond))
	case c.unready != nil && c.unready.hung:
		return fmt.Sprintf("instance %d %s: %s", c.unready.slot, Hung, c.unready.said)
	case c.unready != nil && c.unready.said != "":
		return fmt.Sprintf("instance %d is not ready: %s", c.unready.slot, c.unready.said)
	case c.shaky != nil:
		return fmt.Sprintf("instance %d crashed %d times in a row, and runs again", c.shaky.slot, c.shaky.failures)
	case s.guarded() && c.current > 0 && c.others > 0:
		return fmt.Sprintf("%d of %d instances are new and watched", c.current, s.want.replicas)
	case c.others > 0:
		return fmt.Sprintf("%d of %d instances are replaced", c.current, s.want.replicas)
	}
	return fmt.Sprintf("%d of %d instances are ready", c.current, s.want.replicas)
}
