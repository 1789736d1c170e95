//go:build linux

package process_test

import (
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"trellis/driver"
	"trellis/shim"
)

// standby returns who waits to become the next run of an instance, 0 for nobody.
func standby(t *testing.T, inst driver.Instance) int {
	t.Helper()
	all, err := shim.Descendants(parentOf(t, inst.PID))
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range all {
		if s.IsStage() {
			return s.PID
		}
	}
	return 0
}

// awaitStandby starts an instance, allows its next run, and returns it and who waits to become that.
func (w *world) awaitStandby(spec driver.Spec) (inst driver.Instance, waits int) {
	w.Helper()
	w.start(spec)
	inst = w.awaitState(spec.ID, driver.Running)
	w.revive(spec.ID, inst.Restarts, driver.ReviveAlways)
	await(w.T, "somebody waits", func() bool {
		waits = standby(w.T, inst)
		s, err := shim.ReadStat(waits)
		return err == nil && s.State == 'S'
	})
	return inst, waits
}

// crashed is an instance that was followed by who waited for that. A busy machine may take longer to let somebody wait than
// this looks, so it is tried again.
func (w *world) crashed(spec driver.Spec) (first, second driver.Instance) {
	w.Helper()
	for range 10 {
		inst, waits := w.awaitStandby(spec)
		time.Sleep(20 * time.Millisecond)
		kill(w.T, inst.PID)
		if second = w.awaitRun(spec.ID, 1); second.PID == waits {
			return inst, second
		}
		end(w.T, w.d, spec.ID)
	}
	w.Fatal("nobody who waited ever became the next run")
	return first, second
}

// TestStandby: who waits becomes the next run, counts for nothing before, and is a run like any other afterwards.
func TestStandby(t *testing.T) {
	both(t, func(w *world) {
		spec := w.spec("web", "sh", "-c", "echo begins; exec sleep 1000")
		w.awaitStandby(spec)
		if u, err := w.d.Stats(w.Context(), spec.ID); err != nil || u.Processes != 1 {
			w.Errorf("usage %+v, %v: want one process", u, err)
		}
		end(w.T, w.d, spec.ID)
		first, second := w.crashed(spec)
		if second.Host != first.Host || second.Before == nil || second.Before.Signal != "SIGKILL" || second.StartedAt.Before(second.Before.Time) {
			w.Errorf("it came back as %+v after %+v", second, second.Before)
		}
		await(w.T, "the output of both", func() bool {
			return slices.Equal(w.output(spec.ID, "stdout"), []string{"begins", "begins"})
		})
		if code, err := w.d.Exec(w.Context(), spec.ID, driver.Command{Args: []string{"true"}}); err != nil || code != 0 {
			w.Errorf("exec in it: %d, %v", code, err)
		}
		w.stop(spec.ID, 10*time.Second)
		if over := w.awaitState(spec.ID, driver.Exited); over.Exit.Signal != "SIGTERM" || !over.Exit.Asked {
			w.Errorf("stopped: exit %+v", over.Exit)
		}
	})
}

// TestStandbyWithLimits: who waits is in the control groups of the run that it waits for, which are gone when it is.
func TestStandbyWithLimits(t *testing.T) {
	w := newWorld(t, false)
	if !w.d.Capabilities().Limits {
		t.Skipf("no limits here: %v", w.d.Capabilities().Lacks)
	}
	spec := w.spec("web", "sleep", "1000")
	spec.Limits = driver.Limits{Memory: 48 << 20, Pids: 64}
	var next string
	inst, waits := w.awaitStandby(spec)
	await(t, "it is in groups of its own", func() bool {
		next = groupFile(t, waits, "pids")
		return next != groupFile(t, os.Getpid(), "pids")
	})
	if next == groupFile(t, inst.PID, "pids") {
		t.Errorf("who waits is in %s, the group of the run that goes on", next)
	}
	if u, err := w.d.Stats(t.Context(), spec.ID); err != nil || !u.Enforced || u.Processes != 1 {
		t.Errorf("usage %+v, %v: want one process", u, err)
	}
	w.revive(spec.ID, inst.Restarts, driver.ReviveNever)
	await(t, "its groups gone", func() bool { _, err := os.Stat(filepath.Dir(next)); return os.IsNotExist(err) })
	end(t, w.d, spec.ID)

	w.crashed(spec)
	if u, err := w.d.Stats(t.Context(), spec.ID); err != nil || !u.Enforced || u.Processes != 1 || u.Memory <= 0 {
		t.Errorf("usage of the second run %+v, %v", u, err)
	}
	end(t, w.d, spec.ID)
}

// TestStandbyWithWhatTheProgramLeft: children that the program left behind are ended, who waits is not.
func TestStandbyWithWhatTheProgramLeft(t *testing.T) {
	w := newWorld(t, os.Geteuid() != 0)
	mark := strconv.Itoa(1_000_000 + os.Getpid())
	spec := w.spec("web", "sh", "-c", "(setsid sleep "+mark+" &); exec sleep 1000")
	w.crashed(spec)
	await(t, "one child, the second run's", func() bool { return processesWith(mark) == 1 })
}

// TestStandbyThatShowsThePast: where what is mounted was replaced, the next run sees what is there now.
func TestStandbyThatShowsThePast(t *testing.T) {
	w := newWorld(t, false)
	dir := t.TempDir()
	put := func(text string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, "new"), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(filepath.Join(dir, "new"), filepath.Join(dir, "conf")); err != nil {
			t.Fatal(err)
		}
	}
	put("one\n")
	spec := w.spec("web", "sh", "-c", "cat /run/standby-test/conf; exec sleep 1000")
	spec.Mounts = []driver.Mount{{Kind: "bind", Source: filepath.Join(dir, "conf"), Target: "/run/standby-test/conf"}}
	first, waits := w.awaitStandby(spec)
	put("two\n")
	kill(t, first.PID)
	if second := w.awaitRun(spec.ID, 1); second.PID == waits {
		t.Error("who waited runs")
	}
	await(t, "the new content", func() bool { return slices.Equal(w.output(spec.ID, "stdout"), []string{"one", "two"}) })
}

// TestStandbyIsDismissed: with the permission, with the instance, and with its shim.
func TestStandbyIsDismissed(t *testing.T) {
	w := newWorld(t, os.Geteuid() != 0)
	gone := func(what string, pid int) {
		t.Helper()
		await(t, what, func() bool { _, err := shim.Identify(pid); return err != nil })
	}
	spec := w.spec("revoked", "sleep", "1000")
	inst, waits := w.awaitStandby(spec)
	w.revive(spec.ID, inst.Restarts, driver.ReviveNever)
	gone("revoked", waits)
	kill(t, inst.PID)
	if over := w.awaitState(spec.ID, driver.Exited); over.Exit.Signal != "SIGKILL" {
		t.Errorf("exit %+v", over.Exit)
	}

	spec = w.spec("stopped", "sleep", "1000")
	_, waits = w.awaitStandby(spec)
	w.stop(spec.ID, 10*time.Second)
	gone("stopped", waits)

	spec = w.spec("killed", "sleep", "1000")
	inst, waits = w.awaitStandby(spec)
	kill(t, parentOf(t, inst.PID))
	gone("the shim was killed", waits)

	// Who waits is killed: the next run is made as ever.
	spec = w.spec("alone", "sleep", "1000")
	inst, waits = w.awaitStandby(spec)
	kill(t, waits)
	gone("killed", waits)
	kill(t, inst.PID)
	w.awaitRun(spec.ID, 1)
	// Its shim may have waited for its word still, and says rightly that there was none.
	file := filepath.Join(w.cfg.StateDir, "instances", "alone-1-0000000a", shim.ErrorFile)
	if said, err := os.ReadFile(file); err == nil && strings.TrimSpace(string(said)) == "make a standby: the second stage ended:" {
		if err := os.Truncate(file, 0); err != nil {
			t.Error(err)
		}
	}
}

func kill(t *testing.T, pid int) {
	t.Helper()
	if err := unix.Kill(pid, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
}
