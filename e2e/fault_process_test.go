//go:build e2e

package e2e

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"trellis/engine"
	"trellis/load"
)

// TestKilledEverySecond: of three replicas one is killed each second.
func TestKilledEverySecond(t *testing.T) {
	t.Parallel()
	rate, kills := 200.0, 10
	if long(t) {
		rate, kills = 500, 60
	}
	f, port := newFault(t), freePort(t)
	p := newProject(t, map[string]string{"compose.yaml": shop(port, 3, "v1", ""), "ledger/.keep": ""})
	p.run("up", "-d")
	tr := f.underLoad(url(port), rate, func() {
		tick := time.NewTicker(time.Second)
		defer tick.Stop()
		for range kills {
			f.try("SIGKILL", func() {
				var live []engine.Instance
				eventually(t, 10*time.Second, "an instance to kill", func() string {
					// What is about to start has no process yet, and 0 is the group of the tests themselves.
					live = slices.DeleteFunc(p.instances("web"), func(in engine.Instance) bool { return in.PID <= 1 })
					if len(live) == 0 {
						return "none runs"
					}
					return ""
				})
				_ = exec.Command("kill", "-KILL", fmt.Sprint(live[f.random.IntN(len(live))].PID)).Run()
			})
			<-tick.C
		}
		// One that was killed again and again before it was ready waits for up to a minute.
		p.ready("web", 3, nil, 90*time.Second)
	})
	tr.NoGetLost(t)
	f.postsCutOff(tr, kills)
	tr.Ledger(t, ledgers(t, filepath.Join(p.dir, "ledger", "web")))
}

// TestHungInstance: one of three replicas is stopped by SIGSTOP. It keeps its port open and answers nothing.
func TestHungInstance(t *testing.T) {
	t.Parallel()
	f, port := newFault(t), freePort(t)
	p := newProject(t, map[string]string{"compose.yaml": shop(port, 3, "v1", ""), "ledger/.keep": ""})
	p.run("up", "-d")
	before := pids(p.ps())
	tries := 1
	if long(t) {
		tries = 10
	}
	tr := f.underLoadOf(load.Config{
		URL: url(port), Pacer: load.Constant(40, 10*time.Minute), Connections: 400, Timeout: 40 * time.Second, Mix: mixOf("/", "/ledger"),
	}, func() {
		for range tries {
			f.try("SIGSTOP", func() {
				live := p.instances("web")
				hung := live[f.random.IntN(len(live))]
				signal(t, hung.PID, "STOP")
				eventually(t, time.Minute, "out of rotation", func() string {
					if svc := serviceOf(t, p.ps(), "web"); svc.Ready != 2 {
						return fmt.Sprintf("%d ready", svc.Ready)
					}
					return ""
				})
				p.ready("web", 3, map[int]bool{hung.PID: true}, time.Minute)
				delete(before, string(hung.ID))
			})
		}
	})
	tr.NoGetLost(t)
	for _, r := range tr.Lost[1] {
		if r.Status != http.StatusBadGateway && r.Status != http.StatusGatewayTimeout {
			t.Errorf("a POST was lost without an honest answer: %+v", r)
		}
	}
	tr.Ledger(t, ledgers(t, filepath.Join(p.dir, "ledger", "web")))
	for id, pid := range pids(p.ps()) {
		if was, ok := before[id]; ok && was != pid {
			t.Errorf("%s never hung, and was restarted", id)
		}
	}
}

func mixOf(get, post string) []load.Request {
	return []load.Request{
		{Weight: 9, Method: "GET", Path: get},
		{Weight: 1, Method: "POST", Path: post, Body: []byte(`{"order": 1}`)},
	}
}

// TestCrashLoopsHurtNobody: services that end at once, whatever their exit code, and one that ends after nine seconds are
// started again ever later, and are told; who runs beside them notices nothing.
func TestCrashLoopsHurtNobody(t *testing.T) {
	t.Parallel()
	f, port := newFault(t), freePort(t)
	loop := func(name, env string) string {
		return fmt.Sprintf("  %s:\n    image: testapp\n    restart: always\n    environment: {%s}\n    x-trellis: {process: {command: [%s]}}\n", name, env, built.app)
	}
	more := loop("crashes", `EXIT: "1"`) + loop("ends", `EXIT: "0"`) + loop("later", `EXIT: "3", DELAY: 9s`)
	p := newProject(t, map[string]string{"compose.yaml": shop(port, 2, "v1", more), "ledger/.keep": ""})
	if out, err := p.try("up", "-d", "--timeout", "1m"); err == nil || !strings.Contains(out, "about to exit with") {
		t.Errorf("up of services that only crash: %v\n%s", err, out)
	}
	before := p.instances("web")
	watched := 5 * time.Second
	if long(t) {
		watched = time.Minute
	}
	tr := f.underLoad(url(port), 200, func() {
		for _, name := range []string{"crashes", "ends"} {
			f.try(name, func() {
				began := serviceOf(t, p.ps(), name)
				if began.State != engine.ServiceCrashLooping && began.State != engine.ServiceFailed {
					t.Errorf("%s is %s: %s", name, began.State, began.Reason)
				}
				time.Sleep(watched)
				// After so many bad runs as it takes to fail the pauses are three, six and more seconds.
				if n := restartsOf(serviceOf(t, p.ps(), name)) - restartsOf(began); n > 2+int(watched/(6*time.Second)) {
					t.Errorf("%s was started %d more times in %v", name, n, watched)
				}
			})
		}
		f.try("later", func() {
			if n := restartsOf(serviceOf(t, p.ps(), "later")); n > 12 {
				t.Errorf("it runs 9 s at a time, and was restarted %d times", n)
			}
		})
	})
	tr.NoneLost(t)
	tr.Ledger(t, ledgers(t, filepath.Join(p.dir, "ledger", "web")))
	for i, in := range p.instances("web") {
		if in.PID != before[i].PID {
			t.Errorf("%s was restarted beside crash loops", in.ID)
		}
	}
}

func restartsOf(svc engine.Service) int {
	n := 0
	for _, in := range svc.Instances {
		n += in.Restarts
	}
	return n
}

// TestBreedersEnd: a service that ignores SIGTERM, with children that do too, each in a session of its own and orphaned, is
// gone soon after its grace period, whole.
func TestBreedersEnd(t *testing.T) {
	t.Parallel()
	f, port := newFault(t), freePort(t)
	children := 200
	if long(t) {
		children = 1000
	}
	mark := fmt.Sprint(100_000_000 + port)
	script := fmt.Sprintf(`trap '' TERM; i=0; while [ $i -lt %d ]; do (setsid sleep %s &); i=$((i+1)); done; echo bred; while :; do sleep 1; done`, children, mark)
	breeder := fmt.Sprintf("  breeder:\n    image: testapp\n    stop_grace_period: 1s\n    x-trellis: {process: {command: [sh, -c, %q]}}\n", strings.ReplaceAll(script, "$", "$$"))
	p := newProject(t, map[string]string{"compose.yaml": shop(port, 2, "v1", breeder), "ledger/.keep": ""})
	p.run("up", "-d")
	eventually(t, 60*time.Second, "children", func() string {
		if n := running("sleep\x00" + mark); n < children {
			return fmt.Sprintf("%d of %d", n, children)
		}
		return ""
	})
	tr := f.underLoad(url(port), 100, func() {
		f.try("stop", func() {
			p.write("compose.yaml", shop(port, 2, "v1", ""))
			p.run("up", "-d", "--yes")
			if n := running("sleep\x00" + mark); n > 0 {
				t.Errorf("%d of %d children are left", n, children)
			}
		})
	})
	tr.NoneLost(t)
}

// running counts the processes with a command line.
func running(cmdline string) int {
	n := 0
	all, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, name := range all {
		if b, err := os.ReadFile(name); err == nil && strings.TrimRight(string(b), "\x00") == cmdline {
			n++
		}
	}
	return n
}

// TestMemoryUsedUp: a replica that takes more memory than its limit is ended, told apart from a crash, and replaced; the
// others are not touched.
func TestMemoryUsedUp(t *testing.T) {
	t.Parallel()
	f, port := newFault(t), freePort(t)
	file := strings.Replace(shop(port, 3, "v1", ""), "deploy: {", "deploy: {resources: {limits: {memory: 64M}}, ", 1)
	p := newProject(t, map[string]string{"compose.yaml": file, "ledger/.keep": ""})
	if out := p.run("check"); strings.Contains(out, "limits.memory") {
		t.Skipf("no limits here: %s", out)
	}
	p.run("up", "-d")
	tries := 1
	if long(t) {
		tries = 5
	}
	tr := f.underLoad(url(port), 100, func() {
		for range tries {
			f.try("out of memory", func() {
				before := pids(p.ps())
				resp, err := http.Post(url(port)+"/eat", "", nil)
				if err != nil {
					t.Fatal(err)
				}
				resp.Body.Close()
				if resp.StatusCode != http.StatusBadGateway {
					t.Errorf("a POST to who was killed is answered with %s", resp.Status)
				}
				changed := 0
				eventually(t, 30*time.Second, "replaced", func() string {
					s := p.ps()
					changed = 0
					for id, pid := range pids(s) {
						if before[id] != pid {
							changed++
						}
					}
					if svc := serviceOf(t, s, "web"); svc.Ready != 3 || changed == 0 {
						return fmt.Sprintf("%d ready, %d replaced", svc.Ready, changed)
					}
					return ""
				})
				if changed != 1 {
					t.Errorf("one took too much memory, and %d were replaced", changed)
				}
			})
		}
	})
	tr.NoGetLost(t)
	tr.Ledger(t, ledgers(t, filepath.Join(p.dir, "ledger", "web")))
	if events := p.run("events"); strings.Count(events, "more memory than its limit") < tries {
		t.Errorf("events do not tell that memory was used up:\n%s", events)
	}
}

// TestGreedyNeighbours: beside services that fork, open files and print without end, others go on as if alone.
func TestGreedyNeighbours(t *testing.T) {
	t.Parallel()
	f, port := newFault(t), freePort(t)
	greedy := func(name, lines, command string) string {
		return fmt.Sprintf("  %s:\n    image: testapp\n%s    x-trellis: {process: {command: %s}}\n", name, lines, command)
	}
	neighbours := map[string]string{
		"forks":  greedy("forks", "    deploy: {resources: {limits: {pids: 40, cpus: \"0.2\"}}}\n", `[sh, -c, "bomb() { bomb | bomb & }; bomb; while :; do sleep 1; done"]`),
		"leaks":  greedy("leaks", "    ulimits: {nofile: 64}\n    environment: {LEAK: \"1\"}\n", "["+built.app+"]"),
		"prints": greedy("prints", "    deploy: {resources: {limits: {cpus: \"0.3\"}}}\n    logging: {options: {max-size: 1m, max-file: \"3\"}}\n", `["yes", "a line of a log that nobody will ever read"]`),
	}
	p := newProject(t, map[string]string{"compose.yaml": shop(port, 2, "v1", neighbours["forks"]), "ledger/.keep": ""})
	if out := p.run("check"); strings.Contains(out, "limits.pids") || strings.Contains(out, "limits.cpus") {
		t.Skipf("no limits here: %s", out)
	}
	p.write("compose.yaml", shop(port, 2, "v1", ""))
	p.run("up", "-d")
	before := pids(p.ps())
	tr := f.underLoad(url(port), 100, func() {
		for name, service := range neighbours {
			f.try(name, func() {
				p.write("compose.yaml", shop(port, 2, "v1", service))
				p.try("up", "-d", "--timeout", "3s")
				time.Sleep(2 * time.Second)
				if name == "prints" {
					if n := sizeOf(t, filepath.Join(p.dir, ".trellis", "shop", "instances", "prints-*", "log*")); n == 0 || n > 4<<20 {
						t.Errorf("its logs take %d bytes, of 3 MiB that they may", n)
					}
				}
				p.write("compose.yaml", shop(port, 2, "v1", ""))
				p.run("up", "-d", "--yes")
			})
		}
	})
	tr.NoneLost(t)
	tr.Ledger(t, ledgers(t, filepath.Join(p.dir, "ledger", "web")))
	if after := pids(p.ps()); fmt.Sprint(after) != fmt.Sprint(before) {
		t.Errorf("instances restarted: %v, then %v", before, after)
	}
}

func sizeOf(t *testing.T, pattern string) (total int64) {
	t.Helper()
	files, _ := filepath.Glob(pattern)
	for _, name := range files {
		if info, err := os.Stat(name); err == nil {
			total += info.Size()
		}
	}
	return total
}

// TestFilesRunOut: a data plane that may open 300 files has more clients than that, who all keep their connections. Those
// who ask are served, and so is who looks after it.
func TestFilesRunOut(t *testing.T) {
	t.Parallel()
	f, port := newFault(t), freePort(t)
	p := newProject(t, map[string]string{"compose.yaml": shop(port, 2, "v1", ""), "ledger/.keep": ""})
	p.run("up", "-d")
	s := p.ps()
	if out, err := exec.Command("prlimit", "--pid", fmt.Sprint(s.Holder.PID), "--nofile=300:300").CombinedOutput(); err != nil {
		t.Fatalf("prlimit: %v: %s", err, out)
	}
	signal(t, s.Proxy.PID, "KILL") // the next one has the limit of its holder
	p.back(map[string]int{"data": s.Proxy.PID}, 2)
	var idle []*http.Transport
	defer func() {
		for _, tr := range idle {
			tr.CloseIdleConnections()
		}
	}()
	tr := f.underLoadOf(load.Config{
		URL: url(port), Pacer: load.Constant(50, 10*time.Minute), Connections: 16, Timeout: 15 * time.Second, Mix: mixOf("/", "/ledger"),
	}, func() {
		f.try("600 clients", func() {
			for i := range 600 {
				one := &http.Transport{}
				idle = append(idle, one)
				resp, err := (&http.Client{Transport: one, Timeout: 10 * time.Second}).Get(url(port))
				if err != nil {
					t.Fatalf("client %d: %v", i+1, err)
				}
				_, err = io.Copy(io.Discard, resp.Body)
				resp.Body.Close()
				if err != nil || resp.StatusCode != http.StatusOK {
					t.Fatalf("client %d: %s, %v", i+1, resp.Status, err)
				}
			}
			if web := serviceOf(t, p.ps(), "web"); web.Ready != 2 {
				t.Errorf("%d ready: %s", web.Ready, web.Reason)
			}
			p.write("compose.yaml", shop(port, 2, "v2", ""))
			p.run("up", "-d")
		})
	})
	tr.NoneLost(t)
	if v := version(t, port); v != "v2" {
		t.Errorf("version %q", v)
	}
}
