//go:build e2e

package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"trellis/api"
	"trellis/engine"
)

// drift returns "path kind" of everything that drifted, without repetition.
func (p *project) drift() []string {
	p.t.Helper()
	var found api.Drift
	p.json(&found, "drift")
	lines := []string{}
	for _, d := range found.Changes {
		if line := d.Path + " " + d.Kind; !slices.Contains(lines, line) {
			lines = append(lines, line)
		}
	}
	return lines
}

// wantDrift waits until exactly that has drifted.
func (p *project) wantDrift(want ...string) {
	p.t.Helper()
	slices.Sort(want)
	eventually(p.t, 30*time.Second, "drift is found", func() string {
		if got := p.drift(); !slices.Equal(slices.Sorted(slices.Values(got)), want) {
			return fmt.Sprintf("got %q, want %q", got, want)
		}
		return ""
	})
}

// driftShop is a service with something of all that can be changed behind its back.
func driftShop(port int) string {
	return fmt.Sprintf(`# The shop.
name: shop
services:
  web:
    image: testapp
    ports: ["%d:80"]
    scale: 2   # enough for the night
    mem_limit: 256m
    environment: {VERSION: v1, LEDGER: /ledger/web}
    volumes: ["./ledger:/ledger", "data:/data", "./given:/given:ro"]
    tmpfs: [/scratch]
    secrets: [password]
    configs: [{source: settings, target: /etc/settings}]
    oom_score_adj: 100
    ulimits: {nofile: 4096}
    deploy: {update_config: {order: start-first, monitor: 500ms}}
    x-trellis:
      process: {command: [%s]}
      probe: {http: /healthz}
  worker:
    image: testapp
    x-trellis: {process: {command: [%s]}}
secrets: {password: {file: password}}
configs: {settings: {content: "a=1"}}
volumes: {data: {}}
`, port, built.app, built.app)
}

// TestDriftOfProcesses: what is changed by hand behind a running project's back is found at its Compose path, adopted with
// the smallest change of the file, and brought back under load without a request lost.
func TestDriftOfProcesses(t *testing.T) {
	t.Parallel()
	port := freePort(t)
	p := newProject(t, map[string]string{"compose.yaml": driftShop(port), "password": "hunter2", "ledger/.keep": "", "given/.keep": ""})
	p.run("up", "-d")
	p.wantDrift()
	tr := underLoad(t, url(port), 100, func() {
		p.run("scale", "web=3")
		p.run("stop", "worker")
		pid := slotOf(t, p, 1).PID
		inside := func(script string) {
			t.Helper()
			if out, err := exec.Command("nsenter", "-t", strconv.Itoa(pid), "-m", "sh", "-c", script).CombinedOutput(); err != nil {
				t.Fatalf("%s: %v\n%s", script, err, out)
			}
		}
		want := []string{"services.web.deploy.replicas scaled", "services.worker.deploy.replicas stopped"}
		change := func(kind string) { want = append(want, "services.web."+kind+" changed"); p.wantDrift(want...) }
		p.wantDrift(want...)
		if file := memoryLimit(pid); file != "" {
			if err := os.WriteFile(file, []byte("134217728"), 0); err != nil {
				t.Fatal(err)
			}
			change("deploy.resources.limits.memory")
		}
		if err := os.WriteFile(fmt.Sprintf("/proc/%d/oom_score_adj", pid), []byte("200"), 0); err != nil {
			t.Fatal(err)
		}
		change("oom_score_adj")
		if out, err := exec.Command("prlimit", "--pid", strconv.Itoa(pid), "--nofile=4000:4000").CombinedOutput(); err != nil {
			t.Fatalf("prlimit: %v\n%s", err, out)
		}
		change("ulimits.nofile.hard")
		inside("mount -o remount,bind,rw /given")
		change("volumes[2].read_only")
		inside("umount /data")
		change("volumes[1]")
		inside("umount /scratch")
		change("tmpfs[0]")
		inside("mount -o remount,bind,rw /run/secrets/password && printf other > /run/secrets/password")
		change("secrets[0]")
		inside("mount -o remount,bind,rw /etc/settings && chmod 0600 /etc/settings")
		change("configs[0].mode")
		hosts, err := filepath.Glob(filepath.Join(p.dir, ".trellis/shop/instances/web-1-*/hosts"))
		if err != nil || len(hosts) != 1 {
			t.Fatalf("hosts: %v, %v", hosts, err)
		}
		text, err := os.ReadFile(hosts[0])
		if err == nil {
			err = os.WriteFile(hosts[0], append([]byte("192.0.2.1\tworker\n"), text...), 0o644)
		}
		if err != nil {
			t.Fatal(err)
		}
		change("networks")
		// A file that was edited and not deployed is no drift.
		p.write("compose.yaml", strings.Replace(driftShop(port), "VERSION: v1", "VERSION: v2", 1))
		p.wantDrift(want...)
		p.write("compose.yaml", driftShop(port))

		p.adoptsMinimally(port, memoryLimit(pid) != "")
		eventually(t, time.Minute, "an alert says so", func() string {
			if !p.firing("Drifted", "web") {
				return p.run("alerts")
			}
			return ""
		})
		p.run("drift", "--revert")
		p.wantDrift()
	})
	tr.NoneLost(t)
	tr.Ledger(t, ledgers(t, filepath.Join(p.dir, "ledger", "web")))
	eventually(t, time.Minute, "the alert is over", func() string {
		if p.firing("Drifted", "web") {
			return p.run("alerts")
		}
		return ""
	})
	if events := p.run("events"); strings.Count(events, "drift.found") < 10 || !strings.Contains(events, "drift.reverted") || strings.Contains(events, "hunter2") {
		t.Errorf("events:\n%s", events)
	}
	// What stands still, and what is killed: the one is brought back when asked, the other heals.
	stopped := slotOf(t, p, 2)
	signal(t, stopped.PID, "STOP")
	p.wantDrift("services.web changed")
	p.run("drift", "--revert", "web")
	p.wantDrift()
}

// adoptsMinimally adopts, compares the files, and puts the file back.
func (p *project) adoptsMinimally(port int, limited bool) {
	p.t.Helper()
	p.run("drift", "--adopt", "-q")
	want := strings.NewReplacer("scale: 2 ", "scale: 3 ", "oom_score_adj: 100", "oom_score_adj: 200", "nofile: 4096", "nofile: 4000").Replace(driftShop(port))
	if limited {
		want = strings.Replace(want, "mem_limit: 256m", "mem_limit: 128M", 1)
	}
	// worker says nothing of its number yet, so that is written where it belongs.
	at := strings.Index(want, "secrets: {password")
	want = want[:at] + "    deploy:\n      replicas: 0\n" + want[at:]
	if got := string(p.read("compose.yaml")); got != want {
		p.t.Errorf("adopted:\n%s\nwant:\n%s", got, want)
	}
	p.write("compose.yaml", driftShop(port))
}

// slotOf returns the instance of web in a slot.
func slotOf(t *testing.T, p *project, slot int) engine.Instance {
	t.Helper()
	for _, in := range p.instances("web") {
		if in.Slot == slot {
			return in
		}
	}
	t.Fatalf("web has no instance %d", slot)
	return engine.Instance{}
}

// memoryLimit returns the file of the memory limit of the control group that a process is in, "" without one.
func memoryLimit(pid int) string {
	b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
	for line := range strings.Lines(string(b)) {
		parts := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(parts) < 3 || !strings.Contains(parts[2], "trellis") {
			continue
		}
		for _, file := range []string{"/sys/fs/cgroup" + parts[2] + "/memory.max", "/sys/fs/cgroup/memory" + parts[2] + "/memory.limit_in_bytes"} {
			if _, err := os.Stat(file); err == nil {
				return file
			}
		}
	}
	return ""
}

// dockerDrift: what docker itself can change of a running container.
func dockerDrift(t *testing.T) {
	name, port := dockerName(), freePort(t)
	p := dockerProject(t, name, map[string]string{"password": "hunter2", "compose.yaml": fmt.Sprintf(`name: %s
services:
  web:
    build: .
    ports: ["%d:80"]
    secrets: [password]
    deploy: {replicas: 2, resources: {limits: {cpus: "0.5", memory: 128M, pids: 100}}}
    networks: [front, back]
secrets: {password: {file: password}}
networks: {front: {}, back: {}}
`, name, port)})
	p.run("up", "-d")
	p.wantDrift()
	web := slotOf(t, p, 1)
	var want []string
	change := func(path string, args ...string) {
		t.Helper()
		docker(t, args...)
		want = append(want, path+" changed")
		p.wantDrift(want...)
	}
	const limits = "services.web.deploy.resources."
	change(limits+"limits.memory", "update", "--memory", "96m", "--memory-swap", "192m", web.Container)
	change(limits+"limits.cpus", "update", "--cpus", "0.25", web.Container)
	change(limits+"limits.pids", "update", "--pids-limit", "50", web.Container)
	change(limits+"reservations.memory", "update", "--memory-reservation", "32m", web.Container)
	change("services.web.cpu_shares", "update", "--cpu-shares", "512", web.Container)
	change("services.web.cpuset", "update", "--cpuset-cpus", "0", web.Container)
	change("services.web.restart", "update", "--restart", "always", web.Container)
	holder := name + "-" + string(web.ID) + ".net"
	change("services.web.networks.back", "network", "disconnect", name+"_back", holder)
	const elsewhere = "e2e-elsewhere" // not the engine's own bridge, which another engine beside it may have removed
	docker(t, "network", "create", elsewhere)
	t.Cleanup(func() { _ = exec.Command("docker", "network", "rm", elsewhere).Run() })
	change("services.web.networks", "network", "connect", elsewhere, holder)
	secret := docker(t, "inspect", "--format", `{{range .Mounts}}{{if eq .Destination "/run/secrets/password"}}{{.Source}}{{end}}{{end}}`, web.Container)
	if err := os.WriteFile(secret, []byte("another"), 0o600); err != nil {
		t.Fatal(err)
	}
	want = append(want, "services.web.secrets[0] changed")
	p.wantDrift(want...)
	// runc tries for a moment to have every process of a container stand still, and one that its limits hardly let run may not get there then.
	eventually(t, 30*time.Second, "it is paused", func() string {
		out, err := exec.Command("docker", "pause", web.Container).CombinedOutput()
		switch {
		case err == nil:
			return ""
		case !strings.Contains(string(out), "unable to freeze"):
			t.Fatalf("docker pause: %v\n%s", err, out)
		}
		return string(out)
	})
	want = append(want, "services.web changed")
	p.wantDrift(want...)
	p.run("scale", "web=3")
	p.wantDrift(append(want, "services.web.deploy.replicas scaled")...)
	p.run("drift", "--revert")
	p.wantDrift()
	if events := p.run("events"); strings.Count(events, "drift.found") < 10 {
		t.Errorf("events:\n%s", events)
	}
	// What is stopped or removed behind the loop's back heals.
	docker(t, "rm", "-f", slotOf(t, p, 1).Container)
	docker(t, "stop", slotOf(t, p, 2).Container)
	eventually(t, 30*time.Second, "healed", func() string {
		if s := serviceOf(t, p.ps(), "web"); s.Ready != 2 {
			return fmt.Sprintf("%d ready", s.Ready)
		}
		return ""
	})
	p.wantDrift()
}
