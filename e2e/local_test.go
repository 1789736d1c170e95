//go:build e2e

package e2e

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"trellis/api"
	"trellis/engine"
)

// shop is a plain Compose file: web behind a published port, and what else a test adds.
func shop(port, replicas int, version, more string) string {
	return fmt.Sprintf(`name: shop
services:
  web:
    image: testapp
    ports: ["%d:80"]
    environment: {VERSION: "%s", LEDGER: /ledger/web}
    volumes: ["./ledger:/ledger"]
    healthcheck: {interval: 1s, timeout: 1s, retries: 3}
    deploy: {replicas: %d, update_config: {monitor: 500ms}}
    x-trellis:
      process: {command: [%s]}
      probe: {http: /healthz}
%s`, port, version, replicas, built.app, more)
}

// patient is a shop's file for tests that are not about health: a busy machine that holds an instance up for some seconds
// does not make it restart.
func patient(t testing.TB, file string) string {
	t.Helper()
	changed := strings.Replace(file, "retries: 3", "retries: 10", 1)
	if changed == file {
		t.Fatalf("the shop has another healthcheck:\n%s", file)
	}
	return changed
}

func url(port int) string { return fmt.Sprintf("http://127.0.0.1:%d", port) }

// get returns the body of a GET that has to be answered with 200.
func get(t testing.TB, url string) string {
	t.Helper()
	body, err := fetch(url)
	if err != nil {
		t.Fatal(err)
	}
	return body
}

func fetch(url string) (string, error) {
	client := http.Client{Timeout: 10 * time.Second}
	resp, err := client.Get(url)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return "", err
	}
	if resp.StatusCode != http.StatusOK {
		return "", fmt.Errorf("GET %s: %s: %s", url, resp.Status, body)
	}
	return string(body), nil
}

func version(t *testing.T, port int) string {
	t.Helper()
	var hello struct{ Version string }
	if err := json.Unmarshal([]byte(get(t, url(port))), &hello); err != nil {
		t.Fatal(err)
	}
	return hello.Version
}

func TestPlainFileAnswersAtItsPublishedPort(t *testing.T) {
	t.Parallel()
	port := freePort(t)
	p := newProject(t, map[string]string{"compose.yaml": shop(port, 2, "v1", "")})
	out := p.run("up", "-d")
	if v := version(t, port); v != "v1" {
		t.Errorf("version %q", v)
	}
	s := p.ps()
	if web := serviceOf(t, s, "web"); web.State != engine.ServiceHealthy || web.Ready != 2 || len(web.Instances) != 2 {
		t.Errorf("ps: %+v", web)
	}
	if !strings.Contains(out, fmt.Sprint(port)) {
		t.Errorf("up does not say where it is reached:\n%s", out)
	}
	if again := p.run("up", "-d"); strings.Contains(again, "rollout") {
		t.Errorf("a second up changes something:\n%s", again)
	}
	if after := p.ps(); fmt.Sprint(pids(after)) != fmt.Sprint(pids(s)) {
		t.Errorf("a second up restarted instances: %v, then %v", pids(s), pids(after))
	}
}

// pids maps each instance that runs to its program.
func pids(s api.Status) map[string]int {
	m := map[string]int{}
	for _, svc := range s.Services {
		for _, in := range svc.Instances {
			if in.State != engine.InstanceExited {
				m[string(in.ID)] = in.PID
			}
		}
	}
	return m
}

func TestServicesReachEachOtherByNameOnTheirOwnPorts(t *testing.T) {
	t.Parallel()
	port := freePort(t)
	more := fmt.Sprintf(`
  api:
    image: testapp
    expose: ["80"]
    environment: {VERSION: api1}
    deploy: {replicas: 3}
    x-trellis: {process: {command: [%s]}, probe: {http: /healthz}}
`, built.app)
	p := newProject(t, map[string]string{"compose.yaml": shop(port, 2, "v1", more)})
	p.run("up", "-d")
	hosts := map[string]bool{}
	for range 30 {
		body := get(t, url(port)+"/fetch?url=http://api/")
		if !strings.Contains(body, `"api1"`) {
			t.Fatalf("api answered %q", body)
		}
		hosts[body] = true
	}
	if len(hosts) < 2 {
		t.Errorf("three replicas on the same port, and all 30 calls went to one: %v", hosts)
	}
}

func TestScaleUnderLoadLosesNothing(t *testing.T) {
	t.Parallel()
	port := freePort(t)
	p := newProject(t, map[string]string{"compose.yaml": shop(port, 1, "v1", ""), "ledger/.keep": ""})
	p.run("up", "-d")
	tr := underLoad(t, url(port), 200, func() {
		for _, n := range []int{4, 2, 1, 3} {
			p.run("scale", fmt.Sprintf("web=%d", n))
			eventually(t, 20*time.Second, "scaled", func() string {
				if got := len(p.instances("web")); got != n {
					return fmt.Sprintf("%d instances, want %d", got, n)
				}
				return ""
			})
		}
	})
	tr.NoneLost(t)
	tr.Ledger(t, ledgers(t, filepath.Join(p.dir, "ledger", "web")))
}

func TestRestartUnderLoadLosesNothing(t *testing.T) {
	t.Parallel()
	port := freePort(t)
	p := newProject(t, map[string]string{"compose.yaml": shop(port, 2, "v1", ""), "ledger/.keep": ""})
	p.run("up", "-d")
	before := pids(p.ps())
	tr := underLoad(t, url(port), 200, func() {
		p.run("restart", "web")
		eventually(t, 20*time.Second, "restarted", func() string {
			s := p.ps()
			for id := range pids(s) {
				if _, old := before[id]; old {
					return "still there: " + id
				}
			}
			if web := serviceOf(t, s, "web"); web.Ready != 2 {
				return fmt.Sprintf("%d ready", web.Ready)
			}
			return ""
		})
	})
	tr.NoneLost(t)
	tr.Ledger(t, ledgers(t, filepath.Join(p.dir, "ledger", "web")))
}

func TestSecretsConfigsVolumesAndEnvironmentArriveAsTheFileSays(t *testing.T) {
	t.Parallel()
	port := freePort(t)
	compose := strings.Replace(shop(port, 1, "v1", `
secrets: {token: {file: ./token.txt}}
configs: {motd: {content: "hello"}}
volumes: {data: {}}
`), `volumes: ["./ledger:/ledger"]`, `volumes: ["./ledger:/ledger", "data:/var/lib/shop"]
    secrets: [token]
    configs: [{source: motd, target: /etc/shop/motd}]`, 1)
	p := newProject(t, map[string]string{"compose.yaml": compose, "token.txt": "s3cret-value\n"})
	p.run("up", "-d")
	file := func(path string) string { return get(t, url(port)+"/file?path="+path) }
	if got := file("/run/secrets/token"); got != "s3cret-value\n" {
		t.Errorf("secret %q", got)
	}
	if got := file("/etc/shop/motd"); got != "hello" {
		t.Errorf("config %q", got)
	}
	var env []string
	if err := json.Unmarshal([]byte(get(t, url(port)+"/env")), &env); err != nil {
		t.Fatal(err)
	}
	for _, e := range env {
		key, _, _ := strings.Cut(e, "=")
		switch key {
		case "PATH", "HOME", "VERSION", "LEDGER", "HOSTNAME":
		case "OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_SERVICE_NAME", "OTEL_RESOURCE_ATTRIBUTES": // every instance has them
		case "TRELLIS_PUBLISHED_WEB_80": // where the project is reached from outside
			if want := fmt.Sprintf("%s=localhost:%d", key, port); e != want {
				t.Errorf("%s, want %s", e, want)
			}
		default:
			t.Errorf("environment has %s, which the file does not", e)
		}
	}
	out := p.run("exec", "-T", "web", "sh", "-c", "ls -l /run/secrets/token; echo kept > /var/lib/shop/f; cat /etc/hostname")
	if !strings.Contains(out, "-r--------") {
		t.Errorf("the secret's mode: %s", out)
	}
	p.run("down")
	p.run("up", "-d")
	if got := p.run("exec", "-T", "web", "cat", "/var/lib/shop/f"); !strings.Contains(got, "kept") {
		t.Errorf("the volume did not survive down and up: %q", got)
	}
	// The secret's value stands in no file of ours but its own.
	err := filepath.WalkDir(filepath.Join(p.dir, ".trellis"), func(path string, d os.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() || strings.Contains(path, "/contents/") {
			return nil
		}
		if b, err := os.ReadFile(path); err == nil && strings.Contains(string(b), "s3cret-value") {
			t.Errorf("%s holds the secret", path)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestTakenPortNamesItsHolder(t *testing.T) {
	t.Parallel()
	taken, err := net.Listen("tcp", ":0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	port := taken.Addr().(*net.TCPAddr).Port
	p := newProject(t, map[string]string{"compose.yaml": shop(port, 1, "v1", "")})
	out, err := p.try("up", "-d")
	if want := fmt.Sprintf(":%d is taken by e2e.test (pid %d)", port, os.Getpid()); err == nil || !strings.Contains(out, want) {
		t.Errorf("up on a taken port: %v\n%s", err, out)
	}
}
