//go:build e2e

package e2e

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"trellis/api"
	"trellis/load"
)

// TestMovesToAnotherPlace: under load the requests to one gateway are shifted to another one, a tenth, half, all of them, and
// then the services that they leave are stopped. Nothing is lost, and no order arrives twice or not at all.
func TestMovesToAnotherPlace(t *testing.T) {
	t.Parallel()
	here, there := freePort(t), freePort(t)
	file := func(gateway int, more string) string {
		return fmt.Sprintf(`
x-trellis:
  gateway: {http: "127.0.0.1:%d", policy: {auth: none}%s}
services:
  web:
    image: testapp
    environment: {LEDGER: /ledger/web}
    volumes: ["./ledger:/ledger"]
    ports: [{target: 80, x-trellis: {routes: [{path: "/shop/*", rewrite: /}]}}]
    deploy: {replicas: 2}
    x-trellis: {process: {command: [%s]}, probe: {http: /healthz}}
`, gateway, more, built.app)
	}
	shifting := func(share int) string {
		return file(here, fmt.Sprintf(`, shift: {to: "http://127.0.0.1:%d", share: %d%%}`, there, share))
	}
	old := newProject(t, map[string]string{"compose.yaml": shifting(0), "ledger/.keep": ""})
	young := newProject(t, map[string]string{"compose.yaml": file(there, `, trusted_proxies: [127.0.0.1]`), "ledger/.keep": ""})
	old.run("up", "-d", "--yes")
	young.run("up", "-d", "--yes")
	orders := func(p *project) int { return strings.Count(ledgers(t, filepath.Join(p.dir, "ledger", "web")), "\n") }
	mix := []load.Request{
		{Weight: 9, Method: "GET", Path: "/shop/"},
		{Weight: 1, Method: "POST", Path: "/shop/ledger", Body: []byte(`{"order": 1}`)},
	}
	var left, after int
	tr := underLoadOf(t, fmt.Sprintf("http://127.0.0.1:%d", here), 200, mix, func() {
		if n := orders(young); n != 0 {
			t.Errorf("%d orders went elsewhere with a share of nothing", n)
		}
		for _, share := range []int{10, 50, 100} {
			old.write("compose.yaml", shifting(share))
			old.run("up", "-d", "--yes")
			for here, there, end := orders(old), orders(young), time.Now().Add(20*time.Second); orders(young) < there+5 || share < 100 && orders(old) < here+5; time.Sleep(100 * time.Millisecond) {
				if time.Now().After(end) {
					t.Fatalf("with a share of %d %%: %d orders more here, %d there", share, orders(old)-here, orders(young)-there)
				}
			}
		}
		old.run("stop", "web")
		left, after = orders(old), orders(young)
		time.Sleep(2 * time.Second)
	})
	tr.NoneLost(t)
	if n := tr.Report.Errors[load.Server5xx]; n > 0 {
		t.Errorf("%d answers of 5xx", n)
	}
	tr.Ledger(t, ledgers(t, filepath.Join(old.dir, "ledger", "web"))+ledgers(t, filepath.Join(young.dir, "ledger", "web")))
	if orders(old) != left || orders(young) <= after {
		t.Errorf("after the services here were stopped %d orders came here, %d there", orders(old)-left, orders(young)-after)
	}
	var routes []api.Route
	old.json(&routes, "routes")
	if len(routes) != 1 || len(routes[0].Rules) == 0 || routes[0].Rules[len(routes[0].Rules)-1] != fmt.Sprintf("100%% shifted to http://127.0.0.1:%d", there) {
		t.Errorf("routes: %+v", routes)
	}
	t.Logf("%d requests, %d orders here and %d there", tr.Report.Completed, left, orders(young))
}
