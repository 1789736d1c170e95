//go:build e2e

package e2e

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"trellis/engine"
)

// agreed is what ps says of one and the same project, step by step, whatever runs it.
var agreed = []struct {
	step    string
	command []string
	version string // of the file from here on; "": as before
	want    string
}{
	{"up", []string{"up", "-d", "--yes", "--timeout", "120s"}, "v1", `
api healthy 1/1 r1 ready
migrate completed 0/1 r1 exited
web healthy 2/2 r1 [8080/tcp] ready ready`},
	{"scaled", []string{"scale", "api=2", "--timeout", "120s"}, "", `
api healthy 2/2 r1 ready ready
migrate completed 0/1 r1 exited
web healthy 2/2 r1 [8080/tcp] ready ready`},
	{"stopped", []string{"stop", "api"}, "", `
api stopped 0/0 r1
migrate completed 0/1 r1 exited
web healthy 2/2 r1 [8080/tcp] ready ready`},
	{"started", []string{"start", "api", "--timeout", "120s"}, "", `
api healthy 2/2 r1 ready ready
migrate completed 0/1 r1 exited
web healthy 2/2 r1 [8080/tcp] ready ready`},
	{"another version", []string{"up", "-d", "--yes", "--timeout", "120s"}, "v2", `
api healthy 2/2 r1 ready ready
migrate completed 0/1 r1 exited
web healthy 2/2 r2 [8080/tcp] ready ready`},
	// A machine says the revision that started an instance, a cluster the one that its template is of.
	{"gone back", []string{"rollback", "--yes", "--timeout", "120s"}, "", `
api healthy 2/2 ready ready
migrate completed 0/1 exited
web healthy 2/2 [8080/tcp] ready ready`},
}

var revisionWord = regexp.MustCompile(` r[0-9]+`)

// agrees takes a project through the steps of agreed and compares what ps says of it.
func agrees(t *testing.T, p *project, file func(version string) string) {
	for _, step := range agreed {
		if step.version != "" {
			p.write("compose.yaml", file(step.version))
		}
		p.run(step.command...)
		want := strings.TrimPrefix(step.want, "\n")
		eventually(t, 30*time.Second, step.step, func() string {
			got := p.agreement()
			if !revisionWord.MatchString(want) {
				got = revisionWord.ReplaceAllString(got, "")
			}
			if got != want {
				return fmt.Sprintf("ps says\n%s\nand is to say\n%s", got, want)
			}
			return ""
		})
	}
}

// agreement is what ps says that no engine may say otherwise.
func (p *project) agreement() string {
	var lines []string
	for _, svc := range p.ps().Services {
		line := fmt.Sprintf("%s %s %d/%d r%d", svc.Name, svc.State, svc.Ready, svc.Want, svc.Revision)
		for _, port := range svc.Ports {
			line += fmt.Sprintf(" [%d/%s]", port.Target, port.Protocol)
		}
		var instances []string
		for _, in := range svc.Instances {
			if svc.State == engine.ServiceStopped && in.State == engine.InstanceExited {
				continue // a machine still knows of what it has stopped
			}
			instances = append(instances, in.State)
		}
		slices.Sort(instances)
		lines = append(lines, strings.Join(append([]string{line}, instances...), " "))
	}
	return strings.Join(lines, "\n")
}

// agreeing is the project of the agreement, of one image.
func agreeing(image, process string, port int) func(version string) string {
	if process != "" {
		process = fmt.Sprintf("process: {command: [%s]}, ", process)
	}
	return func(version string) string {
		return fmt.Sprintf(`name: e2e-agree
services:
  migrate:
    image: %[1]s
    environment: {EXIT: "0"}
    restart: "no"
    x-trellis: {%[2]s}
  web:
    image: %[1]s
    environment: {PORT: "8080", VERSION: %[4]s}
    ports: ["%[3]d:8080"]
    deploy: {replicas: 2}
    depends_on: {migrate: {condition: service_completed_successfully}}
    x-trellis: {%[2]sprobe: {http: /healthz}}
  api:
    image: %[1]s
    environment: {PORT: "8080"}
    expose: ["8080"]
    depends_on: {web: {condition: service_healthy}}
    x-trellis: {%[2]sprobe: {http: /healthz}}
`, image, process, port, version)
	}
}

// TestProcessesAgree, dockerAgrees and TestKubernetesAgrees: the same project gives the same ps.
func TestProcessesAgree(t *testing.T) {
	t.Parallel()
	agrees(t, newProject(t, nil), agreeing("testapp", built.app, freePort(t)))
}

func TestKubernetesAgrees(t *testing.T) {
	c := reachCluster(t)
	t.Parallel()
	agrees(t, c.project("e2e-agree"), agreeing(c.image, "", freePort(t)))
}

func dockerAgrees(t *testing.T) {
	needsDocker(t)
	leavesNothingInDocker(t, "e2e-agree")
	agrees(t, newProject(t, nil), agreeing(dockerImage(t, "e2e-agree-app"), "", freePort(t)))
}
