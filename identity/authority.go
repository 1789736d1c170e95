package identity

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"slices"
	"time"

	"trellis/errdefs"
	"trellis/filelock"
)

// Lifetimes of what an Authority issues. A leaf is to be renewed when two thirds of its life are over.
const (
	rootLife = 10 * 365 * 24 * time.Hour
	LeafLife = 24 * time.Hour
	backdate = 5 * time.Minute // for clocks that are behind
)

// Authority is a certificate authority of this machine's user: whoever trusts its root trusts the names it issues for.
type Authority struct {
	root *x509.Certificate
	key  *ecdsa.PrivateKey
	pem  []byte // of root
}

// OpenAuthority reads the authority kept in dir, as root.crt and root.key (0600), and makes one where there is none: the
// same for all who ask at once, who wait for it on root.lock, or until ctx is done. One that has expired, or whose two files
// do not belong together, is ErrInvalid: nothing is issued then.
func OpenAuthority(ctx context.Context, dir string, now time.Time) (*Authority, error) {
	a, err := readAuthority(dir, now)
	if a != nil || err != nil {
		return a, err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make a certificate authority: %w", err)
	}
	unlock, err := filelock.Lock(ctx, filepath.Join(dir, "root.lock"))
	if err != nil {
		return nil, fmt.Errorf("make a certificate authority: %w", err)
	}
	defer unlock()
	a, err = readAuthority(dir, now)
	if a != nil || err != nil {
		return a, err
	}
	return newAuthority(dir, now)
}

// readAuthority returns nil where there is no root.
func readAuthority(dir string, now time.Time) (*Authority, error) {
	certFile, keyFile := filepath.Join(dir, "root.crt"), filepath.Join(dir, "root.key")
	certPEM, err := os.ReadFile(certFile)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("open the certificate authority: %w", err)
	}
	keyPEM, err := os.ReadFile(keyFile)
	if err != nil {
		return nil, fmt.Errorf("open the certificate authority: %w", err)
	}
	a := &Authority{pem: certPEM}
	if a.root, err = parseCertificate(certPEM); err == nil {
		a.key, err = ParseKey(keyPEM)
	}
	switch {
	case err != nil:
	case !a.key.PublicKey.Equal(a.root.PublicKey):
		err = errors.New("root.key is not the key of root.crt")
	case now.After(a.root.NotAfter) || now.Before(a.root.NotBefore.Add(-backdate)):
		err = fmt.Errorf("the root is valid from %s to %s: if this machine's clock is right, remove root.crt and root.key there, and another is made, to be trusted anew",
			a.root.NotBefore.Format(time.DateOnly), a.root.NotAfter.Format(time.DateOnly))
	}
	if err != nil {
		return nil, fmt.Errorf("open the certificate authority in %s: %w: %w", dir, errdefs.ErrInvalid, err)
	}
	return a, nil
}

// newAuthority makes a root. The key is written first: a certificate without one is never found.
func newAuthority(dir string, now time.Time) (*Authority, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make a certificate authority: %w", err)
	}
	host, err := os.Hostname()
	if err != nil {
		host = "this machine"
	}
	template := &x509.Certificate{
		SerialNumber: serial(), Subject: pkix.Name{CommonName: "Trellis local CA of " + host, Organization: []string{"Trellis local CA"}},
		NotBefore: now.Add(-backdate), NotAfter: now.Add(rootLife), IsCA: true, BasicConstraintsValid: true, MaxPathLenZero: true,
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, fmt.Errorf("make a certificate authority: %w", err)
	}
	a := &Authority{key: key, pem: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})}
	if a.root, err = x509.ParseCertificate(der); err != nil {
		return nil, fmt.Errorf("make a certificate authority: %w", err)
	}
	keyPEM, err := EncodeKey(key)
	if err == nil {
		err = WriteFile(filepath.Join(dir, "root.key"), keyPEM)
	}
	if err == nil {
		err = WriteFile(filepath.Join(dir, "root.crt"), a.pem)
	}
	if err != nil {
		return nil, fmt.Errorf("make a certificate authority: %w", err)
	}
	return a, nil
}

// Root returns the root certificate, as PEM.
func (a *Authority) Root() []byte { return a.pem }

// RootCertificate returns the root certificate.
func (a *Authority) RootCertificate() *x509.Certificate { return a.root }

// Issue returns a certificate for names (DNS names, also "*.example.org", and IP addresses), and its key, both as PEM. It
// is good from now for LeafLife, but no longer than the root.
func (a *Authority) Issue(names []string, now time.Time) (certPEM, keyPEM []byte, err error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, fmt.Errorf("issue a certificate: %w", err)
	}
	template := &x509.Certificate{
		SerialNumber: serial(), NotBefore: now.Add(-backdate), NotAfter: earlier(now.Add(LeafLife), a.root.NotAfter),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	for _, name := range names {
		if ip := net.ParseIP(name); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
		} else {
			template.DNSNames = append(template.DNSNames, name)
		}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.root, key.Public(), a.key)
	if err != nil {
		return nil, nil, fmt.Errorf("issue a certificate for %v: %w", names, err)
	}
	if keyPEM, err = EncodeKey(key); err != nil {
		return nil, nil, fmt.Errorf("issue a certificate for %v: %w", names, err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), keyPEM, nil
}

// Due says whether a certificate is to be renewed: it is none of this authority for exactly these names, the key is not its
// own, or two thirds of its life are over.
func (a *Authority) Due(certPEM, keyPEM []byte, names []string, now time.Time) bool {
	c, err := parseCertificate(certPEM)
	if err != nil || c.CheckSignatureFrom(a.root) != nil || now.Before(c.NotBefore) {
		return true
	}
	if key, err := ParseKey(keyPEM); err != nil || !key.PublicKey.Equal(c.PublicKey) {
		return true
	}
	have := slices.Clone(c.DNSNames)
	for _, ip := range c.IPAddresses {
		have = append(have, ip.String())
	}
	want := slices.Clone(names)
	slices.Sort(have)
	slices.Sort(want)
	return !slices.Equal(have, want) || !now.Before(c.NotBefore.Add(c.NotAfter.Sub(c.NotBefore)*2/3))
}

func earlier(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}

func serial() *big.Int {
	b := make([]byte, 16)
	rand.Read(b) // never fails
	b[0] &= 0x7f
	return new(big.Int).SetBytes(b)
}

// EncodeKey writes a private key as ParseKey reads it.
func EncodeKey(key *ecdsa.PrivateKey) ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), nil
}

func parseCertificate(b []byte) (*x509.Certificate, error) {
	block, _ := pem.Decode(b)
	if block == nil || block.Type != "CERTIFICATE" {
		return nil, errors.New("no certificate")
	}
	return x509.ParseCertificate(block.Bytes)
}

// ParseKey reads a private key of an elliptic curve, as PEM in PKCS 8.
func ParseKey(b []byte) (*ecdsa.PrivateKey, error) {
	block, _ := pem.Decode(b)
	if block == nil {
		return nil, errors.New("no private key")
	}
	k, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, err
	}
	key, ok := k.(*ecdsa.PrivateKey)
	if !ok {
		return nil, errors.New("the private key is of another kind")
	}
	return key, nil
}

// WriteFile writes a file that its owner alone can read, whole or not at all.
func WriteFile(path string, b []byte) error {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+"-*") // 0600
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	_, err = f.Write(b)
	if err == nil {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	return err
}
