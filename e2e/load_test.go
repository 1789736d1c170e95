//go:build e2e

package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// school is a project with a gateway and a load profile.
func school(port int) string {
	return fmt.Sprintf(`name: school
x-trellis:
  gateway: {http: "127.0.0.1:%d", policy: {auth: none}}
  load:
    lesson:
      stages: [{rate: 20/s, for: 1s, ramp: 1s}, {rate: 40/s, for: 5s}]
      scenario: load/lesson.yaml
      arrivals: poisson
services:
  web:
    image: testapp
    environment: {VERSION: v1, LEDGER: /ledger/web}
    volumes: ["./ledger:/ledger"]
    ports: [{target: 80, app_protocol: http, x-trellis: {routes: [{path: "/*"}]}}]
    deploy: {replicas: 2}
    x-trellis:
      process: {command: [%s]}
      probe: {http: /healthz}
`, port, built.app)
}

const lessonOfVersion1 = `
steps:
  - path: /
    save: {version: {json: /version}}
  - {path: "/?again={version}", think: 50ms-200ms, contains: '"version":"{version}"', repeat: 1-2}
  - {name: order, path: /ledger, json: {order: "{visit}"}, expect: 201, chance: 20%}
`

// TestLoadProfileAgainstTheGateway: a profile of the file goes to the running project, visitors notice neither crashes nor
// a restart, and every result is on disk.
func TestLoadProfileAgainstTheGateway(t *testing.T) {
	port := freePort(t)
	p := newProject(t, map[string]string{"compose.yaml": school(port), "ledger/.keep": "", "load/lesson.yaml": lessonOfVersion1})
	p.run("check")
	p.run("up", "-d", "--yes")
	done := make(chan struct{})
	var out string
	var failed error
	go func() {
		defer close(done)
		out, failed = p.try("load", "lesson", "--seed", "1", "--out", "results.jsonl", "--expect", "lost=0,visits.failed=0,visits.completed>100")
	}()
	time.Sleep(2 * time.Second)
	p.run("restart", "web")
	<-done
	t.Log(out)
	if failed != nil {
		t.Errorf("load: %v", failed)
	}
	content, err := os.ReadFile(filepath.Join(p.dir, "results.jsonl"))
	if err != nil {
		t.Fatal(err)
	}
	lines, ordered := strings.Split(strings.TrimSpace(string(content)), "\n"), 0
	for _, line := range lines {
		var one struct {
			Step   string
			Status int
			Error  string
		}
		if err := json.Unmarshal([]byte(line), &one); err != nil || one.Error != "" {
			t.Errorf("%s: %v", line, err)
		}
		if one.Step == "order" && one.Status == 201 {
			ordered++
		}
	}
	ledger, err := os.ReadFile(filepath.Join(p.dir, "ledger", "web"))
	if received := len(strings.Fields(string(ledger))); err != nil || received != ordered || ordered == 0 {
		t.Errorf("%d orders were answered and %d received: %v", ordered, received, err)
	}
	// With the project down there is no gateway to send to.
	p.run("down")
	if out, err := p.try("load", "lesson"); err == nil || !strings.Contains(out, "school is not running") {
		t.Errorf("without a gateway: %v\n%s", err, out)
	}
}
