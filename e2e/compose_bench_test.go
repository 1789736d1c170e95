//go:build e2e

package e2e

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"trellis/engine/enginetest"
	"trellis/load"
)

// sameFile is what both run: a service behind a port, one that it needs, a volume and a network of their own.
func sameFile(name, image string, port int, version string) string {
	return fmt.Sprintf(`name: %s
services:
  web:
    image: %s
    pull_policy: never
    ports: ["%d:80"]
    environment: {VERSION: "%s"}
    depends_on: [store]
  store:
    image: %s
    pull_policy: never
    environment: {VERSION: store}
    expose: ["80"]
    volumes: ["data:/data"]
volumes:
  data:
`, name, image, port, version, image)
}

// side is docker compose or Trellis on the same file.
type side struct {
	up, down func()
	took     []time.Duration // from the command to the first answer
	redeploy []time.Duration // from the command to the first answer of the new version
	sent     int
	lost     int
}

// BenchmarkBesideDockerCompose runs one file with docker compose and with Trellis on the same engine, in turn: from the
// command to the first answer, and a deploy of a new version under 100 requests a second.
func BenchmarkBesideDockerCompose(b *testing.B) {
	needsDocker(b)
	image := dockerImage(b, "trellis-bench")
	const rounds = 3
	sides := map[string]*side{"compose": {}, "trellis": {}}
	for range b.N * rounds {
		for name, s := range sides { // in any order
			port := freePort(b)
			p := newProject(b, nil)
			file := func(version string) {
				text := sameFile("bench"+name, image, port, version)
				if name == "compose" { // its first generation knows no name, and wants a version
					text = strings.Replace(text, "name: bench"+name+"\n", "version: \"3.8\"\n", 1)
					text = strings.ReplaceAll(text, "    pull_policy: never\n", "")
				}
				p.write("compose.yaml", text)
			}
			s.up, s.down = func() { p.run("up", "-d", "--driver", "docker") }, func() { p.run("down", "--volumes", "--yes") }
			if name == "compose" {
				s.up = func() { composeCommand(b, p.dir, "-p", "bench"+name, "up", "-d") }
				s.down = func() { composeCommand(b, p.dir, "-p", "bench"+name, "down", "-v") }
			}
			file("v1")
			s.took = append(s.took, s.answers(b, port, "v1", false))
			cfg := load.Config{
				URL: url(port), Connections: 16, Timeout: 15 * time.Second, Pacer: load.Constant(100, 10*time.Minute),
				Mix: []load.Request{{Method: http.MethodGet, Path: "/"}},
			}
			tr := enginetest.Drive(b, cfg, func() {
				file("v2")
				s.redeploy = append(s.redeploy, s.answers(b, port, "v2", true))
			})
			s.sent, s.lost = s.sent+tr.Report.Sent, s.lost+tr.All()
			s.down()
		}
	}
	for name, s := range sides {
		b.Logf("%s: up %v, redeploy %v, %d of %d requests lost", name, s.took, s.redeploy, s.lost, s.sent)
		b.ReportMetric(ms(median(s.took)), name+"-up-ms")
		b.ReportMetric(ms(median(s.redeploy)), name+"-redeploy-ms")
		b.ReportMetric(float64(s.lost), name+"-lost")
	}
	b.ReportMetric(float64(median(sides["trellis"].took))/float64(median(sides["compose"].took)), "up-ratio")
	b.ReportMetric(0, "ns/op")
}

// answers brings the file up and returns how long it took until that version answered. With already it is asked while the command goes
// on, since Trellis watches a new version for a while; who asks before there is anything keeps docker compose's from answering for a second.
func (s *side) answers(b *testing.B, port int, version string, already bool) time.Duration {
	b.Helper()
	began := time.Now()
	answered := make(chan time.Duration, 1)
	done := make(chan struct{})
	defer close(done)
	ask := func() {
		if text, err := fetch(url(port)); err == nil && strings.Contains(text, `"version":"`+version+`"`) {
			select {
			case answered <- time.Since(began):
			default: // another one was faster
			}
		}
	}
	asking := func() {
		for tick := time.NewTicker(20 * time.Millisecond); ; { // whoever asks too early may wait for a second
			select {
			case <-tick.C:
				go ask()
			case <-done:
				return
			}
		}
	}
	if already {
		go asking()
	}
	s.up()
	if !already {
		go asking()
	}
	select {
	case took := <-answered:
		return took
	case <-time.After(time.Minute):
		b.Fatalf("%s does not answer within a minute", version)
		return 0
	}
}
