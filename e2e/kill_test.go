//go:build e2e

package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"trellis/api"
	"trellis/load"
)

// own are Trellis' own processes of a project.
func own(s api.Status) map[string]int {
	return map[string]int{"control": s.ControlPlane.PID, "data": s.Proxy.PID, "holder": s.Holder.PID}
}

// back waits until Trellis answers again with other processes than the killed ones, and web is as ready as before.
func (p *project) back(killed map[string]int, ready int) api.Status {
	p.t.Helper()
	var last api.Status
	eventually(p.t, 20*time.Second, "Trellis back", func() string {
		out, err := p.try("ps", "--format", "json")
		if err != nil {
			return out
		}
		last = p.ps()
		now := own(last)
		for name, pid := range killed {
			if now[name] == pid || now[name] == 0 {
				return fmt.Sprintf("%s is %d, killed was %d", name, now[name], pid)
			}
		}
		if web := serviceOf(p.t, last, "web"); web.Ready != ready {
			return fmt.Sprintf("%d ready: %s", web.Ready, web.Reason)
		}
		return ""
	})
	return last
}

func TestKillingControlOrDataPlaneRefusesNoConnection(t *testing.T) {
	t.Parallel()
	for _, victim := range []string{"control", "data"} {
		t.Run(victim, func(t *testing.T) {
			port := freePort(t)
			p := newProject(t, map[string]string{"compose.yaml": patient(t, shop(port, 2, "v1", "")), "ledger/.keep": ""})
			p.run("up", "-d")
			before := pids(p.ps())
			tr := underLoad(t, url(port), 200, func() {
				for range 5 {
					pid := own(p.ps())[victim]
					signal(t, pid, "KILL")
					p.back(map[string]int{victim: pid}, 2)
				}
			})
			if victim == "control" {
				tr.NoneLost(t)
			}
			// What was inside a data plane when it was killed is cut off; no connection is refused.
			for _, kind := range []load.Kind{load.Connect, load.Timeout, load.Missed, load.Proxy5xx} {
				if n := tr.Report.Errors[kind]; n > 0 {
					t.Errorf("%d requests failed with %s", n, kind)
				}
			}
			tr.Ledger(t, ledgers(t, filepath.Join(p.dir, "ledger", "web")))
			if after := pids(p.ps()); fmt.Sprint(after) != fmt.Sprint(before) {
				t.Errorf("instances restarted: %v, then %v", before, after)
			}
		})
	}
}

func TestKillingTheHolderOrAllRestartsNoInstance(t *testing.T) {
	t.Parallel()
	for _, victims := range [][]string{{"holder"}, {"control", "data", "holder"}} {
		t.Run(strings.Join(victims, "+"), func(t *testing.T) {
			port := freePort(t)
			p := newProject(t, map[string]string{"compose.yaml": patient(t, shop(port, 2, "v1", ""))})
			p.run("up", "-d")
			before := p.ps()
			killed := map[string]int{}
			for _, v := range victims {
				killed[v] = own(before)[v]
				signal(t, killed[v], "KILL")
			}
			start := time.Now()
			p.run("up", "-d")
			t.Logf("up took %v", time.Since(start))
			after := p.back(killed, 2)
			if fmt.Sprint(pids(after)) != fmt.Sprint(pids(before)) {
				t.Errorf("instances restarted: %v, then %v", pids(before), pids(after))
			}
			if v := version(t, port); v != "v1" {
				t.Errorf("version %q", v)
			}
		})
	}
}

// TestTrellisSurvivesFiftyKills kills Trellis again and again: idle, in the middle of a plan, while an instance dies. Five
// projects are killed ten times each, side by side.
func TestTrellisSurvivesFiftyKills(t *testing.T) {
	t.Parallel()
	for i := range 5 {
		t.Run(fmt.Sprint(i+1), func(t *testing.T) {
			t.Parallel()
			times := 10
			if long(t) {
				times = 40
			}
			killAgainAndAgain(newFault(t), times)
		})
	}
}

func killAgainAndAgain(f *fault, times int) {
	t, random, port := f.T, f.random, freePort(f.T)
	p := newProject(t, map[string]string{"compose.yaml": patient(t, shop(port, 2, "v0", ""))})
	p.run("up", "-d")
	current := "v0"
	for i := range times {
		f.tried++
		before := p.ps()
		dead := "" // the instance that died meanwhile, if one did
		switch i % 3 {
		case 1: // in the middle of a plan
			current = fmt.Sprintf("v%d", i)
			p.write("compose.yaml", patient(t, shop(port, 2, current, "")))
			go p.try("up", "-d")
			time.Sleep(time.Duration(random.IntN(400)) * time.Millisecond)
		case 2: // while an instance dies
			in := p.instances("web")[0]
			dead = string(in.ID)
			signal(t, in.PID, "KILL")
		}
		killed := map[string]int{}
		names := []string{"control", "data", "holder"}
		for _, n := range names[:1+random.IntN(3)] {
			if pid := own(before)[n]; alive(pid) {
				killed[n] = pid
				signal(t, pid, "KILL")
			}
		}
		out, err := p.try("up", "-d")
		if err != nil {
			t.Fatalf("round %d, killed %v: up: %v\n%s", i, killed, err, out)
		}
		after := p.back(killed, 2)
		if v := version(t, port); v != current {
			t.Fatalf("round %d: version %q serves, want %q", i, v, current)
		}
		now := pids(after)
		if len(now) != 2 {
			t.Fatalf("round %d: %d instances: %v", i, len(now), now)
		}
		for id, pid := range pids(before) {
			if i%3 != 1 && id != dead && now[id] != pid {
				t.Fatalf("round %d: %s was %d and is %d: it was restarted", i, id, pid, now[id])
			}
		}
		if n := programs(t, p.dir); n != 2 {
			t.Fatalf("round %d: %d programs run, want 2", i, n)
		}
		f.held++
	}
}

func alive(pid int) bool {
	_, err := os.Stat(fmt.Sprintf("/proc/%d", pid))
	return pid > 1 && err == nil
}

// programs counts the test's programs that the shims of the project in dir have started: a second copy of an instance
// would be one more.
func programs(t *testing.T, dir string) int {
	t.Helper()
	exes, _ := filepath.Glob("/proc/[0-9]*/exe")
	n := 0
	for _, exe := range exes {
		if target, err := os.Readlink(exe); err == nil && target == built.app && strings.Contains(parent(filepath.Dir(exe)), dir) {
			n++
		}
	}
	return n
}

// parent is the command line of the process that started the one at proc, "" when it is gone.
func parent(proc string) string {
	status, _ := os.ReadFile(filepath.Join(proc, "status"))
	_, rest, _ := strings.Cut(string(status), "\nPPid:\t")
	pid, _, _ := strings.Cut(rest, "\n")
	cmdline, _ := os.ReadFile(filepath.Join("/proc", pid, "cmdline"))
	return string(cmdline)
}

func TestWhatHappenedMeanwhileIsKnownAfterwards(t *testing.T) {
	t.Parallel()
	p := newProject(t, nil)
	p.write("compose.yaml", shop(freePort(t), 1, "v1", fmt.Sprintf(`
  worker:
    image: testapp
    restart: "no"
    x-trellis: {process: {command: [sh, -c, "until [ -e %s/end ]; do sleep 0.1; done; echo about to exit with 7; exit 7"]}}
`, p.dir)))
	p.run("up", "-d")
	worker := p.instances("worker")[0].PID
	for _, pid := range own(p.ps()) {
		signal(t, pid, "KILL")
	}
	p.write("end", "")
	eventually(t, 20*time.Second, "the worker ends with nobody there", func() string {
		if err := syscall.Kill(worker, 0); err == nil {
			return "it still runs"
		}
		return ""
	})
	p.try("up", "-d", "--timeout", "2s") // this asks for another try, so the worker runs again
	events := p.run("events")
	if !strings.Contains(events, "exited with code 7") || strings.Contains(events, "nothing is known") {
		t.Errorf("events do not tell how the worker ended meanwhile:\n%s", events)
	}
	if out := p.run("logs", "worker"); !strings.Contains(out, "about to exit with 7") {
		t.Errorf("logs of the time between: %q", out)
	}
}

func TestAnotherBuildTakesOverAndRestartsNoInstance(t *testing.T) {
	t.Parallel()
	port := freePort(t)
	p := newProject(t, map[string]string{"compose.yaml": patient(t, shop(port, 2, "v1", "")), "ledger/.keep": ""})
	p.run("up", "-d")
	before := p.ps()
	tr := underLoad(t, url(port), 200, func() {
		p.trellis = built.other
		p.run("up", "-d")
		p.back(map[string]int{"control": own(before)["control"], "data": own(before)["data"]}, 2)
	})
	tr.NoneLost(t)
	tr.Ledger(t, ledgers(t, filepath.Join(p.dir, "ledger", "web")))
	after := p.ps()
	if fmt.Sprint(pids(after)) != fmt.Sprint(pids(before)) {
		t.Errorf("instances restarted: %v, then %v", pids(before), pids(after))
	}
	if after.Version == before.Version || after.Holder.PID != before.Holder.PID {
		t.Errorf("version %s, then %s; holder %d, then %d", before.Version, after.Version, before.Holder.PID, after.Holder.PID)
	}
}

func TestTrellisLeaksNothing(t *testing.T) {
	t.Parallel()
	port := freePort(t)
	p := newProject(t, map[string]string{"compose.yaml": shop(port, 2, "v0", "")})
	p.run("up", "-d")
	round := func(i int) {
		p.write("compose.yaml", shop(port, 2+i%2, fmt.Sprintf("v%d", i), ""))
		p.run("up", "-d")
		get(t, url(port))
		p.run("logs", "--tail", "1")
		p.run("exec", "-T", "web", "true")
	}
	round(1)
	round(2)
	count := func() map[string]int {
		fds := map[string]int{}
		for name, pid := range own(p.ps()) {
			entries, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
			if err != nil {
				t.Fatal(err)
			}
			tasks, _ := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
			fds[name+" fds"], fds[name+" threads"] = len(entries), len(tasks)
		}
		return fds
	}
	before := count()
	for i := range 10 {
		round(3 + i)
	}
	round(14)
	eventually(t, 10*time.Second, "fds and threads as before", func() string {
		now := count()
		for name, n := range now {
			if n > before[name]+6 {
				return fmt.Sprintf("%s: %d, then %d", name, before[name], n)
			}
		}
		return ""
	})
}
