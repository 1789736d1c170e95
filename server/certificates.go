package server

import (
	"cmp"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"time"

	"trellis/compose"
	"trellis/engine/local"
	"trellis/identity/acme"
)

// Where a certificate of the gateway is from.
const (
	certificateFile  = "file"  // the project's file names its secret
	certificateACME  = "acme"  // an authority was asked for it
	certificateLocal = "local" // this machine's own authority issued it
)

// certificate is one that the gateway shows.
type certificate struct {
	name, source        string
	notBefore, notAfter time.Time
}

// When a certificate is called due: Trellis renews when a third of its life is left, so that with a quarter left
// something is wrong. Nobody wants to hear of one of a year for three months.
const (
	certificateLeft   = 0.25
	certificateLatest = 21 * 24 * time.Hour
)

func (c certificate) due(now time.Time) bool {
	left, life := c.notAfter.Sub(now), c.notAfter.Sub(c.notBefore)
	return left < certificateLatest && left.Seconds() < certificateLeft*life.Seconds()
}

// certificates returns those that the gateway of a project shows; what cannot be read is left out, and said by whoever
// needs it.
func (c *control) certificates(p compose.Project) []certificate {
	g := p.Trellis.Gateway
	if g == nil || g.HTTPS == "" {
		return nil
	}
	var all []certificate
	add := func(source, name string, chain []byte, err error) {
		if err != nil {
			return
		}
		if one, err := leafOf(chain); err == nil {
			one.source, one.name = source, cmp.Or(name, one.name)
			all = append(all, one)
		}
	}
	all = namedCertificates(p, c.content)
	for _, name := range g.Asked() {
		chain, err := os.ReadFile(acme.ChainFile(local.ACMEDir(c.location.TLS()), name))
		add(certificateACME, name, chain, err)
	}
	if local.LocalNames(p) != nil && len(all) == 0 {
		chain, err := os.ReadFile(local.LocalCertificate(c.location.TLS()).Chain)
		add(certificateLocal, "", chain, err)
	}
	return all
}

// namedCertificates are those that a project's file names; what cannot be read is left out.
func namedCertificates(p compose.Project, content func(ref string) ([]byte, error)) []certificate {
	var all []certificate
	for _, named := range p.Trellis.Gateway.Certificates {
		chain, err := content(p.Secrets[named.Certificate].Ref)
		if err != nil {
			continue
		}
		if one, err := leafOf(chain); err == nil {
			one.source = certificateFile
			all = append(all, one)
		}
	}
	return all
}

// leafOf reads the first certificate of a chain, named by the last of its names.
func leafOf(chain []byte) (certificate, error) {
	block, _ := pem.Decode(chain)
	if block == nil {
		return certificate{}, errors.New("no certificate")
	}
	leaf, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return certificate{}, fmt.Errorf("read a certificate: %w", err)
	}
	one := certificate{name: leaf.Subject.CommonName, notBefore: leaf.NotBefore, notAfter: leaf.NotAfter}
	if n := len(leaf.DNSNames); n > 0 {
		one.name = leaf.DNSNames[n-1]
	}
	return one, nil
}

// routed says whether the gateway leads to a service.
func routed(p compose.Project, service string) bool {
	for _, port := range p.Services[service].Ports {
		if len(port.Trellis.Routes) > 0 {
			return true
		}
	}
	return false
}
