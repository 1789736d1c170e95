//go:build linux

package process_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"trellis/driver"
	"trellis/driver/process"
)

// programArg makes the test binary one of the programs below.
const programArg = "process-test-program"

// program carries out what sh cannot do. It returns only in a test binary.
func program() {
	if len(os.Args) < 3 || os.Args[1] != programArg {
		return
	}
	switch verb, args := os.Args[2], os.Args[3:]; verb {
	case "flood": // writes so many lines as fast as it can
		n, _ := strconv.Atoi(args[0])
		line := []byte(strings.Repeat("x", 200) + "\n")
		block := bytes.Repeat(line, 500)
		for range n / 500 {
			if _, err := os.Stdout.Write(block); err != nil {
				os.Exit(3)
			}
		}
	case "eat": // takes memory until it is killed
		var kept [][]byte
		for {
			b := make([]byte, 1<<20)
			for i := range b {
				b[i] = 1
			}
			kept = append(kept, b)
			if len(kept) > 4096 {
				os.Exit(4)
			}
		}
	case "orphan": // double-forks a sleeper in a session of its own, deaf to SIGTERM and SIGHUP, and goes on
		cmd := exec.Command(os.Args[0], programArg, "deaf", args[0])
		cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
		if err := cmd.Start(); err != nil {
			os.Exit(5)
		}
		fmt.Println("forked")
		if args[1] == "die" {
			os.Exit(0)
		}
		select {}
	case "deaf":
		// A child of its own outlives it, so that the tree is three deep and its middle is gone. It sleeps in short
		// pieces: a test that kills it by its mark does not reach the sleep.
		cmd := exec.Command("sh", "-c", "trap '' TERM HUP INT; while :; do sleep 1; done", args[0])
		cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
		if err := cmd.Start(); err != nil {
			os.Exit(5)
		}
	}
	os.Exit(0)
}

func own(t *testing.T, args ...string) []string {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return append([]string{exe, programArg}, args...)
}

// contextFor is independent of a test's own context, which ends before its cleanup.
func contextFor(d time.Duration) (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.Background(), d)
}

// world is a driver on directories of its own.
type world struct {
	*testing.T
	cfg process.Config
	d   *process.Driver
}

func newWorld(t *testing.T, unprivileged bool) *world {
	t.Helper()
	if !unprivileged && os.Geteuid() != 0 {
		t.Skip("namespaces need root")
	}
	w := &world{T: t, cfg: config(t, unprivileged)}
	w.reopen()
	return w
}

// reopen is a new driver over the same directories, as after a crash.
func (w *world) reopen() {
	w.Helper()
	d, err := process.New(w.cfg)
	if err != nil {
		w.Fatal(err)
	}
	w.d = d
}

func (w *world) spec(name string, command ...string) driver.Spec {
	return driver.Spec{
		ID: driver.ID("drivertest/" + name + "-1-0000000a"), Project: "drivertest", Service: name, Slot: 1, Hash: "a",
		Command: command, Env: []string{"PATH=/usr/local/bin:/usr/bin:/bin"}, Dir: "/",
	}
}

func (w *world) start(spec driver.Spec) {
	w.Helper()
	ctx, cancel := contextFor(30 * time.Second)
	defer cancel()
	if err := w.d.Start(ctx, spec); err != nil {
		w.Fatal(err)
	}
}

func (w *world) stop(id driver.ID, grace time.Duration) {
	w.Helper()
	ctx, cancel := contextFor(30 * time.Second)
	defer cancel()
	if err := w.d.Stop(ctx, id, grace); err != nil {
		w.Fatal(err)
	}
}

func (w *world) find(id driver.ID) (driver.Instance, bool) {
	w.Helper()
	ctx, cancel := contextFor(30 * time.Second)
	defer cancel()
	all, err := w.d.List(ctx, "drivertest")
	if err != nil {
		w.Fatal(err)
	}
	for _, inst := range all {
		if inst.ID == id {
			return inst, true
		}
	}
	return driver.Instance{}, false
}

// await polls until ok.
func await(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not in time: %s", what)
		}
	}
}

func (w *world) awaitState(id driver.ID, state driver.State) driver.Instance {
	w.Helper()
	var last driver.Instance
	await(w.T, fmt.Sprintf("%s is %s", id, state), func() bool {
		inst, ok := w.find(id)
		last = inst
		return ok && inst.State == state
	})
	return last
}

// output returns the texts of an instance's lines of one stream; "" is all.
func (w *world) output(id driver.ID, stream string) []string {
	w.Helper()
	ctx, cancel := contextFor(30 * time.Second)
	defer cancel()
	r, err := w.d.Logs(ctx, id, driver.LogOptions{})
	if err != nil {
		w.Fatal(err)
	}
	defer r.Close()
	var all []string
	for dec := json.NewDecoder(r); ; {
		var l driver.LogLine
		if err := dec.Decode(&l); errors.Is(err, io.EOF) {
			return all
		} else if err != nil {
			w.Fatal(err)
		}
		if stream == "" || l.Stream == stream {
			all = append(all, l.Text)
		}
	}
}

// result runs a program to its end and returns what it said; anything but exit code 0 fails.
func (w *world) result(spec driver.Spec) []string {
	w.Helper()
	w.start(spec)
	inst := w.awaitState(spec.ID, driver.Exited)
	if inst.Exit.Code != 0 || inst.Exit.Error != "" {
		w.Fatalf("exit %+v, output %q", inst.Exit, w.output(spec.ID, ""))
	}
	return w.output(spec.ID, "stdout")
}

// processesWith counts the live processes that have a word in their command line.
func processesWith(word string) int {
	dirs, _ := os.ReadDir("/proc")
	n := 0
	for _, d := range dirs {
		if _, err := strconv.Atoi(d.Name()); err != nil {
			continue
		}
		line, err := os.ReadFile("/proc/" + d.Name() + "/cmdline")
		if err == nil && bytes.Contains(line, []byte(word)) && !bytes.Contains(line, []byte("-test.")) {
			n++
		}
	}
	return n
}

// parentOf returns the parent of a process: the shim, for a program.
func parentOf(t *testing.T, pid int) int {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		t.Fatal(err)
	}
	n, err := strconv.Atoi(strings.Fields(string(b[bytes.LastIndexByte(b, ')'):]))[2])
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func both(t *testing.T, f func(w *world)) {
	t.Run("isolated", func(t *testing.T) { f(newWorld(t, false)) })
	t.Run("shared", func(t *testing.T) { f(newWorld(t, true)) })
}
