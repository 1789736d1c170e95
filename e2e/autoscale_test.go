//go:build e2e

package e2e

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"trellis/engine"
	"trellis/load"
	"trellis/state"
)

// autoscaled is a shop whose web is scaled by its load.
func autoscaled(t testing.TB, port int, autoscale string) string {
	t.Helper()
	file := shop(port, 1, "v1", "")
	changed := strings.Replace(file, "deploy: {replicas: 1", "deploy: {x-trellis: {autoscale: "+autoscale+"}", 1)
	if changed == file {
		t.Fatalf("the shop has another deploy section:\n%s", file)
	}
	return changed
}

// scalings are what the autoscaler has decided so far.
func (p *project) scalings() []string {
	p.t.Helper()
	var all []string
	for _, ev := range p.events() {
		if ev.Kind == "service.scaled" {
			all = append(all, ev.Message)
		}
	}
	return all
}

// TestAStepOfLoadIsMetWithReplicasAndLosesNothing: a replica works on four requests of 50 ms at a time, 80 a second, and
// ten times of what one can do arrives at once. What cannot be worked on waits in line until there are more replicas.
func TestAStepOfLoadIsMetWithReplicasAndLosesNothing(t *testing.T) {
	port := freePort(t)
	p := newProject(t, map[string]string{"compose.yaml": autoscaled(t, port, "{min: 1, max: 8, target: {concurrency: 4}, window: 20s}"), "ledger/.keep": ""})
	p.run("up", "-d")
	slow := []load.Request{{Method: "GET", Path: "/slow?for=50ms"}}
	quiet := underLoadOf(t, url(port), 15, slow, func() { time.Sleep(3 * time.Second) })
	quiet.NoneLost(t)
	if slowest := quiet.Report.Latency.Max; slowest != nil && *slowest > 500 { // ms
		t.Logf("the machine held requests up for %v ms, which may be load enough for more replicas", *slowest)
	} else if web := serviceOf(t, p.ps(), "web"); web.Want != 1 {
		t.Errorf("%d replicas for 15 requests a second: %+v", web.Want, web.Autoscale)
	}
	var took time.Duration
	step := underLoadOf(t, url(port), 150, slow, func() {
		began := time.Now()
		eventually(t, 20*time.Second, "more replicas", func() string {
			if web := serviceOf(t, p.ps(), "web"); web.Ready < 3 {
				return fmt.Sprintf("%d ready of %d", web.Ready, web.Want)
			}
			return ""
		})
		took = time.Since(began)
		time.Sleep(3 * time.Second)
	})
	step.NoneLost(t)
	t.Logf("three replicas served %v after the step: %v", took, p.scalings())
	if len(p.scalings()) == 0 {
		t.Error("no event tells why")
	}
}

// TestScaledToNothingAServiceWakesAndLosesNothing: the requests that come first wait for the service to be started.
func TestScaledToNothingAServiceWakesAndLosesNothing(t *testing.T) {
	t.Parallel()
	f, port, times := newFault(t), freePort(t), 2
	if long(t) {
		times = 50
	}
	p := newProject(t, map[string]string{
		"compose.yaml": autoscaled(t, port, "{min: 0, max: 3, target: {concurrency: 10}, window: 10s, down_delay: 1s}"), "ledger/.keep": "",
	})
	p.run("up", "-d")
	for range times {
		f.try("asleep and woken", func() {
			eventually(t, time.Minute, "asleep", func() string {
				if web := serviceOf(t, p.ps(), "web"); web.State != engine.ServiceStopped || len(p.instances("web")) > 0 {
					return fmt.Sprintf("%s, %d of %d ready", web.State, web.Ready, web.Want)
				}
				return ""
			})
			woken := underLoad(t, url(port), 50, func() {
				eventually(t, time.Minute, "awake", func() string {
					if web := serviceOf(t, p.ps(), "web"); web.Ready == 0 {
						return fmt.Sprintf("%s: %s", web.State, web.Reason)
					}
					return ""
				})
				time.Sleep(time.Second)
			})
			f.count(woken)
			woken.NoneLost(t)
		})
	}
	for _, q := range []string{"0.5", "0.99"} {
		out, _ := p.try("metrics", "histogram_quantile("+q+", sum(trellis_cold_start_seconds))")
		t.Logf("cold starts, quantile %s: %s", q, out)
	}
	if out, err := p.try("scale", "web=2"); err == nil || !strings.Contains(out, "deploy.x-trellis.autoscale") {
		t.Errorf("scale by hand: %v\n%s", err, out)
	}
}

// events are all that has happened so far.
func (p *project) events() []state.Event {
	p.t.Helper()
	var all []state.Event
	for line := range strings.Lines(p.run("events", "--format", "json")) {
		var ev state.Event
		if err := json.Unmarshal([]byte(line), &ev); err != nil {
			p.t.Fatalf("%v: %s", err, line)
		}
		all = append(all, ev)
	}
	return all
}
