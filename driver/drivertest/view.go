package drivertest

import (
	"context"
	"fmt"
	"slices"
	"sort"
	"sync"
	"time"

	"trellis/driver"
)

// viewSentences are about List and Watch.
func viewSentences() []sentence {
	return []sentence{
		{name: "ListReportsWhatWasAskedFor", run: listReportsWhatWasAskedFor},
		{name: "ListReportsExitCode", run: listReportsExitCode},
		{name: "ListReportsSignal", run: listReportsSignal},
		{name: "ListReportsListeningPorts", run: listReportsListening},
		{name: "ListIsScopedToProject", run: listIsScopedToProject},
		{name: "ListIsSorted", run: listIsSorted},
		{name: "ListSurvivesReopen", run: listSurvivesReopen, reopen: true},
		{name: "ExitIsSeenAfterReopen", run: exitIsSeenAfterReopen, reopen: true},
		{name: "StopWorksAfterReopen", run: stopWorksAfterReopen, reopen: true},
		{name: "WatchWakesAndEndsOnCancel", run: watchWakes},
		{name: "WatchNeverOverlaps", run: watchNeverOverlaps},
	}
}

func listReportsWhatWasAskedFor(w *world) {
	spec := w.spec("web", Behaviour{})
	spec.Slot, spec.Revision = 7, 42
	before := time.Now().Add(-time.Minute)
	w.start(spec)
	got := w.running(spec)
	if got.Project != project || got.Service != "web" || got.Slot != 7 || got.Hash != "a" || got.Revision != 42 {
		w.Errorf("listed %+v, asked for %+v", got, spec)
	}
	if got.Exit != nil || got.Restarts != 0 || got.StartedAt.Before(before) || got.StartedAt.After(time.Now().Add(time.Minute)) {
		w.Errorf("listed %+v: want no exit, no restarts, started now", got)
	}
	if w.cfg.Count != nil && got.PID <= 0 {
		w.Errorf("PID %d of a running program", got.PID)
	}
}

func listReportsExitCode(w *world) {
	for _, code := range []int{0, 1, 7, 255} {
		spec := w.spec(fmt.Sprint("job", code), Behaviour{End: &End{Code: code}})
		w.start(spec)
		exit := w.exited(spec)
		if exit.Code != code || exit.Signal != "" || exit.Error != "" || exit.Asked || exit.OOM || exit.Time.IsZero() {
			w.Errorf("exit %+v: want code %d, with a time and nothing else", exit, code)
		}
		if inst, _ := w.find(spec); inst.PID != 0 {
			w.Errorf("PID %d of an exited instance", inst.PID)
		}
	}
}

func listReportsSignal(w *world) {
	for name, number := range map[string]int{"SIGKILL": 9, "SIGTERM": 15} {
		spec := w.spec(name, Behaviour{End: &End{Signal: name}})
		spec.ID = driver.ID(fmt.Sprintf("%s/signal%d-1-0000000a", project, number))
		w.start(spec)
		exit := w.exited(spec)
		if exit.Signal != name || exit.Code != 128+number || exit.Asked || exit.OOM || exit.Error != "" {
			w.Errorf("exit %+v: want %s, %d, not asked", exit, name, 128+number)
		}
	}
}

func listReportsListening(w *world) {
	const port = 8123
	spec := w.spec("web", Behaviour{Listen: []int{port}})
	spec.Ports = []int{port}
	w.start(spec)
	actual := func(i driver.Instance) int {
		if p, ok := i.PortMap[port]; ok {
			return p
		}
		return port
	}
	inst := w.await(spec, "listening port", func(i driver.Instance) bool { return slices.Contains(i.Listening, actual(i)) })
	if inst.Host == "" {
		w.Error("listens and has no host")
	}
	if w.cfg.Dial != nil {
		address := fmt.Sprintf("%s:%d", inst.Host, actual(inst))
		if said, err := w.cfg.Dial(w.T, address); err != nil || said != "hello" {
			w.Errorf("dial %s: %q, %v", address, said, err)
		}
	}
	w.stop(spec.ID, 0)
	if inst := w.await(spec, "exit", func(i driver.Instance) bool { return i.State == driver.Exited }); len(inst.Listening) != 0 {
		w.Errorf("listening %v after the exit", inst.Listening)
	}
}

func listIsScopedToProject(w *world) {
	a, b := w.specOf(project, "web", Behaviour{}), w.specOf(other, "web", Behaviour{})
	w.start(a)
	w.start(b)
	for _, spec := range []driver.Spec{a, b} {
		got := w.list(spec.Project)
		if len(got) != 1 || got[0].ID != spec.ID {
			w.Errorf("list %s: %+v", spec.Project, got)
		}
	}
	if got := w.list("nobody"); len(got) != 0 {
		w.Errorf("list of an unknown project: %+v", got)
	}
}

func listIsSorted(w *world) {
	for _, name := range []string{"m", "z", "a", "k", "b"} {
		w.start(w.spec(name, Behaviour{}))
	}
	got := w.list(project)
	if len(got) != 5 || !sort.SliceIsSorted(got, func(i, j int) bool { return got[i].ID < got[j].ID }) {
		w.Errorf("not in order of ID: %+v", got)
	}
}

func listSurvivesReopen(w *world) {
	spec := w.spec("web", Behaviour{Print: []string{"up"}})
	spec.Ports = []int{8080}
	w.start(spec)
	w.awaitOutput(spec.ID, "up")
	before := w.running(spec)
	w.d = w.cfg.Reopen(w.T, w.d)
	after := w.running(spec)
	if after.PID != before.PID || !after.StartedAt.Equal(before.StartedAt) || after.Restarts != before.Restarts ||
		after.Host != before.Host || after.Netns != before.Netns || fmt.Sprint(after.PortMap) != fmt.Sprint(before.PortMap) {
		w.Errorf("after reopen %+v, before %+v", after, before)
	}
	if err := w.d.Start(w.ctx(), spec); err != nil {
		w.Errorf("start of what runs: %v", err)
	}
	if again := w.running(spec); again.PID != before.PID {
		w.Errorf("start after reopen made another one: %+v, before %+v", again, before)
	}
}

func exitIsSeenAfterReopen(w *world) {
	spec := w.spec("job", Behaviour{Print: []string{"last words"}, End: &End{After: 150 * time.Millisecond, Code: 7}})
	w.start(spec)
	w.d = w.cfg.Reopen(w.T, w.d)
	if exit := w.exited(spec); exit.Code != 7 || exit.Error != "" || exit.Asked {
		w.Errorf("exit %+v: want code 7", exit)
	}
	w.d = w.cfg.Reopen(w.T, w.d) // and once more, now that it is over
	if exit := w.exited(spec); exit.Code != 7 || exit.Error != "" {
		w.Errorf("exit %+v: want code 7", exit)
	}
	if got := texts(w.lines(spec.ID, driver.LogOptions{}), "stdout"); !slices.Equal(got, []string{"last words"}) {
		w.Errorf("output %q after reopen", got)
	}
}

func stopWorksAfterReopen(w *world) {
	marker := fmt.Sprintf("reopen-%d", time.Now().UnixNano())
	spec := w.spec("tree", Behaviour{Marker: marker, Children: 2, Print: []string{"up"}})
	w.start(spec)
	w.awaitOutput(spec.ID, "up")
	w.d = w.cfg.Reopen(w.T, w.d)
	w.stop(spec.ID, 100*time.Millisecond)
	w.exited(spec)
	if w.cfg.Count != nil {
		if n := w.cfg.Count(marker); n != 0 {
			w.Errorf("%d processes left", n)
		}
	}
}

func watchWakes(w *world) {
	ctx, cancel := context.WithCancel(w.ctx())
	defer cancel()
	var mu sync.Mutex
	seen := map[driver.ID]int{}
	done := make(chan error, 1)
	go func() {
		done <- w.d.Watch(ctx, project, func(id driver.ID) {
			mu.Lock()
			defer mu.Unlock()
			seen[id]++
		})
	}()
	count := func(id driver.ID) int {
		mu.Lock()
		defer mu.Unlock()
		return seen[id]
	}
	// The watch may still be on its way when the first instance starts: its exit must be seen.
	spec := w.spec("job", Behaviour{End: &End{After: 300 * time.Millisecond}})
	w.start(spec)
	w.exited(spec)
	w.eventually("a call for the exit", func() (bool, any) { return count(spec.ID) > 0, seen })
	second := w.spec("second", Behaviour{})
	w.start(second)
	w.eventually("a call for the start", func() (bool, any) { return count(second.ID) > 0, seen })
	foreign := w.specOf(other, "web", Behaviour{})
	w.start(foreign)
	before := count(second.ID)
	w.stop(second.ID, 0)
	w.eventually("a call for the stop", func() (bool, any) { return count(second.ID) > before, seen })
	if n := count(foreign.ID); n != 0 {
		w.Errorf("%d calls for another project", n)
	}
	cancel()
	select {
	case err := <-done:
		if err != nil {
			w.Errorf("watch ended with %v, want nil", err)
		}
	case <-time.After(w.cfg.Wait):
		w.Fatal("watch did not end when its context did")
	}
}

func watchNeverOverlaps(w *world) {
	ctx, cancel := context.WithCancel(w.ctx())
	var mu sync.Mutex
	inside, calls, overlaps := 0, 0, 0
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = w.d.Watch(ctx, project, func(driver.ID) {
			mu.Lock()
			inside++
			calls++
			if inside > 1 {
				overlaps++
			}
			mu.Unlock()
			time.Sleep(time.Millisecond)
			mu.Lock()
			inside--
			mu.Unlock()
		})
	}()
	for i := range 10 {
		w.start(w.spec(fmt.Sprint("job", i), Behaviour{End: &End{After: 50 * time.Millisecond}}))
	}
	w.eventually("calls", func() (bool, any) { mu.Lock(); defer mu.Unlock(); return calls > 0, calls })
	cancel()
	<-done
	if overlaps > 0 {
		w.Errorf("%d of %d calls overlapped", overlaps, calls)
	}
}
