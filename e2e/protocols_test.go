//go:build e2e

package e2e

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"trellis/load"
)

// protocols are the ways in which clients reach a service while it is replaced.
var protocols = map[string]struct {
	config func(c *load.Config)
	rate   float64
	file   func(string) string // what else the file needs
	quick  bool
}{
	"HTTP 1": {func(c *load.Config) {
		c.Mix = []load.Request{{Weight: 9, Method: "GET", Path: "/"}, {Weight: 1, Method: "POST", Path: "/ledger", Body: []byte("x")}}
	}, 300, nil, false},
	"HTTP 2": {func(c *load.Config) {
		c.HTTP2, c.Connections = true, 4
		c.Mix = []load.Request{{Weight: 9, Method: "GET", Path: "/"}, {Weight: 1, Method: "POST", Path: "/ledger", Body: []byte("x")}}
	}, 300, nil, true},
	"gRPC": {func(c *load.Config) { c.GRPC, c.Connections = &load.GRPCCall{Method: "grpc.health.v1.Health/Check"}, 4 }, 300, grpcPort, true},
	"WebSocket": {func(c *load.Config) {
		c.URL, c.Body, c.Connections = strings.Replace(c.URL, "http:", "ws:", 1)+"/ws", []byte("hello"), 16
	}, 200, func(file string) string {
		return strings.Replace(file, "    ports:", "    stop_grace_period: 1s\n    ports:", 1)
	}, true},
	"requests of 10 s": {func(c *load.Config) { c.URL, c.Connections, c.Timeout = c.URL+"/slow?for=10s", 200, 20*time.Second }, 10, func(file string) string {
		return strings.Replace(file, "    ports:", "    stop_grace_period: 15s\n    ports:", 1)
	}, false},
}

func grpcPort(file string) string {
	before, after, _ := strings.Cut(file, `ports: ["`)
	port, after, _ := strings.Cut(after, `:80"]`)
	return fmt.Sprintf(`%sports: [{target: 80, published: "%s", app_protocol: grpc}]%s`, before, port, after)
}

// TestRolloutsLoseNothing replaces a service of three again and again under load, over every protocol, as processes and, in
// the long form, as containers: nothing is lost.
func TestRolloutsLoseNothing(t *testing.T) {
	t.Parallel()
	for name, c := range protocols {
		if !c.quick && !long(t) {
			continue
		}
		rolled := func(t *testing.T, contained func(string) string) {
			rollouts := 2
			if long(t) {
				rollouts = 20
			}
			f, port := newFault(t), freePort(t)
			file := func(version string) string {
				text := contained(strings.Replace(shop(port, 3, version, ""), "500ms", "100ms", 1))
				if c.file != nil {
					text = c.file(text)
				}
				return text
			}
			p := newProject(t, map[string]string{"compose.yaml": file("v0"), "ledger/.keep": ""})
			p.run("up", "-d")
			cfg := load.Config{URL: url(port), Connections: 32, Timeout: 15 * time.Second, Pacer: load.Constant(c.rate, 30*time.Minute)}
			c.config(&cfg)
			tr := f.underLoadOf(cfg, func() {
				for i := range rollouts {
					f.try(name, func() {
						p.write("compose.yaml", file(fmt.Sprintf("v%d", i+1)))
						p.run("up", "-d")
					})
				}
			})
			// A message that crosses the close of its WebSocket at the end of the drain is answered by nobody, and no instance
			// has seen it: one a socket.
			if cfg.Body == nil || len(tr.Lost[0]) > cfg.Connections*rollouts {
				tr.NoneLost(t)
			}
			if len(cfg.Mix) > 0 {
				tr.Ledger(t, ledgers(t, filepath.Join(p.dir, "ledger", "web")))
			}
		}
		t.Run(name, func(t *testing.T) { rolled(t, func(file string) string { return file }) })
		if !long(t) {
			continue
		}
		t.Run(name+", containers", func(t *testing.T) {
			needsDocker(t)
			leavesNothingInDocker(t, "shop")
			image := dockerImage(t, "trellis-rollouts")
			process := fmt.Sprintf("      process: {command: [%s]}\n", built.app)
			rolled(t, func(file string) string {
				return strings.Replace(strings.Replace(file, process, "", 1), "    image: testapp\n", "    image: "+image+"\n    pull_policy: never\n", 1)
			})
		})
	}
}
