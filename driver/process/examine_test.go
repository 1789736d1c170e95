//go:build linux

package process_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"trellis/driver"
)

func (w *world) examine(spec driver.Spec) []string {
	w.Helper()
	ctx, cancel := contextFor(30 * time.Second)
	defer cancel()
	all, err := w.d.Examine(ctx, spec)
	if err != nil {
		w.Fatal(err)
	}
	lines := []string{}
	for _, dev := range all {
		lines = append(lines, strings.TrimSpace(fmt.Sprintf("%s %s: %v -> %v", dev.Field, dev.Key, dev.Want, dev.Have)))
	}
	return lines
}

// TestExamine changes a running instance behind the driver's back, in one way after the other, and undoes it again.
func TestExamine(t *testing.T) {
	w := newWorld(t, false)
	dir := t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		return path
	}
	spec := w.spec("web", "sleep", "600")
	spec.Env = append(spec.Env, "COLOR=blue")
	spec.Limits = driver.Limits{CPUs: 0.5, Memory: 64<<20 + 5, Pids: 50}
	spec.Ulimits = map[string]driver.Ulimit{"nofile": {Soft: 512, Hard: 1024}}
	spec.OomScore = 100
	spec.Mounts = []driver.Mount{
		{Kind: "volume", Source: "drifttest_data", Target: "/data"}, {Kind: "tmpfs", Target: "/scratch"},
		{Kind: "bind", Source: dir, Target: "/given", ReadOnly: true},
	}
	spec.Files = []driver.File{
		{Source: write("secret", "hunter2"), Target: "/run/secrets/password", Mode: 0o400, Secret: true},
		{Source: write("settings", "a=1\n"), Target: "/etc/settings", Mode: 0o444},
	}
	spec.Hosts = map[string]string{"catalog": "127.88.0.1"}
	w.start(spec)
	pid := w.awaitState(spec.ID, driver.Running).PID
	if got := w.examine(spec); len(got) > 0 {
		t.Fatalf("nothing was changed, and it says %q", got)
	}
	inside := func(script string) {
		t.Helper()
		if out, err := exec.Command("nsenter", "-t", fmt.Sprint(pid), "-m", "sh", "-c", script).CombinedOutput(); err != nil {
			t.Fatalf("%s: %v: %s", script, err, out)
		}
	}
	group := func(file, value string) func() {
		return func() {
			t.Helper()
			path := groupFile(t, pid, file)
			if path == "" {
				t.Skip("no such control group here")
			}
			if share, err := strconv.ParseFloat(value, 64); file == "cpus" && err == nil {
				value := strconv.Itoa(int(share * 100000))
				if filepath.Base(path) == "cpu.max" {
					value += " 100000"
				}
				writeGroup(t, path, value)
				return
			}
			writeGroup(t, path, value)
		}
	}
	prlimit := func(hard uint64) func() {
		return func() {
			if err := unix.Prlimit(pid, unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: 512, Max: hard}, nil); err != nil {
				t.Fatal(err)
			}
		}
	}
	score := func(n string) func() {
		return func() {
			if err := os.WriteFile(fmt.Sprintf("/proc/%d/oom_score_adj", pid), []byte(n), 0); err != nil {
				t.Fatal(err)
			}
		}
	}
	limited := w.d.Capabilities().Limits
	hosts := filepath.Join(w.cfg.StateDir, "instances", strings.TrimPrefix(string(spec.ID), "drifttest/"), "hosts")
	if entries, err := filepath.Glob(filepath.Join(w.cfg.StateDir, "instances", "*", "hosts")); err == nil && len(entries) == 1 {
		hosts = entries[0]
	}
	before, err := os.ReadFile(hosts)
	if err != nil {
		t.Fatal(err)
	}
	rewrite := func(text string) func() {
		return func() {
			if err := os.WriteFile(hosts, []byte(text), 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
	in := func(script string) func() { return func() { t.Helper(); inside(script) } }
	for _, c := range []struct {
		name       string
		change     func()
		want       string
		undo       func()
		needsLimit bool
	}{
		{"stopped by a signal", func() { _ = syscall.Kill(pid, syscall.SIGSTOP) }, "state : running -> paused",
			func() { _ = syscall.Kill(pid, syscall.SIGCONT) }, false},
		{"memory", group("memory", "33554432"), "limit memory: 67108869 -> 33554432", group("memory", "67108864"), true},
		{"cpus", group("cpus", "0.25"), "limit cpus: 0.5 -> 0.25", group("cpus", "0.5"), true},
		{"pids", group("pids", "60"), "limit pids: 50 -> 60", group("pids", "50"), true},
		{"out of memory score", score("300"), "oom : 100 -> 300", score("100"), false},
		{"bind that may be written", in("mount -o remount,bind,rw /given"), "access /given: true -> false", in("mount -o remount,bind,ro /given"), false},
		{"secret of another content", in("mount -o remount,bind,rw /run/secrets/password && printf other > /run/secrets/password"),
			"file /run/secrets/password: content -> another content", in("printf hunter2 > /run/secrets/password"), false},
		{"config of another mode", in("mount -o remount,bind,rw /etc/settings && chmod 666 /etc/settings"),
			"mode /etc/settings: 0444 -> 0666", in("chmod 444 /etc/settings"), false},
		{"a name that leads elsewhere", rewrite(strings.Replace(string(before), "127.88.0.1\tcatalog", "192.0.2.7\tcatalog", 1)),
			"host catalog: 127.88.0.1 -> 192.0.2.7", rewrite(string(before)), false},
		{"a name more", rewrite(string(before) + "192.0.2.7\tspy\n"), "host spy: <nil> -> 192.0.2.7", rewrite(string(before)), false},
		{"hard limit of files", prlimit(1000), "ulimit nofile: 1024 -> 1000", nil, false}, // nobody may raise it again everywhere
		{"tmpfs unmounted", in("umount /scratch"), "mount /scratch: mounted -> <nil>", nil, false},
		{"volume unmounted", in("umount /data"), "mount /data: mounted -> <nil>", nil, false},
	} {
		if c.needsLimit && !limited {
			continue
		}
		already := w.examine(spec)
		c.change()
		var got []string
		await(t, c.name, func() bool { got = w.examine(spec); return len(got) != len(already) })
		if !strings.Contains("\n"+strings.Join(got, "\n")+"\n", "\n"+c.want+"\n") || len(got) != len(already)+1 {
			t.Errorf("%s: %q, want %q and what was before, %q", c.name, got, c.want, already)
		}
		if c.undo != nil {
			c.undo()
			await(t, c.name+" is undone", func() bool { return len(w.examine(spec)) == len(already) })
		}
	}
	w.stop(spec.ID, 0)
	ctx, cancel := contextFor(30 * time.Second)
	defer cancel()
	if _, err := w.d.Examine(ctx, spec); err == nil {
		t.Error("an instance that has ended is examined")
	}
}

func writeGroup(t *testing.T, path, value string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(value), 0); err != nil {
		t.Fatal(err)
	}
}

// groupFile returns the file of a limit of the control group that a process is in, "" without one.
func groupFile(t *testing.T, pid int, limit string) string {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
	if err != nil {
		t.Fatal(err)
	}
	files := map[string][]string{
		"memory": {"memory.max", "memory.limit_in_bytes"}, "cpus": {"cpu.max", "cpu.cfs_quota_us"}, "pids": {"pids.max"},
	}[limit]
	for line := range strings.Lines(string(b)) {
		parts := strings.SplitN(strings.TrimSpace(line), ":", 3)
		for _, root := range []string{"/sys/fs/cgroup", "/sys/fs/cgroup/" + parts[1], "/sys/fs/cgroup/" + strings.ReplaceAll(parts[1], "name=", "")} {
			for _, file := range files {
				path := filepath.Join(root, parts[2], file)
				if _, err := os.Stat(path); err == nil {
					return path
				}
			}
		}
	}
	return ""
}
