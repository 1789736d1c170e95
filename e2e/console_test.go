//go:build e2e && browser

package e2e

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"trellis/load"
)

// TestConsoleInABrowser has Chromium use the console of Evergreen under a little load: browser/first.mjs and
// browser/console.mjs say what for.
// PICTURES is where it leaves them.
func TestConsoleInABrowser(t *testing.T) {
	needPrograms(t, "node", "npm", "chromium", "python3")
	pictures := os.Getenv("PICTURES")
	if pictures == "" {
		pictures = t.TempDir()
	}
	tools := browserTools(t)
	e := newEvergreen(t)
	e.write("chatty.yaml", `services:
  chatty:
    x-trellis:
      process: {command: [sh, -c, "seq -f 'line %.0f of the flood' 1 120000; echo '<img src=x onerror=alert(1)>'; echo 'ERROR the list could not be read' >&2; exec sleep 100000"]}
`)
	e.write("greeting.yaml", "services:\n  web: {environment: {GREETING: hello}}\n")
	e.flags = append(e.flags, "-f", "chatty.yaml")
	e.run("up", "-d", "--yes")
	runIn(t, tools, "node", "first.mjs", strings.TrimSpace(e.run("console")), e.url)
	defer e.visited(2)()
	flags := e.flags
	e.flags = append(flags[:len(flags):len(flags)], "-f", "greeting.yaml")
	e.run("up", "-d", "--yes")
	address := strings.TrimSpace(e.run("console"))
	if console := e.ps().Console; console == nil || !strings.HasPrefix(address, *console+"/#key=") {
		t.Fatalf("the console is at %v, and `console` prints %s", console, address)
	}
	kill := filepath.Join(tools, "kill.sh")
	script := fmt.Sprintf("#!/bin/sh\nkill -9 $(cd %s && %s %s ps --format json | python3 -c 'import json, sys; print(json.load(sys.stdin)[\"control_plane\"][\"pid\"])')\n",
		e.dir, e.trellis, strings.Join(flags, " "))
	if err := os.WriteFile(kill, []byte(script), 0o700); err != nil {
		t.Fatal(err)
	}
	runIn(t, tools, "node", "console.mjs", address, pictures, kill)
}

// visited has rate visits a second come until stop is called.
func (e *evergreen) visited(rate float64) (stop func()) {
	e.t.Helper()
	scenario, err := load.ReadScenario(filepath.Join(e.dir, "load", "visit.yaml"))
	if err != nil {
		e.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		_, err := load.Run(ctx, load.Config{URL: e.url, Scenario: scenario, Pacer: load.Constant(rate, time.Hour), Timeout: 20 * time.Second})
		if err != nil && ctx.Err() == nil {
			e.t.Errorf("visits: %v", err)
		}
	}()
	return func() { cancel(); <-done }
}

// browserTools returns a copy of browser/ with what it needs installed.
func browserTools(t *testing.T) string {
	t.Helper()
	tools := t.TempDir()
	copyTree(t, "browser", tools)
	runIn(t, tools, "npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund")
	return tools
}

// runIn runs a program in a folder.
func runIn(t *testing.T, dir, name string, args ...string) {
	t.Helper()
	cmd := exec.Command(name, args...)
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s %v: %v\n%s", name, args, err, out)
	} else {
		t.Logf("%s", out)
	}
}
