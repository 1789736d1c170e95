package compose

import (
	"net/netip"
	"net/url"
	"strconv"
	"strings"
)

// Balancers returns the addresses of a proxy_protocol or of trusted_proxies as prefixes. What can't be read is left out: the loader has said so.
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
	if a := p.Addr(); err == nil && a.Is4In6() && p.Bits() >= 96 { // callers are told by their IPv4 addresses
		p = netip.PrefixFrom(a.Unmap(), p.Bits()-96)
	}
	return p.Masked(), err == nil
}

// Target returns the host and the port that a shift leads to, and whether TLS is spoken there; false where To is not the URL
// of a gateway.
func (s Shift) Target() (host string, port int, tls, ok bool) {
	u, err := url.Parse(s.To)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "" || u.User != nil || u.Path != "" && u.Path != "/" || u.RawQuery != "" || u.Fragment != "" {
		return "", 0, false, false
	}
	tls = u.Scheme == "https"
	if port = 80; tls {
		port = 443
	}
	if text := u.Port(); text != "" {
		port, err = strconv.Atoi(text)
	}
	return u.Hostname(), port, tls, err == nil && port > 0 && port < 65536
}

// checkShift checks where a part of the requests is led.
func (l *loading) checkShift(p Project, s *Shift) {
	const at = "x-trellis.gateway.shift"
	if s == nil {
		return
	}
	host, _, tls, ok := s.Target()
	if !ok {
		l.errorPath(at+".to", "%s is not the URL of a gateway: write one such as http://10.0.0.7:8080, or https://shop.example.org", quoted(s.To))
		return
	}
	if s.CA != "" && l.known("secrets", s.CA, at+".ca") && p.Secrets[s.CA].External {
		l.errorPath(at+".ca", "secret %s is external: its content is not known here", s.CA)
	}
	switch {
	case !tls && (s.ServerName != "" || s.CA != ""):
		l.errorPath(at, "server_name and ca are about https, and to is not")
	case s.ServerName != "" && !routeHost.MatchString(s.ServerName):
		l.errorPath(at+".server_name", "%s is not a host name", quoted(s.ServerName))
	case !tls && !isLoopback(host):
		l.warnPath(at+".to", "what is led to %s goes there unencrypted: https is safe", host)
	}
}

// isLoopback says whether a host is this machine.
func isLoopback(host string) bool {
	a, err := netip.ParseAddr(host)
	return err == nil && a.IsLoopback() || host == "localhost"
}

// checkBalancers checks the addresses of a proxy_protocol or of trusted_proxies.
func (l *loading) checkBalancers(texts []string, where string) {
	for i, text := range texts {
		if _, ok := balancer(text); !ok {
			l.errorPath(indexPath(where, i), "%s is not an address: write one such as 10.0.0.7, or 10.0.0.0/24 for many", quoted(text))
		}
	}
}
