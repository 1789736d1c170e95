//go:build e2e

package e2e

import (
	"bufio"
	"cmp"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"trellis/engine"
)

// machine is a stand-in for a machine that is restarted: a mount namespace in which the boot has another name.
type machine struct{ script string } // runs trellis in it

// newMachine starts one; it ends with the test.
func newMachine(t *testing.T, trellis string) machine {
	t.Helper()
	dir := t.TempDir()
	id := filepath.Join(dir, "boot_id")
	if err := os.WriteFile(id, []byte("11111111-2222-3333-4444-555555555555\n"), 0o444); err != nil {
		t.Fatal(err)
	}
	keep := exec.Command("unshare", "--mount", "sh", "-c", `mount --bind "$0" /proc/sys/kernel/random/boot_id && echo ready && exec sleep 600`, id)
	out, err := keep.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	keep.Stderr = os.Stderr
	if err := keep.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = keep.Process.Kill()
		_ = keep.Wait()
	})
	if line, _ := bufio.NewReader(out).ReadString('\n'); line != "ready\n" {
		t.Fatalf("no machine: %q", line)
	}
	m := machine{filepath.Join(dir, "trellis")}
	text := fmt.Sprintf("#!/bin/sh\nexec nsenter --mount=/proc/%d/ns/mnt --wdns=\"$PWD\" %s \"$@\"\n", keep.Process.Pid, trellis)
	if err := os.WriteFile(m.script, []byte(text), 0o755); err != nil {
		t.Fatal(err)
	}
	return m
}

// everyProcess returns every process of the project in dir: its own, the shims, and the programs with what they started.
func everyProcess(t *testing.T, p *project) []int {
	t.Helper()
	own, id := map[int]bool{}, runtimeID(t, p.dir)
	parents := map[int]int{}
	stats, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, stat := range stats {
		pid, _ := strconv.Atoi(strings.Split(stat, "/")[2])
		b, err := os.ReadFile(stat)
		if err != nil {
			continue
		}
		fields := strings.Fields(string(b[strings.LastIndexByte(string(b), ')')+1:]))
		parents[pid], _ = strconv.Atoi(fields[1])
		cmdline, _ := os.ReadFile(filepath.Join(filepath.Dir(stat), "cmdline"))
		if strings.Contains(string(cmdline), id) || strings.Contains(string(cmdline), p.dir) && strings.Contains(string(cmdline), "trellis-shim") {
			own[pid] = true
		}
	}
	for again := true; again; {
		again = false
		for pid, parent := range parents {
			if own[parent] && !own[pid] {
				own[pid], again = true, true
			}
		}
	}
	var all []int
	for pid := range own {
		if pid > 1 {
			all = append(all, pid)
		}
	}
	return all
}

// childrenFirst orders processes so that none comes before those that it has started.
func childrenFirst(all []int) []int {
	parents := map[int]int{}
	for _, pid := range all {
		if b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid)); err == nil {
			parents[pid], _ = strconv.Atoi(strings.Fields(string(b[strings.LastIndexByte(string(b), ')')+1:]))[1])
		}
	}
	depth := func(pid int) (n int) {
		for ; parents[pid] != 0; pid = parents[pid] {
			n++
		}
		return n
	}
	return slices.SortedFunc(slices.Values(all), func(a, b int) int { return cmp.Compare(depth(b), depth(a)) })
}

// crash ends every process of the project at once and takes away what a restart of the machine takes away.
func (p *project) crash() {
	t := p.t.(*testing.T)
	t.Helper()
	p.end(everyProcess(t, p))
}

// end is crash for the processes that it is given.
func (p *project) end(all []int) {
	t := p.t.(*testing.T)
	t.Helper()
	for _, pid := range all {
		_ = unix.Kill(pid, unix.SIGSTOP) // so that none of them sees another one end
	}
	// Who ends before its children has the kernel go on with those that are stopped: they would have no job control (setpgid(2)). A control
	// plane that sees its holder end starts another one.
	for _, pid := range childrenFirst(all) {
		_ = unix.Kill(pid, unix.SIGKILL)
	}
	eventually(t, 10*time.Second, "all of it ended", func() string {
		for _, pid := range all {
			if b, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid)); err == nil && len(b) > 0 {
				return fmt.Sprintf("%d runs: %s", pid, b)
			}
		}
		return ""
	})
	run := filepath.Join("/run/trellis", runtimeID(t, p.dir))
	for range 100 { // whatever is mounted in there
		mounts, err := os.ReadFile("/proc/self/mountinfo")
		if err != nil {
			t.Fatal(err)
		}
		last := ""
		for line := range strings.Lines(string(mounts)) {
			if f := strings.Fields(line); strings.HasPrefix(f[4], run) {
				last = f[4]
			}
		}
		if last == "" {
			break
		}
		if err := unix.Unmount(last, unix.MNT_DETACH); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.RemoveAll(run); err != nil {
		t.Fatal(err)
	}
}

// bootCommand returns what the project's unit runs.
func (p *project) bootCommand() []string {
	return []string{"boot", "start", "--state", filepath.Join(p.dir, ".trellis", "shop")}
}

// data is a service that keeps what it is told in a volume.
const data = `
  data:
    image: testapp
    expose: ["80"]
    environment: {VERSION: data, LEDGER: /data/ledger}
    volumes: ["kept:/data"]
    healthcheck: {interval: 1s, timeout: 1s, retries: 3}
    x-trellis: {process: {command: [%[1]s]}, probe: {http: /healthz}}
  spare:
    image: testapp
    expose: ["80"]
    x-trellis: {process: {command: [%[1]s]}, probe: {http: /healthz}}
volumes: {kept: {}}
`

func TestRebootBringsTheLastHealthyRevisionBack(t *testing.T) {
	port := freePort(t)
	more := fmt.Sprintf(data, built.app)
	again := newMachine(t, built.trellis)
	p := newProject(t, map[string]string{"compose.yaml": shop(port, 2, "v1", more), "ledger/.keep": ""})
	p.run("up", "-d")
	p.run("scale", "web=3")
	p.run("exec", "-T", "data", "sh", "-c", "echo precious >/data/precious")
	// A deploy that is on its way, and fails, when the machine goes down.
	p.write("compose.yaml", strings.Replace(shop(port, 2, "v2", more), "VERSION: \"v2\"", "VERSION: \"v2\", UNHEALTHY: yes", 1))
	p.try("up", "-d", "--timeout", "2s")
	p.run("stop", "spare")
	before := p.ps()
	if before.Revision != 2 {
		t.Fatalf("revision %d is on its way", before.Revision)
	}
	p.crash()
	// A process that has by now the number of a program of before.
	bystander := exec.Command("sleep", "300")
	if err := bystander.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = bystander.Process.Kill(); _ = bystander.Wait() }()
	claim(t, p, bystander.Process.Pid)
	// The checkout is not needed: only what is kept of it.
	if err := os.Rename(filepath.Join(p.dir, "compose.yaml"), filepath.Join(p.dir, "gone.yaml")); err != nil {
		t.Fatal(err)
	}
	p.trellis = again.script
	start := time.Now()
	if out := p.run(p.bootCommand()...); !strings.Contains(out, "shop is brought back: revision 3 (boot: back to 1)") {
		t.Errorf("boot start says:\n%s", out)
	}
	p.flags = []string{"--state", filepath.Join(p.dir, ".trellis", "shop"), "-p", "shop"}
	eventually(t, 30*time.Second, "serving again", func() string {
		if _, err := fetch(url(port)); err != nil {
			return err.Error()
		}
		return ""
	})
	t.Logf("serving again after %v", time.Since(start))
	if v := version(t, port); v != "v1" {
		t.Errorf("version %q serves", v)
	}
	eventually(t, 30*time.Second, "as it was", func() string {
		s := p.ps()
		web, spare := serviceOf(t, s, "web"), serviceOf(t, s, "spare")
		if s.Revision != 3 || s.Outcome != "healthy" || web.Ready != 3 || web.State != engine.ServiceHealthy || len(web.Instances) != 3 {
			return fmt.Sprintf("revision %d is %s, web %d ready of %d", s.Revision, s.Outcome, web.Ready, len(web.Instances))
		}
		if spare.State != engine.ServiceStopped || web.Ports[0].Published != port {
			return fmt.Sprintf("spare is %s, web at %d", spare.State, web.Ports[0].Published)
		}
		return ""
	})
	if out := p.run("exec", "-T", "data", "cat", "/data/precious"); out != "precious\n" {
		t.Errorf("the volume has %q", out)
	}
	// Names lead to where they led before.
	eventually(t, 20*time.Second, "data by its name", func() string {
		if body, err := fetch(url(port) + "/fetch?url=http://data"); err != nil || !strings.Contains(body, `"version":"data"`) {
			return fmt.Sprintf("%q, %v", body, err)
		}
		return ""
	})
	if err := unix.Kill(bystander.Process.Pid, 0); err != nil {
		t.Errorf("a process that came to have a number of before was signalled: %v", err)
	}
	var state unix.WaitStatus
	if pid, _ := unix.Wait4(bystander.Process.Pid, &state, unix.WNOHANG, nil); pid != 0 {
		t.Errorf("a process that came to have a number of before has ended: %v", state)
	}
	events := p.run("events")
	for _, want := range []string{
		"while revision 2 was pending: revision 1, the last healthy one, is brought back",
		"the machine was restarted while it ran: nothing is known of its end",
	} {
		if !strings.Contains(events, want) {
			t.Errorf("no event says %q:\n%s", want, events)
		}
	}
	if out := p.run(p.bootCommand()...); !strings.Contains(out, "shop runs already, revision 3") {
		t.Errorf("a second time:\n%s", out)
	}
}

// claim writes a living process into the record of an instance, as if the machine had given it that number again.
func claim(t *testing.T, p *project, pid int) {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		t.Fatal(err)
	}
	fields := strings.Fields(string(b[strings.LastIndexByte(string(b), ')')+1:]))
	started, _ := strconv.ParseUint(fields[19], 10, 64)
	records, _ := filepath.Glob(filepath.Join(p.dir, ".trellis", "shop", "instances", "data-*", "running.json"))
	if len(records) != 1 {
		t.Fatalf("records of data: %v", records)
	}
	var record map[string]any
	if b, err = os.ReadFile(records[0]); err == nil {
		err = json.Unmarshal(b, &record)
	}
	if err != nil {
		t.Fatal(err)
	}
	who := map[string]any{"pid": pid, "start_time": started}
	record["shim"], record["program"] = who, who
	if b, err = json.Marshal(record); err == nil {
		err = os.WriteFile(records[0], b, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
}

func TestOrderlyStopOfTheMachine(t *testing.T) {
	port := freePort(t)
	// A worker that ends well when it is told to end, and is started again only when it fails.
	more := fmt.Sprintf(`
  worker:
    image: testapp
    restart: on-failure
    x-trellis: {process: {command: [%s]}}
`, built.app)
	p := newProject(t, map[string]string{"compose.yaml": shop(port, 2, "v1", more), "ledger/.keep": ""})
	p.run("up", "-d")
	all := everyProcess(t, p)
	p.run("boot", "stop", "--state", filepath.Join(p.dir, ".trellis", "shop"))
	for _, pid := range all {
		if b, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid)); err == nil && len(b) > 0 {
			t.Errorf("%d goes on: %s", pid, b)
		}
	}
	p.run(p.bootCommand()...)
	eventually(t, 30*time.Second, "all of it back", func() string {
		s := p.ps()
		web, worker := serviceOf(t, s, "web"), serviceOf(t, s, "worker")
		if web.Ready != 2 || worker.Ready != 1 || worker.Instances[0].Restarts != 1 {
			return fmt.Sprintf("web %d ready, worker %s", web.Ready, worker.State)
		}
		return ""
	})
	if events := p.run("events"); strings.Contains(events, "nothing is known") {
		t.Errorf("an end is not known:\n%s", events)
	}
	p.run("down")
	if out := p.run(p.bootCommand()...); !strings.Contains(out, "shop was taken down and stays down") {
		t.Errorf("boot after down:\n%s", out)
	}
}
