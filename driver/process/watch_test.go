//go:build linux

package process_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"trellis/driver"
	"trellis/driver/process"
)

// watchArg makes the test binary a driver that may watch one directory, that of all instances: `watchArg STATEDIR LATER`. LATER is an instance
// directory that is made once it watches, or "". It says how the watch ended.
const watchArg = "process-test-watching"

func watching() {
	if len(os.Args) != 4 || os.Args[1] != watchArg {
		return
	}
	state, later := os.Args[2], os.Args[3]
	// The limit of a user namespace of its own: those of the machine are everybody's.
	if err := os.WriteFile("/proc/sys/user/max_inotify_watches", []byte("1"), 0); err != nil {
		fmt.Println("cannot be limited:", err)
		os.Exit(0)
	}
	d, err := process.New(process.Config{Project: "drivertest", StateDir: state, RuntimeDir: state, Shim: os.Args[:1], Unprivileged: true})
	if err != nil {
		fmt.Println(err)
		os.Exit(5)
	}
	ctx, cancel := contextFor(20 * time.Second)
	defer cancel()
	if later != "" {
		time.AfterFunc(500*time.Millisecond, func() { _ = os.Mkdir(later, 0o755) })
	}
	fmt.Println("the watch ended:", d.Watch(ctx, "drivertest", func(driver.ID) {}))
	os.Exit(0)
}

// TestWatchesRunOut: an instance that cannot be watched ends the watch, for whoever waits then looks by himself.
func TestWatchesRunOut(t *testing.T) {
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	for name, isLater := range map[string]bool{"for one that is there": false, "for one that comes later": true} {
		t.Run(name, func(t *testing.T) {
			state := t.TempDir()
			dir, later := filepath.Join(state, "instances", "web-1-0000000a"), ""
			if isLater {
				dir, later = filepath.Dir(dir), dir
			}
			inTheWay(t, dir)
			cmd := exec.Command(exe, watchArg, state, later)
			cmd.SysProcAttr = &syscall.SysProcAttr{
				Cloneflags:  syscall.CLONE_NEWUSER,
				UidMappings: []syscall.SysProcIDMap{{HostID: os.Getuid(), Size: 1}},
				GidMappings: []syscall.SysProcIDMap{{HostID: os.Getgid(), Size: 1}},
			}
			out, err := cmd.CombinedOutput()
			if err != nil && len(out) == 0 || strings.Contains(string(out), "cannot be limited") {
				t.Skipf("no user namespace: %v %s", err, out)
			}
			if !strings.Contains(string(out), "max_user_watches") {
				t.Errorf("%v, %s: want the limit that was reached", err, out)
			}
		})
	}
}
