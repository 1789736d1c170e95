package engine

import (
	"slices"
	"strconv"
	"strings"

	"trellis/compose"
)

// Ports returns the ports that a service listens on as far as its file says: TCP before UDP, in the order of the
// file.
func Ports(svc compose.Service) []int {
	tcp := TCPPorts(svc)
	for _, p := range svc.Ports {
		if p.Protocol == "udp" && !slices.Contains(tcp, p.Target) {
			tcp = append(tcp, p.Target)
		}
	}
	return tcp
}

// TCPPorts are the Ports that are TCP.
func TCPPorts(svc compose.Service) []int {
	var all []int
	add := func(port int) {
		if port > 0 && !slices.Contains(all, port) {
			all = append(all, port)
		}
	}
	for _, p := range svc.Ports {
		if p.Protocol != "udp" {
			add(p.Target)
		}
	}
	for _, text := range svc.Expose {
		from, to, ok := exposed(text)
		for port := from; ok && port <= to; port++ {
			add(port)
		}
	}
	if svc.Trellis.Probe != nil {
		add(svc.Trellis.Probe.Port)
	}
	return all
}

// exposed reads one entry of expose, "8080", "8080/tcp" or "8000-8010"; false for one of UDP.
func exposed(text string) (from, to int, ok bool) {
	text, protocol, _ := strings.Cut(text, "/")
	if protocol != "" && protocol != "tcp" {
		return 0, 0, false
	}
	low, high, ranged := strings.Cut(text, "-")
	if !ranged {
		high = low
	}
	first, err := strconv.ParseUint(low, 10, 16)
	last, err2 := strconv.ParseUint(high, 10, 16)
	return int(first), int(last), err == nil && err2 == nil && last >= first
}
