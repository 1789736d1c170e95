//go:build e2e

package e2e

import (
	"encoding/base64"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestKubernetesTakesWhatIsExported: the API server accepts everything that is exported of a dozen projects and more, each
// object with every field that it has.
func TestKubernetesTakesWhatIsExported(t *testing.T) {
	c := reachCluster(t)
	t.Parallel()
	const name = "e2e-export"
	c.kubectl("", "create", "namespace", name)
	t.Cleanup(func() { c.kubectl("", "delete", "namespace", name, "--wait=false") })
	var files []string
	for _, pattern := range []string{
		"../engine/kubernetes/testdata/*.compose.yaml", "../engine/kubernetes/testdata/public/*/compose.yaml",
		"projects/*/compose.yaml", "../examples/evergreen/compose.yaml",
	} {
		found, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, found...)
	}
	if len(files) < 12 {
		t.Fatalf("only %d projects", len(files))
	}
	for _, file := range files {
		dir := t.TempDir()
		out, err := exec.Command(built.trellis, "export", "kubernetes", dir, "-f", file, "--namespace", name, "--gateway-class", "example").CombinedOutput()
		if err != nil {
			t.Errorf("export of %s: %v\n%s", file, err, out)
			continue
		}
		// Each in a dry run of its own; the server forgets one at once, so names do not clash.
		cmd := exec.Command("kubectl", "apply", "--server-side", "--dry-run=server", "--validate=strict", "-k", dir)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("%s is refused: %v\n%s", file, err, out)
		} else {
			t.Logf("%s: %d objects", file, strings.Count(string(out), "serverside-applied"))
		}
	}
}

// TestKubernetesLeastRole: the Role that is printed suffices for a project's life, and one without any of its rules does not.
func TestKubernetesLeastRole(t *testing.T) {
	c := reachCluster(t)
	t.Parallel()
	c.leastRole(t, "e2e-role", nil)
}

// TestKubernetesLeastRoleOfPlanes: so it does where Trellis' own pods are part of the project, which are given rights of their own.
func TestKubernetesLeastRoleOfPlanes(t *testing.T) {
	c := reachCluster(t)
	c.dataPlane()
	p := func(p *project) {
		eventually(t, 2*time.Minute, "the control plane is reached", func() string {
			if out, err := p.try("metrics", "trellis_replicas_ready"); err != nil || !strings.Contains(out, "web") {
				return out
			}
			return ""
		})
	}
	c.leastRole(t, "e2e-roles", p)
}

// leastRole takes a project through its life as an account that has the printed Role alone; then is called once it is up.
func (c *testCluster) leastRole(t *testing.T, name string, then func(*project)) {
	p := c.project(name)
	p.write("compose.yaml", fmt.Sprintf(`name: %[1]s
services:
  web:
    image: %[2]s
    environment: {PORT: "8080", DB_PASSWORD: secret}
    configs: [motd]
    expose: ["8080"]
    deploy: {replicas: 2}
    x-trellis: {probe: {http: /healthz}}
configs: {motd: {content: hello}}
`, name, c.image))
	c.kubectl("", "create", "namespace", name)
	c.kubectl("", "create", "serviceaccount", "deployer", "-n", name)
	role := exec.Command(p.trellis, "export", "kubernetes", "--rbac")
	role.Dir, role.Env = p.dir, p.env
	text, err := role.Output()
	if err != nil {
		t.Fatal(err)
	}
	c.kubectl(string(text), "apply", "-f", "-")
	c.kubectl("", "create", "rolebinding", "deployer", "--role=trellis-"+name, "--serviceaccount="+name+":deployer", "-n", name)
	p.env = append(p.env, "KUBECONFIG="+c.as(t, name, "deployer"))
	if out, err := p.try("up", "--yes", "--timeout", "120s"); err != nil {
		t.Fatalf("up: %v\n%s", err, out)
	}
	if then != nil {
		then(p)
	}
	for _, args := range [][]string{
		{"up", "--yes", "--timeout", "90s"}, {"ps"}, {"history"}, {"logs"}, {"events"}, {"top", "--no-stream"}, {"drift"}, {"scale", "web=1", "--timeout", "90s"}, {"down", "--yes"},
	} {
		if out, err := p.try(args...); err != nil {
			t.Errorf("trellis %v: %v\n%s", args, err, out)
		}
	}
	c.kubectl("", "patch", "role", "trellis-"+name, "-n", name, "--type=json", "-p", `[{"op": "remove", "path": "/rules/0"}]`)
	if out, err := p.try("up", "--yes", "--timeout", "30s"); err == nil || !strings.Contains(out, "may not do this (403)") {
		t.Errorf("without a rule of its role: %v\n%s", err, out)
	}
	p.env = os.Environ()
}

// as returns a kubeconfig with which one is a service account.
func (c *testCluster) as(t *testing.T, namespace, account string) string {
	server := c.kubectl("", "config", "view", "--minify", "-o", "jsonpath={.clusters[0].cluster.server}")
	ca := c.kubectl("", "config", "view", "--raw", "--minify", "-o", "jsonpath={.clusters[0].cluster.certificate-authority-data}")
	if ca == "" {
		text, err := os.ReadFile(c.kubectl("", "config", "view", "--raw", "--minify", "-o", "jsonpath={.clusters[0].cluster.certificate-authority}"))
		if err != nil {
			t.Fatal(err)
		}
		ca = base64.StdEncoding.EncodeToString(text)
	}
	path := filepath.Join(t.TempDir(), "kubeconfig")
	text := fmt.Sprintf(`apiVersion: v1
kind: Config
current-context: it
clusters: [{name: it, cluster: {server: %q, certificate-authority-data: %s}}]
contexts: [{name: it, context: {cluster: it, user: it, namespace: %s}}]
users: [{name: it, user: {token: %s}}]
`, server, ca, namespace, c.kubectl("", "create", "token", account, "-n", namespace))
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}
