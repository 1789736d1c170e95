//go:build e2e

package e2e

import (
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	neturl "net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"trellis/api"
)

// TestRuleFilesOfTheProject: what a Prometheus rule file in a config says is evaluated, recorded and fires; the next
// revision's file takes its place, and one that Prometheus would refuse is no revision.
func TestRuleFilesOfTheProject(t *testing.T) {
	t.Parallel()
	p := newProject(t, nil)
	p.write("compose.yaml", `x-trellis: {alerts: {rules: [shop-alerts]}}
configs:
  shop-alerts: {file: alerts.yaml}
services:
  sleeper:
    x-trellis: {process: {command: [sleep, "1000"]}}
`)
	rules := func(threshold string) {
		p.write("alerts.yaml", `groups:
- name: shop
  interval: 1s
  rules:
  - record: shop:answer
    expr: vector(42)
  - alert: TooMany
    expr: shop:answer > `+threshold+`
    labels: {severity: page}
    annotations: {summary: 'there are {{ $value }}'}
`)
	}
	firing := func(want string) {
		t.Helper()
		eventually(t, 60*time.Second, "alerts", func() string {
			var found api.Alerts
			p.json(&found, "alerts")
			got := "none"
			for _, a := range found.Alerts {
				if a.Name == "TooMany" {
					got = fmt.Sprintf("%s from a %s: %s", a.State, a.Source, a.Summary)
				}
			}
			if got != want {
				return fmt.Sprintf("got %q, want %q", got, want)
			}
			return ""
		})
	}
	rules("40")
	p.run("up", "-d", "--yes")
	firing("firing from a rule file: there are 42")

	rules("50")
	p.run("up", "-d", "--yes")
	firing("none")

	before, err := os.ReadFile(filepath.Join(p.dir, "alerts.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	p.write("alerts.yaml", strings.Replace(string(before), "vector(42)", "vector(42", 1))
	if out, err := p.try("up", "-d", "--yes"); err == nil || !strings.Contains(out, "alerts.yaml:6:11: ") {
		t.Errorf("a file that cannot be read: %v\n%s", err, out)
	}
	if n := p.ps().Revision; n != 2 {
		t.Errorf("revision %d is in force, want 2", n)
	}
}

// TestAnAlertOutlivesAKill: what fires and what ends while nobody listens is told once somebody does, once each, and though the
// control plane was killed between.
func TestAnAlertOutlivesAKill(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := l.Addr().String()
	l.Close()
	p := newProject(t, map[string]string{"compose.yaml": `x-trellis: {alerts: {webhook: "http://` + address + `/ops", rules: [shop-alerts]}}
configs:
  shop-alerts: {file: alerts.yaml}
services:
  sleeper:
    deploy: {replicas: 2}
    x-trellis: {process: {command: [sleep, "1000"]}}
`, "alerts.yaml": `groups:
- name: shop
  interval: 1s
  rules:
  - alert: TooMany
    expr: trellis_replicas_wanted{service="sleeper"} > 1
    labels: {severity: page}
    annotations: {summary: 'there are {{ $value }}'}
`})
	var told receiver
	about := func() []string {
		return slices.DeleteFunc(told.alerts(), func(a string) bool { return !strings.Contains(a, "TooMany") })
	}
	nobodyHears := func(waiting int) {
		t.Helper()
		eventually(t, 60*time.Second, "an alert that waits", func() string {
			var found api.Alerts
			if err := p.ask(&found, "alerts"); err != nil || found.Waiting != waiting || found.Failing == "" {
				return fmt.Sprintf("%d wait, failing %q: %v", found.Waiting, found.Failing, err)
			}
			return ""
		})
		before := p.ps().ControlPlane.PID
		signal(t, before, "KILL")
		eventually(t, 30*time.Second, "another control plane", func() string {
			var s api.Status
			if err := p.ask(&s, "ps"); err != nil || s.ControlPlane.PID == before {
				return fmt.Sprintf("%d, %v", s.ControlPlane.PID, err)
			}
			return ""
		})
	}
	somebodyHears := func(want ...string) {
		t.Helper()
		l, err := net.Listen("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		server := &http.Server{Handler: &told}
		done := make(chan struct{})
		go func() { defer close(done); _ = server.Serve(l) }()
		eventually(t, 90*time.Second, "what the receiver took", func() string {
			if got := about(); !slices.Equal(got, want) {
				return fmt.Sprintf("got %q, want %q", got, want)
			}
			return ""
		})
		time.Sleep(15 * time.Second) // in which an alert that is told twice would be
		if got := about(); !slices.Equal(got, want) {
			t.Errorf("got %q, want %q", got, want)
		}
		server.Close()
		<-done
	}
	p.run("up", "-d", "--yes")
	nobodyHears(1)
	somebodyHears("firing TooMany sleeper")
	p.run("scale", "sleeper=1")
	nobodyHears(1)
	somebodyHears("firing TooMany sleeper", "resolved TooMany sleeper")
}

// TestTheDashboardIsAnswered: the running project answers every question of the dashboard that is written for Grafana, at
// the address that Grafana is given.
func TestTheDashboardIsAnswered(t *testing.T) {
	t.Parallel()
	p := newProject(t, map[string]string{"compose.yaml": `services:
  sleeper:
    x-trellis: {process: {command: [sleep, "1000"]}}
`})
	p.run("up", "-d", "--yes")
	p.run("export", "grafana", "out")
	source, err := os.ReadFile(filepath.Join(p.dir, "out", "provisioning", "datasources", filepath.Base(p.dir)+".yaml"))
	if err != nil {
		t.Fatal(err)
	}
	at := regexp.MustCompile(`url: "(http://[^"]+)"`).FindSubmatch(source)
	if at == nil {
		t.Fatalf("no address:\n%s", source)
	}
	var board struct {
		Panels []struct {
			Title   string
			Targets []struct{ Expr string }
		}
	}
	text, err := os.ReadFile(filepath.Join(p.dir, "out", "dashboards", filepath.Base(p.dir)+".json"))
	if err == nil {
		err = json.Unmarshal(text, &board)
	}
	if err != nil {
		t.Fatal(err)
	}
	asked := 0
	for _, panel := range board.Panels {
		for _, target := range panel.Targets {
			asked++
			expr := strings.NewReplacer("$__rate_interval", "1m", "$service", ".*").Replace(target.Expr)
			if answer := get(t, string(at[1])+"/api/v1/query?query="+neturl.QueryEscape(expr)); !strings.Contains(answer, `"status":"success"`) {
				t.Errorf("%s: %s: %s", panel.Title, expr, answer)
			}
		}
	}
	if asked < 20 {
		t.Errorf("%d questions were asked: this says nothing", asked)
	}
}
