//go:build e2e

package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// fakeNodes has pods scheduled to nodes that do not exist alone, until the benchmark ends: what is measured is the clients and
// the API server, and no program is started.
func (c *testCluster) fakeNodes(n int) {
	c.t.Helper()
	if have := strings.Count(c.kubectl("", "get", "nodes", "-l", "type=kwok", "-o", "name"), "node/"); have < n {
		if out, err := exec.Command(os.Getenv("CLUSTER_SH"), "nodes", fmt.Sprint(n-have)).CombinedOutput(); err != nil {
			c.t.Fatalf("add nodes: %v\n%s", err, out)
		}
	}
	c.kubectl("", "taint", "nodes", "-l", "type=kwok", "kwok.x-k8s.io/node-")
	c.kubectl("", "cordon", "-l", "type!=kwok")
	c.t.Cleanup(func() {
		c.kubectl("", "uncordon", "-l", "type!=kwok")
		c.kubectl("", "taint", "nodes", "-l", "type=kwok", "kwok.x-k8s.io/node=fake:NoSchedule")
	})
}

// measured runs a command and returns how long it took and the most memory, in bytes, that it had at a time.
func measured(b *testing.B, dir string, args ...string) (time.Duration, float64) {
	b.Helper()
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Dir = dir
	begin := time.Now()
	if out, err := cmd.CombinedOutput(); err != nil {
		b.Fatalf("%v: %v\n%.2000s", args, err, out)
	}
	return time.Since(begin), float64(cmd.ProcessState.SysUsage().(*syscall.Rusage).Maxrss) * 1024
}

// BenchmarkKubernetesApply is the time from `trellis up` to all pods ready, beside that of `kubectl apply --server-side` of the
// same objects and `kubectl wait` for them, and of `helm install --wait` of a chart of them, for services of four replicas on nodes
// that do not exist; and how all of them grow.
func BenchmarkKubernetesApply(b *testing.B) {
	helm := tool(b, "helm", "helm.sh/helm/v3/cmd/helm")
	for _, n := range []int{50, 500} {
		b.Run(fmt.Sprintf("services=%d", n), func(b *testing.B) {
			c := reachCluster(b)
			c.fakeNodes(n*4/100 + 5)
			for i := range b.N {
				name := fmt.Sprintf("e2e-apply-%d-%d", n, i)
				var file strings.Builder
				fmt.Fprintf(&file, "name: %s\nservices:\n", name)
				for s := range n {
					fmt.Fprintf(&file, "  s%d: {image: %q, environment: {PORT: '8080'}, expose: ['8080'], deploy: {replicas: 4}}\n", s, c.image)
				}
				p := c.project(name)
				p.write("compose.yaml", file.String())
				up, memory := measured(b, p.dir, slices.Concat([]string{p.trellis}, p.flags, []string{"up", "--yes", "--timeout", "20m"})...)
				p.run("down", "--yes")

				other := name + "-kubectl"
				c.t.Cleanup(func() { c.kubectl("", "delete", "namespace", other, "--ignore-not-found", "--wait=false") })
				p.run("export", "kubernetes", "out", "--namespace", other)
				c.kubectl("", "create", "namespace", other)
				apply, theirs := measured(b, p.dir, "kubectl", "apply", "--server-side", "-k", "out")
				wait, _ := measured(b, p.dir, "kubectl", "wait", "deployments", "--all", "--for=condition=Available", "-n", other, "--timeout=20m")
				c.kubectl("", "delete", "namespace", other)

				third := name + "-helm"
				c.t.Cleanup(func() { c.kubectl("", "delete", "namespace", third, "--ignore-not-found", "--wait=false") })
				p.run("export", "kubernetes", "out-helm", "--namespace", third)
				p.write("chart/Chart.yaml", "{apiVersion: v2, name: shop, version: 1.0.0}")
				p.write("chart/templates/all.yaml", c.kubectl("", "kustomize", p.dir+"/out-helm"))
				c.kubectl("", "create", "namespace", third)
				install, helms := measured(b, p.dir, helm, "install", "shop", "chart", "-n", third, "--wait", "--timeout", "20m")
				b.Logf("%d services: up %v with %.0f MB; kubectl apply %v with %.0f MB, and wait %v; helm install %v with %.0f MB", n, up.Round(time.Millisecond),
					memory/1e6, apply.Round(time.Millisecond), theirs/1e6, wait.Round(time.Millisecond), install.Round(time.Millisecond), helms/1e6)
				b.ReportMetric(up.Seconds()/(apply+wait).Seconds(), "of-kubectl")
				b.ReportMetric(up.Seconds()/install.Seconds(), "of-helm")
				b.ReportMetric(memory/1e6, "MB")
				b.ReportMetric(theirs/1e6, "kubectl-MB")
				b.ReportMetric(helms/1e6, "helm-MB")
			}
		})
	}
}
