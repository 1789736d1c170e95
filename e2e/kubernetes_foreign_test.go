//go:build e2e

package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// definitions gives the cluster what somebody's kinds are, as e2e/cluster/foreign.sh has fetched them.
func (c *testCluster) definitions(of string) {
	c.t.Helper()
	file := filepath.Join(os.Getenv("FOREIGN_CRDS"), of+".yaml")
	c.kubectl("", "apply", "--server-side", "--force-conflicts", "-f", file)
	c.kubectl("", "wait", "--for=condition=Established", "--timeout=60s", "-f", file)
}

// TestKubernetesForeign: the API server takes, by their own definitions, the objects of a project in a cluster that has the Prometheus Operator, KEDA and a
// mesh; what somebody does to them is drift, is brought back, and they go when the file no longer says so. Nothing of theirs runs.
func TestKubernetesForeign(t *testing.T) {
	if os.Getenv("FOREIGN_CRDS") == "" {
		t.Skip("it takes the definitions of others, which 'make test-kubernetes' fetches; FOREIGN_CRDS names their folder")
	}
	for mesh, c := range map[string]struct{ policy, reader string }{
		"istio":   {"authorizationpolicies.security.istio.io/web", "peerauthentications.security.istio.io/web"},
		"linkerd": {"meshtlsauthentications.policy.linkerd.io/web", "servers.policy.linkerd.io/web-8080"},
	} {
		t.Run(mesh, func(t *testing.T) { foreignLife(t, mesh, c.policy, c.reader) })
	}
}

func foreignLife(t *testing.T, mesh, policy, reader string) {
	c := reachCluster(t)
	c.dataPlane()
	if _, err := os.Stat(filepath.Join(os.Getenv("FOREIGN_CRDS"), mesh+".yaml")); err != nil && mesh == "linkerd" {
		t.Skip("Linkerd's definitions are no Go module, and cannot be had everywhere")
	}
	for _, of := range []string{"prometheus-operator", "keda", mesh} {
		c.definitions(of)
	}
	besides := ", monitoring: prometheus-operator, autoscaler: keda, mesh: " + mesh
	name := "e2e-" + mesh
	p := c.project(name)
	p.flags = []string{"--environment", "live"}
	file := func(besides string) string {
		return fmt.Sprintf(`name: %[1]s
x-trellis:
  environments: {live: {on: kubernetes, namespace: %[1]s%[3]s}}
  gateway: {http: ":8080", policy: {auth: none}}
services:
  web:
    image: %[2]s
    environment: {PORT: "8080"}
    ports: [{target: 8080, app_protocol: http, x-trellis: {routes: [{path: "/*"}]}}]
    deploy: {resources: {limits: {cpus: "0.5"}}, x-trellis: {autoscale: {min: 1, max: 2, target: {concurrency: 20, cpu: 0.7}}}}
    x-trellis: {probe: {http: /healthz}, calls: [api], metrics: {path: /metrics}, objective: {availability: 99.9%%, latency: {p99: 250ms}}}
  api:
    image: %[2]s
    environment: {PORT: "8080"}
    ports: [{target: 8080, app_protocol: http}]
    x-trellis: {probe: {http: /healthz}}
`, name, c.image, besides)
	}
	p.write("compose.yaml", file(besides))
	for _, args := range [][]string{{}, {"--mesh", mesh}} {
		dir := t.TempDir()
		export := exec.Command(p.trellis, append([]string{"export", "kubernetes", dir, "-f", "../engine/kubernetes/testdata/foreign/compose.yaml", "--namespace", "default", "--monitoring", "prometheus-operator"}, args...)...)
		if out, err := export.CombinedOutput(); err != nil {
			t.Fatalf("export: %v\n%s", err, out)
		}
		if out, err := exec.Command("kubectl", "apply", "--server-side", "--dry-run=server", "--validate=strict", "-k", dir).CombinedOutput(); err != nil {
			t.Errorf("what is exported is refused: %v\n%s", err, out)
		}
	}
	p.run("up", "--yes", "--timeout", "180s")
	there := func(object string) bool {
		return exec.Command("kubectl", "get", object, "-n", name).Run() == nil
	}
	rules := "prometheusrules.monitoring.coreos.com/trellis-" + name + "-live" // as the project is called in its environment
	objects := []string{"podmonitors.monitoring.coreos.com/web", "podmonitors.monitoring.coreos.com/trellis-" + name + "-live-data-plane", rules, policy, reader, "scaledobjects.keda.sh/web"}
	for _, object := range objects {
		if !there(object) {
			t.Errorf("%s is not there", object)
		}
	}
	if out := p.run("drift"); strings.Contains(out, "services.") || strings.Contains(out, "x-trellis") {
		t.Errorf("nobody has done anything, and it drifts:\n%s", out)
	}
	if out := p.run("plan"); strings.Contains(out, "mesh") {
		t.Errorf("nothing has changed, and it is planned:\n%s", out)
	}
	c.kubectl("", "delete", policy, rules, "-n", name)
	eventually(t, 60*time.Second, "drift is told", func() string {
		out, _ := p.try("drift")
		if !strings.Contains(out, "services.web") || !strings.Contains(out, "live.monitoring") {
			return out
		}
		return ""
	})
	p.run("drift", "--revert", "--timeout", "2m")
	for _, object := range objects {
		if !there(object) {
			t.Errorf("%s is not brought back", object)
		}
	}
	p.write("compose.yaml", file(""))
	if out := p.run("plan"); !strings.Contains(out, "live.mesh") {
		t.Errorf("the plan does not say that the mesh is left:\n%s", out)
	}
	p.run("up", "--yes", "--timeout", "180s")
	for _, object := range objects {
		if there(object) {
			t.Errorf("%s is still there", object)
		}
	}
	p.write("compose.yaml", file(besides))
	p.run("up", "--yes", "--timeout", "180s")
	p.run("down", "--yes")
	for _, object := range objects {
		if there(object) {
			t.Errorf("%s is there after down", object)
		}
	}
}
