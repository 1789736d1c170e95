package proxy

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"trellis/identity"
)

// secureRig is a gateway with TLS and one without that redirects to it, and the authority of its certificate.
type secureRig struct {
	*rig
	authority *identity.Authority
	roots     *x509.CertPool
	files     Certificate
	secure    string // host:port
	plain     string
}

func newSecureRig(t *testing.T, h http.HandlerFunc) *secureRig {
	t.Helper()
	dir := t.TempDir()
	s := &secureRig{rig: newRig(t, Config{}), roots: x509.NewCertPool(), files: Certificate{Chain: filepath.Join(dir, "chain"), Key: filepath.Join(dir, "key")}}
	var err error
	if s.authority, err = identity.OpenAuthority(t.Context(), filepath.Join(dir, "ca"), time.Now()); err != nil {
		t.Fatal(err)
	}
	s.proxy.lookAgain = 100 * time.Millisecond // before the first connection
	s.roots.AppendCertsFromPEM(s.authority.Root())
	s.snap.Services = []Service{{Name: "app", Instances: []Instance{instanceAt("app-1", serveFunc(t, h).addr)}}}
	s.snap.Routes = []Route{{Service: "app", Port: 80, Decision: Decision{Auth: "none", HSTS: "max-age=60"}}}
	s.secure = s.listen(Listener{Name: "secure", Protocol: HTTP1, TLS: true, Certificates: []Certificate{s.files}})
	_, port, _ := net.SplitHostPort(s.secure)
	n := 0
	fmt.Sscan(port, &n)
	s.plain = s.listen(Listener{Name: "plain", Protocol: HTTP1, Upgrade: n})
	return s
}

// issue replaces the certificate.
func (s *secureRig) issue(now time.Time, names ...string) {
	s.t.Helper()
	chain, key, err := s.authority.Issue(names, now)
	if err == nil {
		err = os.WriteFile(s.files.Key, key, 0o600)
	}
	if err == nil {
		err = os.WriteFile(s.files.Chain, chain, 0o600)
	}
	if err != nil {
		s.t.Fatal(err)
	}
}

// client trusts the authority and takes every name to be at the gateway.
func (s *secureRig) client(http2 bool) *http.Client {
	c := client(s.t)
	tr := c.Transport.(*http.Transport)
	tr.TLSClientConfig = &tls.Config{RootCAs: s.roots, ServerName: "shop.localhost"}
	tr.ForceAttemptHTTP2 = http2
	return c
}

func TestTLS(t *testing.T) {
	s := newSecureRig(t, func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprint(w, r.Header.Get("X-Forwarded-Proto"), " ", r.RequestURI)
	})
	s.push()
	if _, err := s.client(false).Get("https://" + s.secure + "/"); err == nil {
		t.Fatal("served without a certificate")
	}
	s.issue(time.Now(), "shop.localhost", "127.0.0.1")
	for _, h2 := range []bool{false, true} {
		res, err := s.client(h2).Get("https://" + s.secure + "/a?b")
		text := body(t, res, err)
		if want := map[bool]string{false: "HTTP/1.1", true: "HTTP/2.0"}[h2]; res.Proto != want || text != "https /a?b" || res.Header.Get("Strict-Transport-Security") != "max-age=60" || res.TLS.Version != tls.VersionTLS13 {
			t.Errorf("%s: %q %v", res.Proto, text, res.Header)
		}
	}
	req, _ := http.NewRequest("GET", "http://"+s.plain+"/a?b", nil)
	req.Host = "shop.localhost:80"
	res, err := client(t).Do(req)
	_, port, _ := net.SplitHostPort(s.secure)
	if body(t, res, err); res.StatusCode != 308 || res.Header.Get("Location") != "https://shop.localhost:"+port+"/a?b" {
		t.Errorf("over plain HTTP: %d %v", res.StatusCode, res.Header)
	}
	for name, conf := range map[string]*tls.Config{"TLS 1.1": {MaxVersion: tls.VersionTLS11, InsecureSkipVerify: true}, "no common protocol": {NextProtos: []string{"smtp"}, InsecureSkipVerify: true}} {
		if conn, err := tls.Dial("tcp", s.secure, conf); err == nil {
			conn.Close()
			t.Errorf("%s was taken", name)
		}
	}
	conn, err := net.Dial("tcp", s.secure)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	io.WriteString(conn, "GET / HTTP/1.1\r\nHost: a\r\n\r\n")
	conn.SetReadDeadline(time.Now().Add(10 * time.Second))
	if got, _ := io.ReadAll(conn); strings.Contains(string(got), "200") {
		t.Errorf("plain HTTP at the port of TLS: %q", got)
	}
}

// TestTLSUpgrade: a tunnel through TLS carries bytes both ways and passes a half-close on.
func TestTLSUpgrade(t *testing.T) {
	s := newSecureRig(t, func(w http.ResponseWriter, r *http.Request) {
		conn, rw, err := http.NewResponseController(w).Hijack()
		if err != nil {
			return
		}
		defer conn.Close()
		io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
		io.Copy(conn, rw)
		io.WriteString(conn, "end")
	})
	s.issue(time.Now(), "shop.localhost")
	s.push()
	conn, err := tls.Dial("tcp", s.secure, &tls.Config{RootCAs: s.roots, ServerName: "shop.localhost"})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(10 * time.Second))
	io.WriteString(conn, "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\nearly ")
	in := bufio.NewReader(conn)
	res, err := http.ReadResponse(in, nil)
	if err != nil || res.StatusCode != 101 {
		t.Fatalf("%+v %v", res, err)
	}
	long := strings.Repeat("0123456789abcdef", 20_000)
	go func() {
		io.WriteString(conn, long)
		conn.CloseWrite()
	}()
	got, err := io.ReadAll(in)
	if err != nil || string(got) != "early "+long+"end" {
		t.Errorf("%d bytes, %v", len(got), err)
	}
}

// TestCertificatesAreSwapped under load: no request fails, connections that are open stay, new ones get the new certificate,
// and files that can't be read change nothing.
func TestCertificatesAreSwapped(t *testing.T) {
	t.Parallel()
	s := newSecureRig(t, func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "in") })
	now := time.Now()
	s.issue(now, "shop.localhost")
	s.push()
	var requests, failed atomic.Int64
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for i := range 8 {
		c := s.client(i%2 == 0)
		c.Transport.(*http.Transport).DisableKeepAlives = i%4 >= 2
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				requests.Add(1)
				res, err := c.Get("https://" + s.secure + "/")
				if err != nil {
					failed.Add(1)
					t.Error(err)
					return
				}
				if b, err := io.ReadAll(res.Body); err != nil || string(b) != "in" {
					failed.Add(1)
				}
				res.Body.Close()
			}
		})
	}
	serialOf := func() string {
		conn, err := tls.Dial("tcp", s.secure, &tls.Config{RootCAs: s.roots, ServerName: "shop.localhost"})
		if err != nil {
			t.Error(err)
			return ""
		}
		defer conn.Close()
		return conn.ConnectionState().PeerCertificates[0].SerialNumber.String()
	}
	last := serialOf()
	for range 3 {
		s.issue(now, "shop.localhost")
		eventually(t, "the new certificate is served", func() bool { return serialOf() != last })
		last = serialOf()
	}
	if err := os.WriteFile(s.files.Chain, []byte("broken"), 0o600); err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(3 * s.proxy.lookAgain); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		if serialOf() != last {
			t.Error("a file that can't be read took the certificate away")
		}
	}
	close(stop)
	wg.Wait()
	if failed.Load() > 0 || requests.Load() < 20 {
		t.Errorf("%d of %d failed", failed.Load(), requests.Load())
	}
	t.Logf("%d requests, %d failed", requests.Load(), failed.Load())
}

// TestExpiredCertificate is not served.
func TestExpiredCertificate(t *testing.T) {
	s := newSecureRig(t, func(w http.ResponseWriter, r *http.Request) {})
	s.issue(time.Now().Add(-25*time.Hour), "shop.localhost")
	s.push()
	if conn, err := tls.Dial("tcp", s.secure, &tls.Config{InsecureSkipVerify: true}); err == nil {
		conn.Close()
		t.Error("an expired certificate was served")
	}
}

// TestCertificatesAfterTheClockWasSetBack: what was looked at by a clock that was ahead is looked at again, and not when that
// time comes.
func TestCertificatesAfterTheClockWasSetBack(t *testing.T) {
	dir, now := t.TempDir(), time.Now()
	authority, err := identity.OpenAuthority(t.Context(), filepath.Join(dir, "ca"), now)
	if err != nil {
		t.Fatal(err)
	}
	s := &secureRig{rig: &rig{t: t}, authority: authority, files: Certificate{Chain: filepath.Join(dir, "chain"), Key: filepath.Join(dir, "key")}}
	p := New(Config{})
	p.lookAgain = time.Millisecond
	c := &certificates{files: []Certificate{s.files}}
	shown := func() string {
		conf, err := c.current(p)
		if err != nil {
			t.Fatal(err)
		}
		return conf.Certificates[0].Leaf.SerialNumber.String()
	}
	s.issue(now, "shop.localhost")
	first := shown()
	c.looked.Store(now.Add(365 * 24 * time.Hour).UnixNano())
	s.issue(now, "shop.localhost", "www.shop.localhost")
	if shown() == first {
		t.Error("a new certificate is not looked for before the clock is where it was")
	}
}

// TestNoCertificateIsSaid: whoever looks why no handshake succeeds finds the file that is not there, once.
func TestNoCertificateIsSaid(t *testing.T) {
	var log bytes.Buffer
	p := New(Config{Log: slog.New(slog.NewTextHandler(&log, nil))})
	missing := filepath.Join(t.TempDir(), "missing")
	for name, c := range map[string]struct {
		pending bool
		times   int
	}{"a file that has to be there": {false, 1}, "one that may come later": {true, 0}} {
		log.Reset()
		certs := &certificates{files: []Certificate{{Chain: missing, Key: missing, Pending: c.pending}}}
		for range 3 {
			if _, err := certs.current(p); err == nil {
				t.Errorf("%s: there is a certificate", name)
			}
		}
		if n := strings.Count(log.String(), missing); n != c.times {
			t.Errorf("%s: said %d times: %s", name, n, log.String())
		}
	}
}
