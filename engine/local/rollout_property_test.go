package local

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"trellis/state"
)

// TestRolloutsAreFinishedOrUndone replaces a service by definitions that work, never become ready, crash after a while or
// do worse, and kills the loop between any two steps, also between what it writes down and what it does. Whatever
// happens: it ends with every instance of the new definition or every one of the last healthy one, and unless the service
// has to stop first no instance that serves is taken out of rotation for it without as many left as are wanted.
func TestRolloutsAreFinishedOrUndone(t *testing.T) {
	t.Parallel()
	outcomes := map[string]int{}
	for seed := range *seeds {
		c := chance{rand.New(rand.NewPCG(uint64(seed), 5))}
		s := newSim()
		w := wantService{
			name: "web", hash: "h0", replicas: 1 + c.IntN(4), parallelism: c.IntN(3), grace: 5 * time.Second, patience: 20 * time.Second,
			routed: !c.one(5), restart: restartPolicy{condition: restartAlways}, stopFirst: c.one(4), onFailure: "rollback",
			monitor: time.Duration(c.IntN(5)) * time.Second, monitorAll: c.one(2), delay: time.Duration(c.IntN(2)) * time.Second,
			interval: 3 * time.Second,
		}
		if c.one(3) {
			w.canary = []float64{0.05, 0.5}
		}
		s.behave = c.goodOrBad(w.monitor)
		s.deployed(t, seed, w)
		for change := range 3 {
			w.hash = fmt.Sprintf("h%d", change+1)
			s.revise([]wantService{w})
			s.killedAnywhere(t, seed, c, w)
			serves := s.onlyHash(t, seed)
			if serves != w.hash && serves != s.healthy[0].hash {
				t.Fatalf("seed %d: %s serves, want %s or %s:\n%s", seed, serves, w.hash, s.healthy[0].hash, strings.Join(s.trace, "\n"))
			}
			if serves == w.hash {
				outcomes["finished"]++
			} else {
				outcomes["undone"]++
			}
			s.want.pending, s.want.goal, s.rollouts = false, s.want.revision, map[string]state.Rollout{}
			s.trace = nil
		}
	}
	if outcomes["finished"] < *seeds/2 || outcomes["undone"] < *seeds/2 {
		t.Errorf("%v: this says little", outcomes)
	}
}

// TestRolloutsThatAreScaledMeanwhile: whatever is scaled in the middle, by whom ever, a rollout is finished or undone, and no instance that
// serves is taken out of rotation for it unless as many as are wanted go on serving.
func TestRolloutsThatAreScaledMeanwhile(t *testing.T) {
	t.Parallel()
	grown := 0
	for seed := range *seeds {
		c := chance{rand.New(rand.NewPCG(uint64(seed), 6))}
		s := newSim()
		w := wantService{
			name: "web", hash: "h0", replicas: 1 + c.IntN(4), parallelism: c.IntN(3), grace: 5 * time.Second, patience: 20 * time.Second,
			routed: true, restart: restartPolicy{condition: restartAlways}, stopFirst: c.one(5), onFailure: []string{"rollback", "pause"}[c.IntN(2)],
			monitor: time.Duration(c.IntN(3)) * time.Second, monitorAll: c.one(2), interval: 3 * time.Second,
		}
		if !c.one(4) {
			w.canary = []float64{0.1, 0.5}
		}
		s.behave = c.goodOrBad(w.monitor)
		s.deployed(t, seed, w)
		w.hash = "h1"
		s.revise([]wantService{w})
		for range 3 {
			for range c.IntN(40) {
				d := s.plan()
				if !w.stopFirst {
					s.drainsLeaveEnough(t, seed, d.steps)
				}
				for _, st := range d.steps {
					if s.do(st); st.hash != "" && strings.Contains(st.reason, "before the rollout is over") {
						grown++
					}
					s.neverTwice(t, seed, w)
				}
				s.turn(d)
				s.live(s.now.Add(200 * time.Millisecond))
				if c.one(20) {
					s.crash()
				}
			}
			n := 1 + c.IntN(6)
			for _, services := range [][]wantService{s.want.services, s.healthy} {
				services[0].replicas = n
			}
		}
		if r, ok := s.rollouts["web"]; ok && r.Phase == state.Paused {
			aborted, err := instruct(r, "abort", "ann@desk", s.now)
			if err != nil {
				t.Fatal(err)
			}
			s.rollouts["web"] = aborted
		}
		for range 100 {
			if s.settle(200) || s.rollouts["web"].Phase == state.Paused {
				break
			}
		}
		if s.rollouts["web"].Phase == state.Paused {
			continue
		}
		if s.onlyHash(t, seed); len(s.plan().steps) > 0 {
			t.Fatalf("seed %d: never ends:\n%s\n%s", seed, s.states(), strings.Join(s.trace[max(0, len(s.trace)-30):], "\n"))
		}
	}
	if grown < *seeds/4 {
		t.Errorf("%d instances were added before a rollout was over: this says little", grown)
	}
}

// deployed carries out the first revision, of one service, and makes it the one to go back to.
func (s *sim) deployed(t *testing.T, seed int, w wantService) {
	t.Helper()
	s.want.services = []wantService{w}
	if !s.settle(1000) {
		t.Fatalf("seed %d: the first deploy never settles", seed)
	}
	s.healthy, s.want.goal = s.want.services, s.want.revision
}

// goodOrBad draws what becomes of the instances of each definition; h0 works, and one that crashes does so while it is
// watched.
func (c chance) goodOrBad(monitor time.Duration) func(seen) behaviour {
	table := map[string]behaviour{"h0": {readyAfter: time.Second}}
	return func(i seen) behaviour {
		b, ok := table[i.hash]
		if !ok {
			b = behaviour{readyAfter: time.Duration(1+c.IntN(2000)) * time.Millisecond, drain: time.Duration(c.IntN(3000)) * time.Millisecond}
			switch c.IntN(8) {
			case 0:
				b.readyAfter = -1
			case 1:
				b.readyAfter, b.exitAfter, b.code = -1, 20*time.Millisecond, 1
			case 2:
				if monitor > 0 {
					b.exitAfter, b.code = b.readyAfter+time.Duration(1+c.Int64N(int64(monitor)-1)), 1
				}
			case 3:
				b.worse = time.Duration(1+c.IntN(3000)) * time.Millisecond
			}
			table[i.hash] = b
		}
		return b
	}
}

// killedAnywhere lets the loop run to the end of a rollout, and loses its memory between any two things it does.
func (s *sim) killedAnywhere(t *testing.T, seed int, c chance, w wantService) {
	t.Helper()
	for range 5000 {
		d := s.plan()
		c.Shuffle(len(d.steps), func(i, j int) { d.steps[i], d.steps[j] = d.steps[j], d.steps[i] })
		if !w.stopFirst {
			s.drainsLeaveEnough(t, seed, d.steps)
		}
		killed := false
		for _, st := range d.steps {
			if killed = c.one(10); killed {
				break
			}
			s.do(st)
			s.neverTwice(t, seed, w)
		}
		pending := s.want.pending
		if killed = killed || c.one(20); !killed {
			s.turn(d)
		}
		if killed {
			s.crash()
		}
		if d.done && !s.want.pending && !pending && len(d.steps) == 0 {
			return
		}
		if killed || len(d.steps)+len(d.rollouts) == 0 && d.back == "" && pending == s.want.pending {
			s.live(s.now.Add(time.Duration(1+c.IntN(400)) * time.Millisecond))
		}
	}
	t.Fatalf("seed %d: never ends:\n%s\n%s", seed, s.states(), strings.Join(s.trace[max(0, len(s.trace)-30):], "\n"))
}

// onlyHash returns the definition of every instance that runs.
func (s *sim) onlyHash(t *testing.T, seed int) string {
	t.Helper()
	hash := ""
	for _, inst := range s.instances {
		if !inst.alive() {
			continue
		}
		if hash != "" && inst.hash != hash {
			t.Fatalf("seed %d: two definitions run:\n%s\n%s", seed, s.states(), strings.Join(s.trace, "\n"))
		}
		hash = inst.hash
	}
	return hash
}
