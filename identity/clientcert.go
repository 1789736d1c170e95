package identity

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"trellis/errdefs"
)

// ClientCAs are the authorities whose certificates a client may show. Safe for concurrent use.
type ClientCAs struct{ pool *x509.CertPool }

// ParseClientCAs reads certificates of authorities in PEM. Text that holds anything else, or a certificate that is none of
// an authority: ErrInvalid.
func ParseClientCAs(text string) (*ClientCAs, error) {
	c := &ClientCAs{pool: x509.NewCertPool()}
	rest, n := []byte(text), 0
	for {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		if block.Type != "CERTIFICATE" {
			return nil, fmt.Errorf("read the authorities of client certificates: %w: holds a %s", errdefs.ErrInvalid, strings.ToLower(block.Type))
		}
		ca, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("read the authorities of client certificates: %w: %w", errdefs.ErrInvalid, err)
		}
		if !ca.BasicConstraintsValid || !ca.IsCA {
			return nil, fmt.Errorf("read the authorities of client certificates: %w: %s is not the certificate of an authority", errdefs.ErrInvalid, ca.Subject)
		}
		c.pool.AddCert(ca)
		n++
	}
	if n == 0 || strings.TrimSpace(string(rest)) != "" {
		return nil, fmt.Errorf("read the authorities of client certificates: %w: PEM certificates are expected, and nothing after them", errdefs.ErrInvalid)
	}
	return c, nil
}

// Pool returns the authorities, for a server that tells clients what it takes. It is not to be changed.
func (c *ClientCAs) Pool() *x509.CertPool { return c.pool }

// Verify returns who showed chain, the client's certificate first. It is for clients in so many words (extended key usage
// clientAuth), none of an authority, valid now, and leads to one of the authorities; anything else: ErrRefused. That its
// owner has the key is the handshake's to see.
//
// The subject is its first URI (a SPIFFE ID, for example), DNS name or address of mail, in this order, else its common
// name. Claims are uri, dns, email, cn, o, ou, serial (hexadecimal) and fingerprint (SHA-256).
func (c *ClientCAs) Verify(chain []*x509.Certificate, now time.Time) (*Caller, error) {
	if len(chain) == 0 {
		return nil, fmt.Errorf("%w: no certificate", ErrRefused)
	}
	leaf := chain[0]
	if !slices.Contains(leaf.ExtKeyUsage, x509.ExtKeyUsageClientAuth) {
		return nil, fmt.Errorf("%w: %s is not for clients", ErrRefused, leaf.Subject)
	}
	if leaf.IsCA {
		return nil, fmt.Errorf("%w: %s is that of an authority", ErrRefused, leaf.Subject)
	}
	between := x509.NewCertPool()
	for _, one := range chain[1:] {
		between.AddCert(one)
	}
	chains, err := leaf.Verify(x509.VerifyOptions{
		Roots: c.pool, Intermediates: between, CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	})
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrRefused, err)
	}
	caller, err := certified(leaf)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrRefused, err)
	}
	for _, one := range chains[0] {
		caller.Expires = earlier(caller.Expires, one.NotAfter)
	}
	return caller, nil
}

// certified returns who a certificate is of.
func certified(leaf *x509.Certificate) (*Caller, error) {
	var uris []string
	for _, u := range leaf.URIs {
		uris = append(uris, u.String())
	}
	subject := leaf.Subject.CommonName
	for _, names := range [][]string{leaf.EmailAddresses, leaf.DNSNames, uris} {
		if len(names) > 0 {
			subject = names[0]
		}
	}
	if subject == "" {
		return nil, errors.New("it names nobody")
	}
	sum := sha256.Sum256(leaf.Raw)
	return NewCaller(subject, leaf.NotAfter, map[string]any{
		"uri": list(uris), "dns": list(leaf.DNSNames), "email": list(leaf.EmailAddresses), "cn": leaf.Subject.CommonName,
		"o": list(leaf.Subject.Organization), "ou": list(leaf.Subject.OrganizationalUnit),
		"serial": leaf.SerialNumber.Text(16), "fingerprint": hex.EncodeToString(sum[:]),
	}), nil
}

func list(texts []string) []any {
	all := make([]any, len(texts))
	for i, s := range texts {
		all[i] = s
	}
	return all
}
