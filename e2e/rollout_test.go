//go:build e2e

package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"trellis/engine"
	"trellis/load"
	"trellis/state"
)

// badVersion is a version of the shop that must not stay.
type badVersion struct {
	name  string
	env   string // of the service
	says  string // the cause that up shows
	quick bool   // part of every run; the others belong to the long one
	dies  bool   // its instances are killed or end while requests may be with them
}

var badVersions = []badVersion{
	{name: "health says no", env: `UNHEALTHY: "1"`, says: "was not ready within"},
	{name: "never listens", env: `START_DELAY: "1h"`, says: "was not ready within"},
	{name: "ready, then crashes after 5 s", env: `CRASH_AFTER: "5s"`, says: "exited with code 7", dies: true},
	{name: "ready, then crashes after 1 s", env: `CRASH_AFTER: "1s"`, says: "exited with code 7", quick: true, dies: true},
	{name: "2 of 100 answers fail", env: `FAIL_PERCENT: "2"`, says: "new instances fail"},
	{name: "10 of 100 answers fail", env: `FAIL_PERCENT: "10"`, says: "new instances fail", quick: true},
	{name: "latency x5", env: `SLOW: "100ms"`, says: "new instances are slower", quick: true},
	{name: "latency x25", env: `SLOW: "500ms"`, says: "new instances are slower"},
	{name: "exits at once", env: `EXIT: "1"`, says: "exited with code 1", quick: true},
	{name: "exits a little later", env: `EXIT: "3", DELAY: "300ms"`, says: "exited with code 3"},
}

// watchedShop is the shop whose new instances are watched for long enough to see all of the bad versions for what they are.
func watchedShop(port int, version, env string) string {
	file := shop(port, 3, version, "")
	file = strings.Replace(file, "monitor: 500ms", "monitor: 20s", 1)
	return strings.Replace(file, "environment: {", "environment: {"+env+", ", 1)
}

// TestBadVersionsGoBackByThemselves deploys bad versions under load. Each goes back by itself, the old instances are not
// touched, users see no more of its errors than its share of the traffic, and nothing is lost to the going back.
func TestBadVersionsGoBackByThemselves(t *testing.T) {
	t.Parallel()
	for _, bad := range badVersions {
		if !bad.quick && !long(t) {
			continue
		}
		t.Run(bad.name, func(t *testing.T) { bad.test(t) })
	}
}

// long says whether the long form of the tests is asked for (make faults).
func long(t testing.TB) bool {
	t.Helper()
	return os.Getenv("FAULTS") == "long"
}

func (bad badVersion) test(t *testing.T) {
	f, port := newFault(t), freePort(t)
	f.try(bad.name, func() { bad.deployed(f, port) })
}

func (bad badVersion) deployed(f *fault, port int) {
	t := f.T
	p := newProject(t, map[string]string{"compose.yaml": watchedShop(port, "v1", `SLOW: "20ms"`), "ledger/.keep": ""})
	p.run("up", "-d")
	before := pids(p.ps())
	var out string
	tr := underLoad(t, url(port), 250, func() {
		env := bad.env
		if !strings.Contains(env, "SLOW") {
			env += `, SLOW: "20ms"`
		}
		p.write("compose.yaml", watchedShop(port, "v2", env))
		var err error
		if out, err = p.try("up", "-d"); err == nil {
			t.Errorf("up succeeds:\n%s", out)
		}
	})
	f.count(tr)
	for _, want := range []string{bad.says, "failed and was rolled back", "trellis rollout status web"} {
		if !strings.Contains(out, want) {
			t.Errorf("up does not say %q:\n%s", want, out)
		}
	}
	if bad.dies {
		tr.NoGetLost(t)
	} else {
		tr.NoneLost(t)
	}
	tr.Ledger(t, ledgers(t, filepath.Join(p.dir, "ledger", "web")))
	// One of four instances, of which 2 % or 10 % fail, for as long as it takes to see it.
	if share := float64(tr.Report.Errors[load.Server5xx]) / float64(tr.Report.Completed); share > 0.03 {
		t.Errorf("%.1f %% of all answers were errors", share*100)
	}
	s := p.ps()
	if after := pids(s); fmt.Sprint(after) != fmt.Sprint(before) {
		t.Errorf("the old instances were touched: %v, then %v", before, after)
	}
	if v := version(t, port); v != "v1" || s.Revision != 3 {
		t.Errorf("version %s serves in revision %d", v, s.Revision)
	}
	r := rolloutOf(t, p, "web")
	if r.Phase != state.TakenBack || r.Revision != 2 || r.Failure == nil || !strings.HasPrefix(r.Failure.Instance, "web-1-") {
		t.Errorf("rollout: %+v", r)
	}
	if r.Failure != nil && !strings.Contains(bad.name, "never") && len(r.Failure.Log) == 0 {
		t.Error("nothing is kept of what the failed instance printed")
	}
	if history := p.run("history"); !strings.Contains(history, "rolled-back") || !strings.Contains(history, "automatic rollback to 1") {
		t.Errorf("history:\n%s", history)
	}
	t.Logf("seen after %s: %s; ledger %s", r.Ended.Sub(r.Began).Round(100*time.Millisecond), r.Reason, asJSON(r.Ledger))
}

func asJSON(v any) string {
	b, _ := json.Marshal(v)
	return string(b)
}

// rolloutOf returns the rollout of a service as `rollout status` has it.
func rolloutOf(t *testing.T, p *project, service string) state.Rollout {
	t.Helper()
	var all []state.Rollout
	p.json(&all, "rollout", "status", service)
	if len(all) == 0 {
		t.Fatalf("no rollout of %s", service)
	}
	return all[0]
}

// TestRolloutEndsWithItsLedger looks at the line that a deploy under load ends with.
func TestRolloutEndsWithItsLedger(t *testing.T) {
	t.Parallel()
	port := freePort(t)
	p := newProject(t, map[string]string{"compose.yaml": shop(port, 3, "v1", ""), "ledger/.keep": ""})
	p.run("up", "-d")
	var out string
	tr := underLoad(t, url(port), 250, func() {
		p.write("compose.yaml", shop(port, 3, "v2", ""))
		out = p.run("up", "-d")
	})
	tr.NoneLost(t)
	for _, want := range []string{"web r1→r2  3/3 healthy", "requests, 0 failed, p99 ", " ms"} {
		if !strings.Contains(out, want) {
			t.Errorf("no %q in\n%s", want, out)
		}
	}
	if r := rolloutOf(t, p, "web"); r.Phase != state.Promoted || r.From != 1 || r.Ledger.Requests < 250 || r.Ledger.Failed != 0 {
		t.Errorf("%+v", r)
	}
}

// TestCanaryPassesAndIsAborted sends a growing part of the traffic to a new version, then none.
func TestCanaryPassesAndIsAborted(t *testing.T) {
	t.Parallel()
	port := freePort(t)
	canary := func(version string, interval time.Duration) string {
		return strings.Replace(shop(port, 4, version, ""), "update_config: {monitor: 500ms}",
			fmt.Sprintf("x-trellis: {canary: {steps: [10%%, 50%%], interval: %s}}", interval), 1)
	}
	p := newProject(t, map[string]string{"compose.yaml": canary("v1", 2*time.Second), "ledger/.keep": ""})
	p.run("up", "-d")
	tr := underLoad(t, url(port), 250, func() {
		p.write("compose.yaml", canary("v2", 2*time.Second))
		p.run("up", "-d")
		p.write("compose.yaml", canary("v3", time.Hour))
		done := make(chan string)
		go func() { out, _ := p.try("up", "-d"); done <- out }()
		eventually(t, 20*time.Second, "the first step", func() string {
			var all []state.Rollout
			if p.json(&all, "rollout", "status", "web"); len(all) == 0 || all[0].Revision != 3 || all[0].Share == nil || len(p.instances("web")) != 5 {
				return asJSON(all)
			}
			return ""
		})
		time.Sleep(3 * time.Second)
		r := rolloutOf(t, p, "web")
		if got := float64(r.Ledger.New.Requests) / float64(r.Ledger.Requests); got < 0.05 || got > 0.2 {
			t.Errorf("the canary of 10 %% gets %.1f %%: %s", got*100, asJSON(r.Ledger))
		}
		p.run("rollout", "abort")
		if out := <-done; !strings.Contains(out, "aborted by") {
			t.Errorf("up says\n%s", out)
		}
	})
	tr.NoneLost(t)
	tr.Ledger(t, ledgers(t, filepath.Join(p.dir, "ledger", "web")))
	if v := version(t, port); v != "v2" {
		t.Errorf("version %s", v)
	}
}

// TestRolloutOutlivesItsControlPlane kills the control plane again and again while a version that works is rolled out,
// and then one that does not.
func TestRolloutOutlivesItsControlPlane(t *testing.T) {
	t.Parallel()
	port := freePort(t)
	p := newProject(t, map[string]string{"compose.yaml": shop(port, 3, "v1", ""), "ledger/.keep": ""})
	p.run("up", "-d")
	deploy := func(file string, revision int64) {
		t.Helper()
		p.write("compose.yaml", file)
		up := make(chan struct{})
		go func() { defer close(up); p.try("up", "-d") }()
		for range 4 {
			time.Sleep(700 * time.Millisecond)
			if pid := p.ps().ControlPlane.PID; pid > 0 {
				signal(t, pid, "KILL")
			}
		}
		<-up
		eventually(t, 30*time.Second, "settled", func() string {
			s := p.ps()
			if s.Revision != revision || s.Outcome != state.Healthy || serviceOf(t, s, "web").State != engine.ServiceHealthy {
				return fmt.Sprintf("revision %d is %s", s.Revision, s.Outcome)
			}
			return ""
		})
	}
	tr := underLoad(t, url(port), 250, func() {
		deploy(strings.Replace(shop(port, 3, "v2", ""), "500ms", "1s", 1), 2)
		deploy(strings.Replace(strings.Replace(shop(port, 3, "v3", ""), "500ms", "5s", 1), "VERSION:", `CRASH_AFTER: "3s", VERSION:`, 1), 4)
	})
	tr.NoGetLost(t)
	tr.Ledger(t, ledgers(t, filepath.Join(p.dir, "ledger", "web")))
	if v := version(t, port); v != "v2" {
		t.Errorf("version %s serves", v)
	}
}
