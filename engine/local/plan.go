package local

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"trellis/driver"
	"trellis/state"
)

// The planner is pure: what is wanted, what is there and the time go in, steps and the state of each service come out,
// always the same for the same input. It reads no clock, asks nobody and remembers nothing; the loop carries the steps
// out and plans again. Instance IDs follow from what is wanted, so a plan that was cut short anywhere is simply planned
// again from what is there.

// stepKind is what a step does.
type stepKind string

const (
	stepStart  stepKind = "start"  // start the instance, for the first time or again
	stepHook   stepKind = "hook"   // start the one-off instance of a pre_start hook
	stepRecord stepKind = "record" // remember that a hook is done
	stepRoute  stepKind = "route"  // take a draining instance back into rotation
	stepDrain  stepKind = "drain"  // take the instance out of rotation
	stepStop   stepKind = "stop"
	stepRemove stepKind = "remove"

	stepNone stepKind = "none" // none can be taken: its driver does not answer
)

// step is one thing to do. Steps of one plan are independent of each other and may be carried out at the same time, in
// any order.
type step struct {
	kind    stepKind
	service string
	id      driver.ID
	slot    int
	hook    int    // index of the hook, for hook and record
	hash    string // of the earlier definition that a new instance is started by; "": by the wanted one
	reason  string
}

// want is what a project is to be.
type want struct {
	project  string
	revision int64
	deleting bool
	pending  bool          // its outcome is open: instances of earlier revisions are replaced by rollouts
	goal     int64         // the revision that a rollout which fails goes back to; 0: there is none
	services []wantService // by name
}

// wantService is what one service is to be.
type wantService struct {
	name        string
	hash        string
	replicas    int
	stopped     bool // by an override; its instances are kept
	stopFirst   bool
	parallelism int // instances replaced at a time; 0: all
	delay       time.Duration
	monitor     time.Duration // how long new instances are watched before old ones go
	monitorAll  bool          // every batch of them, not the first alone
	onFailure   string        // of a rollout: pause, continue or rollback
	maxFailures float64       // the share of instances that may fail in a rollout
	canary      []float64     // shares of the traffic that its new instances get one after the other, before the rest follows
	interval    time.Duration // how long each of them
	dependsOn   []dependency  // by name
	restart     restartPolicy
	grace       time.Duration
	patience    time.Duration // how long without progress until it has failed
	hooks       []hookWant
	routed      bool   // takes traffic: it is drained before it is stopped
	awaited     bool   // others wait for it to complete, and only then it is done
	problem     string // why it cannot run at all; then nothing of it is touched
}

type dependency struct {
	service   string
	condition string
	required  bool
}

type hookWant struct{ perReplica bool }

// have is what there is.
type have struct {
	instances []seen               // by service, slot and ID
	progress  map[string]time.Time // when each service last came closer to what is wanted
	hooksDone map[string]string    // hook key to the hash it was done for
	refused   map[driver.ID]refusal
	rollouts  map[string]state.Rollout // of the revision, by service
	judged    map[string]string        // why the new instances of a service do worse than the old ones; "" they do not
	unknown   map[string]string        // why it is not known what runs of a service: nothing of it is touched
}

// refusal is a start that the driver refused.
type refusal struct {
	revision int64
	reason   string
	final    bool          // trying again is of no use
	vain     bool          // nobody but a person mends it (no space, no image): a rollout does not wait for that
	retryAt  time.Time     // if it is
	pause    time.Duration // before that
}

// seen is one instance as the loop knows it.
type seen struct {
	id       driver.ID
	service  string
	slot     int // of hooks too
	hook     int // index of the hook + 1; 0: not a hook
	hash     string
	revision int64
	state    driver.State
	started  time.Time
	exit     *driver.Exit
	over     time.Time // when it was first seen to have exited; zero: not known
	busy     stepKind  // the step under way for it, "" none: it is left alone

	ready      bool
	wasReady   bool // at some time of this run
	readySince time.Time
	hung       bool // answered once, and does not any more
	replace    bool // stopped because it hung: to be started again at once
	failures   int  // runs in a row that ended before they had been good for goodAfter
	startable  bool // its definition is known, so it can be started again
	copyable   bool // another slot can be started by its definition as it is
	drainSince time.Time
	idle       bool   // nothing is in flight at it, and nothing new comes
	said       string // the last probe's answer
}

// stoppedOnPurpose says that it exited because Stop was called, and not in order to be replaced by itself.
func (s seen) stoppedOnPurpose() bool {
	return !s.alive() && s.exit != nil && s.exit.Asked && !s.replace
}

func (s seen) alive() bool    { return s.state != driver.Exited }
func (s seen) draining() bool { return !s.drainSince.IsZero() }
func (s seen) serving() bool  { return s.ready && s.alive() && !s.draining() }

// decision is what the planner returns.
type decision struct {
	steps    []step
	wake     time.Time       // when to plan again if nothing happens; zero: never
	services []verdict       // by name
	done     bool            // everything is as wanted
	failed   string          // why it will not become so by itself; "" it may
	rollouts []state.Rollout // to be written down before the next plan
	back     string          // why the project goes back to the revision before; "" it does not
}

// planner holds one call of plan.
type planner struct {
	want   want
	have   have
	now    time.Time
	out    decision
	byName map[string]*servicePlan
	order  []*servicePlan
}

// servicePlan is one service during one call of plan.
type servicePlan struct {
	want      wantService
	all       []seen // every instance but hooks
	hooks     []seen
	cur       []*seen         // by slot: the instance that is as wanted, nil where there is none
	olds      [][]seen        // by slot: those of other definitions
	filled    []bool          // by slot: this plan starts its instance or makes way for it
	unknown   string          // why it is not known what runs; "" it is
	decided   map[string]bool // hook keys that this plan has seen to
	serving   int             // instances in rotation, less those drained by this plan
	waits     string
	failed    string
	rolling   bool           // instances of another definition are alive, or a slot lacks one of this
	rollout   *state.Rollout // nil: nothing is watched or judged
	hold      bool           // nothing more is replaced
	beginning bool           // because its rollout is not written down yet
	grows     bool           // what it waits for holds back its replacements alone
	failing   *failing       // what makes the rollout fail
}

// plan decides what to do next.
func plan(w want, h have, now time.Time) decision {
	p := &planner{want: w, have: h, now: now, byName: map[string]*servicePlan{}}
	orphans := p.index()
	if w.deleting {
		p.deleteAll(orphans)
		return p.out
	}
	for _, s := range p.order {
		p.survey(s)
	}
	for _, s := range p.order {
		p.service(s)
	}
	p.orphans(orphans)
	p.judge(orphans)
	return p.out
}

// index sorts the instances to their services and returns those of services that are not wanted.
func (p *planner) index() []*servicePlan {
	for _, w := range p.want.services {
		s := &servicePlan{want: w, decided: map[string]bool{}}
		p.byName[w.name] = s
		p.order = append(p.order, s)
	}
	var orphans []*servicePlan
	for _, inst := range p.have.instances {
		s := p.byName[inst.service]
		if s == nil {
			s = &servicePlan{want: wantService{name: inst.service, grace: defaultGrace, routed: true}}
			p.byName[inst.service] = s
			orphans = append(orphans, s)
		}
		if inst.hook > 0 {
			s.hooks = append(s.hooks, inst)
		} else {
			s.all = append(s.all, inst)
		}
	}
	return orphans
}

// survey sorts the instances by slot and counts what the decisions of other services need.
func (p *planner) survey(s *servicePlan) {
	n := s.want.replicas + 1
	s.unknown = p.have.unknown[s.want.name]
	s.cur, s.olds, s.filled = make([]*seen, n), make([][]seen, n), make([]bool, n)
	for i := range s.all {
		inst := &s.all[i]
		if inst.serving() {
			s.serving++
		}
		if inst.slot >= n {
			continue
		}
		if inst.hash == s.want.hash {
			s.cur[inst.slot] = inst
		} else {
			s.olds[inst.slot] = append(s.olds[inst.slot], *inst)
		}
	}
	if r, ok := p.have.rollouts[s.want.name]; ok && !s.want.awaited {
		s.rollout = &r
	}
	for slot := 1; slot < n; slot++ {
		if s.cur[slot] == nil || !p.replaced(s, slot) && slices.ContainsFunc(s.olds[slot], s.worth) {
			s.rolling = true
		}
	}
}

func (p *planner) step(kind stepKind, inst seen, reason string) {
	st := step{kind: kind, service: inst.service, id: inst.id, slot: inst.slot, hook: inst.hook - 1, reason: reason}
	if s := p.byName[inst.service]; kind == stepStart && inst.hash != s.want.hash {
		st.hash = inst.hash
	}
	p.out.steps = append(p.out.steps, st)
}

// wakeAt asks to plan again at t.
func (p *planner) wakeAt(t time.Time) {
	if p.out.wake.IsZero() || t.Before(p.out.wake) {
		p.out.wake = t
	}
}

// due says whether t has come, and asks to be woken then if not.
func (p *planner) due(t time.Time) bool {
	if t.After(p.now) {
		p.wakeAt(t)
		return false
	}
	return true
}

// service decides for one wanted service.
func (p *planner) service(s *servicePlan) {
	w := s.want
	if w.problem != "" {
		s.failed = w.problem
		return
	}
	if s.unknown != "" {
		s.waits = s.unknown
		return
	}
	if r := s.rollout; r != nil && r.Phase == state.TakenBack { // also where nothing of it is to run now
		s.hold = true
		p.out.back = fmt.Sprintf("%s: %s", w.name, r.Reason)
	}
	if w.stopped || w.replicas == 0 {
		p.halt(s)
		return
	}
	p.guide(s)
	p.shrink(s)
	open := p.gate(s)
	for _, cur := range s.cur[1:] {
		if cur != nil {
			p.keep(s, *cur, open)
		}
	}
	if open || s.grows {
		p.fill(s, open)
	}
	for slot := 1; slot <= w.replicas; slot++ {
		for _, old := range s.olds[slot] {
			p.old(s, old)
		}
	}
	p.tidyHooks(s)
}

// Hung begins the message of the event with which an instance is stopped because it does not answer its probes any more.
const Hung = "does not answer any more"

// keep looks after an instance that is as wanted.
func (p *planner) keep(s *servicePlan, inst seen, open bool) {
	switch {
	case inst.busy != "":
	case inst.alive() && inst.hung && s.want.restart.condition != restartNever:
		p.step(stepStop, inst, Hung+": "+inst.said)
	case inst.alive() && inst.draining():
		p.step(stepRoute, inst, "wanted again")
	case inst.alive():
	case s.inTheWay(inst):
		p.step(stepRemove, inst, "to be made anew when its slot is free")
	default:
		p.again(s, inst, open)
	}
}

// inTheWay says whether an exited instance must not simply be started again, because its slot is held by one of another
// definition that has to be replaced with care.
func (s *servicePlan) inTheWay(inst seen) bool {
	return (s.want.stopFirst || inst.stoppedOnPurpose()) && !s.completed(inst) && slices.ContainsFunc(s.olds[inst.slot], seen.alive)
}

// again starts an exited instance again, if and when it is to be.
func (p *planner) again(s *servicePlan, inst seen, open bool) {
	if inst.stoppedOnPurpose() && !s.deployed() && !open {
		return // as on the first day
	}
	if s.leaving() {
		return // the revision before is about to come back
	}
	reason := "wanted again"
	if !inst.stoppedOnPurpose() {
		reason = "restarted: " + exitWords(inst.exit)
		retried := inst.revision < p.want.revision && !s.completed(inst) // whoever applies again asks for another try
		if !retried && !s.want.restart.wants(inst) {
			return
		}
	}
	p.start(s, inst, s.want.restart.at(inst), reason)
}

// start starts an instance at the given time, unless the driver said that it never can.
func (p *planner) start(s *servicePlan, inst seen, at time.Time, reason string) {
	if r, ok := p.have.refused[inst.id]; ok && r.revision >= p.want.revision {
		if r.final {
			s.failed = r.reason
			return
		}
		s.waits = r.reason
		at = latest(at, r.retryAt)
	}
	if p.due(at) {
		p.step(stepStart, inst, reason)
	}
}

// deployed says whether the service runs or has crashed, rather than never having been started or having been stopped
// on purpose: dependencies hold the order of the first start only, so that no crash ever waits for another service.
func (s *servicePlan) deployed() bool {
	return slices.ContainsFunc(s.all, func(i seen) bool {
		return i.alive() || !i.stoppedOnPurpose()
	})
}

func latest(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}

// sortSeen puts instances into the order that plan wants.
func sortSeen(all []seen) {
	slices.SortFunc(all, func(a, b seen) int {
		return cmp.Or(cmp.Compare(a.service, b.service), cmp.Compare(a.slot, b.slot), cmp.Compare(a.id, b.id))
	})
}
