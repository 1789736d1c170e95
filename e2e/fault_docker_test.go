//go:build e2e

package e2e

import (
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"trellis/engine"
)

// dockerd is a Docker engine of a test's own, to be killed. It does nothing to the machine's firewall and has addresses of
// its own, so that it can be there beside another one.
type dockerd struct {
	t    *testing.T
	dir  string
	args []string
	cmd  *exec.Cmd
	done chan struct{} // closed when cmd has ended
}

// newDockerd starts one, which ends with the test. It is skipped as the other tests of Docker are, and for who is not root.
func newDockerd(t *testing.T, args ...string) *dockerd {
	t.Helper()
	needsDocker(t)
	if os.Geteuid() != 0 {
		t.Skip("an engine of one's own needs root")
	}
	program, err := exec.LookPath("dockerd")
	if err != nil {
		program = "/usr/sbin/dockerd"
	}
	dir, err := os.MkdirTemp("", "trellis-e2e-dockerd-") // sockets need a short path
	if err != nil {
		t.Fatal(err)
	}
	d := &dockerd{t: t, dir: dir, args: append([]string{
		program, "--data-root", dir + "/data", "--exec-root", dir + "/exec", "--pidfile", dir + "/pid", "-H", "unix://" + dir + "/docker.sock",
		"--bridge", "none", "--iptables=false", "--ip-forward=false", "--ip-masq=false", "--userland-proxy=false",
		"--default-address-pool", fmt.Sprintf("base=10.%d.0.0/16,size=24", 200+os.Getpid()%50),
	}, args...)}
	t.Cleanup(func() {
		d.kill()
		if b, err := os.ReadFile(dir + "/exec/containerd/containerd.pid"); err == nil { // it outlives who started it
			_ = exec.Command("kill", "-KILL", strings.TrimSpace(string(b))).Run()
		}
		mounts, _ := filepath.Glob(dir + "/data/*")
		for _, m := range append(mounts, dir) {
			_ = exec.Command("umount", "-R", m).Run() // what is not mounted is as well
		}
		_ = os.RemoveAll(dir)
	})
	d.start()
	return d
}

func (d *dockerd) host() string { return "unix://" + d.dir + "/docker.sock" }

// start starts the engine, again after kill, and waits until it answers.
func (d *dockerd) start() {
	d.t.Helper()
	log, err := os.OpenFile(d.dir+"/log", os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		d.t.Fatal(err)
	}
	defer log.Close()
	d.launch(log)
	eventually(d.t, 90*time.Second, "the engine answers", func() string {
		select {
		case <-d.done: // on a busy machine it gives its containerd up after a while
			d.launch(log)
		default:
		}
		if out, err := exec.Command("docker", "-H", d.host(), "version").CombinedOutput(); err != nil {
			b, _ := os.ReadFile(d.dir + "/log")
			return fmt.Sprintf("%s\n%s", out, b[max(0, len(b)-2000):])
		}
		return ""
	})
}

func (d *dockerd) launch(log *os.File) {
	d.t.Helper()
	_ = os.Remove(d.dir + "/pid")
	cmd, done := exec.Command(d.args[0], d.args[1:]...), make(chan struct{})
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		d.t.Fatal(err)
	}
	go func() {
		_ = cmd.Wait()
		close(done)
	}()
	d.cmd, d.done = cmd, done
}

// kill ends the engine as SIGKILL does.
func (d *dockerd) kill() {
	if d.cmd != nil {
		_ = d.cmd.Process.Kill()
		<-d.done
		d.cmd = nil
	}
}

// docker runs the docker command on the engine.
func (d *dockerd) docker(args ...string) string {
	d.t.Helper()
	return docker(d.t, append([]string{"-H", d.host()}, args...)...)
}

// project is a project of two containers on the engine, whose image is built already, and of a process beside them.
func (d *dockerd) project(port int) *project {
	d.t.Helper()
	p := newProject(d.t, map[string]string{"compose.yaml": stall(port, 2), "ledger/.keep": ""})
	p.env = append(p.env, "DOCKER_HOST="+d.host())
	build := &project{t: d.t, dir: d.t.TempDir()}
	build.imageFiles(".")
	d.docker("build", "-q", "-t", "stall-web", build.dir)
	p.run("up", "-d", "--timeout", "2m")
	return p
}

// stall is a file whose image is there, with a process beside its containers.
func stall(port, replicas int) string {
	return fmt.Sprintf(`name: stall
services:
  web:
    image: stall-web
    pull_policy: never
    ports: ["%d:80"]
    environment: {VERSION: v1, LEDGER: /ledger/web}
    volumes: ["./ledger:/ledger"]
    deploy: {replicas: %d}
  beside:
    expose: ["80"]
    environment: {VERSION: beside}
    x-trellis: {process: {command: [%s]}, probe: {http: /healthz}}
`, port, replicas, built.app)
}

// withoutEngine looks how a project does whose engine does not answer: its process is healed and scaled, and of its
// containers it is said what is not known.
func (p *project) withoutEngine(port, replicas int) {
	p.t.Helper()
	killed := p.instances("beside")[0].PID
	signal(p.t.(*testing.T), killed, "KILL")
	p.run("scale", fmt.Sprintf("beside=%d", replicas))
	p.ready("beside", replicas, map[int]bool{killed: true}, time.Minute)
	eventually(p.t, time.Minute, "the engine known to be away", func() string {
		web := serviceOf(p.t, p.ps(), "web")
		if web.Unknown == nil || web.State != engine.ServiceDegraded || web.Unknown.Driver != "docker" ||
			!strings.Contains(web.Reason, "the Docker engine at") || !strings.Contains(web.Reason, "start it again") {
			return fmt.Sprintf("%s: %s (%+v)", web.State, web.Reason, web.Unknown)
		}
		return ""
	})
	began := time.Now()
	out := p.run("ps")
	if took := time.Since(began); took > 30*time.Second || !strings.Contains(out, "unknown since") {
		p.t.Errorf("ps took %s:\n%s", took, out)
	}
	p.t.Logf("ps without the engine:\n%s", out)
	if v := version(p.t.(*testing.T), port); v != "v1" {
		p.t.Errorf("without the engine %q serves", v)
	}
}

// adopted waits until the containers that were are known again, and counts what was told of it.
func (p *project) adopted(before map[string]int, times int) {
	p.t.Helper()
	eventually(p.t, 2*time.Minute, "the containers adopted", func() string {
		s := p.ps()
		web := serviceOf(p.t, s, "web")
		after := map[string]int{}
		for _, in := range web.Instances {
			after[string(in.ID)] = in.PID
		}
		if web.Ready != 2 || web.Unknown != nil || fmt.Sprint(after) != fmt.Sprint(before) {
			return fmt.Sprintf("%d ready: %s; %v, before %v", web.Ready, web.Reason, after, before)
		}
		return ""
	})
	events := p.run("events", "--format", "json")
	away, back := strings.Count(events, `"driver.away"`), strings.Count(events, `"driver.back"`)
	if away < times || back < times { // more often where the machine is so busy that the engine takes its time
		p.t.Errorf("told %d times that the engine is away, %d that it is back, of %d:\n%s", away, back, times, events)
	}
}

// TestDockerEngineComesAndGoes kills the engine under running containers, and the control plane while it is away; has it
// hang; and takes away what belongs to it.
func TestDockerEngineComesAndGoes(t *testing.T) {
	longAlone(t)
	t.Parallel()
	f, port := newFault(t), freePort(t)
	d := newDockerd(t, "--live-restore")
	p := d.project(port)
	before := map[string]int{}
	for _, in := range p.instances("web") {
		before[string(in.ID)] = in.PID
	}
	tr := f.underLoad(url(port), 50, func() {
		f.try("the engine is killed", func() {
			d.kill()
			p.withoutEngine(port, 2)
			d.start()
			p.adopted(before, 1)
		})
		f.try("the engine hangs", func() {
			signal(t, d.cmd.Process.Pid, "STOP")
			defer signal(t, d.cmd.Process.Pid, "CONT")
			p.withoutEngine(port, 3)
			if p.within(2*time.Minute, func() bool { return p.firing("DriverAway", "") }) < 0 {
				t.Errorf("no alert fires:\n%s", p.run("alerts"))
			}
			if why := p.run("why", "web"); !strings.Contains(why, "docker does not answer") {
				t.Errorf("why web:\n%s", why)
			}
		})
		p.adopted(before, 2)
		f.try("the engine is killed, the control plane too", func() {
			control := own(p.ps())["control"]
			d.kill()
			signal(t, control, "KILL")
			eventually(t, 30*time.Second, "a control plane without an engine", func() string {
				out, err := p.try("ps", "--format", "json")
				if err != nil {
					return out
				}
				if pid := own(p.ps())["control"]; pid == control || pid == 0 {
					return "the old one"
				}
				return ""
			})
			p.withoutEngine(port, 1)
			d.start()
			p.adopted(before, 3)
		})
	})
	tr.NoneLost(t)
	tr = f.underLoad(url(port), 50, func() {
		f.try("a container is removed", func() {
			gone := p.instances("web")[0]
			d.docker("rm", "-f", gone.Container)
			p.ready("web", 2, map[int]bool{gone.PID: true}, time.Minute)
		})
		f.try("the image is removed", func() {
			d.docker("tag", "stall-web", "stall-kept") // what a running container needs cannot be removed otherwise
			d.docker("image", "rm", "stall-web")
			p.write("compose.yaml", stall(port, 3))
			out, err := p.try("up", "-d", "--timeout", "20s")
			if err == nil || !strings.Contains(out, "stall-web") {
				t.Errorf("up without the image: %v\n%s", err, out)
			}
			if web := serviceOf(t, p.ps(), "web"); web.Ready != 2 || web.State != engine.ServiceHealthy {
				t.Errorf("what ran is %s, %d ready: %s", web.State, web.Ready, web.Reason)
			}
		})
	})
	tr.NoGetLost(t)
	f.postsCutOff(tr, 1)
	p.write("compose.yaml", stall(port, 2))
	f.try("the engine is killed and ends its containers", func() {
		killed := map[int]bool{}
		for _, pid := range pids(p.ps()) {
			killed[pid] = true
		}
		d.kill()
		d.args = slices.DeleteFunc(d.args, func(a string) bool { return a == "--live-restore" })
		d.start()
		p.ready("web", 2, killed, 2*time.Minute)
		// One that was started while the engine still ended its network is ended, and started once more.
		served := 0
		eventually(t, 30*time.Second, "it is served again and again", func() string {
			res, err := http.Get(url(port))
			if err != nil {
				return err.Error()
			}
			defer res.Body.Close()
			if served++; res.StatusCode != http.StatusOK {
				served = 0
			}
			if served < 20 {
				return res.Status
			}
			return ""
		})
	})
	p.run("down", "--volumes", "--yes")
	if left := d.docker("ps", "-aq"); left != "" {
		t.Errorf("containers left: %s", left)
	}
}
