package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"trellis/api"
	"trellis/compose"
	"trellis/engine"
	"trellis/errdefs"
	"trellis/server"
	"trellis/state"
)

// TestUpSignals sends signals to an up in the foreground, when it has shown what the case waits for.
func TestUpSignals(t *testing.T) {
	const ours, letsGo = "down volumes=false now=false", "shop goes on"
	healthy := api.Status{State: engine.State{Project: "shop", Revision: 1, Settled: true, Outcome: state.Healthy, Services: []engine.Service{
		{Name: "web", State: engine.ServiceHealthy, Want: 1, Ready: 1, Revision: 1, Instances: []engine.Instance{{ID: "web-1-a", State: engine.InstanceReady}}},
	}}}
	starting := api.Status{State: engine.State{Project: "shop", Revision: 1, Services: []engine.Service{
		{Name: "web", State: engine.ServiceStarting, Want: 1, Reason: "connection refused"},
	}}}
	lines := []api.LogLine{{Service: "web", Instance: "web-1-a", Text: "hello"}}
	fresh := world{Frames: []api.Status{healthy}, Lines: lines}
	ran := world{Running: true, Status: healthy, Frames: []api.Status{healthy}, Lines: lines}
	ran.Status.Revision = 0
	stuck := fresh
	stuck.DownTime = time.Minute
	slow := world{Frames: []api.Status{starting}}

	for _, c := range []struct {
		name    string
		world   world
		args    []string
		until   string // in the output
		signal  syscall.Signal
		again   string // in the output, before a second signal; "": none
		code    int
		calls   string // of the control plane; "" only: no down
		message string
	}{
		{"an interrupt stops what up has started", fresh, nil, "web-1 | hello", syscall.SIGINT, "", 0, ours, "stopped shop"},
		{"a second one stops it at once", stuck, nil, "web-1 | hello", syscall.SIGINT, "stopping shop", 0, "down volumes=false now=true", "killing what still runs"},
		{"SIGTERM lets go", fresh, nil, "web-1 | hello", syscall.SIGTERM, "", 0, "", letsGo},
		{"a closed terminal lets go", fresh, nil, "web-1 | hello", syscall.SIGHUP, "", 0, "", letsGo},
		{"a project that ran before is let go of", ran, nil, "web-1 | hello", syscall.SIGINT, "", 0, "", letsGo},
		{"an interrupt before it is healthy stops it and is a failure", slow, nil, "connection refused", syscall.SIGINT, "", errdefs.ExitFailed, ours, "stopped shop"},
		{"with -d it goes on", slow, []string{"-d"}, "connection refused", syscall.SIGINT, "", errdefs.ExitFailed, "", letsGo},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			write(t, filepath.Join(dir, "compose.yaml"), []byte("name: shop\nservices: {web: {image: web}}\n"))
			b, err := json.Marshal(c.world)
			if err != nil {
				t.Fatal(err)
			}
			write(t, filepath.Join(dir, "world.json"), b)
			out, cmd := child(t, dir, append([]string{"up"}, c.args...)...)
			await(t, out, c.until)
			if err := cmd.Process.Signal(c.signal); err != nil {
				t.Fatal(err)
			}
			if c.again != "" {
				await(t, out, c.again)
				if err := cmd.Process.Signal(c.signal); err != nil {
					t.Fatal(err)
				}
			}
			_ = cmd.Wait()
			if got := cmd.ProcessState.ExitCode(); got != c.code {
				t.Errorf("exit code %d, want %d", got, c.code)
			}
			await(t, out, c.message)
			calls, err := os.ReadFile(filepath.Join(dir, "calls"))
			if err != nil {
				t.Fatal(err)
			}
			if c.calls == "" && strings.Contains(string(calls), "down") || !strings.Contains(string(calls), c.calls) {
				t.Errorf("calls:\n%swant %q", calls, c.calls)
			}
			if t.Failed() {
				t.Logf("output:\n%s", out)
			}
		})
	}
}

// TestLoadCutShort: what is expected of a run is expected of its whole length.
func TestLoadCutShort(t *testing.T) {
	for _, c := range []struct {
		name    string
		args    []string
		signal  syscall.Signal
		code    int
		message string
	}{
		{"an interrupt is an end like another", nil, syscall.SIGINT, 0, "requests "},
		{"but not of what is expected", []string{"--expect", "failed=0"}, syscall.SIGINT, errdefs.ExitFailed, "error: the run was cut short: stopped by interrupt"},
		{"what does not hold until then is missed", []string{"--expect", "completed>1000000"}, syscall.SIGINT, errdefs.ExitObjective, "error: the run was cut short: stopped by interrupt"},
		{"nobody at the terminal wanted SIGTERM", nil, syscall.SIGTERM, errdefs.ExitFailed, "error: the run was cut short: stopped by terminated"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			asked := make(chan struct{})
			target := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
				select {
				case asked <- struct{}{}:
				default:
				}
			}))
			defer target.Close()
			out, cmd := child(t, t.TempDir(), append([]string{"load", target.URL, "--for", "10m"}, c.args...)...)
			select {
			case <-asked:
			case <-time.After(60 * time.Second):
				t.Fatalf("nothing was sent:\n%s", out)
			}
			if err := cmd.Process.Signal(c.signal); err != nil {
				t.Fatal(err)
			}
			_ = cmd.Wait()
			if got := cmd.ProcessState.ExitCode(); got != c.code {
				t.Errorf("exit code %d, want %d", got, c.code)
			}
			for _, text := range []string{"Cancelled: these are the results until then", c.message} {
				if !strings.Contains(out.String(), text) {
					t.Errorf("no %q in\n%s", text, out)
				}
			}
		})
	}
}

// TestNohup: a program that was started with nohup outlives its terminal.
func TestNohup(t *testing.T) {
	asked := make(chan struct{}, 1)
	target := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		select {
		case asked <- struct{}{}:
		default:
		}
	}))
	defer target.Close()
	out, cmd := started(t, t.TempDir(), exec.Command("sh", "-c", `trap "" HUP; exec "$0" "$@"`, os.Args[0], "load", target.URL, "--for", "10m"))
	select {
	case <-asked:
	case <-time.After(60 * time.Second):
		t.Fatalf("nothing was sent:\n%s", out)
	}
	for _, s := range []syscall.Signal{syscall.SIGHUP, syscall.SIGTERM} { // of two that wait the lower one is delivered first
		if err := cmd.Process.Signal(s); err != nil {
			t.Fatal(err)
		}
	}
	_ = cmd.Wait()
	if text := "stopped by terminated"; !strings.Contains(out.String(), text) {
		t.Errorf("no %q in\n%s", text, out)
	}
}

// output is what a running program has written so far.
type output struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (o *output) Write(b []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.Write(b)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.String()
}

// TestBackupWhoseReaderIsGone: services that were stopped for a backup are started again, and it has failed.
func TestBackupWhoseReaderIsGone(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	write(t, filepath.Join(dir, "compose.yaml"), []byte("name: shop\nservices: {web: {image: web}}\n"))
	stateDir := filepath.Join(dir, ".trellis", "shop")
	if err := os.MkdirAll(filepath.Join(stateDir, "volumes", "shop_data"), 0o755); err != nil {
		t.Fatal(err)
	}
	web := compose.Service{Name: "web", Volumes: []compose.Mount{{Type: compose.MountVolume, Source: "data", Target: "/data"}}}
	web.Trellis.Process = &compose.Process{Command: []string{"web"}}
	store, err := state.Open(filepath.Join(stateDir, "state.db"))
	if err == nil {
		_, err = store.Put(t.Context(), state.Revision{Project: compose.Project{Name: "shop", Services: map[string]compose.Service{"web": web}}}, 0)
	}
	if err = errors.Join(err, store.Close()); err != nil {
		t.Fatal(err)
	}
	if _, err := state.OpenContents(filepath.Join(stateDir, "contents")); err != nil {
		t.Fatal(err)
	}
	runs := api.Status{State: engine.State{Project: "shop", Revision: 1, Services: []engine.Service{
		{Name: "web", Instances: []engine.Instance{{ID: "web-1-a", State: engine.InstanceReady}}},
	}}}
	stopped := api.Status{State: engine.State{Project: "shop", Revision: 1, Services: []engine.Service{{Name: "web"}}}}
	b, err := json.Marshal(world{Running: true, Status: runs, Frames: []api.Status{stopped}})
	if err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(dir, "world.json"), b)
	out := unread(t)
	cmd := exec.Command(os.Args[0], "backup", "--stop", "-")
	said := &output{}
	cmd.Dir, cmd.Stdout, cmd.Stderr = dir, out, said
	cmd.Env = append(os.Environ(), childEnv+"=1", "WORK="+dir, "USER=kim", "TZ=UTC")
	err = cmd.Run()
	if cmd.ProcessState.ExitCode() != errdefs.ExitFailed || !strings.Contains(said.String(), "broken pipe") {
		t.Errorf("%v: %s", err, said)
	}
	calls, _ := os.ReadFile(filepath.Join(dir, "calls"))
	if !strings.Contains(string(calls), `"stopped":true`) || !strings.Contains(string(calls), `"stopped":false`) {
		t.Errorf("calls:\n%s", calls)
	}
	if left, _ := filepath.Glob(filepath.Join(stateDir, ".backup-*")); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
}

// unread is a pipe whose reader has gone.
func unread(t *testing.T) *os.File {
	t.Helper()
	gone, out, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = out.Close() })
	if err := gone.Close(); err != nil {
		t.Fatal(err)
	}
	return out
}

// unseen runs this program with the fake control plane of dir, nobody reading what it says.
func unseen(t *testing.T, dir string, args ...string) error {
	t.Helper()
	cmd := exec.Command(os.Args[0], args...)
	out := unread(t)
	cmd.Dir, cmd.Stdout, cmd.Stderr = dir, out, out
	cmd.Env = append(os.Environ(), childEnv+"=1", "WORK="+dir, "USER=kim", "TZ=UTC")
	return cmd.Run()
}

// TestRestoreWhoseReaderIsGone puts everything back: what it had to say is all that is lost.
func TestRestoreWhoseReaderIsGone(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	write(t, filepath.Join(dir, "compose.yaml"), []byte("name: shop\nservices: {web: {image: web}}\n"))
	l, err := locate("shop", dir, "")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(l.StateDir, 0o700); err != nil {
		t.Fatal(err)
	}
	store, err := state.Open(filepath.Join(l.StateDir, "state.db"))
	if err == nil {
		_, err = store.Put(t.Context(), state.Revision{Project: compose.Project{
			Name: "shop", WorkingDir: dir, Services: map[string]compose.Service{"web": {Name: "web", Image: "web"}},
		}}, 0)
	}
	if err == nil {
		err = store.SetValue(t.Context(), "engine/deleted-revision", 1) // it was down: nothing has to be started
	}
	if err = errors.Join(err, store.Close()); err != nil {
		t.Fatal(err)
	}
	if _, err := state.OpenContents(filepath.Join(l.StateDir, "contents")); err != nil {
		t.Fatal(err)
	}
	nobody := func(context.Context, location) (api.Control, io.Closer, error) { return nil, nil, errdefs.ErrNotFound }
	file := filepath.Join(dir, "shop.tar.zst")
	err = whole(file, func(w io.Writer) error {
		_, err := server.MakeBackup(t.Context(), l, server.BackupOptions{Connect: nobody}, w)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := unseen(t, dir, "restore", "--force", file); err != nil {
		t.Errorf("restore: %v", err)
	}
}

// TestTakeoverWhoseReaderIsGone comes to its end: theirs are removed, and ours are there.
func TestTakeoverWhoseReaderIsGone(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	write(t, filepath.Join(dir, "compose.yaml"), []byte("name: shop\nservices: {db: {image: db, volumes: [\"data:/data\"]}}\nvolumes: {data: {}}\n"))
	b, err := json.Marshal(world{
		Running: true, Theirs: []composeContainer{{ID: "c1", Service: "db"}}, Status: api.Status{State: engine.State{Project: "shop"}},
		Changes: []engine.Change{{Path: "services.db", Action: engine.Add, Effect: engine.EffectRollout}},
		Frames:  []api.Status{{State: engine.State{Project: "shop", Revision: 99, Settled: true, Outcome: state.Healthy}}},
	})
	if err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(dir, "world.json"), b)
	err = unseen(t, dir, "up", "-d", "--yes")
	calls, _ := os.ReadFile(filepath.Join(dir, "calls"))
	if err != nil || !strings.Contains(string(calls), "halt c1") || !strings.HasSuffix(string(calls), "discard c1\n") {
		t.Errorf("up: %v; calls:\n%s", err, calls)
	}
}

// child starts this program with the fake control plane of dir; it is killed at the end of the test.
func child(t *testing.T, dir string, args ...string) (*output, *exec.Cmd) {
	t.Helper()
	return started(t, dir, exec.Command(os.Args[0], args...))
}

// started starts a command that is, or becomes, this program.
func started(t *testing.T, dir string, cmd *exec.Cmd) (*output, *exec.Cmd) {
	t.Helper()
	if signal.Ignored(syscall.SIGHUP) { // the tests run with nohup themselves, which is not meant for what they start
		signal.Notify(make(chan os.Signal, 1), syscall.SIGHUP)
	}
	out := &output{}
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), childEnv+"=1", "WORK="+dir, "USER=kim", "TZ=UTC")
	cmd.Stdout, cmd.Stderr = out, out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	return out, cmd
}

// await waits until text has been written.
func await(t *testing.T, out *output, text string) {
	t.Helper()
	for deadline := time.Now().Add(60 * time.Second); !strings.Contains(out.String(), text); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("no %q in\n%s", text, out)
		}
	}
}

func write(t *testing.T, file string, content []byte) {
	t.Helper()
	if err := os.WriteFile(file, content, 0o600); err != nil {
		t.Fatal(err)
	}
}
