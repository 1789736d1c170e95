//go:build e2e

package e2e

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"trellis/api"
	"trellis/engine"
)

// inCluster are the kinds of which a project's objects are.
const inCluster = "deployments,statefulsets,daemonsets,jobs,services,configmaps,secrets,serviceaccounts,persistentvolumeclaims," +
	"horizontalpodautoscalers,poddisruptionbudgets,networkpolicies,roles,rolebindings"

// objects returns what a project has in its namespace, by name, as it was asked for: without what the cluster writes, and
// without which revision asked.
func (c *testCluster) objects(namespace string) map[string]any {
	c.t.Helper()
	var list struct{ Items []map[string]any }
	text := c.kubectl("", "-n", namespace, "get", inCluster, "-l", "app.kubernetes.io/managed-by=trellis,app.kubernetes.io/component!=control-plane", "-o", "json")
	if err := json.Unmarshal([]byte(text), &list); err != nil {
		c.t.Fatal(err)
	}
	all := map[string]any{}
	for _, o := range list.Items {
		meta := o["metadata"].(map[string]any)
		all[fmt.Sprint(o["kind"], " ", meta["name"])] = withoutServers(o)
	}
	return all
}

// withoutServers takes out of an object what is the server's and its controllers'.
func withoutServers(v any) any {
	switch v := v.(type) {
	case map[string]any:
		for _, key := range []string{
			"uid", "resourceVersion", "generation", "creationTimestamp", "managedFields", "status", "clusterIP", "clusterIPs", "nodePort", "finalizers",
			"deployment.kubernetes.io/revision", "trellis.dev/revision",
		} {
			delete(v, key)
		}
		for key, e := range v {
			if e = withoutServers(e); key == "annotations" && len(e.(map[string]any)) == 0 {
				delete(v, key)
			}
		}
	case []any:
		for _, e := range v {
			withoutServers(e)
		}
	}
	return v
}

// TestKubernetesGoesBack: after revisions 1, 2 and 1 again the cluster is what it was after the first, by a rollback and by
// the older file.
func TestKubernetesGoesBack(t *testing.T) {
	c := reachCluster(t)
	t.Parallel()
	const name = "e2e-back"
	p := c.project(name)
	first := fmt.Sprintf(`name: %[1]s
services:
  web:
    image: %[2]s
    environment: {PORT: "8080", VERSION: v1, OLD: "1", DB_PASSWORD: first}
    ports: ["8080:8080"]
    configs: [motd]
    volumes: ["data:/data"]
    x-trellis: {probe: {http: /healthz}, calls: [api]}
  api:
    image: %[2]s
    environment: {PORT: "8080"}
    expose: ["8080"]
    deploy: {replicas: 2}
    x-trellis: {probe: {http: /healthz}}
configs: {motd: {content: hello}}
volumes: {data: {}}
`, name, c.image)
	second := fmt.Sprintf(`name: %[1]s
services:
  web:
    image: %[2]s
    environment: {PORT: "9090", VERSION: v2, DB_PASSWORD: second, NEW: "1"}
    ports: ["8081:9090"]
    configs: [motd]
    volumes: ["data:/data"]
    stop_grace_period: 3s
    x-trellis: {probe: {http: /healthz}}
  more:
    image: %[2]s
    environment: {PORT: "8080"}
    expose: ["8080"]
    deploy: {x-trellis: {autoscale: {min: 1, max: 2, target: {cpu: 0.9}}}, resources: {limits: {cpus: '0.2'}}}
    x-trellis: {probe: {http: /healthz}}
configs: {motd: {content: bye}}
volumes: {data: {}}
`, name, c.image)
	up := func(file string) map[string]any {
		p.write("compose.yaml", file)
		p.run("up", "--yes", "--timeout", "2m")
		return c.objects(name)
	}
	one := up(first)
	if len(one) < 10 {
		t.Fatalf("only %d objects: %v", len(one), one)
	}
	if two := up(second); cmp.Equal(one, two) {
		t.Fatal("the second revision is the first")
	}
	p.run("rollback", "1", "--yes", "--timeout", "2m")
	if d := cmp.Diff(one, c.objects(name)); d != "" {
		t.Errorf("after a rollback, -first +now:\n%s", d)
	}
	up(second)
	if d := cmp.Diff(one, up(first)); d != "" {
		t.Errorf("after the first file again, -first +now:\n%s", d)
	}
	p.run("down", "--volumes", "--yes")
	if left := c.objects(name); len(left) > 0 {
		t.Errorf("down leaves %v", left)
	}
}

// clusterDriftShop is a service with something of all that somebody may change behind its back.
func (c *testCluster) clusterDriftShop(name string) string {
	return fmt.Sprintf(`# The shop.
name: %[1]s
services:
  web:
    image: %[2]s
    scale: 2   # enough for the night
    environment: {PORT: "8080", LEDGER: /dev/null, LEVEL: info, MODE: slow}
    command: [/testapp]
    working_dir: /
    ports: ["8080:8080"]
    mem_limit: 256m
    cpus: 0.2
    stop_grace_period: 10s
    healthcheck: {interval: 1s, timeout: 1s, retries: 3}
    x-trellis: {probe: {http: /healthz}}
  worker:
    image: %[2]s
    environment: {PORT: "8080"}
    deploy: {x-trellis: {autoscale: {min: 1, max: 2, target: {cpu: 0.9}}}, resources: {limits: {cpus: '0.2'}}}
`, name, c.image)
}

// TestKubernetesDrift: eighteen kinds of what somebody may change by hand in a cluster, each told at its Compose path; adopted
// with the smallest change of the file, and brought back.
func TestKubernetesDrift(t *testing.T) {
	c := reachCluster(t)
	t.Parallel()
	const name = "e2e-drift"
	p := c.project(name)
	p.write("compose.yaml", c.clusterDriftShop(name))
	p.run("up", "--yes", "--timeout", "2m")
	p.wantDrift()
	before := c.objects(name)

	const pod, container = "/spec/template/spec", "/spec/template/spec/containers/0"
	patch := func(object, steps string) []string { return []string{"patch", object, "--type=json", "-p", steps} }
	replace := func(object, path, value string) []string {
		return patch(object, fmt.Sprintf(`[{"op": "replace", "path": %q, "value": %s}]`, path, value))
	}
	add := func(object, path, value string) []string {
		return patch(object, fmt.Sprintf(`[{"op": "add", "path": %q, "value": %s}]`, path, value))
	}
	var want []string
	for _, one := range []struct {
		told string
		by   []string
	}{
		{"web.deploy.replicas scaled", []string{"scale", "deployment/web", "--replicas=3"}},
		{"web.environment.LEVEL changed", []string{"set", "env", "deployment/web", "LEVEL=debug"}},
		{"web.environment.EXTRA changed", []string{"set", "env", "deployment/web", "EXTRA=1"}},
		{"web.environment.MODE changed", []string{"set", "env", "deployment/web", "MODE-"}},
		{"web.deploy.resources.limits.cpus changed", []string{"set", "resources", "deployment/web", "--limits=cpu=100m"}},
		{"web.deploy.resources.limits.memory changed", []string{"set", "resources", "deployment/web", "--limits=memory=128Mi"}},
		{"web.deploy.resources.reservations.memory changed", []string{"set", "resources", "deployment/web", "--requests=memory=16Mi"}},
		{"web.stop_grace_period changed", replace("deployment/web", pod+"/terminationGracePeriodSeconds", "40")},
		{"web.working_dir changed", replace("deployment/web", container+"/workingDir", `"/tmp"`)},
		{"web.command changed", replace("deployment/web", container+"/args", `["/testapp", "more"]`)},
		{"web.healthcheck changed", replace("deployment/web", container+"/readinessProbe/httpGet/path", `"/"`)},
		{"web.ports object", replace("service/web", "/spec/ports/0/targetPort", "9090")},
		{"worker.image changed", []string{"set", "image", "deployment/worker", "worker=docker.io/trellis/testapp:other"}},
		{"worker.deploy.placement changed", add("deployment/worker", pod+"/nodeSelector", `{"disk": "ssd"}`)},
		{"worker.volumes changed", add("deployment/worker", pod+"/volumes", `[{"name": "more", "emptyDir": {}}]`)},
		{"worker.deploy.x-trellis.autoscale.max object", replace("horizontalpodautoscaler/worker", "/spec/maxReplicas", "5")},
		{"worker changed", add("deployment/worker", pod+"/containers/-", `{"name": "side", "image": "`+c.image+`"}`)},
		{"worker gone", []string{"delete", "serviceaccount/worker"}},
	} {
		c.kubectl("", append([]string{"-n", name}, one.by...)...)
		want = append(want, "services."+one.told)
		p.wantDrift(want...)
	}
	var found api.Drift
	p.json(&found, "drift")
	for _, d := range found.Changes {
		if d.Kind != engine.DriftGone && !strings.Contains(d.Reason, "kubectl") && !strings.Contains(d.Reason, "somebody else") {
			t.Errorf("whose it is: %+v", d)
		}
	}

	p.run("drift", "--adopt", "-q")
	adopted := strings.NewReplacer(
		"scale: 2 ", "scale: 3 ", "LEVEL: info, MODE: slow", `LEVEL: debug, EXTRA: "1"`, "working_dir: /\n", "working_dir: /tmp\n", "mem_limit: 256m", "mem_limit: 128M",
		"cpus: 0.2\n", "cpus: \"0.1\"\n", "grace_period: 10s", "grace_period: 35s", "max: 2", "max: 5",
	).Replace(c.clusterDriftShop(name))
	at := strings.Index(adopted, "  worker:")
	adopted = adopted[:at] + "    deploy:\n      resources:\n        reservations:\n          memory: 16M\n" + adopted[at:]
	adopted = strings.Replace(adopted, "  worker:\n    image: "+c.image, "  worker:\n    image: docker.io/trellis/testapp:other", 1)
	if d := cmp.Diff(adopted, string(p.read("compose.yaml"))); d != "" {
		t.Errorf("adopted, -want +got:\n%s", d)
	}
	p.write("compose.yaml", c.clusterDriftShop(name))

	p.run("drift", "--revert", "--timeout", "3m")
	p.wantDrift()
	if d := cmp.Diff(before, c.objects(name)); d != "" {
		t.Errorf("brought back, -before +now:\n%s", d)
	}
	if out := p.run("events"); !strings.Contains(out, "drift.reverted") {
		t.Errorf("events:\n%s", out)
	}
}

// TestKubernetesStaging: made of production's file by one command, in a namespace of its own and without production's
// secrets, in the time that its pods take; and the difference is the override and nothing else.
func TestKubernetesStaging(t *testing.T) {
	c := reachCluster(t)
	t.Parallel()
	const name, namespace = "e2e-stage", "e2e-stage-staging"
	p := c.project(name)
	c.t.Cleanup(func() { c.kubectl("", "delete", "namespace", namespace, "--ignore-not-found", "--wait=false") })
	p.write("password", "hunter2")
	p.write("staging-password", "for staging")
	p.write("compose.yaml", c.shop(name, "", "    secrets: [password]\nsecrets: {password: {file: password}}\n")+
		"x-trellis: {environments: {staging: {on: kubernetes, namespace: "+namespace+"}}}\n")
	const override = "services:\n  web:\n    deploy: {replicas: 1}\n    environment: {LEVEL: debug}\n"
	p.write("compose.staging.yaml", override)
	staging := &project{t: t, dir: p.dir, trellis: p.trellis, env: p.env, flags: []string{"--environment", "staging"}}
	p.run("up", "--yes", "--timeout", "2m")
	if out, err := staging.try("up", "--yes"); err == nil || !strings.Contains(out, "secrets.password: is not the secret of staging") {
		t.Fatalf("staging takes production's secret: %v\n%s", err, out)
	}
	p.write("compose.staging.yaml", override+"secrets: {password: {file: staging-password}}\n")
	begin := time.Now()
	staging.run("up", "--yes", "--timeout", "2m")
	took := time.Since(begin)
	ready, err := time.Parse(time.RFC3339, c.kubectl("", "-n", namespace, "get", "pods", "-o", `jsonpath={.items[0].status.conditions[?(@.type=="Ready")].lastTransitionTime}`))
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("staging: %.1f s, of which its pod took %.0f", took.Seconds(), ready.Sub(begin).Seconds())
	if late := begin.Add(took).Sub(ready); late > 20*time.Second {
		t.Errorf("up ended %s after the pod was ready", late)
	}
	if svc := serviceOf(t, staging.ps(), "web"); svc.Ready != 1 || svc.State != engine.ServiceHealthy {
		t.Errorf("staging: %+v", svc)
	}
	for where, want := range map[string]string{name: "hunter2", namespace: "for staging"} {
		if text := c.kubectl("", "-n", where, "get", "secrets", "-o", `go-template={{range .items}}{{with .data.password}}{{. | base64decode}}{{end}}{{end}}`); text != want {
			t.Errorf("the secret in %s is %q", where, text)
		}
	}
	var view struct{ Changes []engine.Change }
	p.json(&view, "diff", "production", "staging")
	var paths []string
	for _, change := range view.Changes {
		paths = append(paths, change.Action+" "+change.Path)
	}
	if want := []string{"change secrets.password.file", "change services.web.deploy.replicas", "add services.web.environment.LEVEL"}; !slices.Equal(paths, want) {
		t.Errorf("the difference is %q, want %q", paths, want)
	}
	// What is changed in the one is no drift of the other.
	staging.run("scale", "web=2", "--timeout", "2m")
	p.wantDrift()
	staging.wantDrift("services.web.deploy.replicas scaled")
	staging.run("down", "--yes")
	if svc := serviceOf(t, p.ps(), "web"); svc.Ready != 2 {
		t.Errorf("production after staging is down: %+v", svc)
	}
}

// TestKubernetesPlansFiveHundred: a plan of five hundred services, compared with all that the cluster says, and how it grows.
func TestKubernetesPlansFiveHundred(t *testing.T) {
	c := reachCluster(t)
	for _, n := range []int{50, 500} {
		name := fmt.Sprintf("e2e-many-%d", n)
		p := c.project(name)
		file := func(level string) string {
			var b strings.Builder
			fmt.Fprintf(&b, "name: %s\nservices:\n", name)
			for i := range n {
				fmt.Fprintf(&b, "  s%d: {image: %q, environment: {PORT: '8080', LEVEL: %s}, expose: ['8080'], deploy: {replicas: 0}}\n", i, c.image, level)
			}
			return b.String()
		}
		p.write("compose.yaml", file("one"))
		begin := time.Now()
		p.run("up", "--yes", "--timeout", "10m")
		t.Logf("%d services applied in %.1f s", n, time.Since(begin).Seconds())
		p.write("compose.yaml", file("two"))
		best := time.Hour
		for range 5 {
			var plan api.Plan
			begin := time.Now()
			p.json(&plan, "plan")
			best = min(best, time.Since(begin))
			if len(plan.Changes) != n {
				t.Fatalf("%d changes, want %d", len(plan.Changes), n)
			}
		}
		t.Logf("%d services planned in %d ms", n, best.Milliseconds())
		p.run("down", "--yes")
	}
}

// TestKubernetesPlanFiles: a plan that is kept is carried out as it was seen, and refused where the cluster, or a secret, is
// another meanwhile.
func TestKubernetesPlanFiles(t *testing.T) {
	c := reachCluster(t)
	t.Parallel()
	const name = "e2e-plan"
	p := c.project(name)
	file := func(level string) string {
		return c.shop(name, ", LEVEL: "+level, "    secrets: [password]\nsecrets: {password: {file: password}}\n")
	}
	p.write("password", "hunter2")
	p.write("compose.yaml", file("one"))
	p.run("plan", "-o", "first.plan")
	if text := string(p.read("first.plan")); strings.Contains(text, "hunter2") {
		t.Errorf("the plan has the secret in it:\n%s", text)
	}
	apply := func(plan string) (string, error) {
		local := &project{t: t, dir: p.dir, trellis: p.trellis, env: p.env} // where, the plan says
		return local.try("apply", plan, "--yes", "--timeout", "2m")
	}
	if out, err := apply("first.plan"); err != nil {
		t.Fatalf("apply: %v\n%s", err, out)
	}
	if out, err := apply("first.plan"); err == nil || !strings.Contains(out, "runs now, and did not then") {
		t.Errorf("a plan of before it ran: %v\n%s", err, out)
	}
	p.write("compose.yaml", file("two"))
	p.run("plan", "-o", "second.plan")
	c.kubectl("", "-n", name, "scale", "deployment/web", "--replicas=1")
	if out, err := apply("second.plan"); err == nil || !strings.Contains(out, "no longer as it was when this was planned") {
		t.Errorf("the cluster has moved: %v\n%s", err, out)
	}
	p.run("drift", "--revert", "--timeout", "2m")
	p.run("plan", "-o", "second.plan")
	p.write("password", "another")
	if out, err := apply("second.plan"); err == nil || !strings.Contains(out, "has another content now") {
		t.Errorf("the secret has moved: %v\n%s", err, out)
	}
	p.write("password", "hunter2")
	p.write("compose.yaml", file("three")) // what was planned is carried out, not what the file says since
	if out, err := apply("second.plan"); err != nil {
		t.Fatalf("apply: %v\n%s", err, out)
	}
	if level := c.kubectl("", "-n", name, "get", "deployment", "web", "-o", `jsonpath={.spec.template.spec.containers[0].env[?(@.name=="LEVEL")].value}`); level != "two" {
		t.Errorf("LEVEL is %q", level)
	}
}

// TestKubernetesPreviewsEnd: what has a time to live is gone from the cluster when that is over, with its volumes, although
// nothing of Trellis runs there; a deploy before that begins a new time; and it can come back.
func TestKubernetesPreviewsEnd(t *testing.T) {
	c := reachCluster(t)
	t.Parallel()
	const name = "e2e-end-preview"
	p := c.project(name)
	p.flags = []string{"--environment", "preview"}
	file := func(ttl, level string) string {
		return fmt.Sprintf("x-trellis: {environments: {preview: {on: kubernetes, ttl: %s}}}\n", ttl) +
			strings.Replace(c.shop("e2e-end", ", LEVEL: "+level, "volumes: {data: {}}\n"), "    expose:", "    volumes: ['data:/data']\n    expose:", 1)
	}
	p.write("compose.yaml", file("1h", "one"))
	p.run("up", "--yes", "--timeout", "2m")
	ends := p.ps().Ends
	if left := time.Until(*ends); left > time.Hour || left < 50*time.Minute {
		t.Errorf("it ends in %s", left)
	}
	p.wantDrift()
	p.write("compose.yaml", file("1h", "two"))
	p.run("up", "--yes", "--timeout", "2m")
	if again := p.ps().Ends; !again.After(*ends) {
		t.Errorf("it ends at %v, and after another deploy at %v", ends, again)
	}
	p.write("compose.yaml", file("5s", "two"))
	_, _ = p.try("up", "--yes", "--timeout", "10s") // it may be over before it is healthy
	eventually(t, 3*time.Minute, "the cluster has taken it down", func() string {
		return c.kubectl("", "-n", name, "get", "deployments,statefulsets,pods,services,jobs,persistentvolumeclaims", "-o", "name")
	})
	if out, err := p.try("ps"); err != nil || !strings.Contains(out, "is not running") {
		t.Errorf("ps after its end: %v\n%s", err, out)
	}
	p.write("compose.yaml", file("1h", "two"))
	p.run("up", "--yes", "--timeout", "2m")
	if svc := serviceOf(t, p.ps(), "web"); svc.State != engine.ServiceHealthy {
		t.Errorf("brought back it is %+v", svc)
	}
	p.run("down", "--volumes", "--yes")
	if left := c.kubectl("", "-n", name, "get", "jobs,pods", "-o", "name"); left != "" {
		t.Errorf("down leaves %s", left)
	}
}
