//go:build e2e

package e2e

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"trellis/load"
)

// fromSources is a program that says its version.
const fromSources = `package main

import (
	"context"
	"net/http"
	"os"
	"os/signal"
	"syscall"
)

const version = %q

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	s := &http.Server{Addr: ":" + os.Getenv("PORT"), Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = w.Write([]byte(version))
	})}
	go func() { _ = s.ListenAndServe() }()
	<-ctx.Done()
	_ = s.Shutdown(context.Background())
}
`

// ofSources is a project that is built of sources, without an image or a Dockerfile.
const ofSources = `name: %s
x-trellis: {gateway: {http: ":8080", policy: {auth: none}}}
services:
  web:
    environment: {PORT: "8080"}
    ports: [{target: 8080, app_protocol: http, x-trellis: {routes: [{path: "/*"}]}}]
    stop_grace_period: 10s
    x-trellis:
      process: {build: "CGO_ENABLED=0 go build -trimpath -buildvcs=false -o bin/web .", artifacts: [bin/web], command: [bin/web]}
      probe: {http: /}
    deploy: {replicas: 2}
`

// registryOfTheNode is held by the one test that has it: two folders of images would be one registry to whoever pulls.
var registryOfTheNode sync.Mutex

// onTheNode has the commands of a project run in the node's network, as on a machine that is the node of its own cluster, with a
// registry of their own until the test's end.
func (c *testCluster) onTheNode(t *testing.T, p *project) (state string) {
	t.Helper()
	registryOfTheNode.Lock()
	t.Cleanup(registryOfTheNode.Unlock)
	pid := os.Getenv("CLUSTER_PID")
	if pid == "" {
		t.Fatal("nothing says which process's network the node's is: run it with e2e/cluster/cluster.sh run")
	}
	state = t.TempDir()
	p.entered = []string{"nsenter", "--net", "--target", pid}
	p.env = append(slices.DeleteFunc(os.Environ(), func(v string) bool { return strings.HasPrefix(v, "TRELLIS_IMAGE=") }), "XDG_STATE_HOME="+state)
	return state
}

// imageOf returns the image of a Deployment's first container.
func (c *testCluster) imageOf(namespace, name string) string {
	return c.kubectl("", "get", "deployment", name, "-n", namespace, "-o", "jsonpath={.spec.template.spec.containers[0].image}")
}

// unpulled says that none of a service's pods has had the node pull an image, "" where one has.
func (c *testCluster) unpulled(namespace, service, image string) string {
	pods := strings.Fields(strings.ReplaceAll(c.pods(namespace, service), "pod/", ""))
	pulled := c.kubectl("", "get", "events", "-n", namespace, "--field-selector=reason=Pulled", "-o", `jsonpath={range .items[*]}{.involvedObject.name} {.message}{"\n"}{end}`)
	for line := range strings.Lines(pulled) {
		pod, message, _ := strings.Cut(line, " ")
		if slices.Contains(pods, pod) && strings.HasPrefix(message, "Successfully pulled image") && strings.Contains(message, image) {
			return ""
		}
	}
	return fmt.Sprintf("the pods are %v, and what was pulled:\n%s", pods, pulled)
}

// pageAt returns what a URL answers, once it does.
func pageAt(t *testing.T, url string) string {
	t.Helper()
	text := ""
	eventually(t, 60*time.Second, url+" answers", func() string {
		r, err := http.Get(url)
		if err != nil {
			return err.Error()
		}
		defer r.Body.Close()
		b, err := io.ReadAll(r.Body)
		if err != nil || r.StatusCode != http.StatusOK {
			return fmt.Sprint(r.Status, err)
		}
		text = string(b)
		return ""
	})
	return text
}

// registries returns the processes that serve the images in a folder.
func registries(t *testing.T, dir string) []int {
	t.Helper()
	var all []int
	found, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range found {
		if line, err := os.ReadFile(file); err == nil && strings.Contains(string(line), "registry\x00--dir\x00"+dir) {
			pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(file)))
			all = append(all, pid)
		}
	}
	return all
}

// TestKubernetesImages: with nothing but a file and sources, a project and Trellis itself come to a cluster whose node is this
// machine, from a registry of this machine, by their digests. Changed sources are rolled out under load, a rollback brings the
// digest of before, the same sources are the same digest, and the registry is there for as long as somebody needs it.
func TestKubernetesImages(t *testing.T) {
	c := reachCluster(t)
	t.Parallel()
	const name = "e2e-images"
	p := c.project(name)
	images := filepath.Join(c.onTheNode(t, p), "trellis", "images")
	p.write("go.mod", "module web\n\ngo 1.24\n")
	p.write("main.go", fmt.Sprintf(fromSources, "v1"))
	p.write("compose.yaml", fmt.Sprintf(ofSources, name))

	if out := p.run("plan"); !strings.Contains(out, "services.web") {
		t.Errorf("the first plan:\n%s", out)
	}
	if _, err := os.Stat(filepath.Join(images, "index.json")); err == nil {
		t.Error("a plan has put an image into the registry")
	}
	out := p.run("up", "--yes", "--timeout", "120s")
	if strings.Contains(out, "data plane") {
		t.Errorf("with a data plane something is said of it:\n%s", out)
	}
	first := c.imageOf(name, "web")
	if !regexp.MustCompile(`^127\.0\.0\.1:\d+/` + name + `-web@sha256:[0-9a-f]{64}$`).MatchString(first) {
		t.Errorf("the image is %s", first)
	}
	url := c.gateway(name)
	if got := pageAt(t, url); got != "v1" {
		t.Errorf("the gateway answers %q", got)
	}
	before := c.pods(name, "web")
	p.run("up", "--yes")
	if now := c.pods(name, "web"); now != before {
		t.Errorf("the same sources again replaced pods: %s, then %s", before, now)
	}

	get := []load.Request{{Weight: 1, Method: "GET", Path: "/"}}
	c.through(url, get, func() {
		p.write("main.go", fmt.Sprintf(fromSources, "v2"))
		p.run("up", "--yes", "--timeout", "120s")
	})
	if got := pageAt(t, url); got != "v2" {
		t.Errorf("after a changed source the gateway answers %q", got)
	}
	for _, pid := range registries(t, images) {
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
			t.Error(err)
		}
	}
	c.inside("ctr -n k8s.io images rm " + first) // the node has to pull what the rollback goes back to
	c.through(url, get, func() { p.run("rollback", "--yes", "--timeout", "120s") })
	if now := c.imageOf(name, "web"); now != first {
		t.Errorf("after a rollback the image is %s, and was %s", now, first)
	}
	eventually(t, 20*time.Second, "a pod of now has pulled the image of before", func() string {
		return c.unpulled(name, "web", first)
	})
	if got := pageAt(t, url); got != "v1" {
		t.Errorf("after a rollback the gateway answers %q", got)
	}
	if all := registries(t, images); len(all) != 1 {
		t.Errorf("%d processes serve images after one was killed and a command given", len(all))
	}
	p.write("main.go", fmt.Sprintf(fromSources, "v1"))
	if out := p.run("plan"); !strings.Contains(out, "up to date") {
		t.Errorf("a plan of the sources of what runs:\n%s", out)
	}

	p.run("down", "--yes")
	eventually(t, 20*time.Second, "the registry ends with the last project", func() string {
		if all := registries(t, images); len(all) > 0 {
			return fmt.Sprint(all)
		}
		return ""
	})
	p.run("up", "--yes", "--timeout", "120s") // what it was is still there
	if now := c.imageOf(name, "web"); now != first {
		t.Errorf("after down and up the image is %s, and was %s", now, first)
	}
}

// TestKubernetesImagesByDocker: where there is a Docker engine it builds what has a Dockerfile, and the cluster runs that.
func TestKubernetesImagesByDocker(t *testing.T) {
	c := reachCluster(t)
	needsDocker(t)
	t.Parallel()
	const name = "e2e-dockerfile"
	p := c.project(name)
	c.onTheNode(t, p)
	p.imageFiles("web")
	t.Cleanup(func() { docker(t, "image", "rm", "-f", name+"-web") })
	p.write("compose.yaml", fmt.Sprintf(`name: %s
services:
  web:
    build: web
    environment: {PORT: "8080", LEDGER: /dev/null}
    expose: ["8080"]
    x-trellis: {probe: {http: /healthz}}
`, name))
	p.run("up", "--yes", "--timeout", "120s")
	image := c.imageOf(name, "web")
	if !strings.HasPrefix(image, "127.0.0.1:") || !strings.Contains(image, "/"+name+"-web@sha256:") {
		t.Errorf("the image is %s", image)
	}
	before := c.pods(name, "web")
	p.run("up", "--yes")
	if now := c.pods(name, "web"); now != before {
		t.Errorf("the same build again replaced pods: %s, then %s", before, now)
	}

	p.write("web/Dockerfile", "FROM scratch\nCOPY testapp /testapp\nLABEL version=two\nENTRYPOINT [\"/testapp\"]\n")
	p.run("plan", "-o", "change.plan")
	if now := c.imageOf(name, "web"); now != image {
		t.Errorf("after a plan the image is %s, and was %s", now, image)
	}
	local := &project{t: t, dir: p.dir, trellis: p.trellis, env: p.env, entered: p.entered} // where, the plan says
	local.run("apply", "change.plan", "--yes", "--timeout", "120s")
	next := c.imageOf(name, "web")
	if next == image || !strings.HasPrefix(next, "127.0.0.1:") || !strings.Contains(next, "/"+name+"-web@sha256:") {
		t.Errorf("after a plan of another build was applied the image is %s, and was %s", next, image)
	}
	eventually(t, 20*time.Second, "a pod has pulled it", func() string { return c.unpulled(name, "web", next) })
	if out := p.run("plan"); !strings.Contains(out, "up to date") {
		t.Errorf("a plan of what runs:\n%s", out)
	}
}

// TestKubernetesWithoutARegistry: where no registry can be had, that is said of each service, with what to do, before anything
// is changed.
func TestKubernetesWithoutARegistry(t *testing.T) {
	c := reachCluster(t)
	t.Parallel()
	const name = "e2e-homeless"
	p := c.project(name)
	p.write("go.mod", "module web\n\ngo 1.24\n")
	p.write("main.go", fmt.Sprintf(fromSources, "v1"))
	p.write("compose.yaml", fmt.Sprintf(ofSources, name))
	out, err := p.try("up", "--yes")
	for _, want := range []string{"compose.yaml:4:3", "pulls from is not found: name one with", "--registry HOST[:PORT][/PREFIX]"} {
		if err == nil || !strings.Contains(out, want) {
			t.Errorf("%v, and %q is not said:\n%s", err, want, out)
		}
	}
	if namespaces := c.kubectl("", "get", "namespaces", "-o", "name"); strings.Contains(namespaces, name) {
		t.Errorf("a namespace was made: %s", namespaces)
	}
}
