//go:build e2e

package e2e

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"trellis/api"
	"trellis/engine"
	"trellis/state"
)

// TestKubernetesDayTwo looks after a project in a cluster as on one machine: its number of instances, a restart under load, a
// command inside of it, what it uses, what happened, and what somebody has changed behind its back.
func TestKubernetesDayTwo(t *testing.T) {
	c := reachCluster(t)
	t.Parallel()
	const name = "e2e-day"
	p := c.project(name)
	p.write("compose.yaml", c.shop(name, "", ""))
	p.run("up", "--yes", "--timeout", "120s")

	t.Run("scale", func(t *testing.T) {
		p.run("scale", "web=3", "--timeout", "120s")
		c.expect(t, p, 3, engine.DriftScaled)
		p.run("up", "--yes")
		c.expect(t, p, 3, engine.DriftScaled) // an apply that does not change the file's number leaves the wish alone
	})
	t.Run("restart under load", func(t *testing.T) {
		url, before := c.door(name, "web"), p.instances("web")
		c.underLoad(url, func() { p.run("restart", "web", "--timeout", "120s") })
		for _, in := range p.instances("web") {
			if slices.ContainsFunc(before, func(was engine.Instance) bool { return was.ID == in.ID }) {
				t.Errorf("%s was not replaced", in.ID)
			}
		}
		if svc := serviceOf(t, p.ps(), "web"); svc.Revision != 1 {
			t.Errorf("a restart is no revision: %+v", svc)
		}
	})
	t.Run("exec", func(t *testing.T) {
		// The image has one program: it says why it cannot start a second time, and its exit code is ours.
		out, err := p.try("exec", "-T", "web", "/testapp")
		if err == nil || !strings.Contains(out, "address already in use") || !strings.Contains(err.Error(), "exit status 1") {
			t.Errorf("exec: %v\n%s", err, out)
		}
		if out, err := p.try("exec", "-T", "web", "/nowhere"); err == nil || !strings.Contains(out, "has no /nowhere") {
			t.Errorf("a command that is not there: %v\n%s", err, out)
		}
	})
	t.Run("drift", func(t *testing.T) { c.changedByHand(t, p, name) })
	t.Run("stop and start", func(t *testing.T) {
		p.run("stop", "web", "--timeout", "60s")
		if svc := serviceOf(t, p.ps(), "web"); svc.State != engine.ServiceStopped || len(svc.Instances) != 0 {
			t.Errorf("after stop: %+v", svc)
		}
		p.run("start", "web", "--timeout", "120s")
		c.expect(t, p, 2)
	})
	t.Run("top", func(t *testing.T) {
		eventually(t, 90*time.Second, "every instance is measured", func() string {
			var all []struct {
				Service string   `json:"service"`
				CPU     *float64 `json:"cpu_percent"`
				Memory  int64    `json:"memory_bytes"`
				Seconds *float64 `json:"cpu_seconds"`
			}
			p.json(&all, "top")
			if len(all) != 2 || all[0].CPU == nil || all[0].Memory == 0 || all[0].Seconds != nil || all[0].Service != "web" {
				return fmt.Sprintf("%+v", all)
			}
			return ""
		})
	})
	t.Run("events", func(t *testing.T) {
		kinds := map[string]state.Event{}
		for _, ev := range p.events() {
			kinds[ev.Kind] = ev
		}
		for _, kind := range []string{"revision.applied", "revision.healthy", "service.override", "drift.reverted", "instance.started", "instance.stopping"} {
			if ev, told := kinds[kind]; !told || ev.Time.IsZero() || ev.Project != name {
				t.Errorf("%s: %+v", kind, ev)
			}
		}
	})
}

// expect fails unless web has so many instances, all ready, and the kinds of drift are these.
func (c *testCluster) expect(t *testing.T, p *project, replicas int, kinds ...string) {
	t.Helper()
	if svc := serviceOf(t, p.ps(), "web"); svc.State != engine.ServiceHealthy || svc.Ready != replicas || svc.Want != replicas {
		t.Errorf("%s, %d of %d ready; want %d", svc.State, svc.Ready, svc.Want, replicas)
	}
	var found api.Drift
	p.json(&found, "drift")
	got := []string{}
	for _, d := range found.Changes {
		got = append(got, d.Kind)
	}
	if !slices.Equal(got, append([]string{}, kinds...)) {
		t.Errorf("drift is %+v, want %v", found.Changes, kinds)
	}
}

// changedByHand has somebody else change, add and remove things, and brings them back.
func (c *testCluster) changedByHand(t *testing.T, p *project, namespace string) {
	c.kubectl("", "set", "image", "deployment/web", "web=docker.io/trellis/testapp:nowhere", "-n", namespace)
	c.kubectl("", "set", "env", "deployment/web", "EXTRA=1", "-n", namespace)
	c.kubectl("", "delete", "service/web", "-n", namespace)
	var found api.Drift
	p.json(&found, "drift")
	told := map[string]engine.Drift{}
	for _, d := range found.Changes {
		told[d.Path+" "+d.Kind] = d
	}
	for _, want := range []string{
		"services.web.deploy.replicas " + engine.DriftScaled, "services.web.image " + engine.DriftChanged,
		"services.web.environment.EXTRA " + engine.DriftChanged, "services.web " + engine.DriftGone,
	} {
		if _, ok := told[want]; !ok {
			t.Errorf("drift does not tell %s: %+v", want, found.Changes)
		}
	}
	if d := told["services.web.image "+engine.DriftChanged]; d.To != "docker.io/trellis/testapp:nowhere" || !strings.Contains(d.Reason, "kubectl") {
		t.Errorf("the image: %+v", d)
	}
	p.run("drift", "--revert", "--timeout", "120s")
	c.expect(t, p, 2) // what was asked for with scale is brought back too
	if left := c.kubectl("", "get", "deployment,service", "web", "-n", namespace, "-o", "yaml"); strings.Contains(left, "EXTRA") || strings.Contains(left, "nowhere") {
		t.Errorf("something of it is left:\n%s", left)
	}
}

// TestKubernetesHandsOverTheNumber: a service that runs with a number of its file, and is then scaled by its load, keeps its
// instances meanwhile, and gets them back from the autoscaler when that leaves the file.
func TestKubernetesHandsOverTheNumber(t *testing.T) {
	c := reachCluster(t)
	t.Parallel()
	const name = "e2e-handover"
	p := c.project(name)
	file := func(deploy string) string {
		return fmt.Sprintf(`name: %s
services:
  web:
    image: %s
    environment: {PORT: "8080"}
    expose: ["8080"]
    healthcheck: {interval: 1s, timeout: 1s, retries: 3}
    x-trellis: {probe: {http: /healthz}}
    deploy: {%s}
`, name, c.image, deploy)
	}
	limits := "resources: {limits: {cpus: '0.5'}}"
	p.write("compose.yaml", file("replicas: 3, "+limits))
	p.run("up", "--yes", "--timeout", "120s")
	before := c.pods(name, "web")
	p.write("compose.yaml", file("x-trellis: {autoscale: {min: 3, max: 4, target: {cpu: 0.9}}}, "+limits))
	p.run("up", "--yes", "--timeout", "120s")
	if now := c.pods(name, "web"); now != before {
		t.Errorf("pods were lost while the number was handed over: %s, then %s", before, now)
	}
	if out, err := p.try("scale", "web=1"); err == nil || !strings.Contains(out, "is scaled by its load, between 3 and 4") {
		t.Errorf("scale beside an autoscaler: %v\n%s", err, out)
	}
	p.write("compose.yaml", file("replicas: 2, "+limits))
	p.run("up", "--yes", "--timeout", "120s")
	eventually(t, 60*time.Second, "the file's number holds again", func() string {
		if svc := serviceOf(t, p.ps(), "web"); svc.Want != 2 || len(svc.Instances) != 2 {
			return fmt.Sprintf("%+v", svc)
		}
		return ""
	})
}
