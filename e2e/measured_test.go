//go:build e2e

package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"strconv"
	"sync"
	"testing"
	"time"

	"trellis/api"
)

// asked evaluates an expression. Its values are by what some of their labels say, one behind the other.
func (p *project) asked(expr string, by ...string) map[string]float64 {
	p.t.Helper()
	var r api.MetricResult
	p.json(&r, "metrics", expr)
	var vector []struct {
		Metric map[string]string
		Value  [2]any
	}
	if err := json.Unmarshal(r.Result, &vector); err != nil {
		p.t.Fatalf("%s: %s: %v", expr, r.Result, err)
	}
	values := map[string]float64{}
	for _, one := range vector {
		key := ""
		for _, label := range by {
			key += one.Metric[label]
		}
		v, err := strconv.ParseFloat(fmt.Sprint(one.Value[1]), 64)
		if err != nil {
			p.t.Fatalf("%s: %v: %v", expr, one, err)
		}
		values[key] += v
	}
	return values
}

// TestRequestsAreMeasuredByRouteCallerAndRevision: of services without any code of their own for it there are rate, failures, duration
// and concurrency by the gateway's routes and by who calls, each request counted once.
func TestRequestsAreMeasuredByRouteCallerAndRevision(t *testing.T) {
	t.Parallel()
	gateway := freePort(t)
	p := newProject(t, map[string]string{"compose.yaml": fmt.Sprintf(`name: shop
x-trellis: {gateway: {http: "127.0.0.1:%d", policy: {auth: none}}}
services:
  web:
    image: testapp
    deploy: {replicas: 2}
    ports: [{target: 80, x-trellis: {routes: [{path: /slow}, {path: /fetch}]}}]
    x-trellis: {process: {command: [%[2]s]}, probe: {http: /healthz}}
  stock:
    image: testapp
    expose: ["80"]
    x-trellis: {process: {command: [%[2]s]}, probe: {http: /healthz}}
`, gateway, built.app)})
	p.run("up", "-d", "--yes")
	revision := fmt.Sprint(p.instances("web")[0].Revision)
	ctx, enough := context.WithCancel(context.Background())
	defer enough()
	var wg sync.WaitGroup
	for path, clients := range map[string]int{"/slow?for=3s": 4, "/fetch?url=http://stock/slow%3Ffor%3D3s": 3} {
		for range clients {
			wg.Go(func() {
				for ctx.Err() == nil {
					req, err := http.NewRequestWithContext(ctx, http.MethodGet, url(gateway)+path, nil)
					if err != nil {
						t.Error(err)
						return
					}
					resp, err := http.DefaultClient.Do(req)
					if err != nil {
						continue
					}
					if resp.StatusCode != http.StatusOK {
						t.Errorf("%s: %s", path, resp.Status)
					}
					resp.Body.Close()
				}
			})
		}
	}
	one := `trellis_requests_in_flight{revision="` + revision + `"}`
	for _, c := range []struct {
		expr string
		by   string
		want map[string]float64
	}{
		{`sum by (route) (trellis_requests_in_flight{service="web"})`, "route", map[string]float64{"/slow": 4, "/fetch": 3}},
		{`sum by (caller) (trellis_requests_in_flight{service="stock"})`, "caller", map[string]float64{"web": 3}},
		{`sum by (service) (` + one + `)`, "service", map[string]float64{"web": 7, "stock": 3}},
	} {
		eventually(t, time.Minute, c.expr, func() string {
			if got := p.asked(c.expr, c.by); !maps.Equal(got, c.want) {
				return fmt.Sprintf("%v, want %v", got, c.want)
			}
			return ""
		})
	}
	for _, expr := range []string{
		"sum by (service, route, caller) (trellis_requests_total)", "sum by (service, route, caller) (trellis_request_failures_total)",
		"histogram_count(sum by (service, route, caller) (trellis_request_duration_seconds))",
	} {
		eventually(t, time.Minute, expr, func() string { // each request takes 3 s, and counts when it is over
			got := p.asked(expr, "service", "route", "caller")
			for _, way := range []string{"web/slow", "web/fetch", "stockweb"} {
				if _, ok := got[way]; !ok {
					return fmt.Sprintf("%v, not of %s", got, way)
				}
			}
			return ""
		})
	}
	enough()
	wg.Wait()
	eventually(t, time.Minute, "nothing is in flight", func() string {
		if got := p.asked("sum(trellis_requests_in_flight)")[""]; got == 0 {
			return ""
		}
		by := []string{"service", "instance", "caller", "route"}
		return fmt.Sprintf("%v, told %v seconds ago", p.asked("trellis_requests_in_flight > 0", by...), p.asked("time() - timestamp(trellis_requests_in_flight)", by...))
	})
}
