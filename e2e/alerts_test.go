//go:build e2e

package e2e

import (
	"fmt"
	"os"
	"path/filepath"
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
