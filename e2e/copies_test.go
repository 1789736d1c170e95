//go:build e2e

package e2e

import (
	"fmt"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"trellis/engine"
)

// twoServices publishes web at port, which reaches api by name and keeps a ledger in a named volume. ${COPY} tells the
// copies apart.
func twoServices(port int) string {
	return fmt.Sprintf(`name: shop
services:
  web:
    image: testapp
    ports: ["127.0.0.1:%d:80"]
    environment: {VERSION: "web-${COPY}", LEDGER: /data/ledger}
    volumes: ["data:/data"]
    healthcheck: {interval: 1s, timeout: 1s, retries: 3}
    x-trellis: {process: {command: [%s]}, probe: {http: /healthz}}
  api:
    image: testapp
    expose: ["80"]
    environment: {VERSION: "api-${COPY}"}
    x-trellis: {process: {command: [%s]}, probe: {http: /healthz}}
volumes: {data: {}}
`, port, built.app, built.app)
}

// projects is what `ls --format json` says.
type projects []struct {
	Project, State, Dir string
	Addresses           []string
}

// in returns the projects whose folder is dir.
func (all projects) in(dir string) projects {
	var found projects
	for _, p := range all {
		if p.Dir == dir {
			found = append(found, p)
		}
	}
	return found
}

// published returns the one address of web.
func (p *project) published() int {
	p.t.Helper()
	web := serviceOf(p.t, p.ps(), "web")
	if web.State != engine.ServiceHealthy || len(web.Ports) != 1 {
		p.t.Fatalf("web of %s: %+v", p.dir, web)
	}
	return web.Ports[0].Published
}

// write1 posts a line to the ledger of the web that listens on port.
func write1(t *testing.T, port int, line string) {
	t.Helper()
	req, err := http.NewRequest(http.MethodPost, url(port)+"/ledger", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("X-Load-Seq", line)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusCreated {
		t.Fatalf("POST to %d: %s", port, resp.Status)
	}
}

// TestTenCheckoutsRaceForOnePort starts ten checkouts of one project at once. One gets the port of the file; each of the
// others gets one of its own, keeps it across ups, has its own data and its own names, and nothing of any stays.
func TestTenCheckoutsRaceForOnePort(t *testing.T) {
	port := freePort(t)
	var checkouts []*project
	for i := range 10 {
		checkouts = append(checkouts, newProject(t, map[string]string{
			"compose.yaml": twoServices(port), ".env": fmt.Sprintf("COPY=%d\n", i),
		}))
	}
	outputs := make([]string, len(checkouts))
	upAll := func() {
		var ups sync.WaitGroup
		for i, p := range checkouts {
			ups.Go(func() {
				out, err := p.try("up", "-d")
				if err != nil {
					t.Errorf("up of checkout %d: %v\n%s", i, err, out)
				}
				outputs[i] = out
			})
		}
		ups.Wait()
		if t.Failed() {
			t.FailNow()
		}
	}
	begin := time.Now()
	upAll()
	t.Logf("ten checkouts up after %v", time.Since(begin))
	var ports []int
	for i, p := range checkouts {
		at := p.published()
		if slices.Contains(ports, at) {
			t.Errorf("two checkouts are at %d", at)
		}
		ports = append(ports, at)
		if !strings.Contains(outputs[i], fmt.Sprintf("127.0.0.1:%d", at)) {
			t.Errorf("up of checkout %d does not say that it is at %d:\n%s", i, at, outputs[i])
		}
		if at != port && !strings.Contains(outputs[i], fmt.Sprintf("(%d was taken)", port)) {
			t.Errorf("up of checkout %d does not say that %d was taken:\n%s", i, port, outputs[i])
		}
		if v := version(t, at); v != fmt.Sprintf("web-%d", i) {
			t.Errorf("at %d is %s, not checkout %d", at, v, i)
		}
		if body := get(t, url(at)+"/fetch?url=http://api:80/"); !strings.Contains(body, fmt.Sprintf(`"api-%d"`, i)) {
			t.Errorf("the api of checkout %d: %s", i, body)
		}
		if env := get(t, url(at)+"/env"); !strings.Contains(env, fmt.Sprintf("TRELLIS_PUBLISHED_WEB_80=127.0.0.1:%d", at)) {
			t.Errorf("checkout %d is not told that it is at %d: %s", i, at, env)
		}
		write1(t, at, fmt.Sprintf("data-%d", i))
	}
	if !slices.Contains(ports, port) {
		t.Errorf("nobody got the file's port %d: %v", port, ports)
	}
	var all projects
	checkouts[0].json(&all, "ls")
	for i, p := range checkouts {
		if body := get(t, url(ports[i])+"/file?path=/data/ledger"); body != fmt.Sprintf("data-%d\n", i) {
			t.Errorf("the data of checkout %d: %q", i, body)
		}
		found := all.in(p.dir)
		if len(found) != 1 || found[0].Project != "shop" || found[0].State != "healthy" ||
			!slices.Equal(found[0].Addresses, []string{fmt.Sprintf("127.0.0.1:%d", ports[i])}) {
			t.Errorf("ls says of checkout %d: %+v", i, found)
		}
	}
	for _, p := range checkouts {
		p.run("down")
	}
	checkouts[0].json(&all, "ls", "--all")
	for i, p := range checkouts {
		if found := all.in(p.dir); len(found) != 1 || found[0].State != "down" {
			t.Errorf("ls --all says of checkout %d, which is down: %+v", i, found)
		}
	}
	upAll()
	for i, p := range checkouts {
		if at := p.published(); at != ports[i] {
			t.Errorf("checkout %d was at %d and is at %d after another up", i, ports[i], at)
		}
		if body := get(t, url(ports[i])+"/file?path=/data/ledger"); body != fmt.Sprintf("data-%d\n", i) {
			t.Errorf("the data of checkout %d after another up: %q", i, body)
		}
	}
}

// TestCopiesOfOneFolder runs a project and two copies of it from the same folder.
func TestCopiesOfOneFolder(t *testing.T) {
	port := freePort(t)
	p := newProject(t, map[string]string{"compose.yaml": twoServices(port), ".env": "COPY=0\n"})
	copies := []*project{p}
	for i, flags := range [][]string{{"--copy"}, {"--copy", "fix"}} {
		c := *p
		c.flags, c.env = flags, append(slices.Clone(p.env), fmt.Sprintf("COPY=%d", i+1))
		copies = append(copies, &c)
		t.Cleanup(func() {
			if out, err := c.try("down", "--volumes", "--yes"); err != nil {
				t.Errorf("down of a copy: %v\n%s", err, out)
			}
		})
	}
	var ups sync.WaitGroup
	for i, c := range copies {
		ups.Go(func() {
			if out, err := c.try("up", "-d"); err != nil {
				t.Errorf("up of copy %d: %v\n%s", i, err, out)
			}
		})
	}
	ups.Wait()
	var ports []int
	for i, c := range copies {
		at := c.published()
		if slices.Contains(ports, at) {
			t.Errorf("two copies are at %d", at)
		}
		ports = append(ports, at)
		if v := version(t, at); v != fmt.Sprintf("web-%d", i) {
			t.Errorf("at %d is %s, not copy %d", at, v, i)
		}
		write1(t, at, fmt.Sprintf("data-%d", i))
	}
	var names []string
	var all projects
	p.json(&all, "ls")
	for _, found := range all.in(p.dir) {
		names = append(names, found.Project)
	}
	if !slices.Equal(names, []string{"shop", "shop-copy", "shop-fix"}) {
		t.Errorf("ls: %v", names)
	}
	copies[2].run("down", "--volumes", "--yes")
	if _, err := fetch(url(ports[2])); err == nil {
		t.Error("the copy that is down answers")
	}
	for i := range 2 {
		if body := get(t, url(ports[i])+"/file?path=/data/ledger"); body != fmt.Sprintf("data-%d\n", i) {
			t.Errorf("the data of copy %d after another went with its volumes: %q", i, body)
		}
	}
	volumes, _ := os.ReadDir(p.dir + "/.trellis/shop-fix/volumes")
	if len(volumes) > 0 {
		t.Errorf("volumes of the copy stayed: %v", volumes)
	}
}

// TestAnotherProjectIsNoCopy publishes the same port from a project of another name, which is told who has it.
func TestAnotherProjectIsNoCopy(t *testing.T) {
	port := freePort(t)
	first := newProject(t, map[string]string{"compose.yaml": twoServices(port), ".env": "COPY=0\n"})
	second := newProject(t, map[string]string{
		"compose.yaml": strings.Replace(twoServices(port), "name: shop", "name: blog", 1), ".env": "COPY=1\n",
	})
	first.run("up", "-d")
	out, err := second.try("up", "-d")
	if want := fmt.Sprintf("127.0.0.1:%d is taken by project shop in %s", port, first.dir); err == nil || !strings.Contains(out, want) {
		t.Errorf("up of another project on a taken port: %v\n%s", err, out)
	}
}
