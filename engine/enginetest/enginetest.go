// Package enginetest is the suite that every engine passes: what every engine keeps, each line of it a named test, under
// load where traffic is meant. It knows an engine by what its users can do, so it runs against a whole system: the file
// goes in, and what callers see comes out.
//
// Wherever the suite says that nothing is lost, a twin with the mechanism switched off has to lose something: a test that
// cannot fail shows nothing.
package enginetest

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"trellis/engine"
)

// Target is an engine, and a driver where it has several, that the suite runs on.
type Target struct {
	// Service are the lines of a service by which the program under test (e2e/testdata/testapp) runs, and Trellis those
	// below its x-trellis. Program is its path as an instance sees it.
	Service []string
	Trellis []string
	Program string
	// Slow says that starting an instance takes seconds where the machine has other work too: the suite then repeats less,
	// and requests may have waited in vain for one that was away for longer than they are held.
	Slow bool
	// Unrouted is how long an instance that is to end goes on, at least, before it is told.
	Unrouted time.Duration
	// Brief leaves out the lines and the forms of a line that depend least on how instances are run: for a target that a run
	// of all tests has no time for, and another run has whole.
	Brief bool
	// New returns a project that was never applied, and removes it at the test's end. What without names ("hold",
	// "retry") is switched off in its data plane.
	New func(t *testing.T, without ...string) Project
}

// Secret is the content of a project's secret.txt.
const Secret = "s3cret-value"

// Project is one project on a target. In its folder is secret.txt.
type Project interface {
	// Name is what its files are to call it: no other project of the target has the same one at the same time.
	Name() string
	// Apply makes file what is wanted and blocks until the engine has it so. An error says why it was refused, or how it
	// failed; what was printed is part of it.
	Apply(file string) error
	// Observe returns what is there; an error where nothing was ever applied.
	Observe() (engine.State, error)
	// Port is the one that files publish, and Address the URL by which clients reach it.
	Port() int
	Address() string
	// Ledger is the empty folder, as a file names it, that all instances share and write at /ledger.
	Ledger() string
	// Rollback makes a kept revision the wanted one again and blocks as Apply does.
	Rollback(revision int64) error
	// Crash kills the program of an instance with SIGKILL.
	Crash(id engine.InstanceID) error
	// Interrupt kills what belongs to the engine itself, and returns when it is back, or somebody has called it back.
	Interrupt() error
	// Delete removes the project and returns when it is gone; an error also where something is left of it.
	Delete() error
}

// lines are the sentences of the contract, in its order.
var lines = []struct {
	name  string
	test  func(c *check)
	brief bool // part of the brief form
}{
	{"1 starts in the order of depends_on", startOrder, true},
	{"2 ready instances alone take traffic", readiness, false},
	{"3 crashed instances are replaced", crashes, true},
	{"4 rollouts lose nothing", rollouts, true},
	{"5 bad rollouts go back by themselves", badRollouts, false},
	{"6 rollbacks restore a revision", rollbacks, false},
	{"7 autoscaling follows its target", autoscaling, false},
	{"8 stops end the whole tree", stops, true},
	{"9 files environment and hooks arrive", arrivals, true},
	{"10 applying twice changes nothing", twice, false},
}

// Run runs the suite, its tests side by side: each has a project of its own, and most of its time is waiting.
func Run(t *testing.T, target Target) {
	for _, l := range lines {
		t.Run(l.name, func(t *testing.T) {
			if target.Brief && !l.brief {
				t.Skip("no part of the brief form: the whole suite is in 'make faults' and 'make test-kubernetes'")
			}
			t.Parallel()
			l.test(&check{T: t, target: target})
		})
	}
}

// check is one test on a target.
type check struct {
	*testing.T
	target Target
}

// sub runs a part of a test.
func (c *check) sub(name string, f func(c *check)) {
	c.T.Helper()
	c.Run(name, func(t *testing.T) {
		t.Parallel()
		f(&check{T: t, target: c.target})
	})
}

// project returns a project with file applied.
func (c *check) project(file func(p Project) string, without ...string) *running {
	c.Helper()
	p := &running{Project: c.target.New(c.T, without...), c: c}
	p.apply(file(p))
	return p
}

// running is a project that has been applied.
type running struct {
	Project
	c *check
}

func (p *running) apply(file string) {
	p.c.Helper()
	if err := p.Apply(file); err != nil {
		p.c.Fatalf("apply: %v\n%s", err, file)
	}
}

func (p *running) observe() engine.State {
	p.c.Helper()
	s, err := p.Observe()
	if err != nil {
		p.c.Fatalf("observe: %v", err)
	}
	return s
}

func (p *running) service(name string) engine.Service {
	p.c.Helper()
	s := p.observe()
	for _, svc := range s.Services {
		if svc.Name == name {
			return svc
		}
	}
	p.c.Fatalf("no service %s in %+v", name, s)
	return engine.Service{}
}

// live returns the instances of web that have not exited.
func (p *running) live() []engine.Instance {
	p.c.Helper()
	var live []engine.Instance
	for _, in := range p.service("web").Instances {
		if in.State != engine.InstanceExited {
			live = append(live, in)
		}
	}
	return live
}

// runs maps each instance of web that has not exited to its run.
func (p *running) runs() string {
	p.c.Helper()
	var words []string
	for _, in := range p.live() {
		words = append(words, fmt.Sprint(in.ID, " ", in.Restarts, " ", in.StartedAt.UnixNano()))
	}
	return strings.Join(words, "\n")
}

// answer returns what a GET of path is answered with, which has to be 200.
func (p *running) answer(path string) string {
	p.c.Helper()
	body, err := p.ask("GET", path)
	if err != nil {
		p.c.Fatal(err)
	}
	return body
}

// version returns which version of web answers.
func (p *running) version() string {
	p.c.Helper()
	return p.hello().Version
}

// patience is how long the suite waits for what has to come: what is slow for want of CPU is no failure.
const patience = time.Minute

// until polls until ok returns "" and fails with what it said last. It asks less often the longer it takes: an engine may
// have to start a command for the answer.
func (c *check) until(within time.Duration, what string, ok func() string) {
	c.Helper()
	deadline := time.Now().Add(within)
	for pause := 20 * time.Millisecond; ; pause = min(pause*3/2, 300*time.Millisecond) {
		why := ok()
		if why == "" {
			return
		}
		if time.Now().After(deadline) {
			c.Fatalf("%s: not within %v: %s", what, within, why)
		}
		time.Sleep(pause)
	}
}

var client = http.Client{Timeout: 15 * time.Second}
