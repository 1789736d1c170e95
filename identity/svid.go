package identity

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"

	"trellis/errdefs"
)

// Files are what a service gets to show who it is and to know who others are, each as PEM.
type Files struct {
	Chain  []byte // its certificate, followed by the issuer's
	Key    []byte // PKCS 8
	Bundle []byte // the roots of its trust domain
}

// The names of the files, which are those of SPIFFE's own helper.
const (
	ChainFile  = "svid.pem"
	KeyFile    = "svid_key.pem"
	BundleFile = "svid_bundle.pem"
)

// current is the link to the folder in which the files are that belong together.
const current = "..data"

// Write puts the files into dir in place of those that are there. Who reads through the names sees each file whole; who
// resolves the link ..data first sees files that belong together, as in a volume of Kubernetes. They can be read by
// everybody who gets as far as dir.
func (f Files) Write(dir string) error {
	if err := f.write(dir); err != nil {
		return fmt.Errorf("write the identity in %s: %w", dir, err)
	}
	return nil
}

func (f Files) write(dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	name := ".." + strconv.FormatInt(time.Now().UnixNano(), 36)
	if err := os.Mkdir(filepath.Join(dir, name), 0o755); err != nil {
		return err
	}
	for _, made := range []string{dir, filepath.Join(dir, name)} {
		if err := os.Chmod(made, 0o755); err != nil { // whatever the umask
			return err
		}
	}
	for file, b := range f.byName() {
		if err := WriteFile(filepath.Join(dir, name, file), b); err != nil {
			return err
		}
		if err := os.Chmod(filepath.Join(dir, name, file), 0o644); err != nil {
			return err
		}
	}
	next := filepath.Join(dir, current+"-next")
	if err := os.Remove(next); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := os.Symlink(name, next); err != nil {
		return err
	}
	if err := os.Rename(next, filepath.Join(dir, current)); err != nil {
		return err
	}
	for file := range f.byName() {
		if err := os.Symlink(filepath.Join(current, file), filepath.Join(dir, file)); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
	}
	return tidy(dir, name)
}

func (f Files) byName() map[string][]byte {
	return map[string][]byte{ChainFile: f.Chain, KeyFile: f.Key, BundleFile: f.Bundle}
}

// tidy removes what Write has replaced, but for the newest of it: somebody may be reading that.
func tidy(dir, name string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	var old []string
	for _, e := range entries {
		if e.IsDir() && strings.HasPrefix(e.Name(), "..") && e.Name() != name {
			old = append(old, e.Name())
		}
	}
	for i := range len(old) - 1 {
		if err := os.RemoveAll(filepath.Join(dir, old[i])); err != nil {
			return err
		}
	}
	return nil
}

// ReadFiles reads the files of a folder that belong together. There are none: ErrNotFound.
func ReadFiles(dir string) (f Files, err error) {
	for range 3 { // a reader that is very slow may find them replaced twice
		if f, err = readFiles(dir); !errors.Is(err, fs.ErrNotExist) {
			break
		}
	}
	return f, err
}

func readFiles(dir string) (Files, error) {
	var f Files
	name, err := os.Readlink(filepath.Join(dir, current))
	if errors.Is(err, fs.ErrNotExist) {
		return f, fmt.Errorf("read the identity in %s: %w", dir, errdefs.ErrNotFound)
	}
	for file, b := range map[string]*[]byte{ChainFile: &f.Chain, KeyFile: &f.Key, BundleFile: &f.Bundle} {
		if err == nil {
			*b, err = os.ReadFile(filepath.Join(dir, name, file))
		}
	}
	if err != nil {
		return f, fmt.Errorf("read the identity in %s: %w", dir, err)
	}
	return f, nil
}

// Version tells whether the files of a folder were replaced, without reading them; "": there are none.
func Version(dir string) string {
	name, err := os.Readlink(filepath.Join(dir, current))
	if err != nil {
		return ""
	}
	return name
}

// SVID is who a service is, proven by a certificate (a SPIFFE verifiable identity document), and whom it trusts.
type SVID struct {
	ID      string
	Expires time.Time // of whatever of its chain ends first
	cert    tls.Certificate
	bundle  *x509bundle.Bundle
}

// ParseSVID reads files, and verifies that they prove who they are of at a time: what nobody else would take is
// ErrRefused here already.
func ParseSVID(f Files, now time.Time) (*SVID, error) {
	own, err := x509svid.Parse(f.Chain, f.Key)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrRefused, err)
	}
	s := &SVID{ID: own.ID.String(), cert: tls.Certificate{PrivateKey: own.PrivateKey, Leaf: own.Certificates[0]}}
	for _, c := range own.Certificates {
		s.cert.Certificate = append(s.cert.Certificate, c.Raw)
	}
	if s.bundle, err = x509bundle.Parse(own.ID.TrustDomain(), f.Bundle); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrRefused, err)
	}
	if s.Expires, err = s.verify(own.Certificates, s.ID, now); err != nil {
		return nil, err
	}
	return s, nil
}

// verify returns until when a chain proves the SPIFFE ID id. It does not: ErrRefused.
func (s *SVID) verify(chain []*x509.Certificate, id string, now time.Time) (time.Time, error) {
	got, chains, err := x509svid.Verify(chain, s.bundle, x509svid.WithTime(now))
	if err != nil {
		return time.Time{}, fmt.Errorf("%w: %w", ErrRefused, err)
	}
	if got.String() != id {
		return time.Time{}, fmt.Errorf("%w: it is %s, not %s", ErrRefused, got, id)
	}
	var until time.Time // the chain that is good for longest
	for _, one := range chains {
		end := one[0].NotAfter
		for _, c := range one {
			end = earlier(end, c.NotAfter)
		}
		if end.After(until) {
			until = end
		}
	}
	return until, nil
}

// Client returns the configuration with which to call the server with a SPIFFE ID: it has to prove that it has it, and is
// shown this one. Names of hosts prove nothing. protocols are for ALPN.
func (s *SVID) Client(server string, now func() time.Time, protocols ...string) *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS12, NextProtos: protocols, Certificates: []tls.Certificate{s.cert},
		InsecureSkipVerify: true, // of the host's name; VerifyConnection verifies
		VerifyConnection: func(st tls.ConnectionState) error {
			_, err := s.verify(st.PeerCertificates, server, now())
			return err
		},
	}
}

// Until returns until when a connection proves what Client asked for.
func (s *SVID) Until(st tls.ConnectionState, server string, now time.Time) time.Time {
	end, err := s.verify(st.PeerCertificates, server, now)
	if err != nil {
		return time.Time{}
	}
	return earlier(end, s.Expires)
}

// Server returns the configuration of a server that takes calls of its own trust domain alone. allowed says whose; nil:
// everybody's.
func (s *SVID) Server(now func() time.Time, allowed func(id string) bool) *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS12, NextProtos: []string{"h2", "http/1.1"}, Certificates: []tls.Certificate{s.cert}, ClientAuth: tls.RequireAnyClientCert,
		VerifyConnection: func(st tls.ConnectionState) error {
			id, err := x509svid.IDFromCert(st.PeerCertificates[0])
			if err != nil {
				return fmt.Errorf("%w: %w", ErrRefused, err)
			}
			if allowed != nil && !allowed(id.String()) {
				return fmt.Errorf("%w: %s may not call", ErrRefused, id)
			}
			_, err = s.verify(st.PeerCertificates, id.String(), now())
			return err
		},
	}
}

// ServiceID returns the SPIFFE ID of a service of a trust domain.
func ServiceID(domain, service string) string { return "spiffe://" + domain + ServicePath(service) }

// ServicePath is the path of a service's SPIFFE ID, GatewayPath that of who calls from outside, or whom nothing proves to
// be a service.
func ServicePath(service string) string { return "/service/" + service }

const GatewayPath = "/gateway"

// CallerOf returns the service that a SPIFFE ID of a trust domain names; "" for who calls from outside. Any other: false.
func CallerOf(domain, id string) (service string, ok bool) {
	path, ok := strings.CutPrefix(id, "spiffe://"+domain)
	if !ok || path == GatewayPath {
		return "", ok
	}
	service, ok = strings.CutPrefix(path, ServicePath(""))
	return service, ok && service != "" && !strings.Contains(service, "/")
}

// ValidDomain says whether a name can be that of a trust domain.
func ValidDomain(name string) error {
	_, err := spiffeid.TrustDomainFromString(name)
	return err
}
