package identitytest

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net/url"
	"testing"
	"time"
)

// Certified is a certificate with its key, and those that lead to its root.
type Certified struct {
	tls.Certificate
	t testing.TB
}

// NewCA returns an authority of its own.
func NewCA(t testing.TB, name string) *Certified { return issue(t, nil, name, authority) }

// Issue returns a certificate of c for a client, changed by change (nil: it stays as it is): a SPIFFE ID and a DNS name
// after name, valid for an hour.
func (c *Certified) Issue(name string, change func(*x509.Certificate)) *Certified {
	return issue(c.t, c, name, change)
}

// Sub returns an authority below c.
func (c *Certified) Sub(name string, change func(*x509.Certificate)) *Certified {
	return issue(c.t, c, name, func(x *x509.Certificate) {
		authority(x)
		if change != nil {
			change(x)
		}
	})
}

// PEM returns the certificate, without those that lead to its root.
func (c *Certified) PEM() string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Certificate.Certificate[0]}))
}

// Chain returns the certificates as a client shows them.
func (c *Certified) Chain() []*x509.Certificate {
	c.t.Helper()
	var all []*x509.Certificate
	for _, der := range c.Certificate.Certificate {
		one, err := x509.ParseCertificate(der)
		if err != nil {
			c.t.Fatal(err)
		}
		all = append(all, one)
	}
	return all
}

func authority(x *x509.Certificate) {
	x.IsCA, x.KeyUsage, x.ExtKeyUsage, x.DNSNames, x.URIs = true, x509.KeyUsageCertSign, nil, nil, nil
}

// issue signs by the issuer, nil for itself. The chain that is shown has no root.
func issue(t testing.TB, issuer *Certified, name string, change func(*x509.Certificate)) *Certified {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	number, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		t.Fatal(err)
	}
	x := &x509.Certificate{
		SerialNumber: number, Subject: pkix.Name{CommonName: name, Organization: []string{"Test"}}, NotBefore: time.Now().Add(-time.Hour),
		NotAfter: time.Now().Add(time.Hour), BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}, DNSNames: []string{name + ".example.org"},
		URIs: []*url.URL{{Scheme: "spiffe", Host: "example.org", Path: "/" + name}},
	}
	if change != nil {
		change(x)
	}
	parent, signer := x, any(key)
	if issuer != nil {
		parent, signer = issuer.Chain()[0], issuer.PrivateKey
	}
	der, err := x509.CreateCertificate(rand.Reader, x, parent, key.Public(), signer)
	if err != nil {
		t.Fatal(err)
	}
	c := &Certified{t: t, Certificate: tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}}
	if issuer != nil && issuer.Chain()[0].CheckSignatureFrom(issuer.Chain()[0]) != nil { // below a root
		c.Certificate.Certificate = append(c.Certificate.Certificate, issuer.Certificate.Certificate...)
	}
	return c
}

// BadClients are certificates that nobody may accept who trusts ca alone, by what is wrong with them.
func BadClients(t testing.TB, ca *Certified) map[string]*Certified {
	t.Helper()
	other := NewCA(t, "ca") // with the same name
	namesake := other.Issue("partner", nil)
	cut := ca.Sub("between", nil).Issue("partner", nil)
	cut.Certificate.Certificate = cut.Certificate.Certificate[:1]
	broken := ca.Issue("partner", nil)
	der := append([]byte(nil), broken.Certificate.Certificate[0]...)
	der[len(der)-1] ^= 1
	broken.Certificate.Certificate[0] = der
	leaf := ca.Issue("partner", nil)
	return map[string]*Certified{
		"expired":           ca.Issue("partner", func(x *x509.Certificate) { x.NotAfter = time.Now().Add(-time.Second) }),
		"not yet valid":     ca.Issue("partner", func(x *x509.Certificate) { x.NotBefore = time.Now().Add(30 * time.Minute) }),
		"another authority": namesake,
		"self-signed":       issue(t, nil, "partner", nil),
		"no purpose":        ca.Issue("partner", func(x *x509.Certificate) { x.ExtKeyUsage = nil }),
		"for servers":       ca.Issue("partner", func(x *x509.Certificate) { x.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth} }),
		"for anything":      ca.Issue("partner", func(x *x509.Certificate) { x.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageAny} }),
		"an authority":      ca.Issue("partner", func(x *x509.Certificate) { x.IsCA = true; x.KeyUsage |= x509.KeyUsageCertSign }),
		"the authority":     ca,
		"chain cut":         cut,
		"signature broken":  broken,
		"nameless": ca.Issue("partner", func(x *x509.Certificate) {
			x.Subject, x.DNSNames, x.URIs = pkix.Name{}, nil, nil
		}),
		"below a client":           leaf.Issue("partner", nil),
		"below an expired one":     ca.Sub("between", func(x *x509.Certificate) { x.NotAfter = time.Now().Add(-time.Second) }).Issue("partner", nil),
		"below one for servers":    ca.Sub("between", func(x *x509.Certificate) { x.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth} }).Issue("partner", nil),
		"below one that ends here": ca.Sub("last", func(x *x509.Certificate) { x.MaxPathLenZero = true }).Sub("one more", nil).Issue("partner", nil),
		"outside of its part": ca.Sub("part", func(x *x509.Certificate) {
			x.PermittedDNSDomainsCritical, x.PermittedDNSDomains = true, []string{"example.net"}
		}).Issue("partner", nil),
		"critical unknown": ca.Issue("partner", func(x *x509.Certificate) {
			x.ExtraExtensions = []pkix.Extension{{Id: []int{1, 2, 3, 4}, Critical: true, Value: []byte{5, 0}}}
		}),
	}
}
