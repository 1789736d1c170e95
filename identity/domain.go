package identity

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"trellis/errdefs"
)

// Domain is the certificate authority of one SPIFFE trust domain: a root that signs an issuer, and the issuer that signs
// what services show each other. The root's key is needed only when an issuer or a root is made, and may be kept
// elsewhere.
//
// It lives in a folder, in one numbered folder for each root: root.crt, root.key, and issuer.pem with the issuer's key
// and certificate. Opening it makes what is due and can be made: the first root, an issuer where two thirds of its life
// are over, a root likewise.
//
// A new root takes over without a moment in which two services do not trust each other. First it is in the bundle
// beside the old one; after Overlap, the time in which whoever has a certificate has to look for a new one anyway, it
// issues; and when the last certificate of the old one has ended, LeafLife later, the old one is removed.
type Domain struct {
	name  spiffeid.TrustDomain
	dir   string
	roots []*root // the oldest first
}

// root is one root certificate, and the issuer that it signed.
type root struct {
	dir    string
	number int
	cert   *x509.Certificate
	key    *ecdsa.PrivateKey // nil: it is kept elsewhere
	issuer *x509.Certificate // nil: there is none yet
	sign   *ecdsa.PrivateKey // of issuer
}

const (
	issuerLife = 365 * 24 * time.Hour
	// Overlap is the last third of a leaf's life, in which there is a new one already.
	Overlap = LeafLife / 3
)

// since is when the root was made.
func (r *root) since() time.Time { return r.cert.NotBefore.Add(backdate) }

// OpenDomain opens the authority of the trust domain name in dir, and brings it up to date. Without a root's key, where
// one is needed: ErrUnavailable. What can't be read or does not belong together: ErrInvalid.
func OpenDomain(dir, name string, now time.Time) (*Domain, error) {
	d, err := readDomain(dir, name)
	if err != nil {
		return nil, err
	}
	if n := len(d.roots); n == 0 || aged(d.roots[n-1].cert, now) {
		if err := d.add(now, false); err != nil {
			return nil, err
		}
	}
	if err := d.retire(now); err != nil {
		return nil, err
	}
	r := d.current(now)
	if r.issuer == nil || aged(r.issuer, now) || r.ahead(now) {
		err = r.renew(d.name, now)
	}
	switch {
	case err == nil || r.usable(now) == nil && errors.Is(err, errdefs.ErrUnavailable): // there is time to bring the key
		return d, nil
	default:
		return nil, err
	}
}

// readDomain reads what is there.
func readDomain(dir, name string) (*Domain, error) {
	td, err := spiffeid.TrustDomainFromString(name)
	if err != nil {
		return nil, fmt.Errorf("open the identities of %s: %w: %w", name, errdefs.ErrInvalid, err)
	}
	d := &Domain{name: td, dir: dir}
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("open the identities of %s: %w", name, err)
	}
	for _, e := range entries {
		n, err := strconv.Atoi(e.Name())
		if err != nil {
			continue // a root that was never finished
		}
		r, err := readRoot(filepath.Join(dir, e.Name()))
		if err != nil {
			if _, serr := os.Stat(filepath.Join(dir, e.Name())); errors.Is(serr, fs.ErrNotExist) {
				return readDomain(dir, name) // it was removed since the list was read, as others have taken its place
			}
			return nil, fmt.Errorf("open the identities of %s, in %s: %w: %w", name, filepath.Join(dir, e.Name()), errdefs.ErrInvalid, err)
		}
		r.number = n
		d.roots = append(d.roots, r)
	}
	slices.SortFunc(d.roots, func(a, b *root) int { return a.number - b.number })
	return d, nil
}

func readRoot(dir string) (*root, error) {
	r := &root{dir: dir}
	b, err := os.ReadFile(filepath.Join(dir, "root.crt"))
	if err != nil {
		return nil, err
	}
	if r.cert, err = parseCertificate(b); err != nil {
		return nil, fmt.Errorf("root.crt: %w", err)
	}
	if b, err = os.ReadFile(filepath.Join(dir, "root.key")); err == nil {
		if err = r.take(b); err != nil {
			return nil, err
		}
	} else if !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	if b, err = os.ReadFile(filepath.Join(dir, "issuer.pem")); errors.Is(err, fs.ErrNotExist) {
		return r, nil
	} else if err != nil {
		return nil, err
	}
	if r.sign, err = ParseKey(b); err != nil {
		return nil, fmt.Errorf("issuer.pem: %w", err)
	}
	_, rest := pem.Decode(b)
	if r.issuer, err = parseCertificate(rest); err != nil {
		return nil, fmt.Errorf("issuer.pem: %w", err)
	}
	if !r.sign.PublicKey.Equal(r.issuer.PublicKey) || r.issuer.CheckSignatureFrom(r.cert) != nil {
		return nil, errors.New("issuer.pem does not belong to root.crt")
	}
	return r, nil
}

// take has r use the key of its certificate.
func (r *root) take(b []byte) error {
	key, err := ParseKey(b)
	if err != nil {
		return fmt.Errorf("root.key: %w", err)
	}
	if !key.PublicKey.Equal(r.cert.PublicKey) {
		return errors.New("root.key is not the key of root.crt")
	}
	r.key = key
	return nil
}

// aged says whether two thirds of a certificate's life are over.
func aged(c *x509.Certificate, now time.Time) bool {
	return !now.Before(c.NotBefore.Add(c.NotAfter.Sub(c.NotBefore) * 2 / 3))
}

// ahead says whether the issuer was made by a clock that was set back since: it is good at some time to come, and the root is now.
func (r *root) ahead(now time.Time) bool {
	return now.Before(r.issuer.NotBefore) && !now.Before(r.cert.NotBefore)
}

// usable says why nothing can be issued at a time; nil: it can.
func (r *root) usable(now time.Time) error {
	for _, c := range []*x509.Certificate{r.cert, r.issuer} {
		switch {
		case c == nil:
			return fmt.Errorf("%w: there is no issuer", errdefs.ErrUnavailable)
		case now.Before(c.NotBefore): // which of the two clocks was right, that of then or this one, nothing here can tell
			return fmt.Errorf("%w: %s is good from %s on: if this machine's clock is right, one that was ahead has made it, and `trellis cert rotate --now` makes another",
				errdefs.ErrUnavailable, c.Subject.CommonName, c.NotBefore.Format(time.RFC3339))
		case !now.Before(c.NotAfter):
			return fmt.Errorf("%w: %s has expired at %s", errdefs.ErrUnavailable, c.Subject.CommonName, c.NotAfter.Format(time.RFC3339))
		}
	}
	return nil
}

// current returns the root whose issuer issues.
func (d *Domain) current(now time.Time) *root {
	for i := len(d.roots) - 1; i > 0; i-- {
		if older := d.roots[i-1]; !now.Before(d.roots[i].since().Add(Overlap)) || older.usable(now) != nil {
			return d.roots[i]
		}
	}
	return d.roots[0]
}

// until is when the root at i is removed, because one that came after it has taken over; zero: none came.
func (d *Domain) until(i int) (t time.Time) {
	for _, later := range d.roots[i+1:] {
		if end := later.since().Add(Overlap + LeafLife); t.IsZero() || end.Before(t) {
			t = end
		}
	}
	return t
}

// leaving begins the name of a root's folder that is being removed.
const leaving = ".gone-"

// retire removes the roots of which nothing is good any more. Each leaves as a whole, so that who reads meanwhile, or after an end in
// the middle, finds none that is half there.
func (d *Domain) retire(now time.Time) error {
	for len(d.roots) > 1 && !now.Before(d.until(0)) {
		r := d.roots[0]
		if err := os.Rename(r.dir, filepath.Join(d.dir, leaving+strconv.Itoa(r.number))); err != nil {
			return fmt.Errorf("remove a root that was replaced: %w", err)
		}
		d.roots = d.roots[1:]
	}
	entries, err := os.ReadDir(d.dir)
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), leaving) {
			err = errors.Join(err, os.RemoveAll(filepath.Join(d.dir, e.Name())))
		}
	}
	if err != nil {
		return fmt.Errorf("remove a root that was replaced: %w", err)
	}
	return nil
}

// Rotate makes a new root for the trust domain in dir, which takes over as the type's comment says; atOnce has it do so
// without a time in which both are trusted, for a root whose key is no secret any more. While another one is on its way:
// ErrConflict.
func Rotate(dir, name string, now time.Time, atOnce bool) error {
	d, err := readDomain(dir, name)
	if err != nil {
		return err
	}
	if n := len(d.roots); n > 1 && !atOnce && now.Before(d.roots[n-1].since().Add(Overlap+LeafLife)) {
		newest := d.roots[n-1]
		return fmt.Errorf("make a new root for %s: %w: the one of %s replaces its predecessor at %s", name, errdefs.ErrConflict,
			newest.since().Format(time.RFC3339), newest.since().Add(Overlap+LeafLife).Format(time.RFC3339))
	}
	return d.add(now, atOnce)
}

// RenewIssuer makes a new issuer for the newest root, with the root's key in PEM, which is not kept.
func RenewIssuer(dir, name string, keyPEM []byte, now time.Time) error {
	d, err := readDomain(dir, name)
	if err != nil {
		return err
	}
	if len(d.roots) == 0 {
		return fmt.Errorf("renew the issuer of %s: %w: there is no root yet", name, errdefs.ErrNotFound)
	}
	r := d.roots[len(d.roots)-1]
	if keyPEM != nil {
		if err := r.take(keyPEM); err != nil {
			return fmt.Errorf("renew the issuer of %s: %w: %w", name, errdefs.ErrInvalid, err)
		}
	}
	return r.renew(d.name, now)
}

// add makes a root, whole or not at all.
func (d *Domain) add(now time.Time, atOnce bool) error {
	r, err := d.newRoot(now, atOnce)
	if err != nil {
		return fmt.Errorf("make a root for %s: %w", d.name, err)
	}
	d.roots = append(d.roots, r)
	return nil
}

func (d *Domain) newRoot(now time.Time, atOnce bool) (*root, error) {
	r := &root{number: 1}
	if n := len(d.roots); n > 0 {
		r.number = d.roots[n-1].number + 1
	}
	from := now.Add(-backdate)
	if atOnce {
		from = from.Add(-Overlap - LeafLife)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		SerialNumber: serial(), Subject: pkix.Name{CommonName: fmt.Sprintf("%s root %d", d.name, r.number), Organization: []string{"Trellis"}},
		NotBefore: from, NotAfter: now.Add(rootLife), IsCA: true, BasicConstraintsValid: true, MaxPathLen: 1,
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign, URIs: []*url.URL{d.name.ID().URL()},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err == nil {
		r.key = key
		r.cert, err = x509.ParseCertificate(der)
	}
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(d.dir, 0o700); err != nil {
		return nil, err
	}
	unfinished, err := os.MkdirTemp(d.dir, ".root-*")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(unfinished)
	r.dir = unfinished
	keyPEM, err := EncodeKey(key)
	if err == nil {
		err = WriteFile(filepath.Join(r.dir, "root.key"), keyPEM)
	}
	if err == nil {
		err = WriteFile(filepath.Join(r.dir, "root.crt"), encodeCertificate(der))
	}
	if err == nil {
		err = r.renew(d.name, now)
	}
	if err != nil {
		return nil, err
	}
	r.dir = filepath.Join(d.dir, strconv.Itoa(r.number))
	return r, os.Rename(unfinished, r.dir)
}

// renew makes the issuer.
func (r *root) renew(td spiffeid.TrustDomain, now time.Time) error {
	if r.key == nil {
		return fmt.Errorf("renew the issuer of %s: %w: the key of its root is not here; `trellis cert rotate --issuer --root-key FILE` takes it from elsewhere", td, errdefs.ErrUnavailable)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return fmt.Errorf("renew the issuer of %s: %w", td, err)
	}
	template := &x509.Certificate{
		SerialNumber: serial(), Subject: pkix.Name{CommonName: td.Name() + " issuer", Organization: []string{"Trellis"}},
		NotBefore: now.Add(-backdate), NotAfter: earlier(now.Add(issuerLife), r.cert.NotAfter), IsCA: true, BasicConstraintsValid: true,
		MaxPathLenZero: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign, URIs: []*url.URL{td.ID().URL()},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, r.cert, key.Public(), r.key)
	if err != nil {
		return fmt.Errorf("renew the issuer of %s: %w", td, err)
	}
	b, err := EncodeKey(key)
	if err == nil {
		err = WriteFile(filepath.Join(r.dir, "issuer.pem"), append(b, encodeCertificate(der)...))
	}
	if err == nil {
		r.sign = key
		r.issuer, err = x509.ParseCertificate(der)
	}
	if err != nil {
		return fmt.Errorf("renew the issuer of %s: %w", td, err)
	}
	return nil
}

func encodeCertificate(der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

// Bundle returns the roots that are trusted, as PEM.
func (d *Domain) Bundle() []byte {
	var b []byte
	for _, r := range d.roots {
		b = append(b, encodeCertificate(r.cert.Raw)...)
	}
	return b
}

// ID returns the SPIFFE ID with a path, such as /service/catalog.
func (d *Domain) ID(path string) (string, error) {
	id, err := spiffeid.FromPath(d.name, path)
	if err != nil {
		return "", fmt.Errorf("name %s in %s: %w: %w", path, d.name, errdefs.ErrInvalid, err)
	}
	return id.String(), nil
}

// Issue returns the certificate of the SPIFFE ID with a path, for both ends of TLS, with its key. It is good from now for
// LeafLife, but no longer than what signs it. names are DNS names that it has too, for programs that look for one.
// Nothing that is good now can sign: ErrUnavailable.
func (d *Domain) Issue(path string, names []string, now time.Time) (Files, error) {
	id, err := spiffeid.FromPath(d.name, path)
	if err != nil {
		return Files{}, fmt.Errorf("issue a certificate for %s: %w: %w", path, errdefs.ErrInvalid, err)
	}
	r := d.current(now)
	if err := r.usable(now); err != nil {
		return Files{}, fmt.Errorf("issue a certificate for %s: %w", id, err)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return Files{}, fmt.Errorf("issue a certificate for %s: %w", id, err)
	}
	template := &x509.Certificate{
		SerialNumber: serial(), Subject: pkix.Name{Organization: []string{d.name.Name()}}, URIs: []*url.URL{id.URL()}, DNSNames: names,
		NotBefore: now.Add(-backdate), NotAfter: earlier(now.Add(LeafLife), earlier(r.issuer.NotAfter, r.cert.NotAfter)),
		KeyUsage:              x509.KeyUsageDigitalSignature,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, r.issuer, key.Public(), r.sign)
	if err != nil {
		return Files{}, fmt.Errorf("issue a certificate for %s: %w", id, err)
	}
	f := Files{Chain: append(encodeCertificate(der), encodeCertificate(r.issuer.Raw)...), Bundle: d.Bundle()}
	if f.Key, err = EncodeKey(key); err != nil {
		return Files{}, fmt.Errorf("issue a certificate for %s: %w", id, err)
	}
	return f, nil
}

// Due says whether a certificate is to be replaced: it is none of the issuer that issues now for the SPIFFE ID with this
// path and these names, or two thirds of its life are over.
func (d *Domain) Due(f Files, path string, names []string, now time.Time) bool {
	id, err := spiffeid.FromPath(d.name, path)
	if err != nil {
		return true
	}
	c, err := parseCertificate(f.Chain)
	if err != nil || c.CheckSignatureFrom(d.current(now).issuer) != nil || now.Before(c.NotBefore) || aged(c, now) {
		return true
	}
	key, err := ParseKey(f.Key)
	return err != nil || !key.PublicKey.Equal(c.PublicKey) || len(c.URIs) != 1 || c.URIs[0].String() != id.String() || !slices.Equal(c.DNSNames, names)
}

// Stale says whether files hold other roots than are trusted now.
func (d *Domain) Stale(f Files) bool { return !bytes.Equal(f.Bundle, d.Bundle()) }

// RootInfo describes one root of a domain.
type RootInfo struct {
	Number  int
	Folder  string
	Made    time.Time
	Expires time.Time
	HasKey  bool      // its key is there
	Issuer  time.Time // end of its issuer
	Issues  bool      // what is issued now is its issuer's
	// Until is when the root is removed; zero: nothing replaces it.
	Until time.Time
}

// Roots describes the roots, the oldest first.
func (d *Domain) Roots(now time.Time) []RootInfo {
	var all []RootInfo
	for i, r := range d.roots {
		info := RootInfo{Number: r.number, Folder: r.dir, Made: r.since(), Expires: r.cert.NotAfter, HasKey: r.key != nil, Issues: r == d.current(now)}
		if r.issuer != nil {
			info.Issuer = r.issuer.NotAfter
		}
		info.Until = d.until(i)
		all = append(all, info)
	}
	return all
}

// ReadDomain opens the authority of a trust domain as it is: nothing is made. There is none yet: ErrNotFound.
func ReadDomain(dir, name string) (*Domain, error) {
	d, err := readDomain(dir, name)
	if err == nil && len(d.roots) == 0 {
		err = fmt.Errorf("open the identities of %s: %w: none were needed yet", name, errdefs.ErrNotFound)
	}
	return d, err
}
