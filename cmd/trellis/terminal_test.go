package main

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/creack/pty"

	"trellis/api"
	"trellis/engine"
)

// atTerminal starts this program at a terminal of 100 by 24.
func atTerminal(t *testing.T, w world, env []string, args ...string) (*output, *os.File, *exec.Cmd) {
	t.Helper()
	dir := t.TempDir()
	write(t, filepath.Join(dir, "compose.yaml"), []byte("name: shop\nservices: {web: {x-trellis: {process: {command: [web]}}}}\n"))
	b, err := json.Marshal(w)
	if err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(dir, "world.json"), b)
	cmd := exec.Command(os.Args[0], args...)
	cmd.Dir = dir
	cmd.Env = append(append(os.Environ(), childEnv+"=1", "WORK="+dir, "TERM=xterm", "NO_COLOR=", "LANG=C.UTF-8"), env...)
	tty, err := pty.StartWithSize(cmd, &pty.Winsize{Rows: 24, Cols: 100})
	if err != nil {
		t.Fatal(err)
	}
	out := &output{}
	drained := make(chan struct{})
	go func() {
		defer close(drained)
		_, _ = io.Copy(out, tty) // ends with an error when the last program has closed the terminal
	}()
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		_ = tty.Close()
		<-drained
	})
	return out, tty, cmd
}

func TestExecHandsTheTerminalOver(t *testing.T) {
	w := world{Running: true, Exec: execAnswer{Code: 7}, Status: api.Status{State: engine.State{Project: "shop", Services: []engine.Service{{Name: "web"}}}}}
	out, tty, cmd := atTerminal(t, w, nil, "exec", "web", "sh")
	await(t, out, "size 100x24")
	if _, err := tty.Write([]byte("\x03a\r")); err != nil { // Ctrl-C is the command's, not ours
		t.Fatal(err)
	}
	await(t, out, `keys "\x03a\r"`)
	_ = cmd.Wait()
	if code := cmd.ProcessState.ExitCode(); code != 7 {
		t.Errorf("exit code %d, want the command's 7\n%s", code, out)
	}
}

// TestLogsAtATerminal: of what a program wrote its colours come through, and nothing else that a terminal would carry out.
func TestLogsAtATerminal(t *testing.T) {
	w := world{Running: true, Status: api.Status{State: engine.State{Project: "shop", Services: []engine.Service{{Name: "web"}}}},
		Lines: []api.LogLine{{Service: "web", Instance: "web-1-a", Text: "\x1b]0;owned\x07\x1b[2J\x1b[31mred\x1b[0m end"}}}
	out, _, cmd := atTerminal(t, w, nil, "logs")
	await(t, out, "\x1b[31mred\x1b[0m end")
	_ = cmd.Wait()
	if text := out.String(); strings.Contains(text, "\x1b]0;") || strings.Contains(text, "\x1b[2J") {
		t.Errorf("%q", text)
	}
}

func TestUpAtATerminal(t *testing.T) {
	starting := api.Status{State: engine.State{Project: "shop", Revision: 1, Services: []engine.Service{
		{Name: "web", State: engine.ServiceStarting, Want: 1, Reason: "connection refused"},
	}}}
	const up, colour, spinner, line = "\x1b[2A", "\x1b[36m", "⠋", "0.0s  web: starting 0/1: connection refused"
	for _, c := range []struct {
		name      string
		env       []string
		args      []string
		has, lack []string
	}{
		{"a picture is redrawn in place", nil, nil, []string{up, colour, spinner, "shop r1"}, []string{line}},
		{"NO_COLOR", []string{"NO_COLOR=1"}, nil, []string{up, spinner}, []string{colour}},
		{"a dumb terminal gets lines", []string{"TERM=dumb"}, nil, []string{line}, []string{"\x1b[", spinner}},
		{"no glyphs where the locale has none", []string{"LC_ALL=C", "NO_COLOR=1"}, nil, []string{up, "| web"}, []string{spinner}},
		{"quiet", nil, []string{"--quiet"}, nil, []string{spinner, "\x1b[2A"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			args := append([]string{"up", "-d", "--timeout", "1s"}, c.args...)
			out, _, cmd := atTerminal(t, world{Frames: []api.Status{starting}}, c.env, args...)
			await(t, out, "not healthy after 1s")
			_ = cmd.Wait()
			time.Sleep(20 * time.Millisecond)
			text := out.String()
			for _, part := range c.has {
				if !strings.Contains(text, part) {
					t.Errorf("no %q in\n%q", part, text)
				}
			}
			for _, part := range c.lack {
				if strings.Contains(text, part) {
					t.Errorf("%q in\n%q", part, text)
				}
			}
		})
	}
}

// TestLoadShowsHowItGoes: a picture on a terminal, which is gone when the result is there.
func TestLoadShowsHowItGoes(t *testing.T) {
	target := httptest.NewServer(http.NotFoundHandler())
	defer target.Close()
	out, _, cmd := atTerminal(t, world{}, []string{"NO_COLOR=1"}, "load", target.URL, "--rate", "100/s", "--for", "1500ms", "--ramp", "1s")
	await(t, out, "s of 1.5s  ██████")
	await(t, out, "requests/s, 100 wanted")
	await(t, out, "in flight    ")
	await(t, out, "last second  p50 ")
	await(t, out, " sent, 0 failed, 0 lost")
	await(t, out, "\x1b[J")
	await(t, out, "requests  100 sent, 100 completed")
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
	if text := out.String(); strings.Contains(text, "\x1b[3") {
		t.Errorf("colours in spite of NO_COLOR: %q", text)
	}
}
