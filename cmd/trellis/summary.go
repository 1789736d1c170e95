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
		measured := ledgerOf(after, svc)
		if measured == "" {
			measured = traffic(before, after, svc.Name)
		}
		lines = append(lines, line+measured)
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

// ledgerOf says what was measured while a service passed to its present revision, "" where nothing was.
func ledgerOf(s api.Status, svc engine.Service) string {
	for _, r := range s.Rollouts {
		if r.Service != svc.Name || r.Revision != svc.Revision || r.Ledger.Requests == 0 {
			continue
		}
		line := fmt.Sprintf("  %s requests, %s failed", number(r.Ledger.Requests), number(r.Ledger.Failed))
		if was, is := r.Ledger.Old.P99, r.Ledger.New.P99; was != nil && is != nil {
			line += fmt.Sprintf(", p99 %s→%s ms", milliseconds(*was), milliseconds(*is))
		}
		return line
	}
	return ""
}

// milliseconds writes a latency with as many digits as it deserves.
func milliseconds(ms float64) string {
	if ms < 10 {
		return strconv.FormatFloat(ms, 'f', 1, 64)
	}
	return strconv.FormatFloat(ms, 'f', 0, 64)
}

// addresses prints where the project is reached.
func (p *program) addresses(s api.Status, project compose.Project) {
	var rows [][2]string
	add := func(name string, address *string) {
		if address != nil && *address != "" {
			rows = append(rows, [2]string{name, *address})
		}
	}
	gateway := s.Gateway.HTTP
	if wanted := wantedGateway(project); gateway != nil && wanted != "" && !strings.HasSuffix(*gateway, wanted) && s.Engine != onKubernetes {
		text := *gateway + "  (" + wanted + " was taken)"
		gateway = &text
	}
	add("gateway", gateway)
	add("gateway", s.Gateway.HTTPS)
	add("console", s.Console)
	for _, svc := range s.Services {
		for _, port := range svc.Ports {
			address := published(port, project.Services[svc.Name], s.Engine == onKubernetes)
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

// wantedGateway returns the port that the file asks for the gateway as the end of its address, "" where it does not.
func wantedGateway(project compose.Project) string {
	if project.Trellis.Gateway == nil {
		return ""
	}
	_, port, _ := net.SplitHostPort(project.Trellis.Gateway.HTTP)
	if port == "" || port == "0" || port == "80" {
		return ""
	}
	return ":" + port
}

// published says where a port is reached from this machine and what it leads to, and that it is not the one of the file
// where that was taken, by another copy of the project. A cluster gives out ports of its own.
func published(port engine.Port, svc compose.Service, given bool) string {
	address := reached(port, svc)
	if address == "" {
		return ""
	}
	text := fmt.Sprintf("%s → %d/%s", address, port.Target, port.Protocol)
	if wanted := declared(port, svc).Published; wanted != "" && wanted != "0" && wanted != strconv.Itoa(port.Published) &&
		!strings.Contains(wanted, "-") && !given {
		text += "  (" + wanted + " was taken)"
	}
	return text
}

// reached says where a port is reached from this machine, as a URL where the file says that it speaks HTTP.
func reached(port engine.Port, svc compose.Service) string {
	if port.Published == 0 {
		return ""
	}
	host := port.HostIP
	switch host {
	case "", "0.0.0.0", "::":
		host = "localhost"
	}
	address := net.JoinHostPort(strings.Trim(host, "[]"), strconv.Itoa(port.Published))
	switch declared(port, svc).AppProtocol {
	case "http", "http2", "ws":
		return "http://" + address
	case "https":
		return "https://" + address
	}
	return address
}

// declared returns the port of the file that a published port is: the one with that number, or else the first that leads
// to the same.
func declared(port engine.Port, svc compose.Service) compose.Port {
	var found compose.Port
	for _, p := range svc.Ports {
		if p.Target != port.Target || p.Protocol != port.Protocol {
			continue
		}
		if p.Published == strconv.Itoa(port.Published) {
			return p
		}
		if found.Target == 0 {
			found = p
		}
	}
	return found
}
