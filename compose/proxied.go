package compose

import (
	"net/netip"
	"strings"
)

// Balancers returns the addresses of a proxy_protocol as prefixes. What can't be read is left out: the loader has said so.
func Balancers(texts []string) []string {
	var all []string
	for _, text := range texts {
		if p, ok := balancer(text); ok {
			all = append(all, p.String())
		}
	}
	return all
}

// balancer reads an address, or a prefix of addresses.
func balancer(text string) (netip.Prefix, bool) {
	if !strings.Contains(text, "/") {
		a, err := netip.ParseAddr(text)
		if err != nil || a.Zone() != "" {
			return netip.Prefix{}, false
		}
		a = a.Unmap()
		return netip.PrefixFrom(a, a.BitLen()), true
	}
	p, err := netip.ParsePrefix(text)
	return p.Masked(), err == nil
}

// checkBalancers checks the addresses of a proxy_protocol.
func (l *loading) checkBalancers(texts []string, where string) {
	for i, text := range texts {
		if _, ok := balancer(text); !ok {
			l.errorPath(indexPath(where, i), "%s is not an address: write one such as 10.0.0.7, or 10.0.0.0/24 for many", quoted(text))
		}
	}
}
