//go:build e2e

package e2e

import (
	"testing"
	"time"
)

// TestKubernetesTerraform is the life of a project in a cluster in terraform's hands: applied, then nothing to plan; changed;
// changed by hand and brought back; imported; destroyed.
func TestKubernetesTerraform(t *testing.T) {
	c := reachCluster(t)
	t.Parallel()
	const name = "e2e-terraform"
	file := func(level string) string { return c.shop(name, ", LEVEL: "+level, "") }
	p := newTerraformed(t, map[string]string{"compose.yaml": file("one"), "main.tf": `terraform {
  required_providers {
    trellis = { source = "trellis/trellis" }
  }
}

resource "trellis_project" "shop" {
  file   = "compose.yaml"
  engine = "kubernetes"
}
`})
	p.flags = []string{"--on", "kubernetes"}
	t.Cleanup(func() { c.kubectl("", "delete", "namespace", name, "--ignore-not-found", "--wait=false") })
	p.terraform("apply", "-auto-approve")
	if svc := serviceOf(t, p.ps(), "web"); svc.Ready != 2 {
		t.Errorf("after the apply: %+v", svc)
	}
	p.same()

	p.write("compose.yaml", file("two"))
	wantIn(t, p.exits(2, "plan", "-detailed-exitcode"), `"services.web.environment.LEVEL"`, `= "one" -> "two"`)
	p.terraform("apply", "-auto-approve")
	p.same()

	c.kubectl("", "-n", name, "set", "env", "deployment/web", "LEVEL=by hand")
	c.kubectl("", "-n", name, "scale", "deployment/web", "--replicas=3")
	wantIn(t, p.exits(2, "plan", "-detailed-exitcode"), `"services.web.environment.LEVEL"`, `= "by hand" -> "two"`, `"services.web.deploy.replicas"`, `= "3" -> "2"`)
	p.terraform("apply", "-auto-approve")
	if level := c.kubectl("", "-n", name, "get", "deployment", "web", "-o", `jsonpath={.spec.template.spec.containers[0].env[?(@.name=="LEVEL")].value}`); level != "two" {
		t.Errorf("LEVEL is %q after the apply", level)
	}
	p.same()

	p.terraform("state", "rm", "trellis_project.shop")
	p.terraform("import", "trellis_project.shop", "compose.yaml?engine=kubernetes")
	p.same()

	p.terraform("destroy", "-auto-approve")
	eventually(t, time.Minute, "gone", func() string {
		return c.kubectl("", "-n", name, "get", "deployments,services,pods", "-o", "name", "--ignore-not-found")
	})
}
