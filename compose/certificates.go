package compose

import (
	"maps"
	"net"
	"net/mail"
	"net/netip"
	"net/url"
	"slices"
	"strings"
)

// Asked returns those of Hosts whose certificates an authority is asked for by ACME. The others are names that no
// authority issues for: of this machine, or of a network of one's own. Let's Encrypt issues for names of the world's DNS
// only; another authority is asked for every name but this machine's.
func (g *Gateway) Asked() []string {
	if g == nil || g.ACME == nil || g.HTTPS == "" {
		return nil
	}
	var names []string
	for _, h := range g.Hosts {
		if name := strings.ToLower(h); isPublic(name) || g.ACME.Directory != "" && !isUnder(name, "localhost") && !isAddress(name) {
			names = append(names, name)
		}
	}
	return names
}

// special are the ends of names that are nobody's in the world's DNS (RFC 6761, RFC 6762, RFC 7686, RFC 8375, RFC 9476,
// and ICANN's reservation of internal).
var special = []string{"localhost", "local", "test", "invalid", "example", "internal", "home.arpa", "onion", "alt"}

// isPublic says whether a name can be one of the world's DNS.
func isPublic(name string) bool {
	if !strings.Contains(name, ".") || isAddress(name) {
		return false
	}
	for _, end := range special {
		if isUnder(name, end) {
			return false
		}
	}
	return true
}

func isUnder(name, end string) bool { return name == end || strings.HasSuffix(name, "."+end) }

func isAddress(name string) bool {
	_, err := netip.ParseAddr(name)
	return err == nil
}

// checkTLS checks what the gateway's https is made of.
func (l *loading) checkTLS(p Project, g *Gateway) {
	const at = "x-trellis.gateway"
	for i, c := range g.Certificates {
		l.known("secrets", c.Certificate, indexPath(at+".certificates", i)+".certificate")
		l.known("secrets", c.Key, indexPath(at+".certificates", i)+".key")
	}
	switch g.ClientCertificates {
	case "", "optional":
	case "required":
		if !slices.ContainsFunc(slices.Collect(maps.Values(p.Trellis.Auth)), func(a AuthScheme) bool { return a.ClientCertificate != nil }) {
			l.errorPath(at+".client_certificates", "nobody could come in: add a scheme with client_certificate to x-trellis.auth")
		} else if !g.RedirectHTTPS {
			l.warnPath(at+".client_certificates", "holds for https alone: routes that let everyone in are open over http; set redirect_https")
		}
	default:
		l.errorPath(at+".client_certificates", "%s is not known%s", quoted(g.ClientCertificates), didYouMean(g.ClientCertificates, []string{"optional", "required"}))
	}
	if g.HTTPS == "" {
		for key, set := range map[string]bool{
			"certificates": len(g.Certificates) > 0, "redirect_https": g.RedirectHTTPS, "hsts": g.HSTS != nil, "acme": g.ACME != nil,
			"client_certificates": g.ClientCertificates != "",
		} {
			if set {
				l.errorPath(at+"."+key, "needs https: write https: \":8443\"")
			}
		}
		return
	}
	if g.ACME != nil {
		l.checkACME(g, at)
	}
}

func (l *loading) checkACME(g *Gateway, at string) {
	if len(g.Certificates) > 0 {
		l.errorPath(at+".acme", "cannot be combined with certificates: keep one of them")
		return
	}
	if e := g.ACME.Email; e != "" {
		if a, err := mail.ParseAddress(e); err != nil || a.Address != e {
			l.errorPath(at+".acme.email", "%s is not an address: write one such as ops@example.org", quoted(e))
		}
	}
	if d := g.ACME.Directory; d != "" {
		if u, err := url.Parse(d); err != nil || u.Scheme != "https" || u.Host == "" || u.User != nil {
			l.errorPath(at+".acme.directory", "%s is not the URL of an authority's directory: it begins with https://", quoted(d))
		}
	}
	asked := g.Asked()
	for i, h := range g.Hosts {
		if strings.HasPrefix(h, "*.") && (isPublic(strings.ToLower(h)) || g.ACME.Directory != "") {
			l.errorPath(indexPath(at+".hosts", i), "%s: an authority issues for a wildcard only to who can change its DNS, which Trellis can't; name each host, or keep certificates instead of acme", quoted(h))
		}
	}
	switch {
	case len(g.Hosts) == 0:
		l.errorPath(at+".acme", "needs hosts: the names that certificates are asked for")
	case len(asked) == 0:
		l.warnPath(at+".acme", "asks for nothing: no authority issues for %s; https has a certificate of this machine's own authority", strings.Join(g.Hosts, ", "))
	case !hasPort(g.HTTP, "80") && !hasPort(g.HTTPS, "443"):
		l.warnPath(at+".acme", "works only if something leads from port 80 or 443 of %s to this gateway's: an authority comes to no other", strings.Join(asked, ", "))
	}
}

// hasPort says whether a listen address has that port.
func hasPort(address, port string) bool {
	_, p, err := net.SplitHostPort(address)
	return err == nil && p == port
}
