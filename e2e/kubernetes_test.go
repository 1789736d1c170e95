//go:build e2e

package e2e

import (
	"archive/tar"
	"bytes"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	reference "github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"

	"trellis/engine"
	"trellis/engine/enginetest"
	"trellis/load"
)

// testCluster is a cluster as e2e/cluster/cluster.sh starts it.
type testCluster struct {
	t     testing.TB
	node  string   // its address
	image string   // testapp, which the node has
	env   []string // of the commands of its projects
}

// heart are the tests in a cluster that run with -short, beside all others of this package.
var heart = []string{"TestKubernetes", "TestKubernetesAgrees", "TestKubernetesDataPlane", "TestKubernetesEngine", "TestKubernetesRunsEveryKind"}

// reachCluster returns the cluster that the test runs on: the one of `e2e/cluster/cluster.sh run go test ...`. Without
// one the test is skipped, and fails where ENGINES names kubernetes. With -short only the heart of them runs.
func reachCluster(t testing.TB) *testCluster {
	t.Helper()
	if testing.Short() && !slices.Contains(heart, t.Name()) {
		t.Skip("a cluster is tested with 'make test-kubernetes', by this test too")
	}
	c := &testCluster{t: t, node: os.Getenv("CLUSTER_NODE"), image: "docker.io/trellis/testapp:e2e"}
	if c.node == "" {
		named := slices.Contains(strings.Split(os.Getenv("ENGINES"), ","), "kubernetes")
		if named {
			t.Fatal("ENGINES names kubernetes, and there is no cluster: run it with e2e/cluster/cluster.sh run")
		}
		t.Skip("a cluster is tested with 'make test-kubernetes'")
	}
	c.give(c.image, map[string]string{"testapp": built.app, "bin/sh": "/bin/busybox"}) // pre_stop takes a shell
	return c
}

// give has the node have an image of static programs, by their paths in it. The entry point is the one at the top.
func (c *testCluster) give(name string, programs map[string]string) {
	c.t.Helper()
	archive := filepath.Join(c.t.TempDir(), "image.tar")
	err := writeImage(archive, name, programs)
	if err == nil {
		var out []byte
		if out, err = exec.Command(os.Getenv("CLUSTER_SH"), "load", archive).CombinedOutput(); err != nil {
			err = fmt.Errorf("%w: %s", err, out)
		}
	}
	if err != nil {
		c.t.Fatalf("give the node %s: %v", name, err)
	}
}

func writeImage(archive, name string, programs map[string]string) error {
	config := v1.Config{User: "65532"}
	var files bytes.Buffer
	w := tar.NewWriter(&files)
	for _, path := range slices.Sorted(maps.Keys(programs)) {
		body, err := os.ReadFile(programs[path])
		if err != nil {
			return err
		}
		if err := w.WriteHeader(&tar.Header{Name: path, Size: int64(len(body)), Mode: 0o755}); err != nil {
			return err
		}
		if _, err := w.Write(body); err != nil {
			return err
		}
		if !strings.Contains(path, "/") {
			config.Entrypoint = []string{"/" + path}
		}
	}
	if err := w.Close(); err != nil {
		return err
	}
	layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(files.Bytes())), nil })
	if err != nil {
		return err
	}
	image, err := mutate.ConfigFile(empty.Image, &v1.ConfigFile{Architecture: runtime.GOARCH, OS: "linux", Config: config, RootFS: v1.RootFS{Type: "layers"}})
	if err == nil {
		image, err = mutate.AppendLayers(image, layer)
	}
	if err != nil {
		return err
	}
	tag, err := reference.NewTag(name)
	if err != nil {
		return err
	}
	return tarball.WriteToFile(archive, tag, image)
}

// kubectl runs a command of kubectl, with stdin where it is not empty.
func (c *testCluster) kubectl(stdin string, args ...string) string {
	c.t.Helper()
	cmd := exec.Command("kubectl", args...)
	cmd.Stdin = strings.NewReader(stdin)
	out, err := cmd.CombinedOutput()
	if err != nil {
		c.t.Fatalf("kubectl %v: %v\n%s", args, err, out)
	}
	return strings.TrimSpace(string(out))
}

// project returns a project that runs in the cluster, in a namespace of its own that is gone afterwards.
func (c *testCluster) project(name string) *project {
	p := newProject(c.t, nil)
	p.flags = []string{"--on", "kubernetes"}
	p.env = append(p.env, c.env...)
	c.t.Cleanup(func() { c.kubectl("", "delete", "namespace", name, "--ignore-not-found", "--wait=false") })
	return p
}

// door opens a port of every node for a service of a project, as a team's own front door would, and returns its URL.
func (c *testCluster) door(namespace, service string) string {
	c.kubectl(fmt.Sprintf(`
apiVersion: v1
kind: Service
metadata: {name: door, namespace: %[1]s}
spec:
  type: NodePort
  selector: {app.kubernetes.io/part-of: %[1]s, app.kubernetes.io/name: %[2]s}
  ports: [{port: 8080}]
`, namespace, service), "apply", "-f", "-")
	port := c.kubectl("", "get", "service", "door", "-n", namespace, "-o", "jsonpath={.spec.ports[0].nodePort}")
	url := fmt.Sprintf("http://%s:%s", c.node, port)
	eventually(c.t, 30*time.Second, "the door answers", func() string {
		r, err := http.Get(url + "/")
		if err != nil {
			return err.Error()
		}
		_ = r.Body.Close()
		return ""
	})
	return url
}

// pods returns the names of a project's pods.
func (c *testCluster) pods(namespace, service string) string {
	return c.kubectl("", "get", "pods", "-n", namespace, "-l", "app.kubernetes.io/name="+service, "--sort-by=.metadata.name", "-o", "name")
}

// shop is the file of the test; web and more are attributes of service web and whole services.
func (c *testCluster) shop(name, web, more string) string {
	return fmt.Sprintf(`name: %[1]s
services:
  web:
    image: %[2]s
    environment: {PORT: "8080", LEDGER: /dev/null, API: "http://api:8080"%[3]s}
    expose: ["8080"]
    stop_grace_period: 10s
    healthcheck: {interval: 1s, timeout: 1s, retries: 3}
    x-trellis: {probe: {http: /healthz}}
    deploy: {replicas: 2}
%[4]s`, name, c.image, web, more)
}

const shopAPI = `  api:
    image: %s
    environment: {PORT: "8080"}
    expose: ["8080"]
    x-trellis: {probe: {http: /healthz}}
`

// TestKubernetes takes a project through its life in a real cluster: it comes up, is updated under load without losing a
// request, a bad version is explained and taken back by itself, what the file no longer has is removed and what somebody
// else made is not, and down leaves nothing that runs.
func TestKubernetes(t *testing.T) {
	c := reachCluster(t)
	t.Parallel()
	const name = "e2e-shop"
	p := c.project(name)
	withAPI := fmt.Sprintf(shopAPI, c.image)

	p.write("compose.yaml", c.shop(name, `, VERSION: v1`, withAPI))
	p.run("up", "--yes", "--timeout", "90s")
	for _, service := range []string{"api", "web"} {
		svc := serviceOf(t, p.ps(), service)
		if svc.State != engine.ServiceHealthy || svc.Revision != 1 || svc.Ready != svc.Want {
			t.Errorf("after the first up: %+v", svc)
		}
	}
	before := c.pods(name, "web")
	p.run("up", "--yes")
	if now := c.pods(name, "web"); now != before {
		t.Errorf("the same file again replaced pods: %s, then %s", before, now)
	}
	if out := p.run("plan"); !strings.Contains(out, "up to date") {
		t.Errorf("a plan of what runs: %s", out)
	}

	url := c.door(name, "web")
	c.underLoad(url, func() {
		p.write("compose.yaml", c.shop(name, `, VERSION: v2`, withAPI))
		out := p.run("up", "--yes", "--timeout", "90s")
		if !strings.Contains(out, "web r1→r2  2/2 healthy") {
			t.Errorf("the end of a rollout reads:\n%s", out)
		}
	})
	if now := c.pods(name, "web"); now == before {
		t.Error("no pod was replaced")
	}

	c.underLoad(url, func() {
		p.write("compose.yaml", c.shop(name, `, VERSION: v3, EXIT: "3"`, withAPI))
		out, err := p.try("up", "--yes", "--timeout", "2m")
		if err == nil {
			t.Errorf("a version that crashes came up:\n%s", out)
		}
		for _, want := range []string{"failed and was rolled back", "exit code 3", "about to exit with 3"} {
			if !strings.Contains(out, want) {
				t.Errorf("a version that crashes: %q is not said:\n%s", want, out)
			}
		}
	})
	eventually(t, 60*time.Second, "the pods of before serve alone", func() string {
		if svc := serviceOf(t, p.ps(), "web"); svc.State != engine.ServiceHealthy || svc.Ready != 2 {
			return fmt.Sprintf("%s, %d ready", svc.State, svc.Ready)
		}
		return ""
	})
	if out := p.run("history"); !strings.Contains(out, "rolled-back") {
		t.Errorf("history after the bad version:\n%s", out)
	}

	p.write("compose.yaml", c.shop(name, `, VERSION: v2`, ""))
	p.run("up", "--yes", "--timeout", "90s")
	left := c.kubectl("", "get", "deployments,services", "-n", name, "-o", "name")
	if strings.Contains(left, "/api") || !strings.Contains(left, "service/door") {
		t.Errorf("after api has left the file:\n%s", left)
	}

	p.run("down", "--yes")
	left = c.kubectl("", "get", "all", "-n", name, "-o", "name")
	if left != "service/door" {
		t.Errorf("down left\n%s", left)
	}
	if out, err := p.try("ps"); err != nil || !strings.Contains(out, "is not running") {
		t.Errorf("ps after down: %v\n%s", err, out)
	}
	p.run("up", "--yes", "--timeout", "90s")
}

// underLoad fails if a request is lost while during runs. Every request has a connection of its own: without the data
// plane in between, one that is kept open to a pod may be closed by the program in the moment that it is used.
func (c *testCluster) underLoad(url string, during func()) {
	c.t.Helper()
	tr := enginetest.Drive(c.t.(*testing.T), load.Config{
		URL: url, Pacer: load.Constant(100, 5*time.Minute), Connections: 32, Timeout: 10 * time.Second, Mix: enginetest.Mix(),
		Header: http.Header{"Connection": {"close"}},
	}, during)
	tr.NoneLost(c.t)
}

// TestKubernetesRunsEveryKind: a service with data of its own, one on every node, a job that another service waits for, and
// a job that fails, each told as what it is.
func TestKubernetesRunsEveryKind(t *testing.T) {
	c := reachCluster(t)
	t.Parallel()
	const name = "e2e-kinds"
	p := c.project(name)
	file := func(exit, version string) string {
		return fmt.Sprintf(`name: %[1]s
volumes: {data: {}}
services:
  store:
    image: %[2]s
    environment: {PORT: "8080", VERSION: %[4]s}
    volumes: ["data:/data"]
    x-trellis: {probe: {http: /healthz}}
    expose: ["8080"]
  everywhere:
    image: %[2]s
    environment: {PORT: "8080"}
    deploy: {mode: global}
    x-trellis: {probe: {http: /healthz}}
    expose: ["8080"]
  migrate:
    image: %[2]s
    environment: {EXIT: "%[3]s"}
    restart: "no"
  web:
    image: %[2]s
    environment: {PORT: "8080"}
    depends_on: {migrate: {condition: service_completed_successfully}}
    x-trellis: {probe: {http: /healthz}}
    expose: ["8080"]
`, name, c.image, exit, version)
	}
	p.write("compose.yaml", file("0", "v1"))
	p.run("up", "--yes", "--timeout", "120s")
	for service, want := range map[string]string{
		"store": engine.ServiceHealthy, "everywhere": engine.ServiceHealthy, "migrate": engine.ServiceCompleted, "web": engine.ServiceHealthy,
	} {
		if svc := serviceOf(t, p.ps(), service); svc.State != want {
			t.Errorf("%s is %s (%s), want %s", service, svc.State, svc.Reason, want)
		}
	}
	p.write("compose.yaml", file("0", "v2"))
	p.run("up", "--yes", "--timeout", "120s")
	if svc := serviceOf(t, p.ps(), "store"); svc.Revision != 2 || svc.State != engine.ServiceHealthy {
		t.Errorf("after its update: %+v", svc)
	}
	p.write("compose.yaml", file("3", "v2"))
	if out, err := p.try("up", "--yes", "--timeout", "120s"); err == nil || !strings.Contains(out, "migrate") {
		t.Errorf("a job that fails: %v\n%s", err, out)
	}
}

// TestKubernetesChangesKind: a service has data of its own, then none, and then runs on every node, which is another kind of workload each
// time: nothing is lost, and of the one before nothing is left.
func TestKubernetesChangesKind(t *testing.T) {
	c := reachCluster(t)
	t.Parallel()
	const name = "e2e-kind"
	p := c.project(name)
	own := c.shop(name, "", "    volumes: [/cache]\n")
	none := c.shop(name, "", "")
	everywhere := strings.Replace(none, "deploy: {replicas: 2}", "deploy: {mode: global}", 1)
	p.write("compose.yaml", own)
	p.run("up", "--yes", "--timeout", "120s")
	url := c.door(name, "web")
	for _, step := range []struct{ file, want string }{
		{none, "deployment.apps/web"}, {everywhere, "daemonset.apps/web"}, {own, "statefulset.apps/web"},
	} {
		c.underLoad(url, func() {
			p.write("compose.yaml", step.file)
			p.run("up", "--yes", "--timeout", "120s")
			eventually(t, 60*time.Second, "only "+step.want+" is left", func() string {
				if left := c.kubectl("", "get", "deployments,statefulsets,daemonsets", "-n", name, "-o", "name"); left != step.want {
					return left
				}
				return ""
			})
		})
	}
}

// TestKubernetesTells of what keeps a project from running there, in words.
func TestKubernetesTells(t *testing.T) {
	c := reachCluster(t)
	t.Parallel()
	const name = "e2e-trouble"
	p := c.project(name)
	p.write("compose.yaml", fmt.Sprintf("name: %s\nservices:\n  web: {image: 'docker.io/trellis/nowhere:1', pull_policy: never}\n", name))
	out, err := p.try("up", "--yes", "--timeout", "60s")
	if err == nil || !strings.Contains(out, "its image docker.io/trellis/nowhere:1 cannot be had") {
		t.Errorf("an image that is not there: %v\n%s", err, out)
	}
	if out, err := p.try("up"); err == nil || !strings.Contains(out, "--yes") {
		t.Errorf("a cluster is changed without an agreement: %v\n%s", err, out)
	}
	p.write("compose.yaml", c.shop(name, "", ""))
	p.run("up", "--yes", "--timeout", "90s")
	c.kubectl("", "set", "image", "deployment/web", "web=docker.io/trellis/testapp:other", "-n", name, "--field-manager=somebody")
	p.write("compose.yaml", c.shop(name, `, VERSION: v2`, ""))
	out, err = p.try("up", "--yes", "--timeout", "60s")
	if err == nil || !strings.Contains(out, "is set by somebody") {
		t.Errorf("a field that somebody else has set: %v\n%s", err, out)
	}
}
