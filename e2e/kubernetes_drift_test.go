//go:build e2e

package e2e

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// receiver takes alerts, and keeps "status alertname service" of each.
type receiver struct {
	mu   sync.Mutex
	took []string
}

func (r *receiver) ServeHTTP(_ http.ResponseWriter, q *http.Request) {
	var message struct {
		Alerts []struct {
			Status string
			Labels map[string]string
		}
	}
	err := json.NewDecoder(q.Body).Decode(&message)
	r.mu.Lock()
	defer r.mu.Unlock()
	if err != nil {
		r.took = append(r.took, err.Error())
	}
	for _, a := range message.Alerts {
		r.took = append(r.took, a.Status+" "+a.Labels["alertname"]+" "+a.Labels["service"])
	}
}

func (r *receiver) alerts() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.took)
}

// TestKubernetesDriftIsTold: with an image of Trellis the cluster itself looks for drift every few minutes. What is new is told
// once, by an event and by an alert to the receiver that the file names, and once that it is over.
func TestKubernetesDriftIsTold(t *testing.T) {
	c := reachCluster(t)
	c.dataPlane()
	const name = "e2e-told"
	told, url := c.alerting(t)
	p := c.project(name)
	p.write("compose.yaml", fmt.Sprintf(`name: %s
x-trellis: {alerts: {webhook: "%s"}}
services:
  web:
    image: %s
    environment: {PORT: "8080", LEVEL: info}
    expose: ["8080"]
    x-trellis: {probe: {http: /healthz}}
`, name, url, c.image))
	p.run("up", "--yes", "--timeout", "2m")

	// The cluster's clock is not waited for: the same Job is made by hand.
	looks := 0
	look := func(found, gone int, alerts ...string) {
		t.Helper()
		looks++
		job := fmt.Sprintf("look-%d", looks)
		c.kubectl("", "-n", name, "create", "job", job, "--from=cronjob/trellis-"+name+"-drift-watch")
		eventually(t, time.Minute, "it has looked", func() string {
			status := c.kubectl("", "-n", name, "get", "job", job, "-o", "jsonpath={.status}")
			if strings.Contains(status, `"failed":1`) {
				t.Fatalf("the look failed:\n%s", c.kubectl("", "-n", name, "logs", "job/"+job))
			}
			if !strings.Contains(status, `"succeeded":1`) {
				return status
			}
			return ""
		})
		if got := told.alerts(); !slices.Equal(got, alerts) {
			t.Errorf("the receiver took %q, want %q", got, alerts)
		}
		events := p.run("events")
		if strings.Count(events, "drift.found") != found || strings.Count(events, "drift.gone") != gone {
			t.Errorf("want %d found and %d gone in:\n%s", found, gone, events)
		}
	}
	look(0, 0)
	c.kubectl("", "-n", name, "set", "env", "deployment/web", "LEVEL=debug")
	look(1, 0, "firing Drifted web")
	look(1, 0, "firing Drifted web")
	if out := c.kubectl("", "-n", name, "get", "events", "--field-selector=reason=DriftFound,type=Warning", "-o", "jsonpath={.items[*].message}"); !strings.Contains(out, "services.web.environment.LEVEL: debug in place of info") {
		t.Errorf("the cluster's own event says %q", out)
	}
	p.run("drift", "--revert", "--timeout", "2m")
	look(1, 1, "firing Drifted web", "resolved Drifted web")
	p.run("down", "--yes")
}
