//go:build e2e

package e2e

import (
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"trellis/engine"
	"trellis/engine/enginetest"
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
		if svc.Ready != 0 || svc.State == engine.ServiceHealthy || !strings.Contains(svc.Reason, "its node node") {
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

// another skips a test that needs a second real node, and says how it gets one.
func (c *testCluster) another() {
	c.t.Helper()
	if n := os.Getenv("CLUSTER_NODES"); n == "" || n == "1" {
		c.t.Skip("a cluster of one node: what another one is for is tested with 'make test-nodes'")
	}
}

// cluster runs a command of e2e/cluster/cluster.sh.
func (c *testCluster) cluster(args ...string) {
	c.t.Helper()
	if out, err := exec.Command(os.Getenv("CLUSTER_SH"), args...).CombinedOutput(); err != nil {
		c.t.Fatalf("cluster.sh %v: %v\n%s", args, err, out)
	}
}

// placed returns how many of the pods that a selector finds are on each node; those that are to end do not count.
func (c *testCluster) placed(namespace, selector string) map[string]int {
	at := map[string]int{}
	out := c.kubectl("", "get", "pods", "-n", namespace, "-l", selector, "-o", `jsonpath={range .items[*]}{.spec.nodeName} {.metadata.deletionTimestamp}{"\n"}{end}`)
	for line := range strings.Lines(out) {
		if f := strings.Fields(line); len(f) == 1 {
			at[f[0]]++
		}
	}
	return at
}

// TestKubernetesNodeDies: of a cluster's two nodes one is gone, in a moment or because nobody reaches it, with half of each service,
// half of the data plane, and the control plane. What may be repeated is answered all along, service to service too; ps says
// which instances are lost; they are replaced on the other node, where the project is deployed meanwhile; and when the node
// is back there are as many as there should be. It runs by itself.
func TestKubernetesNodeDies(t *testing.T) {
	reachCluster(t).another()
	f := newFault(t)
	for _, way := range []struct{ name, goes, comes string }{{"cut off", "cut", "join"}, {"without power", "kill", "boot"}} {
		t.Run(way.name, func(t *testing.T) {
			c := reachCluster(t)
			c.dataPlane()
			f.tried++
			tr := c.outlives(way.goes, way.comes)
			f.requests, f.lost = f.requests+tr.Report.Completed, f.lost+tr.All()
			if !t.Failed() {
				f.held++
			}
		})
	}
}

// outlives is the test for one way in which the second node goes and comes back.
func (c *testCluster) outlives(goes, comes string) enginetest.Traffic {
	t := c.t.(*testing.T)
	name := "e2e-" + goes
	p := c.project(name)
	file := func(version string) string { return planeShop(name, c.image, version, 4) }
	p.write("compose.yaml", file("v1"))
	p.run("up", "--yes", "--timeout", "120s")
	// A connection stays where it leads, and until the data plane serves on its node that is the other one.
	c.kubectl("", "rollout", "status", "deployment/trellis-"+name+"-data-plane", "-n", name, "--timeout=90s")
	part := func(component string) string { return "app.kubernetes.io/component=" + component }
	for what, want := range map[string]int{"app.kubernetes.io/name=web": 2, "app.kubernetes.io/name=api": 1, part("data-plane"): 1} {
		if at := c.placed(name, what); at["node1"] != want || at["node2"] != want {
			t.Fatalf("%s are on %v, want %d on each node", what, at, want)
		}
	}
	if c.placed(name, part("control-plane"))["node2"] == 0 { // it is to be lost too
		c.kubectl("", "cordon", "node1")
		c.kubectl("", "delete", "pod", "-n", name, "-l", part("control-plane"))
		c.kubectl("", "uncordon", "node1")
	}
	c.kubectl("", "wait", "pod", "-n", name, "-l", part("control-plane"), "--for=condition=Ready", "--timeout=60s")
	web := func() engine.Service { return serviceOf(t, p.ps(), "web") }
	url := c.gateway(name)
	pageAt(t, url+"/fetch?url=http://api:8080/")

	there := true
	defer func() {
		if !there {
			c.cluster(comes, "2")
		}
	}()
	began := time.Now()
	told := func(what string) { t.Logf("%s: %s after %s", goes, what, time.Since(began).Round(time.Second)) }
	mix := calling()
	tr := c.drive(url, mix, func() {
		c.cluster(goes, "2")
		there = false
		began = time.Now()
		eventually(t, 60*time.Second, "ps names the lost instances", func() string {
			svc := web()
			lost := slices.DeleteFunc(slices.Clone(svc.Instances), func(in engine.Instance) bool { return in.Ready })
			if svc.State != engine.ServiceDegraded || svc.Ready != 2 || len(lost) != 2 || !strings.Contains(svc.Reason, "its node node2 does not answer") {
				return fmt.Sprintf("%s, %d ready of %d: %s", svc.State, svc.Ready, len(svc.Instances), svc.Reason)
			}
			return ""
		})
		told("ps names the lost instances")
		eventually(t, 90*time.Second, "they are replaced", func() string {
			if at := c.placed(name, "app.kubernetes.io/name=web"); at["node1"] != 4 {
				return fmt.Sprint(at)
			}
			for _, svc := range p.ps().Services {
				if svc.State != engine.ServiceHealthy || svc.Ready != svc.Want {
					return fmt.Sprintf("%s is %s, %d ready: %s", svc.Name, svc.State, svc.Ready, svc.Reason)
				}
			}
			return ""
		})
		told("the project is whole again")
		eventually(t, 90*time.Second, "another control plane holds the Lease", func() string {
			if at := c.placed(name, part("control-plane")); at["node1"] != 1 {
				return fmt.Sprint(at)
			}
			pod := c.kubectl("", "get", "pods", "-n", name, "-l", part("control-plane"), "--field-selector=spec.nodeName=node1", "-o", "jsonpath={.items[*].metadata.name}")
			if holder := c.kubectl("", "get", "lease", "trellis-"+name, "-n", name, "-o", "jsonpath={.spec.holderIdentity}"); holder != pod {
				return fmt.Sprintf("%q holds it, not %q", holder, pod)
			}
			return ""
		})
		told("another control plane holds the Lease")
		p.write("compose.yaml", file("v2"))
		if out := p.run("up", "--yes", "--timeout", "120s"); !strings.Contains(out, "web r1→r2  4/4 healthy") {
			t.Errorf("a deploy without the node ends so:\n%s", out)
		}
		told("a deploy has ended")
		c.cluster(comes, "2")
		there = true
		began = time.Now()
		c.kubectl("", "wait", "node/node2", "--for=condition=Ready", "--timeout=60s")
		eventually(t, 90*time.Second, "nothing of before is left", func() string {
			all := strings.Fields(c.kubectl("", "get", "pods", "-n", name, "-l", "app.kubernetes.io/name in (web,api)", "-o", "name"))
			if svc := web(); svc.State != engine.ServiceHealthy || svc.Ready != 4 || len(svc.Instances) != 4 || len(all) != 6 {
				return fmt.Sprintf("%s, %d ready of %d: %s; %d pods", svc.State, svc.Ready, len(svc.Instances), svc.Reason, len(all))
			}
			return ""
		})
		told("nothing of before is left")
	})
	t.Logf("%s: lost were %d reads, %d orders, %d calls from service to service", goes, len(tr.Lost[0]), len(tr.Lost[1]), len(tr.Lost[2]))
	c.noneLost(tr, 0)
	c.noneLost(tr, 2)
	// Nobody knows whether the node has carried out an order that it had, or was sent until its silence was noticed; that is said.
	for _, r := range tr.Lost[1] {
		if r.Status != http.StatusBadGateway {
			t.Errorf("an order was lost without an honest answer: %+v", r)
			break
		}
	}
	if n := len(tr.Lost[1]); n > drivers {
		t.Errorf("%d orders lost, more than there can have been under way", n)
	}
	return tr
}

// TestKubernetesDataOnADeadNode: a service that owns a volume is not replaced while it might still run and write it. ps says why and
// what to type where the node is off for good; that has it replaced, with what it had written. It runs by itself: its node dies.
func TestKubernetesDataOnADeadNode(t *testing.T) {
	c := reachCluster(t)
	c.another()
	const name, web = "e2e-dead", "app.kubernetes.io/name=web"
	p := c.project(name)
	p.write("compose.yaml", fmt.Sprintf(`name: %s
services:
  web:
    image: %s
    environment: {PORT: "8080"}
    expose: ["8080"]
    volumes: ["data:/data"]
    x-trellis: {probe: {http: /healthz}}
volumes: {data: {}}
`, name, c.image))
	c.kubectl("", "cordon", "node1")
	p.run("up", "--yes", "--timeout", "120s")
	c.kubectl("", "uncordon", "node1")
	if at := c.placed(name, web); at["node2"] != 1 {
		t.Fatalf("it is on %v", at)
	}
	p.run("exec", "-T", "web", "/bin/sh", "-c", "echo kept >/data/word")
	before := c.pods(name, "web")

	c.cluster("kill", "2")
	there, tainted := false, ""
	defer func() {
		if tainted != "" {
			c.kubectl("", "taint", "node", "node2", tainted+"-")
		}
		if !there {
			c.cluster("boot", "2")
		}
	}()
	svc := func() engine.Service { return serviceOf(t, p.ps(), "web") }
	said := regexp.MustCompile(`'kubectl taint node node2 (\S+)'`)
	var taint string
	eventually(t, time.Minute, "ps says what to do", func() string {
		found := said.FindStringSubmatch(svc().Reason)
		if found == nil {
			return fmt.Sprintf("%s: %s", svc().State, svc().Reason)
		}
		taint = found[1]
		return ""
	})
	// Its pod is to go by now, and nobody is there to end it.
	c.kubectl("", "wait", "pod", "-n", name, "-l", web, `--for=jsonpath={.metadata.deletionTimestamp}`, "--timeout=60s")
	if now := svc(); now.State == engine.ServiceHealthy || now.Ready != 0 || !said.MatchString(now.Reason) {
		t.Errorf("while nobody knows how it is: %s, %d ready: %s", now.State, now.Ready, now.Reason)
	}
	if now := c.pods(name, "web"); now != before {
		t.Errorf("nobody has vouched for the node, and the pods are\n%s, were\n%s", now, before)
	}

	c.kubectl("", "taint", "node", "node2", taint)
	tainted = taint
	eventually(t, 2*time.Minute, "it is replaced", func() string {
		if now := svc(); now.State != engine.ServiceHealthy || c.placed(name, web)["node1"] != 1 {
			return fmt.Sprintf("%s, %d ready: %s", now.State, now.Ready, now.Reason)
		}
		return ""
	})
	if out := p.run("exec", "-T", "web", "/bin/sh", "-c", "read word </data/word && echo it has $word it"); !strings.Contains(out, "it has kept it") {
		t.Errorf("what it had written: %q", out)
	}
	c.cluster("boot", "2")
	there = true
	c.kubectl("", "wait", "node/node2", "--for=condition=Ready", "--timeout=60s")
	c.kubectl("", "taint", "node", "node2", taint+"-")
	tainted = ""
	if at := c.placed(name, web); at["node1"] != 1 || at["node2"] != 0 {
		t.Errorf("with the node back they are on %v", at)
	}
}
