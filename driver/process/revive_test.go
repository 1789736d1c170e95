//go:build linux

package process_test

import (
	"context"
	"fmt"
	"os"
	"slices"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"trellis/driver"
)

func (w *world) revive(id driver.ID, restarts int, when driver.Revival) {
	w.Helper()
	if err := w.d.Revive(id, restarts, when); err != nil {
		w.Fatal(err)
	}
}

// awaitRun returns an instance when its run after so many restarts runs.
func (w *world) awaitRun(id driver.ID, restarts int) driver.Instance {
	w.Helper()
	var last driver.Instance
	await(w.T, fmt.Sprintf("%s runs after %d restarts", id, restarts), func() bool {
		inst, ok := w.find(id)
		last = inst
		return ok && inst.State == driver.Running && inst.Restarts == restarts
	})
	return last
}

// TestRevive: the run that it was said of, and no other, is followed by the next at once; how it ended is known.
func TestRevive(t *testing.T) {
	both(t, func(w *world) {
		spec := w.spec("web", "sh", "-c", "echo begins; printf 'no end of line'; echo said >&2; exec sleep 1000")
		w.start(spec)
		first := w.awaitState(spec.ID, driver.Running)
		await(w.T, "its output", func() bool { return len(w.output(spec.ID, "stderr")) >= 1 })
		w.revive(spec.ID, first.Restarts, driver.ReviveAlways)
		if err := unix.Kill(first.PID, unix.SIGKILL); err != nil {
			w.Fatal(err)
		}
		second := w.awaitRun(spec.ID, 1)
		if second.PID == first.PID || second.Exit != nil || second.Before == nil || second.Before.Signal != "SIGKILL" || second.Before.Asked {
			w.Errorf("after it: %+v, before %+v", second, second.Before)
		}
		if second.Host != first.Host || second.Netns != first.Netns || second.StartedAt.Before(second.Before.Time) {
			w.Errorf("it came back as %+v, and was %+v", second, first)
		}
		await(w.T, "the output of both", func() bool {
			return slices.Equal(w.output(spec.ID, "stdout"), []string{"begins", "no end of line", "begins"})
		})
		// What was said holds for one run.
		if err := unix.Kill(second.PID, unix.SIGKILL); err != nil {
			w.Fatal(err)
		}
		over := w.awaitState(spec.ID, driver.Exited)
		if over.Restarts != 1 || over.Exit == nil || over.Exit.Signal != "SIGKILL" {
			w.Errorf("after the second: %+v, exit %+v", over, over.Exit)
		}
		// Who has not looked in between knows of both ends.
		if over.Before == nil || !over.Before.Time.Equal(second.Before.Time) {
			w.Errorf("after the second: before %+v, want %+v", over.Before, second.Before)
		}
		end(w.T, w.d, spec.ID)
	})
}

// TestWatchTellsOfRevivalLater: of a run that its shim began by itself it is told later, of its end at once.
func TestWatchTellsOfRevivalLater(t *testing.T) {
	w := newWorld(t, os.Geteuid() != 0)
	spec := w.spec("web", "sleep", "1000")
	w.start(spec)
	first := w.awaitState(spec.ID, driver.Running)
	w.revive(spec.ID, first.Restarts, driver.ReviveAlways)
	var mu sync.Mutex
	var told time.Time // of the second run
	var end time.Time  // of its end
	var heldUp bool    // what was told may have been the end of the first run: it took long to look what has become of it
	ctx, cancel := context.WithCancel(t.Context())
	var watching sync.WaitGroup
	begun := make(chan struct{}, 1)
	watching.Go(func() {
		_ = w.d.Watch(ctx, spec.Project, func(id driver.ID) {
			now := time.Now()
			select {
			case begun <- struct{}{}:
			default:
			}
			inst, ok := w.find(id)
			mu.Lock()
			defer mu.Unlock()
			switch {
			case !ok || inst.Restarts == 0:
			case inst.State == driver.Exited && end.IsZero():
				end = now
			case inst.Before != nil && now.Before(inst.Before.Time): // it was something of the run before
			case told.IsZero():
				told, heldUp = now, time.Since(now) > 10*time.Millisecond
			}
		})
	})
	defer watching.Wait()
	defer cancel()
	<-begun
	at := func(t *time.Time) time.Time {
		mu.Lock()
		defer mu.Unlock()
		return *t
	}
	kill(t, first.PID)
	second := w.awaitRun(spec.ID, 1)
	await(t, "told of the second run", func() bool { return !at(&told).IsZero() })
	if late := at(&told).Sub(second.Before.Time); heldUp {
		t.Log("this process was held up: when it was told of the second run cannot be said")
	} else if late < 20*time.Millisecond {
		t.Errorf("told %s after the end of the run before: what starts then has no processor to itself", late)
	}
	kill(t, second.PID)
	await(t, "told of its end", func() bool { return !at(&end).IsZero() })
}

// TestNoRevival: a run that was stopped, that nobody meant any more, or that ended well where only failures count, is
// the last.
func TestNoRevival(t *testing.T) {
	w := newWorld(t, true)
	begin := func(name string, command ...string) (driver.Spec, driver.Instance) {
		spec := w.spec(name, command...)
		w.start(spec)
		return spec, w.awaitState(spec.ID, driver.Running)
	}
	over := func(what string, id driver.ID, code int) {
		t.Helper()
		if inst := w.awaitState(id, driver.Exited); inst.Restarts != 0 || inst.Exit.Code != code {
			t.Errorf("%s: %d restarts, exit %+v", what, inst.Restarts, inst.Exit)
		}
		end(t, w.d, id)
	}
	spec, inst := begin("stopped", "sleep", "1000")
	w.revive(spec.ID, inst.Restarts, driver.ReviveAlways)
	w.stop(spec.ID, 10*time.Second)
	over("stopped", spec.ID, 143)

	spec, inst = begin("revoked", "sleep", "1000")
	w.revive(spec.ID, inst.Restarts, driver.ReviveAlways)
	w.revive(spec.ID, inst.Restarts, driver.ReviveNever)
	_ = unix.Kill(inst.PID, unix.SIGKILL)
	over("revoked", spec.ID, 137)

	spec, inst = begin("another", "sleep", "1000")
	w.revive(spec.ID, inst.Restarts+1, driver.ReviveAlways)
	_ = unix.Kill(inst.PID, unix.SIGKILL)
	over("another run's", spec.ID, 137)

	spec, inst = begin("well", "sh", "-c", "trap 'exit 0' USR1; echo ready; while :; do sleep 0.01; done")
	await(t, "its trap", func() bool { return len(w.output(spec.ID, "stdout")) == 1 })
	w.revive(spec.ID, inst.Restarts, driver.ReviveAfterFailure)
	await(t, "its end", func() bool { return unix.Kill(inst.PID, unix.SIGUSR1) != nil || w.ended(spec.ID) })
	over("ended well", spec.ID, 0)
}

func (w *world) ended(id driver.ID) bool {
	inst, ok := w.find(id)
	return ok && inst.State == driver.Exited
}

// TestStopWhileItComesBack: a stop at any moment of a revival ends the instance for good.
func TestStopWhileItComesBack(t *testing.T) {
	w := newWorld(t, true)
	for n := range 10 {
		spec := w.spec(fmt.Sprint("web", n), "sleep", "1000")
		w.start(spec)
		inst := w.awaitState(spec.ID, driver.Running)
		w.revive(spec.ID, inst.Restarts, driver.ReviveAlways)
		_ = unix.Kill(inst.PID, unix.SIGKILL)
		for range n * 200 { // some microseconds more each time
			_ = unix.Getpid()
		}
		w.stop(spec.ID, 0)
		if inst, ok := w.find(spec.ID); !ok || inst.State != driver.Exited {
			t.Errorf("round %d: it is %s after its stop", n, inst.State)
		}
		end(t, w.d, spec.ID)
	}
}
