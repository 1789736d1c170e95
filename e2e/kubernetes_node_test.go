//go:build e2e

package e2e

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"trellis/engine"
)

// TestKubernetesNodeLost: a node of which the cluster hears nothing any more takes its instances along: ps says that nobody knows
// how they are, and on which node; when it comes back they are as before, none started anew. It runs by itself: it freezes the
// cluster's node.
func TestKubernetesNodeLost(t *testing.T) {
	c := reachCluster(t)
	const name = "e2e-node"
	p := c.project(name)
	p.write("compose.yaml", fmt.Sprintf(`name: %s
services:
  web:
    image: %s
    environment: {PORT: "8080"}
    expose: ["8080"]
    x-trellis: {probe: {http: /healthz}}
    deploy: {replicas: 2}
`, name, c.image))
	p.run("up", "--yes", "--timeout", "120s")
	before := c.pods(name, "web")
	web := func() engine.Service { return serviceOf(t, p.ps(), "web") }
	c.inside("kill -STOP $(pgrep -x kubelet)")
	frozen := true
	defer func() {
		if frozen {
			c.inside("kill -CONT $(pgrep -x kubelet)")
		}
	}()
	began := time.Now()
	eventually(t, 2*time.Minute, "ps names the lost instances", func() string {
		svc := web()
		if svc.Ready != 0 || svc.State == engine.ServiceHealthy || !strings.Contains(svc.Reason, "node1") {
			return fmt.Sprintf("%s, %d ready: %s", svc.State, svc.Ready, svc.Reason)
		}
		for _, in := range svc.Instances {
			if in.State != engine.InstanceUnready || in.Ready {
				return fmt.Sprintf("%s is %s", in.ID, in.State)
			}
		}
		return ""
	})
	t.Logf("told after %s", time.Since(began).Round(time.Second))
	c.inside("kill -CONT $(pgrep -x kubelet)")
	frozen = false
	eventually(t, time.Minute, "they are ready again", func() string {
		if svc := web(); svc.State != engine.ServiceHealthy || svc.Ready != 2 {
			return fmt.Sprintf("%s, %d ready: %s", svc.State, svc.Ready, svc.Reason)
		}
		return ""
	})
	if after := c.pods(name, "web"); after != before {
		t.Errorf("the pods were\n%s\nand are\n%s", before, after)
	}
}
