// Package drivertest is the contract of package driver as a suite. A driver passes it by calling Run from a test:
//
//	func TestMain(m *testing.M) { drivertest.Program(); os.Exit(m.Run()) }
//
//	func TestDriver(t *testing.T) {
//		drivertest.Run(t, drivertest.Config{
//			New:   func(t *testing.T) driver.Driver { return process.New(...) },
//			Count: drivertest.Processes,
//		})
//	}
//
// Each subtest gets a world of its own and its name is a sentence of the contract.
package drivertest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"testing"
	"time"

	"trellis/driver"
)

// Config says how to make a driver and its world.
type Config struct {
	// New makes a driver on an empty world, and cleans the world up by t.Cleanup. Required.
	New func(t *testing.T) driver.Driver
	// Reopen ends d, as a crash of its program would, and returns a new driver on the same world. nil: the driver is not
	// durable, its Capabilities have to say so, and the sentences about reopening are not asked.
	Reopen func(t *testing.T, d driver.Driver) driver.Driver
	// Spec makes b the program of spec: Command, and whatever else a driver needs to carry it out. nil: the command
	// line of Command, for drivers that run programs of this machine.
	Spec func(t *testing.T, b Behaviour, spec driver.Spec) driver.Spec
	// Count counts the live processes whose Behaviour has that Marker. nil: there are no processes to count, and only
	// their output is watched.
	Count func(marker string) int
	// Dial connects to an instance's address and returns the first line it says. nil: there are no real sockets.
	Dial func(t *testing.T, address string) (string, error)
	// Leftovers names what the driver still keeps, on disk or in memory, of instances that were removed.
	Leftovers func(t *testing.T, d driver.Driver) []string
	// ExtraEnv are names of variables that the driver cannot help adding.
	ExtraEnv []string
	// Only are the sentences that are asked, by name; nil: all.
	Only []string
	// Wait is how long to wait for what has to come, 10 s where 0.
	Wait time.Duration
}

// Run asks the whole contract of a driver.
func Run(t *testing.T, cfg Config) {
	if cfg.Wait == 0 {
		cfg.Wait = 10 * time.Second
	}
	if cfg.Spec == nil {
		cfg.Spec = func(_ *testing.T, b Behaviour, spec driver.Spec) driver.Spec {
			spec.Command, spec.Dir = Command(b), "/"
			return spec
		}
	}
	for _, c := range sentences() {
		if cfg.Only != nil && !slices.Contains(cfg.Only, c.name) {
			continue
		}
		t.Run(c.name, func(t *testing.T) {
			d := cfg.New(t)
			if c.reopen {
				if cfg.Reopen == nil && d.Capabilities().Durable {
					t.Fatal("the driver says it is durable: Config.Reopen is missing")
				}
				if cfg.Reopen == nil {
					t.Skip("the driver is not durable, as its Capabilities say")
				}
			}
			c.run(&world{T: t, cfg: cfg, d: d})
		})
	}
}

type sentence struct {
	name   string
	run    func(*world)
	reopen bool
}

func sentences() []sentence {
	return append(append(lifeSentences(), viewSentences()...), reachSentences()...)
}

// world is one subtest's: its driver and short names for what tests do.
type world struct {
	*testing.T
	cfg Config
	d   driver.Driver
}

const (
	project = "drivertest"
	other   = "drivertest2" // begins with the name of the first
)

// spec returns the specification of an instance that does b.
func (w *world) spec(name string, b Behaviour) driver.Spec {
	w.Helper()
	return w.specOf(project, name, b)
}

func (w *world) specOf(project, name string, b Behaviour) driver.Spec {
	w.Helper()
	return w.cfg.Spec(w.T, b, driver.Spec{
		ID:       driver.ID(project + "/" + name + "-1-0000000a"),
		Project:  project,
		Service:  name,
		Slot:     1,
		Hash:     "a",
		Revision: 1,
		Env:      []string{"PATH=/usr/local/bin:/usr/bin:/bin"},
	})
}

func (w *world) ctx() context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 6*w.cfg.Wait)
	w.Cleanup(cancel)
	return ctx
}

func (w *world) start(spec driver.Spec) {
	w.Helper()
	if err := w.d.Start(w.ctx(), spec); err != nil {
		w.Fatalf("start %s: %v", spec.ID, err)
	}
	w.Cleanup(func() {
		if err := w.d.Stop(w.ctx(), spec.ID, 0); err != nil {
			w.Errorf("stop %s at the end: %v", spec.ID, err)
		}
		if err := w.d.Remove(w.ctx(), spec.ID); err != nil {
			w.Errorf("remove %s at the end: %v", spec.ID, err)
		}
	})
}

func (w *world) stop(id driver.ID, grace time.Duration) {
	w.Helper()
	if err := w.d.Stop(w.ctx(), id, grace); err != nil {
		w.Fatalf("stop %s: %v", id, err)
	}
}

func (w *world) list(project string) []driver.Instance {
	w.Helper()
	all, err := w.d.List(w.ctx(), project)
	if err != nil {
		w.Fatalf("list %s: %v", project, err)
	}
	return all
}

// find returns an instance as List has it now.
func (w *world) find(spec driver.Spec) (driver.Instance, bool) {
	w.Helper()
	for _, inst := range w.list(spec.Project) {
		if inst.ID == spec.ID {
			return inst, true
		}
	}
	return driver.Instance{}, false
}

// await polls until List reports the instance so that ok holds.
func (w *world) await(spec driver.Spec, what string, ok func(driver.Instance) bool) driver.Instance {
	w.Helper()
	var last driver.Instance
	w.eventually(fmt.Sprintf("%s of %s", what, spec.ID), func() (bool, any) {
		inst, found := w.find(spec)
		last = inst
		return found && ok(inst), inst
	})
	return last
}

func (w *world) running(spec driver.Spec) driver.Instance {
	w.Helper()
	return w.await(spec, "running", func(i driver.Instance) bool { return i.State == driver.Running })
}

func (w *world) exited(spec driver.Spec) driver.Exit {
	w.Helper()
	inst := w.await(spec, "exit", func(i driver.Instance) bool { return i.State == driver.Exited && i.Exit != nil })
	return *inst.Exit
}

// eventually polls until ok; it fails with the last thing seen.
func (w *world) eventually(what string, ok func() (bool, any)) {
	w.Helper()
	deadline := time.Now().Add(w.cfg.Wait)
	for {
		done, seen := ok()
		if done {
			return
		}
		if time.Now().After(deadline) {
			w.Fatalf("not within %s: %s; last seen: %+v", w.cfg.Wait, what, seen)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// lines returns the output of an instance as it is now.
func (w *world) lines(id driver.ID, opt driver.LogOptions) []driver.LogLine {
	w.Helper()
	r, err := w.d.Logs(w.ctx(), id, opt)
	if err != nil {
		w.Fatalf("logs %s: %v", id, err)
	}
	defer r.Close()
	return w.decode(r)
}

func (w *world) decode(r io.Reader) []driver.LogLine {
	w.Helper()
	var all []driver.LogLine
	for dec := json.NewDecoder(r); ; {
		var l driver.LogLine
		if err := dec.Decode(&l); errors.Is(err, io.EOF) {
			return all
		} else if err != nil {
			w.Fatalf("logs: %v", err)
		}
		all = append(all, l)
	}
}

// texts returns the program's own lines, without the driver's.
func texts(lines []driver.LogLine, stream string) []string {
	var out []string
	for _, l := range lines {
		if l.Stream == stream {
			out = append(out, l.Text)
		}
	}
	return out
}

func (w *world) wantKind(what string, err, kind error) {
	w.Helper()
	if !errors.Is(err, kind) {
		w.Errorf("%s: got %v, want %v", what, err, kind)
	}
}
