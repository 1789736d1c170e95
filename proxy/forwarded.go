package proxy

import (
	"net/netip"
	"slices"
	"strings"
)

// believe takes from the request who its client is, and whether that one came over TLS, where what speaks HTTP in front is
// trusted. Each of a row of them appends the address that it was called from to X-Forwarded-For: of those the last one is
// the client's that is not trusted itself. What is before it anybody may have written.
func (q *request) believe(trusted []netip.Prefix) {
	if !within(trusted, q.client) {
		return
	}
	if proto := lastOf(q.header.Values("X-Forwarded-Proto")); proto == "http" || proto == "https" {
		q.scheme = proto
	}
	for _, line := range slices.Backward(q.header.Values("X-Forwarded-For")) {
		for line != "" {
			at := strings.LastIndexByte(line, ',') + 1
			client, ok := parseForwarded(line[at:])
			if !ok {
				return
			}
			q.client = client
			if !within(trusted, client) {
				return
			}
			line = line[:max(at-1, 0)]
		}
	}
}

// lastOf returns the last word of a list that may be in several fields.
func lastOf(lines []string) string {
	if len(lines) == 0 {
		return ""
	}
	line := lines[len(lines)-1]
	return strings.TrimSpace(line[strings.LastIndexByte(line, ',')+1:])
}

// parseForwarded reads an address of X-Forwarded-For, to which some append a port.
func parseForwarded(text string) (netip.Addr, bool) {
	text = strings.TrimSpace(text)
	a, err := netip.ParseAddr(text)
	if err != nil {
		with, err := netip.ParseAddrPort(text)
		if err != nil {
			return netip.Addr{}, false
		}
		a = with.Addr()
	}
	a = a.Unmap()
	return a, a.Zone() == "" && !a.IsUnspecified() && !a.IsMulticast()
}
