package local

import (
	"context"
	"slices"
	"time"

	"trellis/driver"
	"trellis/probe"
)

// memory is what the loop knows beyond what drivers list. Losing it costs a little time and nothing else.
type memory struct {
	instances map[driver.ID]*known
	progress  map[string]time.Time
	hooksDone map[string]string
	refused   map[driver.ID]refusal
	listened  map[string]*openPorts // that instances of a service were seen to listen on
	lastLog   map[string][]string   // of the instance of a service that failed last
	windows   map[string]*window    // of open rollouts, by service
	once      map[driver.ID]bool    // one-off instances in which a command runs
	back      map[string]time.Time  // when a driver that was away answered again
	revision  int64                 // that progress is measured for
}

func newMemory() memory {
	return memory{
		instances: map[driver.ID]*known{}, progress: map[string]time.Time{}, hooksDone: map[string]string{},
		refused: map[driver.ID]refusal{}, listened: map[string]*openPorts{}, lastLog: map[string][]string{},
		once: map[driver.ID]bool{}, windows: map[string]*window{}, back: map[string]time.Time{},
	}
}

// known is what the loop knows of one instance.
type known struct {
	service string
	slot    int
	hash    string
	hook    int // index + 1
	driver  string
	run     run
	busy    stepKind
	ended   bool   // busy has ended; it stands until drivers are asked anew, because what they listed may be older
	trouble string // why the last step failed
	netns   string // made before it was started
	listed  bool   // by a driver

	ready      bool
	wasReady   bool
	readySince time.Time
	hung       bool
	replace    bool
	failures   int
	fails      int // probes in a row
	said       probe.Result
	drainSince time.Time
	drainedBy  uint64 // version of the first snapshot that says so; 0: none yet
	idle       bool
	exitSeen   bool
	met        time.Time      // when this loop first saw the run
	over       time.Time      // when this loop first saw that the run is over
	told       time.Time      // the end of a run that was counted and told last
	revival    driver.Revival // what the driver was told of this run
	formerOf   int64          // the revision of former
	former     *template      // its definition, where it is not the one that is wanted
	formerDone bool           // looked for
	probing    context.CancelFunc
	asked      probe.Spec        // what probing asks
	listens    chan struct{}     // closed when it listens where it is asked; nil: told already
	hosts      map[string]string // as last set
	hostsOf    *desired          // that they were found equal to
	naming     bool              // they are being set
}

// run tells the runs of an instance apart.
type run struct {
	restarts int
	started  time.Time
}

// kept is what the store keeps of an instance for the next loop.
type kept struct {
	Run        int       `json:"run,omitempty"` // from 1; 0 in what an earlier version kept
	ReadySince time.Time `json:"ready_since,omitzero"`
	WasReady   time.Time `json:"was_ready,omitzero"` // ReadySince of a run that goes on and is not ready any more
	Failures   int       `json:"failures,omitempty"`
	Exit       time.Time `json:"exit,omitzero"` // of the last run whose end was counted and told
}

const valueKept = "engine/instances"

// observe takes over what a driver lists about one instance, and returns what is to be told about it. The caller holds
// e.mu.
func (l *loop) observe(d *desired, name string, inst driver.Instance, before map[driver.ID]kept, now time.Time) {
	m := l.memory.instances[inst.ID]
	this := run{inst.Restarts, inst.StartedAt}
	svc := d.services[inst.Service]
	if m == nil {
		m = l.adopt(name, inst, before)
		if svc != nil && svc.hash != inst.Hash {
			l.poke() // the next round looks for its definition
		}
		l.memory.instances[inst.ID] = m
		m.run, m.met = this, now
		if !m.ready && (inst.State == driver.Running || inst.State == driver.Exited) && l.revived(svc, inst, m) {
			m.begin(this, now)
		}
	}
	m.listed = true
	if inst.Netns != "" {
		m.netns = inst.Netns
	}
	if m.run.restarts != this.restarts || !m.run.started.Equal(this.started) {
		l.revived(svc, inst, m)
		m.begin(this, now)
	}
	if isOnce(inst.ID) {
		return
	}
	if svc != nil {
		for _, port := range inst.Listening {
			l.memory.learn(inst, port, now)
		}
		if spec, ok := probeOf(svc, inst, m); ok && inst.State == driver.Running && spec.Kind == probe.None {
			l.listening(svc, inst, m, now)
		}
	}
	if inst.State == driver.Exited && m.over.IsZero() {
		m.over = now
	}
	if inst.State == driver.Exited && !m.exitSeen {
		l.exited(svc, inst, m)
	}
}

// adopt makes what is known of an instance that this loop has not seen before.
func (l *loop) adopt(name string, inst driver.Instance, before map[driver.ID]kept) *known {
	m := &known{service: inst.Service, slot: inst.Slot, hash: inst.Hash, driver: name}
	if i, ok := hookIndex(inst.ID, l.cfg.Project, inst.Service, inst.Slot); ok {
		m.hook = i + 1
	}
	k := before[inst.ID]
	m.failures, m.told, m.revival = k.Failures, k.Exit, unknownRevival
	same := k.Run == inst.Restarts+1 || k.Run == 0 && !k.ReadySince.Before(inst.StartedAt)
	if !k.ReadySince.IsZero() && inst.State == driver.Running && same {
		// It was ready when the loop before ended, and is until a probe says otherwise.
		m.ready, m.wasReady, m.readySince = true, true, k.ReadySince
	}
	if inst.State == driver.Exited && inst.Exit != nil {
		m.exitSeen = inst.Exit.Time.Equal(k.Exit)
	}
	if !k.ReadySince.IsZero() {
		m.wasReady, m.readySince = true, k.ReadySince
	}
	if !k.WasReady.IsZero() && k.Run == inst.Restarts+1 {
		m.wasReady, m.readySince = true, k.WasReady
	}
	return m
}

// begin forgets what was known of an earlier run.
func (m *known) begin(r run, now time.Time) {
	m.run, m.met = r, now
	m.ready, m.wasReady, m.hung, m.replace, m.idle, m.exitSeen = false, false, false, false, false, false
	m.over, m.readySince, m.drainSince, m.drainedBy, m.fails, m.said = time.Time{}, time.Time{}, time.Time{}, 0, 0, probe.Result{}
	m.revival = driver.ReviveNever
	m.stopProbing()
}

// started returns when the run began, by the clock as it goes on since this loop first saw the run: the machine's may have
// been set since, by hours, and the driver's moment knows no other.
func (m *known) started() time.Time {
	return m.met.Add(-max(m.met.Sub(m.run.started), 0))
}

func (m *known) stopProbing() {
	if m.probing != nil {
		m.probing()
		m.probing, m.listens = nil, nil
	}
}

// openPorts are those that instances of a service were seen to listen on, with when that was last.
type openPorts struct {
	seen    map[int]time.Time
	changes int // how often one came or went
}

// listenedLife is how long a port is served under the name of its service after an instance listened on it last: a program
// that takes any free one for itself has another in each run.
const listenedLife = 10 * time.Minute

// learn remembers a port that a service was seen to listen on, in the file's terms.
func (m *memory) learn(inst driver.Instance, port int, now time.Time) {
	for target, actual := range inst.PortMap {
		if actual == port {
			port = target
		}
	}
	p := m.listened[inst.Service]
	if p == nil {
		p = &openPorts{seen: map[int]time.Time{}}
		m.listened[inst.Service] = p
	}
	if p.seen[port].IsZero() {
		p.changes++
	}
	p.seen[port] = now
}

// forget forgets ports on which nothing has listened for long, of services that have an instance in rotation: of one that is down
// nobody knows yet.
func (m *memory) forget(now time.Time) {
	for _, k := range m.instances {
		if p := m.listened[k.service]; p != nil && k.ready {
			for port, last := range p.seen {
				if now.Sub(last) > listenedLife {
					delete(p.seen, port)
					p.changes++
				}
			}
		}
	}
}

// listening decides the readiness of a running instance that nobody asks: it has to listen where its file says that it
// does. One that others wait for to complete is never ready.
func (l *loop) listening(svc *service, inst driver.Instance, m *known, now time.Time) {
	ready := len(svc.ports) == 0
	for _, target := range svc.ports {
		actual := target
		if p, ok := inst.PortMap[target]; ok {
			actual = p
		}
		ready = ready || slices.Contains(inst.Listening, actual)
	}
	switch {
	case m.hook > 0:
		ready = false
	case svc.want.awaited:
		ready = false
		m.said.Message = "it runs, and its end is awaited"
	case !ready && m.said.Message == "":
		m.said.Message = "it does not listen yet on " + portWords(svc.ports)
	}
	if ready && !m.wasReady {
		m.said = probe.Result{}
	}
	l.setReady(inst.ID, m, ready, now)
}

// setReady writes down a change of readiness.
func (e *Engine) setReady(id driver.ID, m *known, ready bool, now time.Time) {
	if m.ready == ready {
		return
	}
	m.ready = ready
	reason, kind := m.said.Message, "instance.unready"
	if ready {
		kind = "instance.ready"
		m.wasReady, m.readySince = true, now
		e.memory.progress[m.service] = now
	}
	e.record(event{kind: kind, service: m.service, id: id, reason: "probe", message: reason})
}

// exited counts and tells the end of a run.
func (l *loop) exited(svc *service, inst driver.Instance, m *known) {
	m.exitSeen = true
	if inst.Exit != nil {
		m.told = inst.Exit.Time.Round(0)
	}
	window := goodAfter
	if svc != nil {
		window = svc.want.restart.good()
	}
	exit := driver.Exit{}
	if inst.Exit != nil {
		exit = *inst.Exit
	}
	if m.wasReady && exit.Time.Sub(m.readySince) >= window {
		m.failures = 0
	}
	bad := !exit.Asked || m.replace
	if bad {
		m.failures++
	}
	m.ready, m.drainSince, m.drainedBy, m.idle, m.hung = false, time.Time{}, 0, false, false
	m.stopProbing()
	l.record(event{
		kind: "instance.exited", service: inst.Service, id: inst.ID, reason: exitReason(exit), message: exitWords(&exit),
		revision: inst.Revision, at: exit.Time,
	})
	if bad && (exit.Code != 0 || exit.Error != "" || m.failures > 1) {
		l.keepLog(inst, exit)
	}
}

func exitReason(e driver.Exit) string {
	switch {
	case e.Asked:
		return "stopped"
	case e.OOM:
		return "oom"
	case e.Error != "":
		return "error"
	case e.Signal != "":
		return "signal"
	case e.Code == 0:
		return "completed"
	}
	return "crashed"
}

// seen returns what the planner has to know of an instance. m may be nil.
func (e *Engine) seen(d *desired, inst driver.Instance, m *known) seen {
	s := seen{
		id: inst.ID, service: inst.Service, slot: inst.Slot, hash: inst.Hash, revision: inst.Revision, state: inst.State,
		exit: inst.Exit, started: inst.StartedAt,
	}
	if s.state == driver.Exited && s.exit == nil {
		s.exit = &driver.Exit{Error: "nothing is known of its end"}
	}
	if m == nil {
		return s
	}
	s.hook, s.busy, s.replace, s.failures, s.said = m.hook, m.busy, m.replace, m.failures, m.said.Message
	if m.run.restarts != inst.Restarts || !m.run.started.Equal(inst.StartedAt) {
		return s // a run that the loop has not seen yet
	}
	s.ready, s.wasReady, s.readySince, s.hung = m.ready, m.wasReady, m.readySince, m.hung
	s.drainSince, s.idle, s.over, s.started = m.drainSince, m.idle, m.over, m.started()
	if s.state == driver.Exited {
		s.ready, s.hung, s.drainSince, s.idle = false, false, time.Time{}, false
	}
	svc := d.services[inst.Service]
	s.startable = svc != nil && svc.hash == inst.Hash || m.former != nil || !m.formerDone // what was not looked for yet is not gone
	s.copyable = m.former != nil && !slices.ContainsFunc(m.former.hooks, func(h hookTemplate) bool { return h.perReplica })
	if !s.wasReady {
		s.started = latest(s.started, e.memory.back[m.driver]) // while it was away nobody knew
	}
	return s
}

// have puts together what the planner sees: what drivers list, and starts that no list shows yet.
func (e *Engine) have(d *desired, c census, judged map[string]string) have {
	h := have{
		progress: e.memory.progress, hooksDone: e.memory.hooksDone, refused: e.memory.refused, rollouts: d.rollouts, judged: judged,
		unknown: c.unknown(d),
	}
	listed := make(map[driver.ID]bool, len(c.list))
	for _, inst := range c.list {
		listed[inst.ID] = true
		if isOnce(inst.ID) {
			continue
		}
		s := e.seen(d, inst, e.memory.instances[inst.ID])
		if c.isAway(inst.ID) {
			s.busy = stepNone
		}
		h.instances = append(h.instances, s)
	}
	for id, m := range e.memory.instances {
		if !listed[id] && m.busy != "" && !isOnce(id) {
			h.instances = append(h.instances, seen{
				id: id, service: m.service, slot: m.slot, hash: m.hash, hook: m.hook, state: driver.Starting, busy: m.busy,
				revision: d.rev.Number, startable: true,
			})
		}
	}
	sortSeen(h.instances)
	return h
}
