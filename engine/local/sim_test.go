package local

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"trellis/driver"
	"trellis/state"
)

// sim is a world of plain values that carries steps out as the loop and a driver would, without either. It keeps what
// the loop keeps in memory apart from what a driver keeps, so that a test can lose the one (crash).
type sim struct {
	want      want
	now       time.Time
	instances map[driver.ID]*seen
	hooksDone map[string]string
	progress  map[string]time.Time
	rollouts  map[string]state.Rollout
	healthy   []wantService // what a rollout that fails goes back to
	// behave decides what becomes of a run: how long until it is ready, and when and how it exits by itself.
	behave func(seen) behaviour
	trace  []string
	// lowest is the smallest number of serving instances of each service since it was last reset.
	lowest map[string]int
}

type behaviour struct {
	readyAfter time.Duration // negative: never
	exitAfter  time.Duration // 0: never
	code       int
	drain      time.Duration // how long something stays in flight
	worse      time.Duration // ready for so long: does worse than the old ones; 0: never
}

var epoch = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

func newSim() *sim {
	return &sim{
		want: want{project: "p", revision: 1}, now: epoch, instances: map[driver.ID]*seen{},
		hooksDone: map[string]string{}, progress: map[string]time.Time{}, lowest: map[string]int{},
		rollouts: map[string]state.Rollout{},
		behave:   func(seen) behaviour { return behaviour{readyAfter: time.Second} },
	}
}

func (s *sim) have() have {
	h := have{progress: s.progress, hooksDone: s.hooksDone, rollouts: s.rollouts, judged: map[string]string{}}
	for _, inst := range s.instances {
		h.instances = append(h.instances, *inst)
		worse := s.behave(*inst).worse
		if w := s.wanted(inst.service); w.hash == inst.hash && worse > 0 && inst.ready && !s.now.Before(inst.readySince.Add(worse)) {
			h.judged[inst.service] = "new instances answer 2.0% of requests with an error, old ones 0.0%"
		}
	}
	sortSeen(h.instances)
	return h
}

func (s *sim) plan() decision {
	d := plan(s.want, s.have(), s.now)
	for _, v := range d.services {
		if v.working && s.progress[v.name].IsZero() {
			s.progress[v.name] = s.now
		}
	}
	return d
}

func (s *sim) wanted(service string) *wantService {
	for i := range s.want.services {
		if s.want.services[i].name == service {
			return &s.want.services[i]
		}
	}
	return &wantService{name: service}
}

// turn writes down what a plan decided about rollouts and about the revision, as the loop does after the steps.
func (s *sim) turn(d decision) {
	for _, r := range d.rollouts {
		r.Version++
		s.rollouts[r.Service] = r
		s.trace = append(s.trace, rolloutWords(r))
	}
	switch {
	case len(d.rollouts) > 0:
	case d.back != "":
		s.trace = append(s.trace, "back: "+d.back)
		s.revise(s.healthy)
		s.want.goal = 0
		for i := range s.want.services {
			w := &s.want.services[i]
			w.parallelism, w.delay, w.monitor, w.canary, w.onFailure = 0, 0, 0, nil, "pause"
		}
	case s.want.pending && d.failed != "":
		s.want.pending = false
	case s.want.pending && d.done:
		s.want.pending, s.want.goal, s.healthy = false, s.want.revision, slices.Clone(s.want.services)
	}
}

// revise makes services the next revision.
func (s *sim) revise(services []wantService) {
	s.want.revision++
	s.want.pending, s.want.services = true, slices.Clone(services)
	s.rollouts, s.progress = map[string]state.Rollout{}, map[string]time.Time{}
}

func rolloutWords(r state.Rollout) string {
	words := fmt.Sprintf("rollout %s: %s", r.Service, r.Phase)
	if r.Share != nil && r.Phase == state.Rolling {
		words += fmt.Sprintf(" %g%%", *r.Share*100)
	}
	words += ": " + r.Reason
	if r.Failure != nil && r.Failure.Instance != "" {
		words += fmt.Sprintf(" (%s)", r.Failure.Instance)
	}
	return words
}

// do carries one step out, at once and to its end.
func (s *sim) do(st step) {
	s.trace = append(s.trace, s.describe(st))
	inst := s.instances[st.id]
	switch st.kind {
	case stepStart, stepHook:
		if inst == nil {
			w := s.wanted(st.service)
			inst = &seen{id: st.id, service: st.service, slot: st.slot, hook: st.hook + 1, hash: w.hash, startable: true, copyable: true}
			if st.hash != "" {
				inst.hash = st.hash
			}
			s.instances[st.id] = inst
		}
		if inst.state == driver.Running {
			return
		}
		inst.state, inst.exit, inst.revision = driver.Running, nil, s.want.revision
		inst.ready, inst.wasReady, inst.hung, inst.replace = false, false, false, false
		inst.drainSince, inst.idle, inst.readySince, inst.started = time.Time{}, false, s.now, s.now
	case stepRecord:
		s.hooksDone[hookKey(st.service, st.slot, st.hook)] = inst.hash
	case stepRoute:
		inst.drainSince, inst.idle = time.Time{}, false
	case stepDrain:
		inst.drainSince = s.now
	case stepStop:
		inst.replace = inst.hung
		s.exit(inst, driver.Exit{Code: 143, Signal: "SIGTERM", Asked: true})
	case stepRemove:
		if inst.alive() {
			panic("remove of a running instance: " + st.id)
		}
		delete(s.instances, st.id)
	}
	s.count()
}

func (s *sim) exit(inst *seen, e driver.Exit) {
	e.Time = s.now
	if inst.wasReady && s.now.Sub(inst.readySince) >= goodAfter {
		inst.failures = 0
	}
	if !e.Asked || inst.replace {
		inst.failures++
	}
	inst.state, inst.exit, inst.ready, inst.drainSince, inst.idle = driver.Exited, &e, false, time.Time{}, false
}

func (s *sim) describe(st step) string {
	id := strings.TrimPrefix(string(st.id), s.want.project+"/")
	return fmt.Sprintf("%s %s: %s", st.kind, id, st.reason)
}

// count keeps the lowest number of serving instances up to date.
func (s *sim) count() {
	n := map[string]int{}
	for _, inst := range s.instances {
		if inst.serving() {
			n[inst.service]++
		}
	}
	for name := range s.lowest {
		s.lowest[name] = min(s.lowest[name], n[name])
	}
}

// live lets the world go on to t: instances become ready, exit and drain on the way. started is kept in readySince
// until an instance is ready.
func (s *sim) live(t time.Time) {
	for {
		next, act := t, func() {}
		for _, id := range slices.Sorted(maps.Keys(s.instances)) {
			inst := s.instances[id]
			at, f := s.event(inst)
			if f != nil && at.Before(next) {
				next, act = at, f
			}
		}
		if !next.Before(t) {
			s.now = t
			s.count()
			return
		}
		s.now = latest(s.now, next)
		act()
		s.count()
	}
}

// event returns the next thing that becomes of an instance by itself.
func (s *sim) event(inst *seen) (time.Time, func()) {
	if !inst.alive() {
		return time.Time{}, nil
	}
	b := s.behave(*inst)
	awaited := s.wanted(inst.service).awaited || inst.hook > 0
	if b.exitAfter == 0 || !inst.wasReady && b.readyAfter >= 0 && b.exitAfter > b.readyAfter && !awaited {
		if !inst.wasReady && b.readyAfter >= 0 && !awaited {
			return inst.readySince.Add(b.readyAfter), func() {
				inst.ready, inst.wasReady, inst.readySince = true, true, s.now
				s.progress[inst.service] = s.now
			}
		}
	}
	if inst.draining() && !inst.idle {
		return inst.drainSince.Add(b.drain), func() { inst.idle = true }
	}
	if b.exitAfter > 0 {
		after := b.exitAfter
		if inst.wasReady {
			after -= b.readyAfter
		}
		return inst.readySince.Add(after), func() { s.exit(inst, driver.Exit{Code: b.code}) }
	}
	return time.Time{}, nil
}

// crash loses what the loop knew and keeps what the driver and the store keep. Probes find the ready ones again.
func (s *sim) crash() {
	s.progress = map[string]time.Time{}
	for _, inst := range s.instances {
		inst.drainSince, inst.idle, inst.replace, inst.hung = time.Time{}, false, false, false
	}
}

// settle plans, carries out and lets time pass until nothing is left to do, or not more than so many rounds. A plan
// without steps lets the world go on to the planner's next wake, but at least for a millisecond.
func (s *sim) settle(rounds int) bool {
	for range rounds {
		d := s.plan()
		for _, st := range d.steps {
			s.do(st)
		}
		pending := s.want.pending
		s.turn(d)
		if len(d.steps)+len(d.rollouts) > 0 || d.back != "" || pending != s.want.pending {
			continue
		}
		if d.done && s.quiet() {
			return true
		}
		next := s.now.Add(time.Second)
		if !d.wake.IsZero() && d.wake.Before(next) {
			next = latest(d.wake, s.now.Add(time.Millisecond))
		}
		s.live(next)
	}
	return false
}

// quiet says whether nothing becomes of any instance any more.
func (s *sim) quiet() bool {
	for _, inst := range s.instances {
		if _, f := s.event(inst); f != nil {
			return false
		}
	}
	return true
}

// parseWant reads lines such as "web replicas=2 hash=b depends=db:healthy,job:completed".
func parseWant(t testing.TB, lines []string) []wantService {
	t.Helper()
	var all []wantService
	for _, line := range lines {
		fields := strings.Fields(line)
		w := wantService{
			name: fields[0], hash: "a", replicas: 1, parallelism: 1, grace: 10 * time.Second, patience: time.Minute,
			routed: true, restart: restartPolicy{condition: restartAlways}, onFailure: "rollback",
		}
		for _, f := range fields[1:] {
			key, value, _ := strings.Cut(f, "=")
			w.set(t, key, value)
		}
		all = append(all, w)
	}
	slices.SortFunc(all, func(a, b wantService) int { return strings.Compare(a.name, b.name) })
	return all
}

func (w *wantService) set(t testing.TB, key, value string) {
	t.Helper()
	number := func() int {
		n, err := strconv.Atoi(value)
		if err != nil {
			t.Fatalf("%s=%s: %v", key, value, err)
		}
		return n
	}
	duration := func() time.Duration {
		d, err := time.ParseDuration(value)
		if err != nil {
			t.Fatalf("%s=%s: %v", key, value, err)
		}
		return d
	}
	switch key {
	case "hash":
		w.hash = value
	case "replicas":
		w.replicas = number()
	case "parallelism":
		w.parallelism = number()
	case "delay":
		w.delay = duration()
	case "monitor":
		w.monitor, w.monitorAll = duration(), true
	case "first-monitor":
		w.monitor = duration()
	case "failure":
		w.onFailure = value
	case "ratio":
		w.maxFailures, _ = strconv.ParseFloat(value, 64)
	case "interval":
		w.interval = duration()
	case "canary":
		for _, share := range strings.Split(value, ",") {
			percent, err := strconv.ParseFloat(share, 64)
			if err != nil {
				t.Fatal(err)
			}
			w.canary = append(w.canary, percent/100)
		}
	case "grace":
		w.grace = duration()
	case "patience":
		w.patience = duration()
	case "restart":
		w.restart.condition = value
	case "max":
		w.restart.max = number()
	case "hooks":
		for _, kind := range strings.Split(value, ",") {
			w.hooks = append(w.hooks, hookWant{perReplica: kind == "replica"})
		}
	case "stop-first":
		w.stopFirst = true
	case "stopped":
		w.stopped = true
	case "job":
		w.awaited, w.routed, w.restart.condition = true, false, restartNever
	case "depends":
		for _, d := range strings.Split(value, ",") {
			name, condition, _ := strings.Cut(d, ":")
			condition, optional := strings.CutSuffix(condition, "?")
			w.dependsOn = append(w.dependsOn, dependency{name, conditions[condition], !optional})
		}
	default:
		t.Fatalf("unknown key %s", key)
	}
}

var conditions = map[string]string{
	"started": "service_started", "healthy": "service_healthy", "completed": "service_completed_successfully",
}
