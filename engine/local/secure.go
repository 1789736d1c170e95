package local

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"

	"trellis/compose"
	"trellis/identity/acme"
	"trellis/proxy"
)

// LocalCertificate returns the files, in a folder, of the certificate that this machine's own authority issues.
func LocalCertificate(dir string) proxy.Certificate {
	return proxy.Certificate{Chain: filepath.Join(dir, "gateway.crt"), Key: filepath.Join(dir, "gateway.key")}
}

// LocalNames returns the names that the local authority issues a certificate for; none where the file names its own, or
// has no https. Hosts whose certificates are asked for elsewhere are among them, for as long as there are none.
func LocalNames(p compose.Project) []string {
	g := p.Trellis.Gateway
	if g == nil || g.HTTPS == "" || len(g.Certificates) > 0 {
		return nil
	}
	return append([]string{"localhost", "127.0.0.1", "::1"}, g.Hosts...)
}

// ACMEDir is the folder, in that of certificates, of those that an authority was asked for, and AnswersDir that of the
// answers for it.
func ACMEDir(dir string) string    { return filepath.Join(dir, "acme") }
func AnswersDir(dir string) string { return filepath.Join(dir, "answers") }

// secured returns the doors of a project with what TLS needs.
func (e *Engine) secured(d *desired) []proxy.Listener {
	doors := Doors(d.rev.Project)
	g := d.rev.Project.Trellis.Gateway
	if g == nil || g.HTTPS == "" {
		return doors
	}
	asked := g.Asked()
	for i := range doors {
		l := &doors[i]
		switch {
		case l.TLS && len(g.Certificates) == 0:
			l.Certificates = e.ownCertificates(asked)
		case l.TLS:
			for _, c := range g.Certificates {
				l.Certificates = append(l.Certificates, proxy.Certificate{
					Chain: e.contentFile(d.rev.Project.Secrets[c.Certificate]), Key: e.contentFile(d.rev.Project.Secrets[c.Key]),
				})
			}
		case l.Name == GatewayListener && g.RedirectHTTPS:
			l.Upgrade = e.securePort(g.HTTPS)
		}
		l.RequireClientCertificate = l.TLS && g.ClientCertificates == "required"
		if len(asked) > 0 && (l.TLS || l.Name == GatewayListener) {
			l.Challenges = AnswersDir(e.cfg.TLSDir)
		}
	}
	return doors
}

// ownCertificates are those that the file does not name. What an authority is asked for comes first: where there is one of
// it and one of this machine's own authority, a handshake gets the first.
func (e *Engine) ownCertificates(asked []string) []proxy.Certificate {
	var all []proxy.Certificate
	dir := ACMEDir(e.cfg.TLSDir)
	for _, name := range asked {
		all = append(all, proxy.Certificate{Chain: acme.ChainFile(dir, name), Key: acme.KeyFile(dir, name), Pending: true})
	}
	own := LocalCertificate(e.cfg.TLSDir)
	own.Pending = len(asked) > 0
	return append(all, own)
}

// contentFile is where the content of a secret is kept; a path where nothing is for one without content.
func (e *Engine) contentFile(v compose.FileValue) string {
	if v.Ref == "" {
		return filepath.Join(e.cfg.ContentDir, "missing")
	}
	return filepath.Join(e.cfg.ContentDir, v.Ref)
}

// secretIn reads the secrets of a project by their names.
func (e *Engine) secretIn(p compose.Project) func(name string) (string, error) {
	return func(name string) (string, error) {
		ref := p.Secrets[name].Ref
		if ref == "" {
			return "", fmt.Errorf("secret %s has no content", name)
		}
		b, err := os.ReadFile(filepath.Join(e.cfg.ContentDir, ref))
		if err != nil {
			return "", fmt.Errorf("secret %s: %w", name, err)
		}
		return string(b), nil
	}
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
