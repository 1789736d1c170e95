package shim

import (
	"os/exec"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"
)

// TestZombie: how a child ended is known as wait4 tells it, and the child is still there to be reaped.
func TestZombie(t *testing.T) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	for _, script := range []string{"exit 0", "exit 7", "kill -KILL $$", "kill -TERM $$"} {
		cmd := exec.Command("sh", "-c", script)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		pid, got, err := zombie()
		if err != nil || pid != cmd.Process.Pid {
			t.Fatalf("%s: pid %d, %v; want %d", script, pid, err, cmd.Process.Pid)
		}
		want, err := wait(pid)
		if err != nil || got != want {
			t.Errorf("%s: %#x, %v; wait4 says %#x", script, got, err, want)
		}
		_ = cmd.Process.Release()
	}
	if _, _, err := zombie(); err != unix.ECHILD {
		t.Errorf("without a child: %v", err)
	}
}
