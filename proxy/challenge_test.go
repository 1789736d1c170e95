package proxy

import (
	"crypto/tls"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestChallenges: what an authority asks is answered from the folder, and nothing else is; the program has the rest.
func TestChallenges(t *testing.T) {
	t.Parallel()
	s := newSecureRig(t, func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, "program") })
	dir := t.TempDir()
	for _, name := range []string{"http-01", "tls-alpn-01"} {
		if err := os.Mkdir(filepath.Join(dir, name), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	for i := range s.snap.Listeners {
		s.snap.Listeners[i].Challenges = dir
		if l := &s.snap.Listeners[i]; l.TLS {
			l.Certificates[0].Pending = true
		}
	}
	s.push()
	put := func(name, text string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	put("http-01/tok-EN_1", "tok-EN_1.thumb")
	put("secret", "secret")
	for _, c := range []struct {
		method, path, want string
		status             int
	}{
		{"GET", "/.well-known/acme-challenge/tok-EN_1", "tok-EN_1.thumb", 200},
		{"HEAD", "/.well-known/acme-challenge/tok-EN_1", "", 200},
		{"POST", "/.well-known/acme-challenge/tok-EN_1", "", 308},
		{"GET", "/.well-known/acme-challenge/tok-en_1", "", 308},
		{"GET", "/.well-known/acme-challenge/other", "", 308},
		{"GET", "/.well-known/acme-challenge/", "", 308},
		{"GET", "/.well-known/acme-challenge/..", "", 400},
		{"GET", "/.well-known/acme-challenge/..%2fsecret", "", 400},
		{"GET", "/.well-known/acme-challenge/%2e%2e/secret", "", 400},
		{"GET", "/.well-known/acme-challenge/a/b", "", 308},
	} {
		req, err := http.NewRequest(c.method, "http://"+s.plain, nil)
		if err != nil {
			t.Fatal(err)
		}
		req.URL.Opaque = c.path
		res, err := client(t).Do(req)
		if got := body(t, res, err); res.StatusCode != c.status || c.status == 200 && got != c.want {
			t.Errorf("%s %s: %d %q", c.method, c.path, res.StatusCode, got)
		}
	}

	handshake := func(name string, protos ...string) (*tls.Conn, error) {
		conn, err := tls.Dial("tcp", s.secure, &tls.Config{ServerName: name, NextProtos: protos, InsecureSkipVerify: true})
		if err == nil {
			t.Cleanup(func() { conn.Close() })
		}
		return conn, err
	}
	if _, err := handshake("shop.localhost", acmeTLS); err == nil {
		t.Error("a challenge that nobody asked for was answered")
	}
	chain, key, err := s.authority.Issue([]string{"challenge.localhost"}, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	put("tls-alpn-01/shop.localhost.crt", string(chain))
	put("tls-alpn-01/shop.localhost.key", string(key))
	conn, err := handshake("Shop.localhost", acmeTLS)
	if err != nil {
		t.Fatalf("the challenge, while there is no certificate yet: %v", err)
	}
	if st := conn.ConnectionState(); st.NegotiatedProtocol != acmeTLS || st.PeerCertificates[0].DNSNames[0] != "challenge.localhost" {
		t.Errorf("challenge answered by %q with %v", st.NegotiatedProtocol, st.PeerCertificates[0].DNSNames)
	}
	conn.SetReadDeadline(time.Now().Add(10 * time.Second))
	if n, err := conn.Read(make([]byte, 1)); n != 0 || err == nil || strings.Contains(err.Error(), "timeout") {
		t.Errorf("the authority's connection goes on: %d, %v", n, err)
	}
	if _, err := handshake("shop.localhost", "http/1.1"); err == nil {
		t.Error("served with the challenge's certificate")
	}
	s.issue(time.Now(), "shop.localhost")
	eventually(t, "the certificate is taken", func() bool {
		res, err := s.client(false).Get("https://" + s.secure + "/")
		if err != nil {
			return false
		}
		return body(t, res, err) == "program"
	})
	if _, err := handshake("shop.localhost", "http/1.1", acmeTLS); err != nil {
		t.Errorf("a client that speaks more than the challenge: %v", err)
	}
}

// TestCertificatesByThemselves: one that can't be read keeps none of the others from being replaced.
func TestCertificatesByThemselves(t *testing.T) {
	t.Parallel()
	s := newSecureRig(t, func(w http.ResponseWriter, r *http.Request) {})
	dir := t.TempDir()
	broken := Certificate{Chain: filepath.Join(dir, "b.crt"), Key: filepath.Join(dir, "b.key")}
	later := Certificate{Chain: filepath.Join(dir, "c.crt"), Key: filepath.Join(dir, "c.key"), Pending: true}
	if err := os.WriteFile(broken.Chain, []byte("no certificate"), 0o600); err != nil {
		t.Fatal(err)
	}
	s.snap.Listeners[0].Certificates = []Certificate{broken, later, s.files}
	s.push()
	serial := func() string {
		conn, err := tls.Dial("tcp", s.secure, &tls.Config{ServerName: "shop.localhost", InsecureSkipVerify: true})
		if err != nil {
			return err.Error()
		}
		defer conn.Close()
		return conn.ConnectionState().PeerCertificates[0].SerialNumber.String()
	}
	s.issue(time.Now(), "shop.localhost")
	var first string
	eventually(t, "the first certificate", func() bool { first = serial(); return !strings.Contains(first, " ") })
	s.issue(time.Now(), "shop.localhost")
	eventually(t, "its successor", func() bool { now := serial(); return now != first && !strings.Contains(now, " ") })
	was, files := serial(), s.files
	s.files = later
	s.issue(time.Now(), "shop.localhost")
	s.files = files
	eventually(t, "the one that came later, which is named before", func() bool { return serial() != was })
}
