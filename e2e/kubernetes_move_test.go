//go:build e2e

package e2e

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"trellis/engine/enginetest"
)

// TestKubernetesMove: a project that outgrows its machine goes to a cluster, from the same file and under load: it comes up
// there, the gateway of the machine leads a tenth of the requests to it, half, all, and then the services of the machine are
// stopped. Nothing is lost.
func TestKubernetesMove(t *testing.T) {
	c := reachCluster(t)
	c.dataPlane()
	t.Parallel()
	const name = "e2e-move"
	port := freePort(t)
	cluster, machine := c.project(name), newProject(t, map[string]string{"ledger/.keep": ""})
	machine.env = append(machine.env, "LEDGER="+filepath.Join(machine.dir, "ledger", "web"))
	file := func(shift string) string {
		return fmt.Sprintf(`name: %s
x-trellis: {gateway: {http: ":%d", policy: {auth: none}%s}}
services:
  web:
    image: %s
    environment: {PORT: "8080", LEDGER: "${LEDGER:-/dev/null}"}
    ports: [{target: 8080, app_protocol: http, x-trellis: {routes: [{path: "/*"}]}}]
    x-trellis: {process: {command: [%s]}, probe: {http: /healthz}}
    deploy: {replicas: 2}
`, name, port, shift, c.image, built.app)
	}
	machine.write("compose.yaml", file(""))
	machine.run("up", "-d", "--yes", "--driver", "process")
	orders := func() int { return strings.Count(ledgers(t, filepath.Join(machine.dir, "ledger", "web")), "\n") }
	var left int
	tr := underLoadOf(t, url(port), 200, enginetest.Mix(), func() {
		cluster.write("compose.yaml", file(""))
		cluster.run("up", "--yes", "--timeout", "120s")
		to := c.gateway(name)
		eventually(t, 30*time.Second, "the cluster's gateway answers", func() string {
			if _, err := fetch(to + "/"); err != nil {
				return err.Error()
			}
			return ""
		})
		for _, share := range []int{10, 50, 100} {
			machine.write("compose.yaml", file(fmt.Sprintf(`, shift: {to: %q, share: %d%%}`, to, share)))
			machine.run("up", "-d", "--yes", "--driver", "process")
			time.Sleep(2 * time.Second)
		}
		machine.run("stop", "web")
		left = orders()
		time.Sleep(2 * time.Second)
	})
	tr.NoneLost(t)
	for kind, n := range tr.Report.Errors {
		t.Errorf("%d %s", n, kind)
	}
	if n := orders(); n != left || n == 0 || n == len(tr.Posted) {
		t.Errorf("of %d orders the machine had %d when its services were stopped, %d in the end", len(tr.Posted), left, n)
	}
	t.Logf("%d requests; of %d orders the machine had %d, the cluster the others", tr.Report.Completed, len(tr.Posted), left)
}
