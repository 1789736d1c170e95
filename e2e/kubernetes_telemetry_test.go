//go:build e2e

package e2e

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"trellis/api"
	"trellis/load"
	"trellis/telemetry"
)

// alerting returns a receiver of alerts, and where pods reach it.
func (c *testCluster) alerting(t *testing.T) (*receiver, string) {
	t.Helper()
	told := &receiver{}
	l, err := net.Listen("tcp", ":0")
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: told}
	go func() { _ = server.Serve(l) }()
	t.Cleanup(func() { _ = server.Close() })
	route, err := net.Dial("udp", net.JoinHostPort(c.node, "9"))
	if err != nil {
		t.Fatal(err)
	}
	defer route.Close()
	here, _, _ := net.SplitHostPort(route.LocalAddr().String())
	return told, "http://" + net.JoinHostPort(here, fmt.Sprint(l.Addr().(*net.TCPAddr).Port))
}

// console opens the console of a project that runs in a cluster, until the test ends, and returns its address.
func (p *project) console(t *testing.T) string {
	t.Helper()
	cmd := exec.Command(p.trellis, append(slices.Clone(p.flags), "console")...)
	cmd.Dir, cmd.Env = p.dir, p.env
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	address, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatalf("the console gave no address: %v", err)
	}
	return strings.TrimSpace(address)
}

// TestKubernetesTelemetry: with an image of Trellis a project in a cluster is seen as it is on one machine: its metrics, a trace through two
// services, its output, why an instance ended, an alert, the console. The control plane is killed under load: no request is lost, and it
// comes back with what it knew.
func TestKubernetesTelemetry(t *testing.T) {
	c := reachCluster(t)
	c.dataPlane()
	told, receiver := c.alerting(t)
	const name = "e2e-seen"
	p := c.project(name)
	p.write("rules.yaml", `groups: [{name: own, rules: [{alert: FewWebs, expr: 'trellis_replicas_ready{service="web"} < 9', labels: {severity: ticket}}]}]`)
	p.write("compose.yaml", fmt.Sprintf(`name: %[1]s
x-trellis:
  gateway: {http: ":8080", policy: {auth: none}}
  alerts: {webhook: "%[3]s", rules: [own]}
configs: {own: {file: rules.yaml}}
services:
  web:
    image: %[2]s
    environment: {PORT: "8080", LEDGER: /dev/null}
    ports: [{target: 8080, app_protocol: http, x-trellis: {routes: [{path: "/*"}]}}]
    stop_grace_period: 10s
    x-trellis: {probe: {http: /healthz}}
    deploy: {replicas: 2}
  api:
    image: %[2]s
    environment: {PORT: "8080", VERSION: the-api}
    expose: ["8080"]
    x-trellis: {probe: {http: /healthz}}
    deploy: {replicas: 2}
`, name, c.image, receiver))
	p.run("up", "--yes", "--timeout", "120s")
	eventually(t, 2*time.Minute, "the control plane serves", func() string {
		if out, err := p.try("metrics", "trellis_replicas_ready"); err != nil || !strings.Contains(out, "web") {
			return out
		}
		return ""
	})
	// A connection that web opens to api before the node has turned the name to the data plane would stay where it leads.
	at := c.kubectl("", "get", "service", "api", "-n", name, "-o", "jsonpath={.spec.clusterIP}")
	eventually(t, time.Minute, "the name of api leads to the data plane", func() string {
		c.inside("curl -sf -o /dev/null http://" + at + ":8080/")
		out, _ := p.try("metrics", `sum by (service) (trellis_requests_total) > 0`)
		if !strings.Contains(out, "api") {
			return out
		}
		return ""
	})
	url := c.gateway(name)
	c.through(url, calling(), func() { time.Sleep(20 * time.Second) })

	t.Run("metrics", func(t *testing.T) {
		eventually(t, 30*time.Second, "both services are measured", func() string {
			out := p.run("metrics", `sum by (service) (trellis_requests_total) > 0`)
			if !strings.Contains(out, "web") || !strings.Contains(out, "api") {
				return out
			}
			return ""
		})
		out := p.run("metrics", `trellis_instance_memory_bytes`)
		if strings.Count(out, "web-") != 2 {
			t.Errorf("the memory of two instances of web:\n%s", out)
		}
	})
	t.Run("callers", func(t *testing.T) {
		eventually(t, 30*time.Second, "it is known who calls api", func() string {
			out := p.run("metrics", `sum by (caller) (trellis_requests_total{service="api"})`)
			if !strings.Contains(out, `caller="web"`) {
				return out
			}
			return ""
		})
	})
	t.Run("otlp", func(t *testing.T) {
		r, err := http.Get(url + "/env")
		if err != nil {
			t.Fatal(err)
		}
		defer r.Body.Close()
		var env []string
		if err := json.NewDecoder(r.Body).Decode(&env); err != nil {
			t.Fatal(err)
		}
		said := map[string]string{}
		for _, line := range env {
			name, value, _ := strings.Cut(line, "=")
			said[name] = value
		}
		if said["OTEL_SERVICE_NAME"] != "web" || said["OTEL_EXPORTER_OTLP_ENDPOINT"] != "http://trellis-"+name+":4318" ||
			said["OTEL_RESOURCE_ATTRIBUTES"] != "service.namespace="+name+",service.instance.id="+said["HOSTNAME"]+",trellis.revision=1" {
			t.Errorf("an instance is told %v", said)
		}
		address := c.kubectl("", "get", "service", "trellis-"+name, "-n", name, "-o", "jsonpath={.spec.clusterIP}")
		record := `{"resourceLogs":[{"resource":{"attributes":[{"key":"service.name","value":{"stringValue":"web"}}]},"scopeLogs":[{"logRecords":[{"severityText":"WARN","body":{"stringValue":"said by a program itself"}}]}]}]}`
		c.inside(fmt.Sprintf("curl -sSf -H 'Content-Type: application/json' -d '%s' http://%s:4318/v1/logs", record, address))
		eventually(t, 30*time.Second, "what a program sent is found", func() string {
			if out := p.run("logs", "--grep", "said by a program"); !strings.Contains(out, "said by a program itself") {
				return "not found: " + out
			}
			return ""
		})
	})
	trace := ""
	t.Run("traces", func(t *testing.T) {
		var all []telemetry.TraceSummary
		eventually(t, 30*time.Second, "there are traces", func() string {
			if p.json(&all, "traces", "--service", "api"); len(all) == 0 {
				return "none"
			}
			return ""
		})
		i := slices.IndexFunc(all, func(s telemetry.TraceSummary) bool { return slices.Contains(s.Services, "web") })
		if i < 0 {
			t.Fatalf("no trace goes through both services: %+v", all[0])
		}
		trace = all[i].Trace.String()
		if out := p.run("traces", trace); !strings.Contains(out, "web") || !strings.Contains(out, "api") {
			t.Errorf("the trace:\n%s", out)
		}
	})
	t.Run("logs", func(t *testing.T) {
		eventually(t, 30*time.Second, "what both wrote is found", func() string {
			out := p.run("logs", "--since", "10m", "--grep", "(?i)listen")
			if !strings.Contains(out, "web-") || !strings.Contains(out, "api-") {
				return out
			}
			return ""
		})
	})
	t.Run("why", func(t *testing.T) {
		c.crash(name, "api")
		eventually(t, 60*time.Second, "why names the end", func() string {
			out := p.run("why", "api")
			if !strings.Contains(out, "killed by signal 9") {
				return out
			}
			return ""
		})
	})
	t.Run("alerts", func(t *testing.T) {
		eventually(t, 90*time.Second, "the receiver is told", func() string {
			if got := told.alerts(); !slices.Contains(got, "firing FewWebs ") && !slices.Contains(got, "firing FewWebs web") {
				return fmt.Sprint(got)
			}
			return ""
		})
		if out := p.run("alerts"); !strings.Contains(out, "FewWebs") {
			t.Errorf("alerts says:\n%s", out)
		}
	})
	t.Run("console", func(t *testing.T) {
		address, key, ok := strings.Cut(p.console(t), "/#key=")
		if !ok || len(key) < 32 {
			t.Fatalf("the console is at %q", address)
		}
		page, err := http.Get(address + "/")
		if err != nil {
			t.Fatal(err)
		}
		defer page.Body.Close()
		if text, _ := io.ReadAll(page.Body); page.StatusCode != http.StatusOK || !strings.Contains(string(text), "<html") {
			t.Errorf("the page: %s\n%s", page.Status, text)
		}
		closed, err := http.Get(address + "/v1/status")
		if err != nil {
			t.Fatal(err)
		}
		defer closed.Body.Close()
		if closed.StatusCode != http.StatusUnauthorized {
			t.Errorf("without the key the API answers %s", closed.Status)
		}
	})
	t.Run("killed", func(t *testing.T) {
		var before, after api.Door
		before = p.door(t)
		address, _, _ := strings.Cut(p.console(t), "/#")
		c.through(url, []load.Request{{Weight: 1, Method: "GET", Path: "/"}, {Weight: 1, Method: "POST", Path: "/ledger"}}, func() {
			c.kubectl("", "delete", "pod", "-n", name, "-l", "app.kubernetes.io/component=control-plane", "--grace-period=0", "--force")
			time.Sleep(time.Second)
			eventually(t, 2*time.Minute, "the control plane is back", func() string {
				out, err := p.try("metrics", "trellis_replicas_ready")
				if err != nil {
					return out
				}
				return ""
			})
		})
		eventually(t, 30*time.Second, "the console that was open before answers", func() string {
			page, err := http.Get(address + "/")
			if err != nil {
				return err.Error()
			}
			_ = page.Body.Close()
			return ""
		})
		if after = p.door(t); after.Key != before.Key {
			t.Error("the console has another key than before")
		}
		if out := p.run("traces", trace); !strings.Contains(out, "api") {
			t.Errorf("the trace of before:\n%s", out)
		}
		if out := p.run("events"); !strings.Contains(out, "revision.applied") {
			t.Errorf("events:\n%s", out)
		}
	})
	p.run("down", "--yes", "--volumes")
	if left := c.kubectl("", "get", "deployment,pod,pvc,service,lease,role,serviceaccount", "-n", name, "-l", "app.kubernetes.io/part-of="+name, "-o", "name"); left != "" {
		t.Errorf("down left\n%s", left)
	}
}

// door returns the console's address and key as JSON; the door is closed again.
func (p *project) door(t *testing.T) (door api.Door) {
	t.Helper()
	cmd := exec.Command(p.trellis, append(slices.Clone(p.flags), "console", "--format", "json")...)
	cmd.Dir, cmd.Env = p.dir, p.env
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}()
	if err := json.NewDecoder(out).Decode(&door); err != nil {
		t.Fatal(err)
	}
	return door
}

// TestKubernetesUnseen: without an image of Trellis, what only a control plane knows is not there, and what to do is said.
func TestKubernetesUnseen(t *testing.T) {
	c := reachCluster(t)
	t.Parallel()
	const name = "e2e-unseen"
	p := c.project(name)
	p.env = append(p.env, "TRELLIS_IMAGE=none")
	p.write("compose.yaml", c.shop(name, "", ""))
	p.run("up", "--yes", "--timeout", "120s")
	for _, args := range [][]string{{"metrics", "up"}, {"traces"}, {"alerts"}, {"why", "web"}, {"console"}, {"logs", "--grep", "x"}} {
		if out, err := p.try(args...); err == nil || !strings.Contains(out, "TRELLIS_IMAGE") {
			t.Errorf("%v: %v\n%s", args, err, out)
		}
	}
	p.run("down", "--yes")
}

// TestKubernetesWorseVersion: a version that is healthy and answers worse than the one before is taken back by the control plane in the
// cluster, which says so; one that answers as well is not.
func TestKubernetesWorseVersion(t *testing.T) {
	c := reachCluster(t)
	c.dataPlane()
	const name = "e2e-worse"
	p := c.project(name)
	file := func(version, fail string) string {
		return fmt.Sprintf(`name: %[1]s
x-trellis: {gateway: {http: ":8080", policy: {auth: none}}}
services:
  web:
    image: %[2]s
    environment: {PORT: "8080", VERSION: %[3]s, FAIL_PERCENT: "%[4]s"}
    ports: [{target: 8080, app_protocol: http, x-trellis: {routes: [{path: "/*"}]}}]
    stop_grace_period: 10s
    x-trellis: {probe: {http: /healthz}, objective: {availability: "99%%"}}
    deploy: {replicas: 2}
`, name, c.image, version, fail)
	}
	p.write("compose.yaml", file("v1", "0"))
	p.run("up", "--yes", "--timeout", "120s")
	eventually(t, 2*time.Minute, "the control plane serves", func() string {
		if out, err := p.try("metrics", "up"); err != nil {
			return out
		}
		return ""
	})
	url, stop := c.gateway(name), make(chan struct{})
	var asking sync.WaitGroup
	for range 8 {
		asking.Go(func() {
			for {
				select {
				case <-stop:
					return
				case <-time.After(50 * time.Millisecond):
				}
				if r, err := http.Get(url + "/"); err == nil {
					_, _ = io.Copy(io.Discard, r.Body)
					_ = r.Body.Close()
				}
			}
		})
	}
	defer asking.Wait()
	defer close(stop)
	time.Sleep(3 * time.Second)

	p.write("compose.yaml", file("v2", "0"))
	p.run("up", "--yes", "--timeout", "120s")
	p.write("compose.yaml", file("v3", "30"))
	out, err := p.try("up", "--yes", "--timeout", "120s")
	if err == nil || !strings.Contains(out, "new instances fail") {
		t.Errorf("a version that fails 30 %% of its requests: %v\n%s", err, out)
	}
	eventually(t, time.Minute, "the version before is back", func() string {
		st := p.ps()
		if web := serviceOf(t, st, "web"); st.Outcome != "healthy" || web.Ready != 2 || st.Revision != 4 {
			return fmt.Sprintf("revision %d %s, %d ready", st.Revision, st.Outcome, web.Ready)
		}
		return ""
	})
	for range 20 {
		r, err := http.Get(url + "/")
		if err != nil {
			t.Fatal(err)
		}
		text, _ := io.ReadAll(r.Body)
		_ = r.Body.Close()
		if !strings.Contains(string(text), `"v2"`) {
			t.Fatalf("%s: %s", r.Status, text)
		}
	}
	eventually(t, 30*time.Second, "why says so", func() string {
		if out := p.run("why", "web"); !strings.Contains(out, "revision 3 was taken back") || !strings.Contains(out, "new instances fail") {
			return out
		}
		return ""
	})
	p.run("down", "--yes", "--volumes")
}
