package main

import (
	"fmt"
	"net"
	"strconv"
	"strings"
	"time"

	"trellis/api"
	"trellis/compose"
	"trellis/engine"
)

// summary prints one line for each service that has passed to another revision, and one for the project where none has.
func (p *program) summary(before, after api.Status, changes int, took passageTimes) {
	for _, line := range summaryLines(before, after, changes, took) {
		fmt.Fprintln(p.stdout, line)
	}
}

// passageTimes are how long a deploy took as a whole and each service in it.
type passageTimes struct {
	whole    time.Duration
	services map[string]time.Duration
}

func summaryLines(before, after api.Status, changes int, took passageTimes) []string {
	was := map[string]engine.Service{}
	for _, svc := range before.Services {
		was[svc.Name] = svc
	}
	var lines []string
	for _, svc := range after.Services {
		old := was[svc.Name]
		if old.Revision == svc.Revision && old.Revision != 0 || svc.Revision == 0 {
			continue
		}
		from := ""
		if old.Revision != 0 {
			from = fmt.Sprintf("r%d→", old.Revision)
		}
		line := fmt.Sprintf("%s %sr%d  %d/%d %s  %s", svc.Name, from, svc.Revision, svc.Ready, svc.Want, svc.State, shortly(took.services[svc.Name]))
		lines = append(lines, line+traffic(before, after, svc.Name))
	}
	if len(lines) > 0 {
		return lines
	}
	well := 0
	for _, svc := range after.Services {
		if settledWell(svc) {
			well++
		}
	}
	what := "is up to date"
	if changes > 0 {
		what = "is changed, without a restart"
	}
	return []string{fmt.Sprintf("%s r%d %s  %d/%d services well  %s", after.Project, after.Revision, what, well, len(after.Services), shortly(took.whole))}
}

// traffic says how many requests went to a service meanwhile, and how many of them failed. Nothing is said where the
// data plane is another one than before: its counts began anew.
func traffic(before, after api.Status, service string) string {
	old, counted := before.Traffic[service]
	now, still := after.Traffic[service]
	if !counted || !still || before.Proxy.PID != after.Proxy.PID || now.Requests <= old.Requests {
		return ""
	}
	return fmt.Sprintf("  %s requests, %s failed", number(now.Requests-old.Requests), number(now.Failed-old.Failed))
}

// addresses prints where the project is reached.
func (p *program) addresses(s api.Status, project compose.Project) {
	var rows [][2]string
	add := func(name string, address *string) {
		if address != nil && *address != "" {
			rows = append(rows, [2]string{name, *address})
		}
	}
	add("gateway", s.Gateway.HTTP)
	add("gateway", s.Gateway.HTTPS)
	add("console", s.Console)
	for _, svc := range s.Services {
		for _, port := range svc.Ports {
			address := published(port, project.Services[svc.Name])
			add(svc.Name, &address)
		}
	}
	wide := 0
	for _, row := range rows {
		wide = max(wide, columns(row[0]))
	}
	for _, row := range rows {
		fmt.Fprintf(p.stdout, "  %s  %s\n", pad(row[0], wide), row[1])
	}
}

// published says where a port is reached from this machine, as a URL where the file says that it speaks HTTP.
func published(port engine.Port, svc compose.Service) string {
	if port.Published == 0 {
		return ""
	}
	host := port.HostIP
	switch host {
	case "", "0.0.0.0", "::":
		host = "localhost"
	}
	address := net.JoinHostPort(strings.Trim(host, "[]"), strconv.Itoa(port.Published))
	for _, declared := range svc.Ports {
		if declared.Target != port.Target || declared.Protocol != port.Protocol {
			continue
		}
		switch declared.AppProtocol {
		case "http", "http2", "ws":
			address = "http://" + address
		case "https":
			address = "https://" + address
		}
		break
	}
	return fmt.Sprintf("%s → %d/%s", address, port.Target, port.Protocol)
}
