//go:build linux

package process_test

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"trellis/driver"
	"trellis/shim"
)

// TestStopThatCannotBeWritten: a full disk has no room for the wish. What fills it ends all the same, no later than was
// asked for, and its end is one that was asked for.
func TestStopThatCannotBeWritten(t *testing.T) {
	for name, exit := range map[string]bool{"no room for the wish": false, "nor for the end": true} {
		t.Run(name, func(t *testing.T) {
			both(t, func(w *world) {
				spec := w.spec("web", "sh", "-c", "trap '' TERM; echo deaf; while :; do sleep 1; done")
				w.start(spec)
				await(w.T, "its first line", func() bool { return len(w.output(spec.ID, "stdout")) > 0 })
				dir := filepath.Join(w.cfg.StateDir, "instances", "web-1-0000000a")
				inTheWay(w.T, filepath.Join(dir, "."+shim.StopFile+".tmp"))
				if exit {
					inTheWay(w.T, filepath.Join(dir, shim.ExitFile, "in the way"))
				}
				before := time.Now()
				w.stop(spec.ID, 100*time.Millisecond)
				if took := time.Since(before); took > 8*time.Second {
					w.Errorf("it took %s, and a wish without a time has ten seconds", took)
				}
				inst, _ := w.find(spec.ID)
				if inst.State != driver.Exited || inst.Exit == nil || !inst.Exit.Asked {
					w.Errorf("it is %s with exit %+v, want one that was asked for", inst.State, inst.Exit)
				}
				if exit { // its supervisor has said that it could not write it
					if err := os.Remove(filepath.Join(dir, shim.ErrorFile)); err != nil {
						w.Error(err)
					}
				}
			})
		})
	}
}

func inTheWay(t *testing.T, dir string) {
	t.Helper()
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
}

// TestRemoveWhileAShimStarts: an instance that is being started again, by a Trellis that has ended meanwhile, is not taken away
// from under its shim, whose run has no record yet: its program would live on unknown.
func TestRemoveWhileAShimStarts(t *testing.T) {
	w := newWorld(t, true)
	spec := w.spec("web", "true")
	w.start(spec)
	w.awaitState(spec.ID, driver.Exited)
	dir := filepath.Join(w.cfg.StateDir, "instances", "web-1-0000000a")
	var lock int
	await(t, "the end of the shim", func() (free bool) {
		var err error
		lock, err = shim.Lock(dir)
		return err == nil
	})
	short, cancel := contextFor(100 * time.Millisecond)
	defer cancel()
	if err := w.d.Remove(short, spec.ID); err == nil {
		t.Error("it was removed")
	}
	if _, err := os.Stat(filepath.Join(dir, shim.SpecFile)); err != nil {
		t.Errorf("its record: %v", err)
	}
	unix.Close(lock)
	if err := w.d.Remove(t.Context(), spec.ID); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("its directory: %v", err)
	}
}
