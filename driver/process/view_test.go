//go:build linux

package process_test

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"trellis/driver"
	"trellis/driver/drivertest"
	"trellis/errdefs"
)

// TestThreeInstancesOnOnePort: each has a network of its own, so a fixed port is free for each.
func TestThreeInstancesOnOnePort(t *testing.T) {
	w := newWorld(t, false)
	hosts, exe := map[string]bool{}, public(t)
	for n := 1; n <= 3; n++ {
		spec := w.spec("web", drivertest.Command(drivertest.Behaviour{Listen: []int{80}})...)
		spec.Command[0] = exe
		spec.ID, spec.Slot, spec.Ports, spec.User = driver.ID(fmt.Sprintf("drivertest/web-%d-0000000a", n)), n, []int{80}, "nobody"
		w.start(spec)
		var inst driver.Instance
		await(t, "it listens", func() bool {
			inst, _ = w.find(spec.ID)
			return slices.Equal(inst.Listening, []int{80})
		})
		if said, err := dial(t, inst.Host+":80"); err != nil || said != "hello" {
			t.Errorf("instance %d at %s: %q, %v", n, inst.Host, said, err)
		}
		if !strings.HasPrefix(inst.Host, "198.18.") && !strings.HasPrefix(inst.Host, "198.19.") {
			t.Errorf("address %s is not of the range for instances", inst.Host)
		}
		hosts[inst.Host] = true
	}
	if len(hosts) != 3 {
		t.Errorf("addresses %v are not three", hosts)
	}
}

// TestInstancesDoNotReachEachOther: only through the machine, where policy is.
func TestInstancesDoNotReachEachOther(t *testing.T) {
	w := newWorld(t, false)
	server := w.spec("web", drivertest.Command(drivertest.Behaviour{Listen: []int{8080}})...)
	w.start(server)
	var inst driver.Instance
	await(t, "it listens", func() bool { inst, _ = w.find(server.ID); return len(inst.Listening) == 1 })
	client := w.spec("client", "sh", "-c", "timeout 2 bash -c 'echo > /dev/tcp/"+inst.Host+"/8080' && echo reached || echo refused")
	if got := w.result(client); !slices.Equal(got, []string{"refused"}) {
		t.Errorf("another instance was %v", got)
	}
	// The machine itself, the instance's gateway, is reached.
	l, err := net.Listen("tcp4", "0.0.0.0:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	port := l.Addr().(*net.TCPAddr).Port
	gateway := w.spec("gateway", "bash", "-c", fmt.Sprintf("timeout 5 bash -c 'echo > /dev/tcp/host.internal/%d' && echo reached", port))
	gateway.Hosts = map[string]string{"host.internal": "host-gateway"}
	if got := w.result(gateway); !slices.Equal(got, []string{"reached"}) {
		t.Errorf("the machine: %v", got)
	}
}

// TestHosts: names are there from the start, change while the program runs, and survive its restart.
func TestHosts(t *testing.T) {
	w := newWorld(t, false)
	spec := w.spec("web", "sh", "-c", "while :; do getent hosts catalog payments extra web-host localhost; echo --; sleep 0.05; done")
	spec.Hosts = map[string]string{"catalog": "127.1.0.1", "extra": "10.9.8.7"}
	spec.Hostname = "web-host"
	w.start(spec)
	has := func(wants ...string) func() bool {
		return func() bool {
			out := w.output(spec.ID, "stdout")
			last := strings.Join(out[max(0, len(out)-12):], "\n")
			for _, want := range wants {
				name, address, _ := strings.Cut(want, "=")
				if !slices.ContainsFunc(strings.Split(last, "\n"), func(line string) bool {
					f := strings.Fields(line)
					return len(f) >= 2 && f[0] == address && slices.Contains(f[1:], name)
				}) {
					return false
				}
			}
			return true
		}
	}
	await(t, "the first names", has("catalog=127.1.0.1", "extra=10.9.8.7"))
	if err := w.d.SetHosts(spec.ID, map[string]string{"catalog": "127.1.0.9", "payments": "127.1.0.2"}); err != nil {
		t.Fatal(err)
	}
	await(t, "the changed names", has("catalog=127.1.0.9", "payments=127.1.0.2", "extra=10.9.8.7"))
	w.stop(spec.ID, 0)
	w.start(spec)
	await(t, "the names after a restart", has("catalog=127.1.0.9", "payments=127.1.0.2", "extra=10.9.8.7"))
	if err := w.d.SetHosts("drivertest/nobody-1-00000000", nil); !errors.Is(err, errdefs.ErrNotFound) {
		t.Errorf("names of an unknown instance: %v", err)
	}
	if err := w.d.SetHosts(spec.ID, map[string]string{"a b": "127.0.0.1"}); !errors.Is(err, errdefs.ErrInvalid) {
		t.Errorf("a name with a space: %v", err)
	}
}

// TestFilesAppearAtTheirPaths: volumes, binds, tmpfs, secrets, configs, where no directory was and where one was.
func TestFilesAppearAtTheirPaths(t *testing.T) {
	w := newWorld(t, false)
	source := t.TempDir()
	if err := os.WriteFile(filepath.Join(source, "secret"), []byte("hidden\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	hidden := fmt.Sprintf("trellis-test-%d", time.Now().UnixNano())
	spec := w.spec("web", "sh", "-c", `set -e
cat /run/secrets/db /etc/`+hidden+`/app.yml
stat -c '%a %u %T' -f /run/secrets/db >/dev/null; stat -c '%a %u' /run/secrets/db; stat -f -c %T /run/secrets/db
stat -c '%U' /data-`+hidden+`; echo kept > /data-`+hidden+`/file
echo x 2>/dev/null > /bound-`+hidden+`/file && echo writable || echo read-only
stat -f -c %T /scratch-`+hidden+`; stat -c %a /scratch-`+hidden+`
hostname; cat /etc/hostname; ls /usr/bin/env /tmp >/dev/null && echo host
ls `+w.cfg.StateDir+`/instances 2>/dev/null | wc -l
id -un; tr '\0' ' ' < /proc/1/cmdline >/dev/null; echo "$HOME"`)
	spec.User, spec.Hostname = "nobody", "box"
	spec.Mounts = []driver.Mount{
		{Kind: "volume", Source: "drivertest_data", Target: "/data-" + hidden},
		{Kind: "bind", Source: source, Target: "/bound-" + hidden, ReadOnly: true},
		{Kind: "tmpfs", Target: "/scratch-" + hidden, Mode: 0o1777, Size: 1 << 20},
		{Kind: "bind", Source: filepath.Join(source, "made"), Target: "/opt/" + hidden + "/deep", CreateSource: true},
	}
	spec.Files = []driver.File{
		{Source: filepath.Join(source, "secret"), Target: "/run/secrets/db", UID: "65534", Secret: true},
		{Source: filepath.Join(source, "secret"), Target: "/etc/" + hidden + "/app.yml"},
	}
	want := []string{"hidden", "hidden", "400 65534", "tmpfs", "nobody", "read-only", "tmpfs", "1777", "box", "box", "host", "0", "nobody", "/nonexistent"}
	if got := w.result(spec); !slices.Equal(got, want) {
		t.Errorf("got  %q\nwant %q, errors %q", got, want, w.output(spec.ID, "stderr"))
	}
	if b, err := os.ReadFile(filepath.Join(w.d.VolumeDir("drivertest_data"), "file")); err != nil || string(b) != "kept\n" {
		t.Errorf("the volume has %q, %v", b, err)
	}
	for _, path := range []string{"/data-" + hidden, "/bound-" + hidden, "/scratch-" + hidden, "/opt/" + hidden, "/etc/" + hidden, "/run/secrets"} {
		if _, err := os.Lstat(path); err == nil && path != "/run/secrets" {
			t.Errorf("%s was made on the machine", path)
		}
	}
	if info, err := os.Stat(filepath.Join(source, "made")); err != nil || !info.IsDir() {
		t.Errorf("the bind source was not made: %v", err)
	}
}

// TestReadOnly: nothing can be written but volumes, tmpfs, and what the kernel has.
func TestReadOnly(t *testing.T) {
	w := newWorld(t, false)
	spec := w.spec("web", "sh", "-c", `for f in /tmp/x /etc/x /var/x /fresh/x /data/x; do touch $f 2>/dev/null && echo "$f written"; done; echo > /dev/null && echo null`)
	spec.ReadOnly = true
	spec.Mounts = []driver.Mount{{Kind: "volume", Source: "drivertest_data", Target: "/data"}, {Kind: "tmpfs", Target: "/fresh"}}
	if got := w.result(spec); !slices.Equal(got, []string{"/fresh/x written", "/data/x written", "null"}) {
		t.Errorf("%q", got)
	}
}

// TestSymbolicLinksOfAServiceAreNotFollowed: a service that owns a volume plants a link where a mount point is made.
func TestSymbolicLinksOfAServiceAreNotFollowed(t *testing.T) {
	w := newWorld(t, false)
	source, outside := t.TempDir(), t.TempDir()
	if err := os.WriteFile(filepath.Join(source, "config"), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	volume := w.d.VolumeDir("drivertest_data")
	if err := os.MkdirAll(volume, 0o755); err != nil {
		t.Fatal(err)
	}
	link := filepath.Join(volume, "etc")
	if err := os.Symlink(outside, link); err != nil {
		t.Fatal(err)
	}
	if err := os.Lchown(link, 65534, 65534); err != nil {
		t.Fatal(err)
	}
	spec := w.spec("web", "true")
	spec.Mounts = []driver.Mount{{Kind: "volume", Source: "drivertest_data", Target: "/data"}}
	spec.Files = []driver.File{{Source: filepath.Join(source, "config"), Target: "/data/etc/new/config"}}
	w.start(spec)
	inst := w.awaitState(spec.ID, driver.Exited)
	if !strings.Contains(inst.Exit.Error, "symbolic link") {
		t.Errorf("exit %+v: want it refused", inst.Exit)
	}
	if entries, _ := os.ReadDir(outside); len(entries) != 0 {
		t.Errorf("root wrote through a service's link: %v", entries)
	}
}

// TestPrivileges: capabilities, user, groups, limits, umask and no-new-privileges as the file says.
func TestPrivileges(t *testing.T) {
	w := newWorld(t, false)
	show := `grep -E 'CapEff|CapBnd|NoNewPrivs' /proc/self/status | tr -d '\t' ; ulimit -n; umask; id -u; id -G; cat /proc/self/oom_score_adj; cat /proc/self/timerslack_ns`
	spec := w.spec("web", "sh", "-c", show)
	spec.CapDrop, spec.CapAdd, spec.NoNewPrivileges = []string{"ALL"}, []string{"NET_BIND_SERVICE"}, true
	spec.Ulimits = map[string]driver.Ulimit{"nofile": {Soft: 100, Hard: 200}}
	spec.User, spec.GroupAdd, spec.OomScore = "0:12", []string{"34"}, 300
	spec.TimerSlack = 3 * time.Millisecond
	want := []string{"CapEff:0000000000000400", "CapBnd:0000000000000400", "NoNewPrivs:1", "100", "0022", "0", "12 34", "300", "3000000"}
	if got := w.result(spec); !slices.Equal(got, want) {
		t.Errorf("got  %q\nwant %q", got, want)
	}
	other := w.spec("other", "sh", "-c", show)
	other.User = "nobody"
	got := w.result(other)
	if got[0] != "CapEff:0000000000000000" || got[1] != "CapBnd:00000000a80425fb" || got[5] != "65534" || got[8] != "50000" {
		t.Errorf("another user: %q", got)
	}
	// The directory of a revision is found by its user below directories that are closed to it.
	closed := t.TempDir()
	if err := os.Chmod(closed, 0o700); err != nil {
		t.Fatal(err)
	}
	inside := filepath.Join(closed, "revision", "bin")
	if err := os.MkdirAll(inside, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(inside, "run"), []byte("#!/bin/sh\nid -un\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	for n, command := range []string{"bin/run", "run"} {
		s := w.spec(fmt.Sprint("revision", n), command)
		s.User, s.Dir = "nobody", filepath.Dir(inside)
		if n == 1 {
			s.Dir = inside
		}
		if got := w.result(s); !slices.Equal(got, []string{"nobody"}) {
			t.Errorf("%s: %q", command, got)
		}
	}
	ns := w.spec("sysctl", "cat", "/proc/sys/net/core/somaxconn")
	ns.Sysctls = map[string]string{"net.core.somaxconn": "777"}
	if got := w.result(ns); !slices.Equal(got, []string{"777"}) {
		t.Errorf("sysctl: %q", got)
	}
}

// TestOutOfMemory is told from every other SIGKILL.
func TestOutOfMemory(t *testing.T) {
	w := newWorld(t, false)
	if !w.d.Capabilities().Limits {
		t.Skipf("no limits here: %v", w.d.Capabilities().Lacks)
	}
	spec := w.spec("web", own(t, "eat")...)
	spec.Limits = driver.Limits{Memory: 48 << 20, Pids: 64, CPUs: 0.9}
	w.start(spec)
	exit := w.awaitState(spec.ID, driver.Exited).Exit
	if !exit.OOM || exit.Code != 137 || exit.Signal != "SIGKILL" || exit.Asked {
		t.Errorf("exit %+v: want it killed for want of memory", exit)
	}
	killed := w.spec("killed", "sleep", "1000")
	killed.Limits = spec.Limits
	w.start(killed)
	if u, err := w.d.Stats(t.Context(), killed.ID); err != nil || !u.Enforced || u.Memory <= 0 || u.Processes != 1 {
		t.Errorf("usage %+v, %v", u, err)
	}
	_ = unix.Kill(w.awaitState(killed.ID, driver.Running).PID, unix.SIGKILL)
	if exit := w.awaitState(killed.ID, driver.Exited).Exit; exit.OOM || exit.Code != 137 {
		t.Errorf("exit %+v: want a plain SIGKILL", exit)
	}
	tree := w.spec("tree", "sh", "-c", "for i in $(seq 100); do sleep 100 & done; wait")
	tree.Limits = driver.Limits{Pids: 20}
	w.start(tree)
	await(t, "the limit on processes", func() bool {
		return slices.ContainsFunc(w.output(tree.ID, "stderr"), func(s string) bool { return strings.Contains(strings.ToLower(s), "fork") })
	})
}

// TestFlood: the output of a program that writes without end takes no more than its bound.
func TestFlood(t *testing.T) {
	both(t, func(w *world) {
		spec := w.spec("web", own(w.T, "flood", "200000")...)
		spec.Log = driver.LogLimits{MaxSize: 1 << 20, MaxFiles: 3}
		w.start(spec)
		if exit := w.awaitState(spec.ID, driver.Exited).Exit; exit.Code != 0 {
			w.Fatalf("exit %+v", exit)
		}
		var total int64
		files, _ := filepath.Glob(filepath.Join(w.cfg.StateDir, "instances", "web-1-0000000a", "log*"))
		for _, f := range files {
			info, err := os.Stat(f)
			if err != nil {
				w.Fatal(err)
			}
			if info.Size() > 1<<20 {
				w.Errorf("%s has %d bytes", f, info.Size())
			}
			total += info.Size()
		}
		if len(files) != 3 || total < 2<<20 {
			w.Errorf("%d files of %d bytes in all: want three, nearly full", len(files), total)
		}
		if n := len(w.output(spec.ID, "stdout")); n < 8000 {
			w.Errorf("%d lines are left", n)
		}
	})
}

// public copies the test binary to where every user can run it.
func public(t *testing.T) string {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp("", "trellis-public-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	b, err := os.ReadFile(exe)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "process.test")
	if err := os.WriteFile(file, b, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return file
}

// TestOrdinaryUser runs the whole suite as a user without any privilege.
func TestOrdinaryUser(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("the user of this test has no privileges: TestUnprivileged is this test")
	}
	copied := public(t)
	dir := filepath.Dir(copied)
	temp := filepath.Join(dir, "tmp")
	if err := os.Mkdir(temp, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{dir, temp} {
		if err := os.Chown(path, 65534, 65534); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.Command(copied, "-test.v", "-test.run", "TestUnprivileged|TestShimThat|TestTreesEnd|TestStrangers|TestUnsupported")
	cmd.Dir = dir
	cmd.Env = []string{"TMPDIR=" + temp, "PATH=" + os.Getenv("PATH"), "HOME=" + dir}
	if smallShims {
		cmd.Env = append(cmd.Env, shimVariable+"="+shimCommand[0])
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "--- PASS: TestUnprivileged ") || strings.Contains(string(out), "\n--- FAIL") {
		t.Errorf("as nobody: %v\n%s", err, out)
	}
}

// TestUnsupported: without privileges a spec is refused with a sentence, never carried out in part.
func TestUnsupported(t *testing.T) {
	w := newWorld(t, true)
	for name, change := range map[string]func(*driver.Spec){
		"volume":     func(s *driver.Spec) { s.Mounts = []driver.Mount{{Kind: "volume", Source: "v", Target: "/data"}} },
		"secret":     func(s *driver.Spec) { s.Files = []driver.File{{Source: "/etc/hostname", Target: "/run/secrets/x"}} },
		"user":       func(s *driver.Spec) { s.User = "12345" },
		"read-only":  func(s *driver.Spec) { s.ReadOnly = true },
		"privileged": func(s *driver.Spec) { s.Privileged = true },
		"capability": func(s *driver.Spec) { s.CapAdd = []string{"NET_ADMIN"} },
		"sysctl":     func(s *driver.Spec) { s.Sysctls = map[string]string{"net.core.somaxconn": "1"} },
		"shm":        func(s *driver.Spec) { s.ShmSize = 1 << 20 },
	} {
		spec := w.spec("web", "true")
		change(&spec)
		if err := w.d.Start(t.Context(), spec); !errors.Is(err, errdefs.ErrUnsupported) || len(err.Error()) < 40 {
			t.Errorf("%s: %v, want it unsupported, with a reason", name, err)
		}
	}
	if c := w.d.Capabilities(); len(c.Lacks) < 4 || c.Namespaces || c.Limits || c.Users {
		t.Errorf("capabilities %+v: want all that lacks", c)
	}
	if err := w.d.SetHosts("drivertest/web-1-0000000a", nil); !errors.Is(err, errdefs.ErrUnsupported) {
		t.Errorf("SetHosts: %v", err)
	}
}

// TestPortsWithoutNamespaces: each instance is told a port of its own, which it keeps; one that insists on the file's
// port is found there.
func TestPortsWithoutNamespaces(t *testing.T) {
	w := newWorld(t, true)
	var group sync.WaitGroup
	for n := 1; n <= 3; n++ {
		spec := w.spec("web", drivertest.Command(drivertest.Behaviour{Listen: []int{8080}})...)
		spec.ID, spec.Slot, spec.Ports = driver.ID(fmt.Sprintf("drivertest/web-%d-0000000a", n)), n, []int{8080}
		group.Go(func() { w.start(spec) })
	}
	group.Wait()
	ports := map[int]bool{}
	for n := 1; n <= 3; n++ {
		id := driver.ID(fmt.Sprintf("drivertest/web-%d-0000000a", n))
		var inst driver.Instance
		await(t, "it listens", func() bool { inst, _ = w.find(id); return len(inst.Listening) == 1 })
		if inst.PortMap[8080] != inst.Listening[0] {
			t.Errorf("port map %v, listening %v", inst.PortMap, inst.Listening)
		}
		if said, err := dial(t, fmt.Sprintf("%s:%d", inst.Host, inst.PortMap[8080])); err != nil || said != "hello" {
			t.Errorf("instance %d: %q, %v", n, said, err)
		}
		ports[inst.PortMap[8080]] = true
	}
	if len(ports) != 3 {
		t.Errorf("ports %v are not three", ports)
	}
	l, err := net.Listen("tcp4", ":0")
	if err != nil {
		t.Fatal(err)
	}
	fixed := l.Addr().(*net.TCPAddr).Port
	l.Close()
	stubborn := w.spec("stubborn", append([]string{"env", "-u", "PORT"}, drivertest.Command(drivertest.Behaviour{Listen: []int{fixed}})...)...)
	stubborn.Ports = []int{fixed}
	w.start(stubborn)
	await(t, "it listens", func() bool {
		inst, _ := w.find(stubborn.ID)
		return slices.Equal(inst.Listening, []int{fixed}) && len(inst.PortMap) == 0
	})
}
