//go:build linux

package process_test

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"trellis/driver"
	"trellis/driver/drivertest"
	"trellis/driver/process"
	"trellis/shim"
)

// shimArg makes the test binary a shim, as server does with a trellis that has none embedded.
const shimArg = "process-test-shim"

// shimVariable names a small shim that is there already, for tests that run this binary as somebody who cannot build.
const shimVariable = "PROCESS_TEST_SHIM"

// shimCommand is the shim of every instance here: the test binary, or the small one where shimProgram names it.
var shimCommand []string

func TestMain(m *testing.M) {
	drivertest.Program()
	program()
	crashing()
	watching()
	if len(os.Args) > 1 && os.Args[1] == shimArg {
		os.Exit(shim.Main(os.Args[2:]))
	}
	os.Exit(withShim(m.Run))
}

// withShim runs the tests with shimCommand set.
func withShim(run func() int) int {
	exe, err := os.Executable()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	shimCommand = []string{exe, shimArg}
	if !smallShims {
		return run()
	}
	if file := os.Getenv(shimVariable); file != "" {
		shimCommand = []string{file}
		return run()
	}
	dir, err := os.MkdirTemp("", "trellis-shim-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	// An ordinary user's instance runs it too.
	if err := os.Chmod(dir, 0o755); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	file := filepath.Join(dir, "trellis-shim")
	if err := buildShim(file); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	shimCommand = []string{file}
	return run()
}

// buildShim builds the real shim.
func buildShim(file string) error {
	cmd := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w", "-o", file, "trellis/cmd/trellis-shim")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("build the shim: %w: %s", err, out)
	}
	return nil
}

// worlds remembers the directories of a driver, for Reopen and Leftovers.
type worlds map[driver.Driver]process.Config

// config returns directories of their own; what is left in them at the end is ended and reported.
func config(t *testing.T, unprivileged bool) process.Config {
	t.Helper()
	state := t.TempDir()
	runtime, err := os.MkdirTemp("", "trellis-run-")
	if err != nil {
		t.Fatal(err)
	}
	cfg := process.Config{
		Project: "drivertest", StateDir: state, RuntimeDir: runtime, Shim: shimCommand, Unprivileged: unprivileged,
	}
	t.Cleanup(func() {
		d, err := process.New(cfg)
		if err != nil {
			t.Fatal(err)
		}
		complaints, _ := filepath.Glob(filepath.Join(state, "instances", "*", shim.ErrorFile))
		for _, file := range complaints { // also where the race detector of a shim writes to
			if said, err := os.ReadFile(file); err == nil && len(said) > 0 {
				t.Errorf("%s: %s", file, said)
			}
		}
		for _, project := range []string{"drivertest", "drivertest2"} {
			all, err := d.List(context.Background(), project)
			if err != nil {
				t.Errorf("list at the end: %v", err)
			}
			for _, inst := range all {
				end(t, d, inst.ID)
			}
		}
		if left := leftovers(cfg); len(left) > 0 {
			t.Errorf("left behind: %v", left)
		}
		os.RemoveAll(runtime)
	})
	return cfg
}

// end stops and removes an instance whatever the test's own context says.
func end(t *testing.T, d *process.Driver, id driver.ID) {
	t.Helper()
	ctx, cancel := contextFor(30 * time.Second)
	defer cancel()
	if err := d.Stop(ctx, id, 0); err != nil {
		t.Errorf("stop at the end: %v", err)
	}
	if err := d.Remove(ctx, id); err != nil {
		t.Errorf("remove at the end: %v", err)
	}
}

// leftovers names what a driver still keeps.
func leftovers(cfg process.Config) []string {
	var left []string
	for _, dir := range []string{filepath.Join(cfg.StateDir, "instances"), filepath.Join(cfg.RuntimeDir, "netns")} {
		entries, _ := os.ReadDir(dir)
		for _, e := range entries {
			left = append(left, filepath.Join(dir, e.Name()))
		}
	}
	mounts, _ := os.ReadFile("/proc/self/mountinfo")
	for line := range strings.Lines(string(mounts)) {
		if strings.Contains(line, cfg.StateDir) || strings.Contains(line, cfg.RuntimeDir) {
			left = append(left, "mount "+line)
		}
	}
	_ = filepath.WalkDir("/sys/fs/cgroup", func(path string, e os.DirEntry, err error) error {
		if err == nil && e.IsDir() && strings.Contains(path, process.CgroupName(cfg.StateDir)) {
			left = append(left, path)
		}
		return nil
	})
	return left
}

func suite(t *testing.T, unprivileged bool, extra ...string) {
	known := worlds{}
	drivertest.Run(t, drivertest.Config{
		New: func(t *testing.T) driver.Driver {
			cfg := config(t, unprivileged)
			d, err := process.New(cfg)
			if err != nil {
				t.Fatal(err)
			}
			if d.Capabilities().Namespaces == unprivileged {
				t.Fatalf("capabilities %+v: this test needs namespaces to be %v", d.Capabilities(), !unprivileged)
			}
			known[d] = cfg
			return d
		},
		Reopen: func(t *testing.T, d driver.Driver) driver.Driver {
			again, err := process.New(known[d])
			if err != nil {
				t.Fatal(err)
			}
			known[again] = known[d]
			return again
		},
		Count:     drivertest.Processes,
		Dial:      dial,
		Leftovers: func(_ *testing.T, d driver.Driver) []string { return leftovers(known[d]) },
		ExtraEnv:  append(extra, "HOME"),
	})
}

func dial(t *testing.T, address string) (string, error) {
	conn, err := net.DialTimeout("tcp", address, 5*time.Second)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	line, err := bufio.NewReader(conn).ReadString('\n')
	return strings.TrimSpace(line), err
}

func TestPrivileged(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("namespaces need root: TestOrdinaryUser is the suite for everybody else")
	}
	suite(t, false)
}

func TestUnprivileged(t *testing.T) { suite(t, true, "PORT") }
