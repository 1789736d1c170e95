//go:build linux

package process_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"trellis/driver"
	"trellis/errdefs"
	"trellis/shim"
)

// TestShimThatIsKilledLeavesSomething: as long as anything of an instance lives, on its volumes and ports, it has not ended
// and no other run begins.
func TestShimThatIsKilledLeavesSomething(t *testing.T) {
	w := newWorld(t, true)
	spec := w.spec("web", "sleep", "1000")
	w.start(spec)
	inst := w.awaitState(spec.ID, driver.Running)
	var held atomic.Bool
	held.Store(true)
	w.d.LetLive(held.Load)
	var told atomic.Int64
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	go func() { _ = w.d.Watch(ctx, "drivertest", func(driver.ID) { told.Add(1) }) }()
	await(t, "the watch", func() bool { return told.Load() > 0 })
	if err := unix.Kill(parentOf(t, inst.PID), unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(w.cfg.StateDir, "instances", "web-1-0000000a")
	await(t, "the end of the shim", func() bool { living, err := shim.Held(dir); return err == nil && !living })
	for range 3 {
		if now, ok := w.find(spec.ID); !ok || now.State != driver.Running || now.Exit != nil || len(now.Listening) > 0 {
			t.Errorf("instance %+v, want one that has not ended and serves nobody", now)
		}
		w.start(spec)
		if err := w.d.Remove(t.Context(), spec.ID); !errors.Is(err, errdefs.ErrConflict) {
			t.Errorf("remove: %v, want a conflict", err)
		}
		short, done := contextFor(50 * time.Millisecond)
		if err := w.d.Stop(short, spec.ID, 0); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("stop: %v, want that it has not ended in time", err)
		}
		done()
	}
	if _, err := os.Stat(filepath.Join(dir, shim.ExitFile)); err == nil {
		t.Error("its end was written")
	}
	before := told.Load()
	held.Store(false)
	await(t, "a word of the watch", func() bool { return told.Load() > before })
	if exit := w.awaitState(spec.ID, driver.Exited).Exit; !strings.Contains(exit.Error, "supervisor was killed") {
		t.Errorf("exit %+v", exit)
	}
	w.start(spec)
	if now := w.awaitState(spec.ID, driver.Running); now.Restarts != 1 {
		t.Errorf("%d restarts, want 1", now.Restarts)
	}
}
