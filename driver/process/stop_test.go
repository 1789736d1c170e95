//go:build linux

package process_test

import (
	"os"
	"path/filepath"
	"testing"
	"time"

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
