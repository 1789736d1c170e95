package holder

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestStartInfoStop(t *testing.T) {
	w := start(t)
	address := w.open(tcp("gateway"))[0]
	until(t, "both programs run", func() bool { i := w.info(); return i.ControlPlane.PID > 0 && i.DataPlane.PID > 0 })
	info := w.info()
	if _, pid, err := ask("tcp", address); err != nil || pid != info.DataPlane.PID {
		t.Errorf("asked %s: pid %d, %v; the data plane is %d", address, pid, err, info.DataPlane.PID)
	}
	if info.Protocol != Protocol || info.PID == os.Getpid() || time.Since(info.Started) > time.Minute {
		t.Errorf("info: %+v", info)
	}
	same(t, "sockets", info.Sockets, []Opened{{Name: "gateway", Address: address}})

	again, err := Start(t.Context(), []string{exe(t)}, w.cfg)
	if err != nil {
		t.Fatal(err)
	}
	if other, err := again.Info(t.Context()); err != nil || other.PID != info.PID {
		t.Errorf("a second Start gave holder %d, %v; there is %d", other.PID, err, info.PID)
	}
	if sid, err := syscall.Getpgid(info.PID); err != nil || sid != info.PID {
		t.Errorf("the holder's process group is %d, %v", sid, err)
	}
	for _, pid := range []int{info.ControlPlane.PID, info.DataPlane.PID} {
		if group, err := syscall.Getpgid(pid); err != nil || group != pid {
			t.Errorf("process %d is in group %d, %v", pid, group, err)
		}
		env, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", pid))
		if err != nil || string(env) != "GORACE=atexit_sleep_ms=0\x00" {
			t.Errorf("environment %q, %v", env, err)
		}
		if slack, err := os.ReadFile(fmt.Sprintf("/proc/%d/timerslack_ns", pid)); err != nil || string(slack) != "250000\n" {
			t.Errorf("timer slack %q, %v", slack, err)
		}
	}
	for file, mode := range map[string]os.FileMode{".": 0o700, socketFile: 0o600, pidFile: 0o600, configFile: 0o600} {
		if st, err := os.Stat(filepath.Join(w.cfg.Dir, file)); err != nil || st.Mode().Perm() != mode {
			t.Errorf("%s: %v, %v", file, st.Mode(), err)
		}
	}

	w.stop()
	for _, pid := range []int{info.PID, info.ControlPlane.PID, info.DataPlane.PID} {
		until(t, "the process is gone", func() bool { return !alive(pid) })
	}
	if _, _, err := ask("tcp", address); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("the socket still listens: %v", err)
	}
	if left, err := os.ReadDir(w.cfg.Dir); err != nil || len(left) != 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
	if _, err := Dial(t.Context(), filepath.Join(w.cfg.Dir, socketFile)); !errors.Is(err, ErrGone) {
		t.Errorf("Dial after the end: %v", err)
	}
}

func same(t *testing.T, what string, got, want any) {
	t.Helper()
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("%s (-want +got):\n%s", what, diff)
	}
}

func TestSecondHolderIsRefused(t *testing.T) {
	w := start(t)
	out, err := exec.Command(exe(t), "hold", filepath.Join(w.cfg.Dir, configFile)).CombinedOutput()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != exitHeld {
		t.Errorf("the second holder ended with %v", err)
	}
	if want := fmt.Sprintf("pid %d", w.info().PID); !strings.Contains(string(out), want) {
		t.Errorf("it does not say who holds the project (%s): %s", want, out)
	}
}

func TestConcurrentStartsShareOneHolder(t *testing.T) {
	w := start(t)
	w.stop()
	var all sync.WaitGroup
	pids := make([]int, 5)
	for i := range pids {
		all.Go(func() {
			c, err := Start(t.Context(), []string{exe(t)}, w.cfg)
			if err != nil {
				t.Error(err)
				return
			}
			info, err := c.Info(t.Context())
			if err != nil {
				t.Error(err)
			}
			pids[i] = info.PID
		})
	}
	all.Wait()
	for _, pid := range pids {
		if pid != pids[0] {
			t.Fatalf("more than one holder: %v", pids)
		}
	}
}

// TestStartOutlivesAHolderThatWasKilledWhileItStarted holds the lock as one does that does not answer yet, and lets go.
func TestStartOutlivesAHolderThatWasKilledWhileItStarted(t *testing.T) {
	w := start(t)
	w.stop()
	starting, err := takeLock(w.cfg)
	if err != nil {
		t.Fatal(err)
	}
	time.AfterFunc(2*heldPatience, func() { starting.Close() })
	w.start()
	if pid := w.info().PID; pid == os.Getpid() {
		t.Errorf("the holder is %d, the test itself", pid)
	}
}

func TestStartSaysWhyItFailed(t *testing.T) {
	w := start(t)
	w.stop()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if _, err := Start(ctx, []string{exe(t), "broken"}, w.cfg); err == nil || !strings.Contains(err.Error(), "broken on purpose") {
		t.Errorf("Start of a holder that fails: %v", err)
	}
	bad := w.cfg
	bad.ControlPlane = nil
	if _, err := Start(ctx, []string{exe(t)}, bad); err == nil || !strings.Contains(err.Error(), "control_plane") {
		t.Errorf("Start with a bad config: %v", err)
	}
	bad = w.cfg
	bad.Dir = "/tmp/" + strings.Repeat("x", 100)
	if _, err := Start(ctx, []string{exe(t)}, bad); err == nil || !strings.Contains(err.Error(), "too long") {
		t.Errorf("Start with a long dir: %v", err)
	}
}

func TestControlPlaneKilledTwentyTimes(t *testing.T) {
	w := start(t)
	address := w.open(tcp("gateway"))[0]
	until(t, "both programs run", func() bool { i := w.info(); return i.ControlPlane.PID > 0 && i.DataPlane.PID > 0 })
	data := w.info().DataPlane.PID
	var away, back atomic.Int64
	ctx, cancel := context.WithCancel(t.Context())
	var following sync.WaitGroup
	following.Go(func() {
		w.client.Follow(ctx, func(e Event) error {
			closeAll(e.Sockets)
			if e.ControlPlaneAway {
				away.Add(1)
			} else {
				back.Add(1)
			}
			return nil
		})
	})
	for i := range 20 {
		until(t, "the control plane is connected", func() bool { return back.Load() > int64(i) })
		pid := w.info().ControlPlane.PID
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		until(t, "another control plane runs", func() bool { now := w.info().ControlPlane.PID; return now > 0 && now != pid })
	}
	until(t, "it is connected", func() bool { return back.Load() > 20 })
	cancel()
	following.Wait()
	info := w.info()
	if info.ControlPlane.Restarts != 20 || info.ControlPlane.Failed != "signal: killed" {
		t.Errorf("control plane: %+v", info.ControlPlane)
	}
	if info.DataPlane.PID != data || info.DataPlane.Restarts != 0 {
		t.Errorf("the data plane was touched: %+v", info.DataPlane)
	}
	if away.Load() < 20 {
		t.Errorf("the follower was told %d times that the control plane is away", away.Load())
	}
	if _, pid, err := ask("tcp", address); err != nil || pid != data {
		t.Errorf("asked: pid %d, %v", pid, err)
	}
}

// asker asks over and over and counts what went wrong.
type asker struct {
	asked, refused, failed atomic.Int64
	first                  atomic.Pointer[error]
	stop                   context.CancelFunc
	all                    sync.WaitGroup
}

func askAlways(t *testing.T, address string) *asker {
	ctx, cancel := context.WithCancel(t.Context())
	a := &asker{stop: cancel}
	t.Cleanup(func() { cancel(); a.all.Wait() })
	for range 4 {
		a.all.Go(func() {
			for ctx.Err() == nil {
				_, _, err := ask("tcp", address)
				a.asked.Add(1)
				if err != nil {
					a.first.CompareAndSwap(nil, &err)
					if errors.Is(err, syscall.ECONNREFUSED) || strings.HasPrefix(err.Error(), "refused") {
						a.refused.Add(1)
					}
					a.failed.Add(1)
				}
				time.Sleep(time.Millisecond)
			}
		})
	}
	return a
}

func (a *asker) end() {
	a.stop()
	a.all.Wait()
}

func TestDataPlaneKilledRefusesNoConnection(t *testing.T) {
	w := start(t)
	address := w.open(tcp("gateway"))[0]
	a := askAlways(t, address)
	for range 10 {
		asked := a.asked.Load()
		until(t, "connections are answered", func() bool { return a.asked.Load() > asked+20 })
		pid := w.info().DataPlane.PID
		if pid == 0 {
			continue
		}
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		until(t, "another data plane runs", func() bool { now := w.info().DataPlane.PID; return now > 0 && now != pid })
	}
	a.end()
	if a.refused.Load() > 0 {
		t.Errorf("%d of %d connections refused: %v", a.refused.Load(), a.asked.Load(), *a.first.Load())
	}
	t.Logf("%d connections, %d cut off by a kill, 0 refused", a.asked.Load(), a.failed.Load())
}

func TestReplaceDataPlaneLosesNothing(t *testing.T) {
	w := start(t)
	address := w.open(tcp("gateway"))[0]
	a := askAlways(t, address)
	for i := range 5 {
		asked := a.asked.Load()
		until(t, "connections are answered", func() bool { return a.asked.Load() > asked+20 })
		old := w.info().DataPlane.PID
		name := fmt.Sprintf("gen%d", i)
		if err := w.client.Replace(t.Context(), RoleDataPlane, []string{exe(t), "data", w.cfg.Dir, name}); err != nil {
			t.Fatal(err)
		}
		if now := w.info().DataPlane.PID; now == old || now == 0 {
			t.Fatalf("data plane %d after %d", now, old)
		}
		until(t, "the old one has ended", func() bool { return !alive(old) })
		if generation, _, err := ask("tcp", address); err != nil || generation != name {
			t.Errorf("answered by %s, %v; want %s", generation, err, name)
		}
	}
	a.end()
	if a.failed.Load() > 0 {
		t.Errorf("%d of %d connections failed: %v", a.failed.Load(), a.asked.Load(), *a.first.Load())
	}
	if info := w.info(); info.DataPlane.Restarts != 0 {
		t.Errorf("data plane: %+v", info.DataPlane)
	}
}

func TestReplaceThatFailsKeepsTheOld(t *testing.T) {
	w := start(t)
	until(t, "both programs run", func() bool { i := w.info(); return i.ControlPlane.PID > 0 && i.DataPlane.PID > 0 })
	before := w.info()
	for what, c := range map[string]struct{ role, arg, want string }{
		"ends at once":      {RoleDataPlane, "broken", "exit status 3"},
		"is never ready":    {RoleDataPlane, "stubborn", "not ready"},
		"is no program":     {RoleControlPlane, "", "no such file"},
		"has no such role":  {"third", "control", "no role"},
		"has a bad command": {RoleDataPlane, "", "no such file"},
	} {
		command := []string{exe(t), c.arg}
		if c.arg == "" {
			command = []string{"/does/not/exist"}
		}
		err := w.client.Replace(t.Context(), c.role, command)
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("one that %s: %v, want %q", what, err, c.want)
		}
	}
	if err := w.client.Replace(t.Context(), RoleDataPlane, nil); !errors.Is(err, ErrProtocol) {
		t.Errorf("an empty command: %v", err)
	}
	after := w.info()
	if after.ControlPlane != before.ControlPlane || after.DataPlane != before.DataPlane {
		t.Errorf("changed:\n%+v\n%+v", before, after)
	}
}

func TestReplaceControlPlane(t *testing.T) {
	w := start(t)
	until(t, "the control plane runs", func() bool { return w.info().ControlPlane.PID > 0 })
	old := w.info().ControlPlane.PID
	if err := w.client.Replace(t.Context(), RoleControlPlane, []string{exe(t), "stubborn", "x"}); err != nil {
		t.Fatal(err)
	}
	stubborn := w.info().ControlPlane.PID
	if alive(old) || !alive(stubborn) {
		t.Errorf("old alive: %v, new alive: %v", alive(old), alive(stubborn))
	}
	// One that ignores SIGTERM is killed when its time is over.
	if err := w.client.Replace(t.Context(), RoleControlPlane, w.cfg.ControlPlane); err != nil {
		t.Fatal(err)
	}
	if alive(stubborn) {
		t.Error("the one that ignores SIGTERM still runs")
	}
}

func TestControlPlaneMayStopItsHolder(t *testing.T) {
	w := start(t)
	pid := w.info().PID
	// The answer can be cut off by the holder's end.
	err := w.client.Replace(t.Context(), RoleControlPlane, []string{exe(t), "selfstop", w.cfg.Dir})
	if err != nil && !errors.Is(err, ErrGone) && !errors.Is(err, ErrStopping) {
		t.Error(err)
	}
	until(t, "the holder is gone", func() bool { return !alive(pid) })
}

func TestSIGTERMStopsAll(t *testing.T) {
	w := start(t)
	until(t, "both programs run", func() bool { i := w.info(); return i.ControlPlane.PID > 0 && i.DataPlane.PID > 0 })
	info := w.info()
	if err := syscall.Kill(info.PID, syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	for _, pid := range []int{info.PID, info.ControlPlane.PID, info.DataPlane.PID} {
		until(t, "the process is gone", func() bool { return !alive(pid) })
	}
	if left, err := os.ReadDir(w.cfg.Dir); err != nil || len(left) != 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

func TestKilledHolderIsNoticedAndStartedAgain(t *testing.T) {
	w := start(t)
	until(t, "both programs run", func() bool { i := w.info(); return i.ControlPlane.PID > 0 && i.DataPlane.PID > 0 })
	info := w.info()
	if err := w.client.Hello(t.Context(), RoleControlPlane); !errors.Is(err, ErrStranger) {
		t.Errorf("hello of a program of another holder: %v", err)
	}
	if err := w.client.sayHello(t.Context(), RoleControlPlane, 0); err != nil {
		t.Fatal(err)
	}
	followed := make(chan error, 1)
	first := make(chan struct{}, 100)
	go func() {
		followed <- w.client.Follow(t.Context(), func(e Event) error {
			closeAll(e.Sockets)
			first <- struct{}{}
			return nil
		})
	}()
	<-first
	if err := syscall.Kill(info.PID, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	select {
	case <-w.client.Done():
	case <-time.After(20 * time.Second):
		t.Fatal("Done is not closed")
	}
	if err := <-followed; !errors.Is(err, ErrGone) {
		t.Errorf("Follow ended with %v", err)
	}
	for _, pid := range []int{info.ControlPlane.PID, info.DataPlane.PID} {
		until(t, "the program has noticed", func() bool { return !alive(pid) })
	}
	w.start()
	until(t, "both programs run again", func() bool { i := w.info(); return i.ControlPlane.PID > 0 && i.DataPlane.PID > 0 })
	if now := w.info(); now.PID == info.PID {
		t.Errorf("holder %d again", now.PID)
	}
}

func TestInheritedFilesAreClosed(t *testing.T) {
	w := start(t)
	w.stop()
	r, wr, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	file, err := writeConfig(w.cfg)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(exe(t), "hold", file)
	cmd.ExtraFiles = []*os.File{wr}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	wr.Close()
	r.SetReadDeadline(time.Now().Add(20 * time.Second))
	if _, err := r.Read(make([]byte, 1)); err == nil || os.IsTimeout(err) {
		t.Errorf("the pipe is still open: %v", err)
	}
	until(t, "it answers", func() bool { _, err := w.client.Info(t.Context()); return err == nil })
	w.stop()
	cmd.Wait()
}

func TestLogIsRotatedOnce(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	f, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for round := range 3 {
		if _, err := f.Write(make([]byte, maxLog-1)); err != nil {
			t.Fatal(err)
		}
		if err := rotateLog(path); err != nil {
			t.Fatal(err)
		}
		if st, err := os.Stat(path); err != nil || st.Size() != maxLog-1 {
			t.Fatalf("round %d: rotated too early: %v, %v", round, st, err)
		}
		fmt.Fprintf(f, "round %d\n", round)
		if err := rotateLog(path); err != nil {
			t.Fatal(err)
		}
		fmt.Fprint(f, "after")
		got, err := os.ReadFile(path)
		if err != nil || string(got) != "after" {
			t.Fatalf("the log has %d bytes, %v", len(got), err)
		}
		old, err := os.ReadFile(path + ".1")
		if err != nil || !strings.HasSuffix(string(old), fmt.Sprintf("round %d\n", round)) {
			t.Fatalf("the old log: %d bytes, %v", len(old), err)
		}
		f.Truncate(0)
	}
	if left, _ := filepath.Glob(path + "*"); len(left) != 2 {
		t.Errorf("files: %v", left)
	}
}

func TestGarbageEndsItsConnectionOnly(t *testing.T) {
	w := start(t)
	pid := w.info().PID
	info, _ := json.Marshal(request{Protocol: Protocol, Op: opInfo})
	long := append([]byte{0, 0, 0, byte(len(info)), 0xff, 0xff, 0xff, 0xff}, info...)
	for _, garbage := range [][]byte{nil, {0}, []byte("GET / HTTP/1.1\r\n\r\n"), make([]byte, 1<<16), long,
		{0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0}, {0, 0, 0, 2, 0, 0, 0, 0, '{', '}'}, {0, 0, 0, 4, 0, 0, 0, 0, 'n', 'u', 'l', 'l'},
		{0, 0, 0, 9, 0, 0, 0, 0, '{', '"', 'o', 'p', '"', ':', '[', ']', '}'}} {
		conn, err := net.Dial("unix", filepath.Join(w.cfg.Dir, socketFile))
		if err != nil {
			t.Fatal(err)
		}
		conn.Write(garbage)
		conn.(*net.UnixConn).CloseWrite()
		conn.SetReadDeadline(time.Now().Add(20 * time.Second))
		var resp response
		if _, err := readMessage(conn, &resp); err == nil && resp.Error == "" {
			t.Errorf("%q was answered with %+v", garbage, resp)
		}
		conn.Close()
	}
	for _, r := range []request{{Op: "dance"}, {Op: opHello, Role: "king"}, {Op: opReplace}} {
		if _, err := w.client.call(t.Context(), r, nil); !errors.Is(err, ErrProtocol) {
			t.Errorf("%+v: %v", r, err)
		}
	}
	if _, err := w.client.call(t.Context(), request{Op: opInfo}, []byte("payload")); !errors.Is(err, ErrProtocol) {
		t.Errorf("a payload where none belongs: %v", err)
	}
	if now := w.info().PID; now != pid {
		t.Errorf("holder %d, it was %d", now, pid)
	}
}
