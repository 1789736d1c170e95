//go:build e2e

package e2e

import (
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"trellis/api"
	"trellis/engine"
	"trellis/engine/enginetest"
	"trellis/engine/kubernetes"
	"trellis/load"
)

// dataPlane gives the node an image of Trellis itself, and has the projects that are made from now on use it.
func (c *testCluster) dataPlane() {
	c.t.Helper()
	const image = "docker.io/trellis/trellis:e2e"
	c.give(image, map[string]string{"trellis": built.trellis})
	c.env = append(c.env, kubernetes.ImageEnv+"="+image)
}

// metricsAPI installs what lets the cluster scale by requests, as its administrator does, with the image of dataPlane. It goes with the
// test.
func (c *testCluster) metricsAPI() {
	c.t.Helper()
	export := exec.Command(built.trellis, "export", "kubernetes", "--metrics-api")
	export.Env = append(os.Environ(), c.env...)
	objects, err := export.Output()
	if err != nil {
		c.t.Fatalf("export the metrics API: %v", err)
	}
	// Namespaces are not deleted while an API is registered that nobody serves: the registration goes first.
	c.t.Cleanup(func() {
		c.kubectl("", "delete", "apiservice", "v1beta1.external.metrics.k8s.io", "--ignore-not-found")
		c.kubectl(string(objects), "delete", "-f", "-", "--ignore-not-found", "--wait=false")
	})
	c.kubectl(string(objects), "apply", "-f", "-")
	c.kubectl("", "wait", "apiservice/v1beta1.external.metrics.k8s.io", "--for=condition=Available", "--timeout=90s")
}

// inside runs a shell command in the node, as its administrator would.
func (c *testCluster) inside(script string) {
	c.t.Helper()
	if out, err := exec.Command(os.Getenv("CLUSTER_SH"), "enter", "sh", "-c", script).CombinedOutput(); err != nil {
		c.t.Errorf("in the node: %s: %v\n%s", script, err, out)
	}
}

// gateway returns the URL at which the gateway of a project answers on the node.
func (c *testCluster) gateway(namespace string) string {
	port := c.kubectl("", "get", "service", namespace+"-gateway", "-n", namespace, "-o", "jsonpath={.spec.ports[0].nodePort}")
	return fmt.Sprintf("http://%s:%s", c.node, port)
}

// calling is the load of a page for which one service calls another, and of pages and orders of its own.
func calling() []load.Request {
	return append(enginetest.Mix(), load.Request{Weight: 4, Method: "GET", Path: "/fetch?url=http://api:8080/"})
}

// through sends load through the gateway while during runs. What a service answers because it could not reach another one
// counts as lost too.
func (c *testCluster) through(url string, mix []load.Request, during func()) enginetest.Traffic {
	c.t.Helper()
	tr := c.drive(url, mix, during)
	for request := range mix {
		c.noneLost(tr, request)
	}
	return tr
}

// drivers are the connections of the load through a gateway.
const drivers = 16

// drive is through, and fails only where a service could not reach another one.
func (c *testCluster) drive(url string, mix []load.Request, during func()) enginetest.Traffic {
	c.t.Helper()
	tr := enginetest.Drive(c.t, load.Config{
		URL: url, Pacer: load.Constant(100, 5*time.Minute), Connections: drivers, Timeout: 10 * time.Second, Mix: mix,
	}, during)
	if n := len(tr.Failed); n > 0 {
		c.t.Errorf("%d calls from service to service failed, the first: %+v, the last: %+v", n, tr.Failed[0], tr.Failed[n-1])
	}
	return tr
}

// noneLost fails if one was lost of a request of the mix.
func (c *testCluster) noneLost(tr enginetest.Traffic, request int) {
	c.t.Helper()
	if lost := tr.Lost[request]; len(lost) > 0 {
		c.t.Errorf("%d of request %d lost, the first: %+v", len(lost), request, lost[0])
	}
}

// cutOff has the data plane of a project not reach the API server, and not hear from it, until join is called.
func (c *testCluster) cutOff(namespace string) (join func()) {
	c.t.Helper()
	addresses := c.kubectl("", "get", "pods", "-n", namespace, "-l", "app.kubernetes.io/component=data-plane", "-o", "jsonpath={.items[*].status.podIP}")
	each := func(do string) {
		c.inside(fmt.Sprintf(`for ip in %s; do
			iptables -t raw %s PREROUTING -s $ip -p tcp -m multiport --dports 443,6443 -j DROP
			iptables -t raw %[2]s OUTPUT -d $ip -p tcp --sport 6443 -j DROP
		done`, addresses, do))
	}
	each("-I")
	return func() {
		c.inside(`[ "$(iptables -t raw -nvxL | awk '$3 == "DROP" {n += $1} END {print n}')" -gt 0 ] || { echo "nothing was dropped"; exit 1; }`)
		each("-D")
	}
}

// crash kills the program of one pod of a service.
func (c *testCluster) crash(namespace, service string) {
	c.t.Helper()
	pod, _, _ := strings.Cut(c.pods(namespace, service), "\n")
	if err := c.kill(namespace, strings.TrimPrefix(pod, "pod/"), service); err != nil {
		c.t.Error(err)
	}
}

// planeShop is a project of two services behind the data plane: web, which the gateway leads to, and api, which is called by name.
func planeShop(name, image, version string, replicas int) string {
	return fmt.Sprintf(`name: %[1]s
x-trellis: {gateway: {http: ":8080", policy: {auth: none}}}
services:
  web:
    image: %[2]s
    environment: {PORT: "8080", LEDGER: /dev/null, VERSION: %[3]s}
    ports: [{target: 8080, app_protocol: http, x-trellis: {routes: [{path: "/*"}]}}]
    stop_grace_period: 10s
    x-trellis: {probe: {http: /healthz}}
    deploy: {replicas: %[4]d}
  api:
    image: %[2]s
    environment: {PORT: "8080", VERSION: %[3]s}
    expose: ["8080"]
    stop_grace_period: 10s
    x-trellis: {probe: {http: /healthz}}
    deploy: {replicas: 2}
`, name, image, version, replicas)
}

// TestKubernetesDataPlane: with an image of Trellis the names of services and the gateway lead to the data plane in the
// cluster. Through it nothing is lost while a service is rolled out, the data plane itself is replaced, instances are killed
// and the API server says nothing to it for a while.
func TestKubernetesDataPlane(t *testing.T) {
	c := reachCluster(t)
	t.Parallel()
	c.dataPlane()
	const name = "e2e-plane"
	p := c.project(name)
	file := func(version string) string { return planeShop(name, c.image, version, 2) }
	p.write("compose.yaml", file("v1"))
	if out := p.run("up", "--yes", "--timeout", "120s"); strings.Contains(out, "data plane") {
		t.Errorf("with a data plane something is said of it:\n%s", out)
	}
	plane := "deployment/trellis-" + name + "-data-plane"
	selector := c.kubectl("", "get", "service", "api", "-n", name, "-o", "jsonpath={.spec.selector}")
	if !strings.Contains(selector, "data-plane") {
		t.Fatalf("the Service of api selects %s", selector)
	}
	for _, svc := range p.ps().Services {
		if svc.State != engine.ServiceHealthy || len(svc.Instances) != 2 {
			t.Errorf("%+v", svc)
		}
	}
	url := c.gateway(name)
	if told := p.ps().Gateway.HTTP; told == nil || *told != url {
		t.Errorf("ps says that the gateway is at %v, and it is at %s", told, url)
	}
	var routes []api.Route
	if p.json(&routes, "routes"); len(routes) != 1 || routes[0].Service != "web" || routes[0].Path != "/*" || routes[0].Address != url {
		t.Errorf("the routes are %+v", routes)
	}
	eventually(t, 30*time.Second, "the gateway answers", func() string {
		r, err := http.Get(url + "/fetch?url=http://api:8080/")
		if err != nil {
			return err.Error()
		}
		defer r.Body.Close()
		if r.StatusCode != http.StatusOK {
			return r.Status
		}
		return ""
	})

	c.through(url, calling(), func() {
		p.write("compose.yaml", file("v2"))
		p.run("up", "--yes", "--timeout", "120s")
		c.kubectl("", "rollout", "restart", plane, "-n", name)
		c.kubectl("", "rollout", "status", plane, "-n", name, "--timeout=90s")
		eventually(t, 60*time.Second, "the data plane of before has ended", func() string {
			if pods := c.kubectl("", "get", "pods", "-n", name, "-l", "app.kubernetes.io/component=data-plane", "-o", "name"); strings.Count(pods, "pod/") != 2 {
				return pods
			}
			return ""
		})
	})
	// What a killed program was working on is repeated where that may be: so GETs alone.
	reads := []load.Request{{Weight: 2, Method: "GET", Path: "/"}, {Weight: 1, Method: "GET", Path: "/fetch?url=http://api:8080/"}}
	c.through(url, reads, func() {
		pod, _, _ := strings.Cut(c.pods(name, "web"), "\n")
		c.kubectl("", "delete", pod, "-n", name, "--grace-period=0", "--force", "--wait=false")
		eventually(t, 30*time.Second, "two of web are ready again", func() string {
			if svc := serviceOf(t, p.ps(), "web"); svc.Ready != 2 {
				return fmt.Sprint(svc.Ready)
			}
			return ""
		})
		join := c.cutOff(name)
		defer join()
		c.crash(name, "web")
		time.Sleep(4 * time.Second)
	})
}

// TestKubernetesWithoutADataPlane: where the cluster cannot pull the image of Trellis, that is said, and the names of services
// lead to their instances.
func TestKubernetesWithoutADataPlane(t *testing.T) {
	c := reachCluster(t)
	t.Parallel()
	const name = "e2e-planeless"
	p := c.project(name)
	p.env = append(p.env, "TRELLIS_IMAGE=docker.io/trellis/nowhere:1")
	p.write("compose.yaml", c.shop(name, "", ""))
	out := p.run("up", "--yes", "--timeout", "120s")
	for _, want := range []string{"the data plane does not come up", "docker.io/trellis/nowhere:1 cannot be had"} {
		if !strings.Contains(out, want) {
			t.Errorf("%q is not said:\n%s", want, out)
		}
	}
	if selector := c.kubectl("", "get", "service", "web", "-n", name, "-o", "jsonpath={.spec.selector}"); !strings.Contains(selector, "web") {
		t.Errorf("the Service of web selects %s", selector)
	}
}
