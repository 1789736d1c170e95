//go:build e2e

package e2e

import (
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// firstAnswer waits until a port of the node that a Service opens answers 200, and returns when that was.
func (c *testCluster) firstAnswer(namespace, service string) time.Time {
	c.t.Helper()
	url := ""
	for end := time.Now().Add(4 * time.Minute); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		if url == "" {
			port, err := exec.Command("kubectl", "get", "service", service, "-n", namespace, "-o", "jsonpath={.spec.ports[0].nodePort}").Output()
			if err != nil || len(port) == 0 {
				continue
			}
			url = fmt.Sprintf("http://%s:%s/", c.node, port)
		}
		client := http.Client{Timeout: time.Second}
		if r, err := client.Get(url); err == nil {
			_ = r.Body.Close()
			if r.StatusCode == http.StatusOK {
				return time.Now()
			}
		}
	}
	c.t.Errorf("%s of namespace %s does not answer", service, namespace)
	return time.Time{}
}

// TestKubernetesEvergreen brings the example up in a cluster with nothing but its file, and tells how long it is until the first
// page: of up, whose images the node has to pull, of up where the node has them, and of kubectl apply of what is exported, where
// the node has them too and nothing waits for anything. It runs by itself: it measures.
func TestKubernetesEvergreen(t *testing.T) {
	c := reachCluster(t)
	const name, plain = "e2e-evergreen", "e2e-evergreen-plain"
	dir := filepath.Join(t.TempDir(), "evergreen")
	copyTree(t, filepath.Join("..", "examples", "evergreen"), dir)
	p := projectIn(t, dir)
	p.flags = []string{"--on", "kubernetes", "-p", name}
	c.onTheNode(t, p)
	for _, namespace := range []string{name, plain} {
		t.Cleanup(func() { c.kubectl("", "delete", "namespace", namespace, "--ignore-not-found", "--wait=false") })
	}
	p.run("plan") // builds
	up := func() time.Duration {
		begin, answered := time.Now(), make(chan time.Time, 1)
		go func() { answered <- c.firstAnswer(name, name+"-gateway") }()
		p.run("up", "--yes", "--timeout", "150s")
		return (<-answered).Sub(begin)
	}
	cold := up()
	if page := pageAt(t, c.gateway(name)+"/courses"); !strings.Contains(page, `href="/courses/`) {
		t.Errorf("the catalogue has no courses:\n%.500s", page)
	}
	images := map[string]string{}
	for _, line := range strings.Fields(c.kubectl("", "get", "deployments,statefulsets", "-n", name, "-l", "app.kubernetes.io/part-of="+name,
		"-o", `jsonpath={range .items[*]}{.spec.template.spec.containers[0].image}{"\n"}{end}`)) {
		at, digest, _ := strings.Cut(line, "@")
		images[at] = digest
	}
	p.run("down", "--yes", "--volumes")
	c.kubectl("", "delete", "namespace", name)
	warm := up()
	p.run("down", "--yes", "--volumes")
	c.kubectl("", "delete", "namespace", name)

	out := filepath.Join(t.TempDir(), "exported")
	export := exec.Command(built.trellis, "export", "kubernetes", out, "-p", name, "--namespace", plain, "--wait-image=", "--publish", "node-port")
	export.Dir = dir
	if text, err := export.CombinedOutput(); err != nil {
		t.Fatalf("export: %v\n%s", err, text)
	}
	var b strings.Builder
	b.WriteString("apiVersion: kustomize.config.k8s.io/v1beta1\nkind: Kustomization\nnamespace: " + plain + "\nresources:\n- base\nimages:\n")
	for at, digest := range images {
		fmt.Fprintf(&b, "- {name: %s, newName: %q, digest: %q}\n", at[strings.LastIndex(at, "/")+1:], at, digest)
	}
	if err := os.WriteFile(filepath.Join(out, "kustomization.yaml"), []byte(b.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	begin := time.Now()
	c.kubectl("", "create", "namespace", plain)
	c.kubectl("", "apply", "--server-side", "-k", out)
	c.kubectl(fmt.Sprintf(`
apiVersion: v1
kind: Service
metadata: {name: door, namespace: %[1]s}
spec:
  type: NodePort
  selector: {app.kubernetes.io/part-of: %[2]s, app.kubernetes.io/name: web}
  ports: [{port: 8080}]
`, plain, name), "apply", "-f", "-")
	applied := c.firstAnswer(plain, "door").Sub(begin)
	t.Logf("until the first page of Evergreen: up %.1f s with images to pull, %.1f s without; kubectl apply of what is exported %.1f s, which waits for nothing",
		cold.Seconds(), warm.Seconds(), applied.Seconds())
}

// TestKubernetesGuide types the commands of the guide on a machine that is the node of its own cluster.
func TestKubernetesGuide(t *testing.T) {
	c := reachCluster(t)
	t.Parallel()
	script, shown := readGuide(t, "../docs/guides/kubernetes.md")
	root := t.TempDir()
	dir := filepath.Join(root, "examples", "evergreen")
	copyTree(t, "../examples/evergreen", dir)
	p := projectIn(t, dir)
	p.flags = []string{"--on", "kubernetes"}
	c.onTheNode(t, p)
	t.Cleanup(func() { c.kubectl("", "delete", "namespace", "evergreen", "--ignore-not-found", "--wait=false") })
	cmd := exec.Command(p.entered[0], append(p.entered[1:], "bash", "-c", script)...)
	cmd.Dir, cmd.Env = root, append(p.env, "PATH="+built.dir+":"+os.Getenv("PATH"), "NO_COLOR=1", "LANG=C.UTF-8")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	showsAll(t, string(out), shown)
}
