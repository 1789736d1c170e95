package local

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"trellis/driver"
)

var seeds = flag.Int("seeds", 2000, "how many random worlds TestPlan... tries")

// chance draws a random world.
type chance struct{ *rand.Rand }

func (c chance) one(in int) bool { return c.IntN(in) == 0 }

// services draws services; each may depend on those before it, so there is no circle.
func (c chance) services(revision int) []wantService {
	var all []wantService
	names := []string{"a", "b", "c", "d", "e"}
	for i, name := range names {
		if c.one(5) {
			continue
		}
		w := wantService{
			name: name, hash: fmt.Sprintf("h%d", c.IntN(3)), replicas: c.IntN(4), parallelism: c.IntN(3), grace: 10 * time.Second,
			patience: time.Minute, routed: !c.one(4), stopFirst: c.one(4), stopped: c.one(12),
			restart: restartPolicy{condition: restartAlways}, delay: time.Duration(c.IntN(2)) * time.Second,
		}
		if c.one(6) {
			w.awaited, w.routed, w.restart.condition = true, false, restartNever
		}
		if c.one(5) {
			w.hooks = []hookWant{{perReplica: c.one(2)}}
		}
		for _, dep := range all[:min(i, len(all))] {
			if c.one(3) {
				condition := []string{"service_started", "service_healthy"}[c.IntN(2)]
				if dep.awaited {
					condition = "service_completed_successfully"
				}
				w.dependsOn = append(w.dependsOn, dependency{dep.name, condition, !c.one(4)})
			}
		}
		all = append(all, w)
	}
	return all
}

// behaviour draws what becomes of the runs of an instance: the same for the same one.
func (c chance) behaviours(s *sim) {
	table := map[string]behaviour{}
	s.behave = func(i seen) behaviour {
		if i.hook > 0 {
			return behaviour{readyAfter: -1, exitAfter: time.Second}
		}
		key := fmt.Sprintf("%s-%s", i.service, i.hash)
		b, ok := table[key]
		if !ok {
			b = behaviour{readyAfter: time.Duration(1+c.IntN(3000)) * time.Millisecond, drain: time.Duration(c.IntN(12000)) * time.Millisecond}
			table[key] = b
		}
		if s.wanted(i.service).awaited {
			b.readyAfter, b.exitAfter = -1, 2*time.Second
		}
		return b
	}
}

// disturb does something that no plan asked for.
func (c chance) disturb(s *sim) {
	switch c.IntN(5) {
	case 0:
		s.crash()
	default:
		for _, id := range sortedIDs(s) {
			if inst := s.instances[id]; c.one(3) && inst.state == driver.Running {
				s.exit(inst, driver.Exit{Code: 137, Signal: "SIGKILL"})
			}
		}
	}
}

func sortedIDs(s *sim) []driver.ID {
	ids := make([]driver.ID, 0, len(s.instances))
	for id := range s.instances {
		ids = append(ids, id)
	}
	slices.Sort(ids)
	return ids
}

// TestPlanConverges carries plans out in random worlds that change, crash and forget in the middle: once they are left
// alone, everything becomes as wanted, and then there is nothing left to do.
func TestPlanConverges(t *testing.T) {
	t.Parallel()
	for seed := range *seeds {
		c := chance{rand.New(rand.NewPCG(uint64(seed), 1))}
		s := newSim()
		c.behaviours(s)
		for revision := 1; revision <= 1+c.IntN(4); revision++ {
			s.want.revision, s.want.services = int64(revision), c.services(revision)
			s.progress = map[string]time.Time{}
			for range c.IntN(20) {
				steps := s.plan().steps
				c.Shuffle(len(steps), func(i, j int) { steps[i], steps[j] = steps[j], steps[i] })
				for _, st := range steps[:c.IntN(len(steps)+1)] { // the rest is never carried out
					s.do(st)
				}
				s.live(s.now.Add(time.Duration(c.IntN(1500)) * time.Millisecond))
				if c.one(6) {
					c.disturb(s)
				}
				s.checkWorld(t, seed)
			}
		}
		s.want.revision++ // asks for another try of jobs that were killed
		if !s.settle(3000) {
			t.Fatalf("seed %d never settles:\n%s\nlast steps:\n%s", seed, s.states(), strings.Join(s.trace[max(0, len(s.trace)-20):], "\n"))
		}
		if d := s.plan(); len(d.steps) > 0 || !d.done || d.failed != "" {
			t.Fatalf("seed %d: after everything is done:\n%s", seed, s.words(d))
		}
		s.checkEnd(t, seed)
	}
}

// checkWorld checks what must hold at every moment.
func (s *sim) checkWorld(t *testing.T, seed int) {
	t.Helper()
	alive := map[string]int{}
	for _, inst := range s.instances {
		if inst.alive() && inst.hook == 0 {
			alive[fmt.Sprintf("%s-%d", inst.service, inst.slot)]++
		}
	}
	// Only a change of the order itself may find two beside each other.
	for slot, n := range alive {
		if n > 4 {
			t.Fatalf("seed %d: %d instances in slot %s:\n%s", seed, n, slot, s.states())
		}
	}
}

// checkEnd checks that the world is exactly what is wanted.
func (s *sim) checkEnd(t *testing.T, seed int) {
	t.Helper()
	want := map[driver.ID]bool{}
	for _, w := range s.want.services {
		for slot := 1; slot <= w.replicas; slot++ {
			want[instanceID("p", w.name, slot, w.hash)] = true
		}
		if w.stopped {
			for _, inst := range s.instances {
				if inst.service == w.name && inst.alive() {
					t.Fatalf("seed %d: stopped and alive: %s", seed, inst.id)
				}
				want[inst.id] = inst.service == w.name || want[inst.id]
			}
		}
	}
	for id := range s.instances {
		if !want[id] {
			t.Fatalf("seed %d: left over: %s\n%s", seed, id, s.states())
		}
	}
	for _, w := range s.want.services {
		for slot := 1; slot <= w.replicas && !w.stopped; slot++ {
			inst := s.instances[instanceID("p", w.name, slot, w.hash)]
			if inst == nil || !w.awaited && !inst.serving() || w.awaited && inst.alive() {
				t.Fatalf("seed %d: not as wanted: %s slot %d\n%s", seed, w.name, slot, s.states())
			}
		}
	}
}

// TestRolloutsNeverServeLess replaces and scales services whose programs work: at no moment do fewer serve than both
// the old and the new number of replicas ask for, and stop-first services never run twice in one slot. The loop may lose its
// memory in the middle.
func TestRolloutsNeverServeLess(t *testing.T) {
	t.Parallel()
	for seed := range *seeds {
		c := chance{rand.New(rand.NewPCG(uint64(seed), 2))}
		s := newSim()
		c.behaviours(s)
		w := wantService{
			name: "web", hash: "h0", replicas: 1 + c.IntN(5), parallelism: c.IntN(4), grace: 15 * time.Second, patience: time.Hour,
			routed: !c.one(4), restart: restartPolicy{condition: restartAlways}, delay: time.Duration(c.IntN(2)) * time.Second,
			stopFirst: c.one(3),
		}
		s.want.services = []wantService{w}
		if !s.settle(1000) {
			t.Fatalf("seed %d: the first deploy never settles", seed)
		}
		s.lowest["web"] = w.replicas
		floor := w.replicas
		for change := range 1 + c.IntN(4) {
			w.hash, w.replicas = fmt.Sprintf("h%d", c.IntN(3)), 1+c.IntN(5)
			s.want.services = []wantService{w}
			s.want.revision++
			floor = min(floor, w.replicas)
			for range c.IntN(30) {
				s.round()
				s.neverTwice(t, seed, w)
				if c.one(15) {
					s.crash()
				}
			}
			if change == 0 || c.one(2) {
				if !s.settle(2000) {
					t.Fatalf("seed %d never settles:\n%s", seed, s.states())
				}
			}
		}
		if !w.stopFirst && s.lowest["web"] < floor {
			t.Fatalf("seed %d: only %d served, %d were wanted all the time:\n%s", seed, s.lowest["web"], floor, strings.Join(s.trace, "\n"))
		}
	}
}

// round plans once, carries it out and lets a little time pass.
func (s *sim) round() {
	d := s.plan()
	for _, st := range d.steps {
		s.do(st)
	}
	s.live(s.now.Add(200 * time.Millisecond))
}

func (s *sim) neverTwice(t *testing.T, seed int, w wantService) {
	t.Helper()
	if !w.stopFirst {
		return
	}
	slots := map[int]int{}
	for _, inst := range s.instances {
		if inst.alive() {
			slots[inst.slot]++
		}
	}
	for slot, n := range slots {
		if n > 1 {
			t.Fatalf("seed %d: %d instances run in slot %d of a stop-first service:\n%s", seed, n, slot, strings.Join(s.trace, "\n"))
		}
	}
}

// TestPlanIsPure plans twice from the same input.
func TestPlanIsPure(t *testing.T) {
	for seed := range 200 {
		c := chance{rand.New(rand.NewPCG(uint64(seed), 3))}
		s := newSim()
		c.behaviours(s)
		s.want.services = c.services(1)
		for range 10 {
			h := s.have()
			a, b := plan(s.want, h, s.now), plan(s.want, h, s.now)
			if x, y := s.words(a), s.words(b); x != y {
				t.Fatalf("seed %d: %s\nand then\n%s", seed, x, y)
			}
			s.round()
		}
	}
}

func largeWorld(services, replicas int) (want, have) {
	w, h := want{project: "p", revision: 1}, have{progress: map[string]time.Time{}, hooksDone: map[string]string{}}
	for i := range services {
		name := fmt.Sprintf("service-%03d", i)
		s := wantService{
			name: name, hash: "aaaaaaaa", replicas: replicas, parallelism: 1, grace: 10 * time.Second, patience: time.Minute, routed: true,
			restart: restartPolicy{condition: restartAlways},
		}
		if i > 0 {
			s.dependsOn = []dependency{{fmt.Sprintf("service-%03d", i-1), "service_healthy", true}}
		}
		w.services = append(w.services, s)
		for slot := 1; slot <= replicas; slot++ {
			h.instances = append(h.instances, seen{
				id: instanceID("p", name, slot, s.hash), service: name, slot: slot, hash: s.hash, state: driver.Running,
				ready: true, wasReady: true, readySince: epoch, startable: true, revision: 1,
			})
		}
	}
	sortSeen(h.instances)
	return w, h
}

func BenchmarkPlan(b *testing.B) {
	for _, n := range []int{10, 50, 200, 1000} {
		w, h := largeWorld(n, 5)
		b.Run(fmt.Sprintf("idle/%dx5", n), func(b *testing.B) {
			for b.Loop() {
				plan(w, h, epoch)
			}
		})
		for i := range w.services {
			w.services[i].hash = "bbbbbbbb"
		}
		b.Run(fmt.Sprintf("rollout/%dx5", n), func(b *testing.B) {
			for b.Loop() {
				plan(w, h, epoch)
			}
		})
		empty := have{progress: h.progress, hooksDone: h.hooksDone}
		b.Run(fmt.Sprintf("first/%dx5", n), func(b *testing.B) {
			for b.Loop() {
				plan(w, empty, epoch)
			}
		})
	}
}

// TestDrainsLeaveEnough replaces and scales a service while its instances crash and some new ones never become ready: no
// plan takes an instance that serves out of rotation unless as many as wanted go on serving without it.
func TestDrainsLeaveEnough(t *testing.T) {
	t.Parallel()
	for seed := range *seeds {
		c := chance{rand.New(rand.NewPCG(uint64(seed), 4))}
		s := newSim()
		bad := fmt.Sprintf("h%d", c.IntN(6)) // of half the seeds, a definition that never becomes ready
		s.behave = func(i seen) behaviour {
			if i.hash == bad {
				return behaviour{readyAfter: -1}
			}
			return behaviour{readyAfter: time.Duration(1+i.slot) * time.Second, drain: 2 * time.Second}
		}
		w := wantService{
			name: "web", hash: "h0", replicas: 1 + c.IntN(4), parallelism: c.IntN(3), grace: 10 * time.Second, patience: time.Hour,
			routed: true, restart: restartPolicy{condition: restartAlways},
		}
		for range 4 {
			w.hash, w.replicas = fmt.Sprintf("h%d", c.IntN(3)), 1+c.IntN(4)
			s.want.services = []wantService{w}
			s.want.revision++
			for range 5 + c.IntN(40) {
				d := s.plan()
				s.drainsLeaveEnough(t, seed, d.steps)
				for _, st := range d.steps {
					s.do(st)
				}
				s.live(s.now.Add(200 * time.Millisecond))
				if c.one(8) {
					c.disturb(s)
				}
			}
		}
	}
}

func (s *sim) drainsLeaveEnough(t *testing.T, seed int, steps []step) {
	t.Helper()
	serving, drained := 0, 0
	for _, inst := range s.instances {
		if inst.serving() {
			serving++
		}
	}
	for _, st := range steps {
		switch inst := s.instances[st.id]; st.kind {
		case stepRoute:
			serving++
		case stepDrain:
			if inst.serving() {
				drained++
			}
		}
	}
	if want := s.want.services[0].replicas; drained > 0 && serving-drained < want {
		t.Fatalf("seed %d: %d of %d serving instances are drained, %d are wanted:\n%s", seed, drained, serving, want, s.states())
	}
}
