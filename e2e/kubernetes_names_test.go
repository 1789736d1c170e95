//go:build e2e

package e2e

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"
)

// TestKubernetesNames: a service whose name a cluster cannot have, and that knows an address by two names, becomes healthy; and what somebody
// applies of its first version over its second, in the name of Trellis and without a mark, the control plane puts right, and what
// somebody sets by another hand it leaves.
func TestKubernetesNames(t *testing.T) {
	c := reachCluster(t)
	c.dataPlane()
	t.Parallel()
	const name = "e2e-names"
	p := c.project(name)
	up := func(version string) {
		p.write("compose.yaml", fmt.Sprintf(`name: %s
services:
  my_api:
    image: %s
    environment: {PORT: "8080", VERSION: %s}
    expose: ["8080"]
    extra_hosts: ["older=10.9.8.7", "legacy=10.9.8.7"]
    x-trellis: {probe: {http: /healthz}}
`, name, c.image, version))
		p.run("up", "--yes", "--timeout", "2m")
	}
	up("v1")
	hosts := c.kubectl("", "get", "deployment", "my-api", "-n", name, "-o", "jsonpath={.spec.template.spec.hostAliases}")
	if !strings.Contains(hosts, `["legacy","older"]`) {
		t.Errorf("it knows the address as %s", hosts)
	}
	var first map[string]any
	if err := json.Unmarshal([]byte(c.kubectl("", "get", "deployment", "my-api", "-n", name, "-o", "json")), &first); err != nil {
		t.Fatal(err)
	}
	delete(first, "status")
	meta := first["metadata"].(map[string]any)
	first["metadata"] = map[string]any{"name": meta["name"], "namespace": name, "labels": meta["labels"], "annotations": map[string]any{"trellis.dev/service": "my_api"}}
	up("v2")
	overwrite := func(manager string) {
		text, err := json.Marshal(first)
		if err != nil {
			t.Fatal(err)
		}
		c.kubectl(string(text), "apply", "--server-side", "--force-conflicts", "--field-manager="+manager, "-f", "-")
	}
	runs := func() string {
		return c.kubectl("", "get", "deployment", "my-api", "-n", name, "-o", `jsonpath={.spec.template.spec.containers[0].env[?(@.name=="VERSION")].value}`)
	}
	overwrite("trellis")
	if got := runs(); got != "v1" {
		t.Fatalf("there is %s", got)
	}
	for end := time.Now().Add(90 * time.Second); runs() != "v2"; time.Sleep(time.Second) {
		if time.Now().After(end) {
			t.Fatalf("it stays as it was overwritten:\n%s", p.run("history"))
		}
	}
	p.run("up", "--yes", "--timeout", "2m") // until it is settled again
	overwrite("somebody")
	time.Sleep(25 * time.Second)
	if got := runs(); got != "v1" {
		t.Errorf("what somebody else has set is %s", got)
	}
	if out := p.run("history"); !strings.Contains(out, "healthy") || strings.Contains(out, "failed") {
		t.Errorf("and the revision is not what it was:\n%s", out)
	}
}
