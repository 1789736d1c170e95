//go:build linux

package process_test

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"trellis/driver"
	"trellis/driver/process"
	"trellis/shim"
)

// crashArg makes the test binary a program that runs a driver until it is killed: `crashArg CONFIG SPEC`.
const crashArg = "process-test-crashing"

func crashing() {
	if len(os.Args) != 4 || os.Args[1] != crashArg {
		return
	}
	var cfg process.Config
	var spec driver.Spec
	if json.Unmarshal([]byte(os.Args[2]), &cfg) != nil || json.Unmarshal([]byte(os.Args[3]), &spec) != nil {
		os.Exit(5)
	}
	d, err := process.New(cfg)
	if err != nil {
		os.Exit(5)
	}
	go func() { _ = d.Watch(context.Background(), spec.Project, func(driver.ID) {}) }()
	for n := 1; ; n++ {
		spec.ID, spec.Slot = driver.ID(fmt.Sprintf("drivertest/web-%d-0000000a", n)), n
		if err := d.Start(context.Background(), spec); err != nil {
			fmt.Println("failed", err)
			os.Exit(6)
		}
		fmt.Println("started", n)
	}
}

// TestKilledDriverLosesNothing kills the program of a driver at any point, 25 times, while its instances start, run
// and end. The next driver finds every instance that was told to be started, knows every exit code, and can end them.
func TestKilledDriverLosesNothing(t *testing.T) {
	w := newWorld(t, os.Geteuid() != 0)
	cfg := w.cfg
	cfg.Log = nil
	cfgText, err := json.Marshal(cfg)
	if err != nil {
		t.Fatal(err)
	}
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	// Half of the instances end by themselves, soon, with a code that tells which it was.
	spec := w.spec("web", "sh", "-c", `test $((SLOT % 2)) = 1 && { sleep 0.02; exit 7; }; exec sleep 1000`)
	for round := range 25 {
		spec.Env = []string{"PATH=/usr/bin:/bin", fmt.Sprintf("SLOT=%d", round)}
		spec.Hash = fmt.Sprint("h", round)
		text, err := json.Marshal(spec)
		if err != nil {
			t.Fatal(err)
		}
		cmd := exec.Command(exe, crashArg, string(cfgText), string(text))
		var out strings.Builder
		cmd.Stdout, cmd.Stderr = &out, &out
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Duration(10+round*3) * time.Millisecond)
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if strings.Contains(out.String(), "failed") || strings.Contains(out.String(), "panic") {
			t.Fatalf("round %d: %s", round, out.String())
		}
		w.reopen()
		told := strings.Count(out.String(), "started")
		all, err := w.d.List(t.Context(), "drivertest")
		if err != nil {
			t.Fatal(err)
		}
		if len(all) < told {
			t.Fatalf("round %d: %d instances were started, %d are listed", round, told, len(all))
		}
		for _, inst := range all {
			w.checkAfterCrash(round, inst)
			end(t, w.d, inst.ID)
		}
	}
}

func (w *world) checkAfterCrash(round int, inst driver.Instance) {
	w.Helper()
	if round%2 == 0 {
		if inst.State == driver.Exited && !strings.Contains(inst.Exit.Error, "never started") {
			w.Errorf("round %d: a program that runs on is %s: %+v", round, inst.State, inst.Exit)
		}
		return
	}
	exit := w.awaitState(inst.ID, driver.Exited).Exit
	if exit.Code != 7 && !strings.Contains(exit.Error, "never started") {
		w.Errorf("round %d: exit %+v, want code 7", round, exit)
	}
}

// TestShimThatIsKilled: the program must not go on unseen, and nothing is made up about its end.
func TestShimThatIsKilled(t *testing.T) {
	both(t, func(w *world) {
		mark := fmt.Sprintf("mark%d", time.Now().UnixNano())
		spec := w.spec("web", own(w.T, "orphan", mark, "live")...)
		w.start(spec)
		inst := w.awaitState(spec.ID, driver.Running)
		await(w.T, "the tree, whose middle is gone", func() bool { return processesWith("done\x00"+mark) == 1 && processesWith("deaf\x00"+mark) == 0 })
		woken := make(chan driver.ID, 1000)
		ctx, cancel := context.WithCancel(w.Context())
		defer cancel()
		go func() { _ = w.d.Watch(ctx, "drivertest", func(id driver.ID) { woken <- id }) }()
		<-woken // the watch stands
		for len(woken) > 0 {
			<-woken
		}
		if err := unix.Kill(parentOf(w.T, inst.PID), unix.SIGKILL); err != nil {
			w.Fatal(err)
		}
		select {
		case <-woken:
		case <-time.After(20 * time.Second):
			w.Fatal("nobody was told of a supervisor that was killed")
		}
		exit := w.awaitState(spec.ID, driver.Exited).Exit
		if !strings.Contains(exit.Error, "supervisor was killed") || exit.Code == 0 || exit.Signal != "" || exit.OOM {
			w.Errorf("exit %+v: want an error, and nothing that nobody knows", exit)
		}
		if shim.Process(identity(w.T, inst.PID)).Alive() {
			w.Error("the program goes on without its supervisor")
		}
		if w.d.Capabilities().Namespaces { // who left the session leaves the reach of what has no control group
			await(w.T, "the end of the tree", func() bool { return processesWith(mark) == 0 })
		}
		for _, pid := range pidsWith(mark) {
			_ = unix.Kill(pid, unix.SIGKILL)
		}
		// It can be started again.
		w.start(spec)
		if again := w.awaitState(spec.ID, driver.Running); again.Restarts != 1 {
			w.Errorf("%d restarts, want 1", again.Restarts)
		}
	})
}

// TestEndThatCannotBeWritten: where the end of an instance finds no room on the disk, it is told all the same, others are
// listed, and it is written as soon as it can be.
func TestEndThatCannotBeWritten(t *testing.T) {
	w := newWorld(t, os.Geteuid() != 0)
	spec, other := w.spec("web", "sleep", "1000"), w.spec("other", "sleep", "1000")
	w.start(spec)
	w.start(other)
	inst := w.awaitState(spec.ID, driver.Running)
	w.awaitState(other.ID, driver.Running)
	exit := filepath.Join(w.cfg.StateDir, "instances", "web-1-0000000a", shim.ExitFile)
	if err := os.MkdirAll(filepath.Join(exit, "in the way"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := unix.Kill(parentOf(t, inst.PID), unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	first := w.awaitState(spec.ID, driver.Exited).Exit
	if first == nil || !strings.Contains(first.Error, "supervisor was killed") {
		t.Errorf("exit %+v", first)
	}
	if again, _ := w.find(spec.ID); again.State != driver.Exited || !again.Exit.Time.Equal(first.Time) {
		t.Errorf("exit %+v, then %+v: it is told as another one", first, again.Exit)
	}
	if one, _ := w.find(other.ID); one.State != driver.Running {
		t.Errorf("the other one is %s", one.State)
	}
	if err := os.RemoveAll(exit); err != nil {
		t.Fatal(err)
	}
	w.awaitState(spec.ID, driver.Exited)
	if written, err := shim.ReadExit(filepath.Dir(exit)); err != nil || !written.Time.Equal(first.Time) {
		t.Errorf("written %+v, %v; want %v", written, err, first.Time)
	}
}

// identity is a process that has pid now, or one that never was.
func identity(t *testing.T, pid int) shim.Process {
	t.Helper()
	p, err := shim.Identify(pid)
	if err != nil {
		return shim.Process{}
	}
	return p
}

func pidsWith(word string) []int {
	var all []int
	_ = shim.Processes(func(s shim.Stat) bool {
		line, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", s.PID))
		if err == nil && strings.Contains(string(line), word) {
			all = append(all, s.PID)
		}
		return true
	})
	return all
}

// TestTreesEnd: orphans in sessions of their own, deaf to signals, end with a stop and with a crash.
func TestTreesEnd(t *testing.T) {
	for _, how := range []string{"stop", "crash"} {
		t.Run(how, func(t *testing.T) {
			both(t, func(w *world) {
				mark := fmt.Sprintf("mark%d", time.Now().UnixNano())
				spec := w.spec("web", own(w.T, "orphan", mark, "live")...)
				w.start(spec)
				inst := w.awaitState(spec.ID, driver.Running)
				await(w.T, "the tree", func() bool { return processesWith(mark) >= 2 })
				if how == "stop" {
					w.stop(spec.ID, 200*time.Millisecond)
				} else if err := unix.Kill(inst.PID, unix.SIGKILL); err != nil {
					w.Fatal(err)
				}
				w.awaitState(spec.ID, driver.Exited)
				if n := processesWith(mark); n != 0 {
					w.Errorf("%d processes of the tree are left", n)
				}
			})
		})
	}
}

// TestStrangersAreNeverSignalled: records that name a pid with another start time, or of another boot, or a zombie.
func TestStrangersAreNeverSignalled(t *testing.T) {
	w := newWorld(t, os.Geteuid() != 0)
	spec := w.spec("web", "sleep", "1000")
	w.start(spec)
	w.stop(spec.ID, 0)
	dir := filepath.Join(w.cfg.StateDir, "instances", "web-1-0000000a")
	stranger := exec.Command("sleep", "1000")
	stranger.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := stranger.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = stranger.Process.Kill(); _ = stranger.Wait() }()
	running, err := shim.ReadRunning(dir)
	if err != nil {
		t.Fatal(err)
	}
	real := identity(t, stranger.Process.Pid)
	for name, change := range map[string]func(*shim.Running){
		"start time": func(r *shim.Running) {
			wrong := shim.Process{PID: real.PID, StartTime: real.StartTime - 1}
			r.Shim, r.Program = wrong, wrong
		},
		"boot": func(r *shim.Running) {
			r.Shim, r.Program, r.BootID = real, real, "00000000-0000-0000-0000-000000000000"
		},
	} {
		t.Run(name, func(t *testing.T) {
			if err := os.Remove(filepath.Join(dir, shim.ExitFile)); err != nil {
				t.Fatal(err)
			}
			changed := running
			change(&changed)
			if err := shim.Write(dir, shim.RunningFile, changed); err != nil {
				t.Fatal(err)
			}
			w.reopen()
			inst, _ := w.find(spec.ID)
			if inst.State != driver.Exited || inst.Exit == nil || inst.Exit.Error == "" {
				t.Errorf("instance %+v: want an exit of which nothing is known", inst)
			}
			ctx, cancel := contextFor(5 * time.Second)
			defer cancel()
			if err := w.d.Stop(ctx, spec.ID, 0); err != nil {
				t.Errorf("stop: %v", err)
			}
			if name == "start time" {
				if err := changed.Program.Signal(unix.SIGKILL); err == nil {
					t.Error("a process with another start time was signalled")
				}
			}
			if !real.Alive() {
				t.Fatal("a stranger was killed")
			}
		})
	}
}

// TestOldRecords: records of the version before are read, those of a later one are refused and left alone, torn ones
// are not believed.
func TestOldRecords(t *testing.T) {
	w := newWorld(t, true)
	spec := w.spec("job", "sh", "-c", "exit 9")
	w.start(spec)
	w.awaitState(spec.ID, driver.Exited)
	dir := filepath.Join(w.cfg.StateDir, "instances", "job-1-0000000a")
	await(t, "the end of its supervisor", func() bool {
		r, err := shim.ReadRunning(dir)
		return err == nil && !r.Shim.Alive()
	})
	exit, err := os.ReadFile(filepath.Join(dir, shim.ExitFile))
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		content string
		code    int
		known   bool
	}{
		"first version": {fmt.Sprintf(`{"version":1,"id":%q,"run":1,"code":3,"time":"2026-01-02T03:04:05Z"}`, spec.ID), 3, true},
		"more fields":   {fmt.Sprintf(`{"version":1,"id":%q,"run":1,"code":4,"time":"2026-01-02T03:04:05Z","later":{"x":1}}`, spec.ID), 4, true},
		"empty":         {"", -1, false},
		"torn":          {string(exit[:len(exit)/2]), -1, false},
	} {
		t.Run(name, func(t *testing.T) {
			if err := os.WriteFile(filepath.Join(dir, shim.ExitFile), []byte(c.content), 0o600); err != nil {
				t.Fatal(err)
			}
			w.reopen()
			inst, ok := w.find(spec.ID)
			if !ok || inst.State != driver.Exited || inst.Exit.Code != c.code || (inst.Exit.Error == "") != c.known {
				t.Errorf("instance %+v, exit %+v; want code %d", inst, inst.Exit, c.code)
			}
		})
	}
	text, err := os.ReadFile(filepath.Join(dir, shim.SpecFile))
	if err != nil {
		t.Fatal(err)
	}
	later := strings.Replace(string(text), `"version":1`, `"version":99`, 1)
	if err := os.WriteFile(filepath.Join(dir, shim.SpecFile), []byte(later), 0o600); err != nil {
		t.Fatal(err)
	}
	w.reopen()
	if _, err := w.d.List(t.Context(), "drivertest"); err == nil {
		t.Error("a record of a later version was read as if it were understood")
	}
	if err := os.WriteFile(filepath.Join(dir, shim.SpecFile), text, 0o600); err != nil {
		t.Fatal(err)
	}
}
