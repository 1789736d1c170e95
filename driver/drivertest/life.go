package drivertest

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"trellis/driver"
	"trellis/errdefs"
)

// lifeSentences are about Start, Stop and Remove.
func lifeSentences() []sentence {
	return []sentence{
		{name: "StartIsIdempotent", run: startIsIdempotent},
		{name: "StartOtherHashConflicts", run: startOtherHashConflicts},
		{name: "StartInvalidIsInvalid", run: startInvalidIsInvalid},
		{name: "ProgramThatCannotStartIsReportedAsExit", run: programThatCannotStart},
		{name: "ConcurrentStartsRunOnce", run: concurrentStartsRunOnce},
		{name: "EnvironmentIsExact", run: environmentIsExact},
		{name: "RestartKeepsAddressAndCounts", run: restartKeepsAddressAndCounts},
		{name: "StopUnknownIsNil", run: stopUnknownIsNil},
		{name: "StopExitedIsNil", run: stopExitedIsNil},
		{name: "StopEndsByTheStopSignal", run: stopEndsByTheStopSignal},
		{name: "StopKillsAfterGrace", run: stopKillsAfterGrace},
		{name: "StopReachesTheWholeTree", run: stopReachesTheWholeTree},
		{name: "StopGoesOnWhenTheCallerLeaves", run: stopGoesOn},
		{name: "ConcurrentStopsAllReturn", run: concurrentStops},
		{name: "StopAgainBringsTheKillForward", run: stopAgain},
		{name: "PreStopRunsBeforeTheStopSignal", run: preStopRuns},
		{name: "PreStopCountsIntoGrace", run: preStopCountsIntoGrace},
		{name: "PostStartThatFailsStopsTheInstance", run: postStartFails},
		{name: "RemoveForgets", run: removeForgets},
		{name: "RemoveUnknownIsNil", run: removeUnknownIsNil},
		{name: "RemoveRunningConflicts", run: removeRunningConflicts},
		{name: "LeavesNothingBehind", run: leavesNothingBehind},
	}
}

func startIsIdempotent(w *world) {
	spec := w.spec("web", Behaviour{Print: []string{"up"}})
	w.start(spec)
	first := w.running(spec)
	for range 3 {
		if err := w.d.Start(w.ctx(), spec); err != nil {
			w.Fatalf("start again: %v", err)
		}
	}
	again := w.running(spec)
	if again.PID != first.PID || again.Restarts != 0 || !again.StartedAt.Equal(first.StartedAt) {
		w.Errorf("a second start touched the instance: %+v, before %+v", again, first)
	}
	if n := len(w.list(project)); n != 1 {
		w.Errorf("%d instances, want 1", n)
	}
}

func startOtherHashConflicts(w *world) {
	spec := w.spec("web", Behaviour{})
	w.start(spec)
	first := w.running(spec)
	changed := spec
	changed.Hash = "b"
	w.wantKind("start with another hash", w.d.Start(w.ctx(), changed), errdefs.ErrConflict)
	if again := w.running(spec); again.PID != first.PID || again.Hash != "a" {
		w.Errorf("the refused start touched the instance: %+v", again)
	}
}

func startInvalidIsInvalid(w *world) {
	for name, breakIt := range map[string]func(*driver.Spec){
		"no ID":      func(s *driver.Spec) { s.ID = "" },
		"no project": func(s *driver.Spec) { s.Project = "" },
		"no service": func(s *driver.Spec) { s.Service = "" },
		"no command": func(s *driver.Spec) { s.Command, s.Image = nil, "" },
		"path in ID": func(s *driver.Spec) { s.ID = "drivertest/../../etc" },
		"bad signal": func(s *driver.Spec) { s.StopSignal = "SIGNONSENSE" },
	} {
		spec := w.spec("web", Behaviour{})
		breakIt(&spec)
		w.wantKind(name, w.d.Start(w.ctx(), spec), errdefs.ErrInvalid)
	}
	if left := w.list(project); len(left) != 0 {
		w.Errorf("refused starts left instances: %+v", left)
	}
}

func programThatCannotStart(w *world) {
	spec := w.spec("web", Behaviour{Missing: true})
	w.start(spec)
	exit := w.exited(spec)
	if exit.Error == "" {
		w.Errorf("exit %+v: Error is empty, want the reason", exit)
	}
	if exit.Code == 0 {
		w.Errorf("exit %+v: code 0 of a program that never ran", exit)
	}
}

func concurrentStartsRunOnce(w *world) {
	spec := w.spec("web", Behaviour{Print: []string{"one run"}})
	w.start(spec)
	w.awaitOutput(spec.ID, "one run")
	w.stop(spec.ID, w.cfg.Wait) // so that all of them have to start it
	var group sync.WaitGroup
	errs := make([]error, 8)
	for i := range errs {
		group.Go(func() { errs[i] = w.d.Start(w.ctx(), spec) })
	}
	group.Wait()
	for _, err := range errs {
		if err != nil {
			w.Errorf("start: %v", err)
		}
	}
	inst := w.running(spec)
	if inst.Restarts != 1 {
		w.Errorf("%d restarts, want 1", inst.Restarts)
	}
	w.eventually("output of both runs", func() (bool, any) {
		got := texts(w.lines(spec.ID, driver.LogOptions{}), "stdout")
		return len(got) >= 2, got
	})
	if got := texts(w.lines(spec.ID, driver.LogOptions{}), "stdout"); len(got) != 2 {
		w.Errorf("output %q: want one line of each of two runs", got)
	}
}

func environmentIsExact(w *world) {
	w.Setenv("DRIVERTEST_OWN", "must not be inherited")
	spec := w.spec("web", Behaviour{Env: true, End: &End{}})
	spec.Env = []string{"PATH=/usr/bin:/bin", "A=1", "EMPTY=", "SPACE=a b", "QUOTE=\"'$A", "UTF8=ä€"}
	w.start(spec)
	w.exited(spec)
	extra := map[string]bool{}
	for _, name := range w.cfg.ExtraEnv {
		extra[name] = true
	}
	got := map[string]bool{}
	for _, line := range texts(w.lines(spec.ID, driver.LogOptions{}), "stdout") {
		kv := strings.TrimPrefix(line, "env ")
		name, _, _ := strings.Cut(kv, "=")
		if !extra[name] {
			got[kv] = true
		}
	}
	for _, kv := range spec.Env {
		if !got[kv] {
			w.Errorf("%s is missing", kv)
		}
		delete(got, kv)
	}
	for kv := range got {
		w.Errorf("%s is there and not asked for", kv)
	}
}

func restartKeepsAddressAndCounts(w *world) {
	spec := w.spec("web", Behaviour{End: &End{Code: 3}})
	spec.Ports = []int{8080}
	w.start(spec)
	w.exited(spec)
	first, _ := w.find(spec)
	for n := 1; n <= 2; n++ {
		if err := w.d.Start(w.ctx(), spec); err != nil {
			w.Fatalf("start again: %v", err)
		}
		again := w.await(spec, fmt.Sprint("restart ", n), func(i driver.Instance) bool {
			return i.Restarts == n && i.State == driver.Exited
		})
		if again.Host != first.Host || fmt.Sprint(again.PortMap) != fmt.Sprint(first.PortMap) || again.Netns != first.Netns {
			w.Errorf("address %s %v %s, before %s %v %s",
				again.Host, again.PortMap, again.Netns, first.Host, first.PortMap, first.Netns)
		}
		if again.StartedAt.Before(first.StartedAt) {
			w.Errorf("started at %s, the first time at %s", again.StartedAt, first.StartedAt)
		}
	}
}

func stopUnknownIsNil(w *world) {
	if err := w.d.Stop(w.ctx(), project+"/nobody-1-00000000", time.Second); err != nil {
		w.Errorf("stop of an unknown instance: %v", err)
	}
}

func stopExitedIsNil(w *world) {
	spec := w.spec("job", Behaviour{End: &End{Code: 4}})
	w.start(spec)
	before := w.exited(spec)
	w.stop(spec.ID, time.Second)
	if after := w.exited(spec); after != before {
		w.Errorf("stop changed the exit of an exited instance: %+v, before %+v", after, before)
	}
}

func stopEndsByTheStopSignal(w *world) {
	spec := w.spec("web", Behaviour{Print: []string{"up"}})
	w.start(spec)
	w.awaitOutput(spec.ID, "up")
	w.stop(spec.ID, w.cfg.Wait)
	inst, ok := w.find(spec)
	if !ok || inst.State != driver.Exited || inst.Exit == nil {
		w.Fatalf("after stop: %+v", inst)
	}
	if !inst.Exit.Asked || inst.Exit.Signal != "SIGTERM" || inst.Exit.Code != 128+15 {
		w.Errorf("exit %+v: want asked, SIGTERM, 143", *inst.Exit)
	}
}

func stopKillsAfterGrace(w *world) {
	spec := w.spec("deaf", Behaviour{IgnoreStop: true, Print: []string{"up"}})
	w.start(spec)
	w.awaitOutput(spec.ID, "up")
	began := time.Now()
	w.stop(spec.ID, 200*time.Millisecond)
	if took := time.Since(began); took < 200*time.Millisecond {
		w.Errorf("stop took %s: the grace period was not given", took)
	}
	if exit := w.exited(spec); exit.Signal != "SIGKILL" || exit.Code != 128+9 || !exit.Asked || exit.OOM {
		w.Errorf("exit %+v: want asked, SIGKILL, 137", exit)
	}
}

func stopReachesTheWholeTree(w *world) {
	marker := fmt.Sprintf("tree-%d", time.Now().UnixNano())
	spec := w.spec("tree", Behaviour{Marker: marker, Children: 3, Tick: 10 * time.Millisecond})
	w.start(spec)
	w.eventually("output of the children", func() (bool, any) {
		n := len(texts(w.lines(spec.ID, driver.LogOptions{}), "stdout"))
		return n > 10, n
	})
	if w.cfg.Count != nil {
		w.eventually("four processes", func() (bool, any) { n := w.cfg.Count(marker); return n == 4, n })
	}
	w.stop(spec.ID, 200*time.Millisecond)
	if w.cfg.Count != nil {
		if n := w.cfg.Count(marker); n != 0 {
			w.Errorf("%d processes of the tree live after Stop returned", n)
		}
	}
	w.exited(spec)
	before := len(w.lines(spec.ID, driver.LogOptions{}))
	time.Sleep(100 * time.Millisecond)
	if after := len(w.lines(spec.ID, driver.LogOptions{})); after != before {
		w.Errorf("%d lines of output came after Stop returned", after-before)
	}
}

func stopGoesOn(w *world) {
	spec := w.spec("deaf", Behaviour{IgnoreStop: true, Print: []string{"up"}})
	w.start(spec)
	w.awaitOutput(spec.ID, "up")
	ctx, cancel := context.WithTimeout(w.ctx(), 20*time.Millisecond)
	defer cancel()
	if err := w.d.Stop(ctx, spec.ID, 300*time.Millisecond); err == nil {
		w.Error("stop returned nil before the instance had ended")
	}
	if exit := w.exited(spec); !exit.Asked {
		w.Errorf("exit %+v: want asked", exit)
	}
}

func concurrentStops(w *world) {
	spec := w.spec("deaf", Behaviour{IgnoreStop: true, Print: []string{"up"}})
	w.start(spec)
	w.awaitOutput(spec.ID, "up")
	var group sync.WaitGroup
	for range 4 {
		group.Go(func() {
			if err := w.d.Stop(w.ctx(), spec.ID, 100*time.Millisecond); err != nil {
				w.Errorf("stop: %v", err)
			}
			if inst, ok := w.find(spec); !ok || inst.State != driver.Exited {
				w.Errorf("after stop: %+v", inst)
			}
		})
	}
	group.Wait()
}

func stopAgain(w *world) {
	spec := w.spec("deaf", Behaviour{IgnoreStop: true, Print: []string{"up"}})
	w.start(spec)
	w.awaitOutput(spec.ID, "up")
	var group sync.WaitGroup
	group.Go(func() { w.stop(spec.ID, time.Hour) })
	time.Sleep(20 * time.Millisecond)
	w.stop(spec.ID, 0)
	group.Wait()
	if exit := w.exited(spec); exit.Signal != "SIGKILL" {
		w.Errorf("exit %+v: want SIGKILL", exit)
	}
}

// hook returns a hook that does b.
func (w *world) hook(b Behaviour) driver.Hook {
	return driver.Hook{Command: w.cfg.Spec(w.T, b, driver.Spec{}).Command}
}

func preStopRuns(w *world) {
	file := filepath.Join(w.TempDir(), "pre-stop")
	spec := w.spec("web", Behaviour{Print: []string{"up"}})
	spec.PreStop = []driver.Hook{w.hook(Behaviour{Touch: file, End: &End{}})}
	w.start(spec)
	w.awaitOutput(spec.ID, "up")
	if _, err := os.Stat(file); err == nil {
		w.Fatal("the hook ran before the stop")
	}
	w.stop(spec.ID, w.cfg.Wait)
	if _, err := os.Stat(file); err != nil {
		w.Errorf("the hook did not run: %v", err)
	}
	if exit := w.exited(spec); exit.Signal != "SIGTERM" {
		w.Errorf("exit %+v: want SIGTERM after the hook", exit)
	}
}

func preStopCountsIntoGrace(w *world) {
	spec := w.spec("web", Behaviour{Print: []string{"up"}})
	spec.PreStop = []driver.Hook{w.hook(Behaviour{})} // never ends
	w.start(spec)
	w.awaitOutput(spec.ID, "up")
	w.stop(spec.ID, 200*time.Millisecond) // would never return if the hook had its own time
	w.exited(spec)
}

func postStartFails(w *world) {
	spec := w.spec("web", Behaviour{})
	spec.PostStart = []driver.Hook{w.hook(Behaviour{End: &End{Code: 9}})}
	w.start(spec)
	if exit := w.exited(spec); exit.Error == "" {
		w.Errorf("exit %+v: want Error to name the hook", exit)
	}
}

func removeForgets(w *world) {
	spec := w.spec("web", Behaviour{Print: []string{"first life"}, End: &End{Code: 1}})
	w.start(spec)
	w.exited(spec)
	if err := w.d.Remove(w.ctx(), spec.ID); err != nil {
		w.Fatalf("remove: %v", err)
	}
	if left := w.list(project); len(left) != 0 {
		w.Errorf("still listed: %+v", left)
	}
	_, err := w.d.Logs(w.ctx(), spec.ID, driver.LogOptions{})
	w.wantKind("logs of a removed instance", err, errdefs.ErrNotFound)
	changed := spec
	changed.Hash = "b" // nothing remembers the old one
	if err := w.d.Start(w.ctx(), changed); err != nil {
		w.Fatalf("start after remove: %v", err)
	}
	w.exited(spec)
	if inst, _ := w.find(spec); inst.Restarts != 0 {
		w.Errorf("%d restarts after remove, want 0", inst.Restarts)
	}
}

func removeUnknownIsNil(w *world) {
	if err := w.d.Remove(w.ctx(), project+"/nobody-1-00000000"); err != nil {
		w.Errorf("remove of an unknown instance: %v", err)
	}
}

func removeRunningConflicts(w *world) {
	spec := w.spec("web", Behaviour{})
	w.start(spec)
	first := w.running(spec)
	w.wantKind("remove of a running instance", w.d.Remove(w.ctx(), spec.ID), errdefs.ErrConflict)
	if again := w.running(spec); again.PID != first.PID {
		w.Errorf("the refused remove touched the instance: %+v", again)
	}
}

func leavesNothingBehind(w *world) {
	marker := fmt.Sprintf("left-%d", time.Now().UnixNano())
	specs := []driver.Spec{
		w.spec("web", Behaviour{Marker: marker, Listen: []int{8080}, Children: 1}),
		w.spec("job", Behaviour{Marker: marker, End: &End{}}),
		w.spec("none", Behaviour{Missing: true}),
	}
	specs[0].Ports = []int{8080}
	for _, spec := range specs {
		w.start(spec)
	}
	w.exited(specs[1])
	w.exited(specs[2])
	for _, spec := range specs {
		w.stop(spec.ID, 100*time.Millisecond)
		if err := w.d.Remove(w.ctx(), spec.ID); err != nil {
			w.Fatalf("remove %s: %v", spec.ID, err)
		}
	}
	if left := w.list(project); len(left) != 0 {
		w.Errorf("still listed: %+v", left)
	}
	if w.cfg.Count != nil {
		if n := w.cfg.Count(marker); n != 0 {
			w.Errorf("%d processes left", n)
		}
	}
	if w.cfg.Leftovers != nil {
		if left := w.cfg.Leftovers(w.T, w.d); len(left) != 0 {
			w.Errorf("left behind: %q", left)
		}
	}
}
