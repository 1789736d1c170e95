package enginetest

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
)

// service is a service of a file, run by the program under test.
type service struct {
	name     string
	version  string
	port     int // published; 0: none
	replicas int
	env      []string // "KEY: value"
	lines    []string // of the service
	deploy   []string // of its deploy
	monitor  string   // of its update_config
}

// web is the service that clients reach.
func web(p Project, version string, replicas int, env ...string) service {
	return service{name: "web", version: version, port: p.Port(), replicas: replicas, env: env, monitor: "500ms"}
}

func (s service) with(lines ...string) service { s.lines = append(s.lines, lines...); return s }

func (s service) deployed(lines ...string) service { s.deploy = append(s.deploy, lines...); return s }

// file returns the text of p's Compose file. more are its top-level lines.
func (c *check) file(p Project, services []service, more ...string) string {
	var b strings.Builder
	b.WriteString("name: " + p.Name() + "\nservices:\n")
	for _, s := range services {
		fmt.Fprintf(&b, "  %s:\n", s.name)
		lines := append([]string{}, c.target.Service...)
		if s.port != 0 {
			lines = append(lines, fmt.Sprintf(`ports: ["%d:80"]`, s.port))
		} else {
			lines = append(lines, `expose: ["80"]`)
		}
		env := append([]string{fmt.Sprintf("VERSION: %q", s.version), "LEDGER: /ledger/" + s.name}, s.env...)
		lines = append(lines, "environment: {"+strings.Join(env, ", ")+"}", fmt.Sprintf(`volumes: ["%s:/ledger"]`, p.Ledger()),
			"healthcheck: {interval: 500ms, timeout: 1s, retries: 4}")
		lines = append(lines, s.lines...)
		deploy := append([]string{}, s.deploy...)
		if s.replicas > 0 {
			deploy = append(deploy, fmt.Sprintf("replicas: %d", s.replicas))
		}
		if s.monitor != "" {
			deploy = append(deploy, "update_config: {monitor: "+s.monitor+"}")
		}
		write := func(indent string, lines []string) {
			for _, l := range lines {
				b.WriteString(indent + l + "\n")
			}
		}
		write("    ", lines)
		if len(deploy) > 0 {
			b.WriteString("    deploy:\n")
			write("      ", deploy)
		}
		b.WriteString("    x-trellis:\n      probe: {http: /healthz}\n")
		write("      ", c.target.Trellis)
	}
	for _, l := range more {
		b.WriteString(l + "\n")
	}
	return b.String()
}

// only returns the file of one service, for project.
func (c *check) only(version string, replicas int, env ...string) func(p Project) string {
	return func(p Project) string { return c.file(p, []service{web(p, version, replicas, env...)}) }
}

// hello is what the program says of itself.
type hello struct {
	Version string
	PID     int
	Host    string
}

func (p *running) ask(method, path string) (string, error) {
	req, err := http.NewRequest(method, p.Address()+path, nil)
	if err != nil {
		return "", err
	}
	resp, err := client.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s %s: %s: %s", method, path, resp.Status, body)
	}
	return string(body), err
}

func (p *running) hello() hello {
	p.c.Helper()
	var h hello
	if err := json.Unmarshal([]byte(p.answer("/")), &h); err != nil {
		p.c.Fatal(err)
	}
	return h
}
