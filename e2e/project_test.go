//go:build e2e

package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"trellis/api"
	"trellis/engine"
	"trellis/server"
)

// project is a Compose project in a folder of its own and the commands on it.
type project struct {
	t       testing.TB
	dir     string
	trellis string // the binary
	env     []string
	flags   []string // before every command
	entered []string // a command that runs the others, such as one that enters a network; none: they run as they are
}

// newProject writes files (name to content) and takes the project down at the test's end, failing if anything is left.
func newProject(t testing.TB, files map[string]string) *project {
	t.Helper()
	p := projectIn(t, t.TempDir())
	for name, content := range files {
		p.write(name, content)
	}
	return p
}

// projectIn is newProject for files that are there.
func projectIn(t testing.TB, dir string) *project {
	t.Helper()
	p := &project{t: t, dir: dir, trellis: built.trellis, env: os.Environ()}
	before, id := takeInventory(t), runtimeID(t, dir)
	t.Cleanup(func() {
		if t.Failed() {
			p.dump()
		}
		if out, err := p.try("down", "--volumes", "--yes"); err != nil && !strings.Contains(out, "does not run") {
			t.Errorf("down: %v\n%s", err, out)
		}
		before.compare(t, dir, id)
	})
	return p
}

func (p *project) write(name, content string) {
	p.t.Helper()
	path := filepath.Join(p.dir, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		p.t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		p.t.Fatal(err)
	}
}

// try runs a command of trellis in the project's folder.
func (p *project) try(args ...string) (output string, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	defer cancel()
	line := slices.Concat(p.entered, []string{p.trellis}, p.flags, args)
	cmd := exec.CommandContext(ctx, line[0], line[1:]...)
	cmd.Dir, cmd.Env = p.dir, append(p.env, "NO_COLOR=1")
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	err = cmd.Run()
	return out.String(), err
}

// run is try for commands that have to succeed.
func (p *project) run(args ...string) string {
	p.t.Helper()
	out, err := p.try(args...)
	if err != nil {
		p.t.Fatalf("trellis %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return out
}

// json runs a command with --format json and decodes its standard output into v.
func (p *project) json(v any, args ...string) {
	p.t.Helper()
	if err := p.ask(v, args...); err != nil {
		p.t.Fatal(err)
	}
}

// ask is json for who goes on where it fails.
func (p *project) ask(v any, args ...string) error {
	line := slices.Concat(p.entered, []string{p.trellis}, p.flags, args, []string{"--format", "json"})
	cmd := exec.Command(line[0], line[1:]...)
	cmd.Dir, cmd.Env = p.dir, p.env
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return fmt.Errorf("trellis %s: %w\n%s%s", strings.Join(args, " "), err, out, stderr.String())
	}
	if err := json.Unmarshal(out, v); err != nil {
		return fmt.Errorf("trellis %s: %w\n%s", strings.Join(args, " "), err, out)
	}
	return nil
}

func (p *project) ps() api.Status {
	p.t.Helper()
	var s api.Status
	p.json(&s, "ps")
	return s
}

// instances returns the instances of a service that have not exited.
func (p *project) instances(service string) []engine.Instance {
	p.t.Helper()
	var live []engine.Instance
	for _, in := range serviceOf(p.t, p.ps(), service).Instances {
		if in.State != engine.InstanceExited {
			live = append(live, in)
		}
	}
	return live
}

func serviceOf(t testing.TB, s api.Status, name string) engine.Service {
	t.Helper()
	for _, svc := range s.Services {
		if svc.Name == name {
			return svc
		}
	}
	t.Fatalf("no service %s in %+v", name, s)
	return engine.Service{}
}

// eventually polls until ok returns "" and fails with what it said last. It asks less often the longer it takes: ok mostly
// starts a command, and tests that wait are not to starve those that work.
func eventually(t testing.TB, within time.Duration, what string, ok func() string) {
	t.Helper()
	deadline := time.Now().Add(within)
	for pause := 20 * time.Millisecond; ; pause = min(2*pause, 500*time.Millisecond) {
		why := ok()
		if why == "" {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s: not within %v: %s", what, within, why)
		}
		time.Sleep(pause)
	}
}

// dump prints what a person would look at after a failure.
func (p *project) dump() {
	for _, args := range [][]string{{"ps"}, {"events"}, {"logs", "--tail", "30"}} {
		out, _ := p.try(args...)
		p.t.Logf("trellis %s\n%s", strings.Join(args, " "), out)
	}
	logs, _ := filepath.Glob(filepath.Join(p.dir, ".trellis", "*", "trellis.log"))
	for _, name := range logs {
		if b, err := os.ReadFile(name); err == nil {
			p.t.Logf("%s\n%s", name, b[max(0, len(b)-8000):])
		}
	}
}

// ports are what freePort has given away: the kernel would give a port to two tests that both have not used it yet.
var ports = struct {
	sync.Mutex
	last int
}{last: 10000 + os.Getpid()%10000}

// freePort returns a TCP port that nothing listens on, once only, from below those that the kernel gives to connections.
func freePort(t testing.TB) int {
	t.Helper()
	ports.Lock()
	defer ports.Unlock()
	for range 10000 {
		ports.last++
		if l, err := net.Listen("tcp", fmt.Sprintf(":%d", ports.last)); err == nil {
			_ = l.Close()
			return ports.last
		}
	}
	t.Fatal("no port is free")
	return 0
}

// inventory is everything on the machine that Trellis could leave behind.
type inventory map[string]bool

func takeInventory(t testing.TB) inventory {
	t.Helper()
	inv := inventory{}
	add := func(kind string, names ...string) {
		for _, n := range names {
			inv[kind+" "+n] = true
		}
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(mounts)) {
		if f := strings.Fields(line); len(f) > 4 {
			add("mount", f[4])
		}
	}
	links, _ := filepath.Glob("/sys/class/net/*")
	add("interface", links...)
	for _, pattern := range []string{
		"/sys/fs/cgroup/*/trellis*", "/sys/fs/cgroup/*/trellis*/*", "/sys/fs/cgroup/*/trellis*/*/*", "/sys/fs/cgroup/trellis*/*",
		"/run/trellis/*", "/run/netns/*",
	} {
		names, _ := filepath.Glob(pattern)
		add("path", names...)
	}
	procs, _ := filepath.Glob("/proc/[0-9]*")
	for _, proc := range procs {
		exe, err := os.Readlink(filepath.Join(proc, "exe"))
		if err == nil && strings.Contains(exe, "trellis") {
			cmdline, _ := os.ReadFile(filepath.Join(proc, "cmdline"))
			add("process", fmt.Sprintf("%s %s", filepath.Base(proc), bytes.ReplaceAll(cmdline, []byte{0}, []byte{' '})))
		}
	}
	return inv
}

// compare fails for everything of the project in dir that is there now and was not there before. What cannot be told
// apart from other projects' is looked at only where none runs. Programs end a moment after their record.
func (before inventory) compare(t testing.TB, dir, id string) {
	t.Helper()
	eventually(t, 30*time.Second, "nothing left behind", func() string {
		others, _ := filepath.Glob("/run/trellis/*/project.json")
		var left []string
		for item := range takeInventory(t) {
			mine := strings.Contains(item, dir) || strings.Contains(item, id)
			if !before[item] && (mine || strings.HasPrefix(item, "interface") && len(others) == 0) {
				left = append(left, item)
			}
		}
		return strings.Join(left, "\n")
	})
	entries, err := os.ReadDir(filepath.Join(dir, ".trellis"))
	if err != nil {
		return
	}
	for _, e := range entries {
		instances, _ := filepath.Glob(filepath.Join(dir, ".trellis", e.Name(), "instances", "*"))
		if len(instances) > 0 {
			t.Errorf("instances left behind: %v", instances)
		}
	}
}

// runtimeID is the name of the runtime directory of the project in dir, whatever its name.
func runtimeID(t testing.TB, dir string) string {
	t.Helper()
	l, err := server.Locate("shop", dir, "")
	if err != nil {
		t.Fatal(err)
	}
	return filepath.Base(l.RuntimeDir)
}

// signal sends a signal to one process.
func signal(t testing.TB, pid int, name string) {
	t.Helper()
	if pid <= 1 {
		t.Fatalf("no pid to signal: %d", pid)
	}
	if out, err := exec.Command("kill", "-"+name, strconv.Itoa(pid)).CombinedOutput(); err != nil {
		t.Fatalf("kill -%s %d: %v %s", name, pid, err, out)
	}
}
