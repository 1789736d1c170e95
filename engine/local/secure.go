package local

import (
	"net"
	"path/filepath"
	"strconv"

	"trellis/compose"
	"trellis/proxy"
)

// LocalCertificate returns the files, in a folder, of the certificate that this machine's own authority issues.
func LocalCertificate(dir string) proxy.Certificate {
	return proxy.Certificate{Chain: filepath.Join(dir, "gateway.crt"), Key: filepath.Join(dir, "gateway.key")}
}

// LocalNames returns the names that the local authority issues a certificate for; none where the file names its own, or
// has no https.
func LocalNames(p compose.Project) []string {
	g := p.Trellis.Gateway
	if g == nil || g.HTTPS == "" || len(g.Certificates) > 0 {
		return nil
	}
	return append([]string{"localhost", "127.0.0.1", "::1"}, g.Hosts...)
}

// secured returns the doors of a project with what TLS needs.
func (e *Engine) secured(d *desired) []proxy.Listener {
	doors := Doors(d.rev.Project)
	g := d.rev.Project.Trellis.Gateway
	if g == nil || g.HTTPS == "" {
		return doors
	}
	for i := range doors {
		l := &doors[i]
		switch {
		case l.TLS && len(g.Certificates) == 0:
			l.Certificates = []proxy.Certificate{LocalCertificate(e.cfg.TLSDir)}
		case l.TLS:
			for _, c := range g.Certificates {
				l.Certificates = append(l.Certificates, proxy.Certificate{
					Chain: e.contentFile(d.rev.Project.Secrets[c.Certificate]), Key: e.contentFile(d.rev.Project.Secrets[c.Key]),
				})
			}
		case l.Name == GatewayListener && g.RedirectHTTPS:
			l.Upgrade = e.securePort(g.HTTPS)
		}
	}
	return doors
}

// contentFile is where the content of a secret is kept; a path where nothing is for one without content.
func (e *Engine) contentFile(v compose.FileValue) string {
	if v.Ref == "" {
		return filepath.Join(e.cfg.ContentDir, "missing")
	}
	return filepath.Join(e.cfg.ContentDir, v.Ref)
}

// securePort is the port of the gateway's TLS listener: the one that is bound, where that is known.
func (e *Engine) securePort(address string) int {
	if plane, ok := e.cfg.Plane.(Told); ok {
		if bound := plane.Doors()[SecureListener]; bound != "" {
			address = bound
		}
	}
	_, text, err := net.SplitHostPort(address)
	port, bad := strconv.Atoi(text)
	if err != nil || bad != nil || port == 0 {
		return 443
	}
	return port
}
