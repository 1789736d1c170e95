//go:build e2e

package e2e

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"trellis/api"
)

// answer is one request without a client's niceties.
func answer(t testing.TB, c *http.Client, url string, fields ...string) (int, string, http.Header) {
	t.Helper()
	req, err := http.NewRequest("GET", url, nil)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(fields); i += 2 {
		req.Header.Set(fields[i], fields[i+1])
	}
	res, err := c.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res.StatusCode, string(b), res.Header
}

// TestRoutesDecideWhoMayUseThem: API keys are made, accepted and revoked, limits hold, and the gateway speaks TLS with a
// certificate of this machine's authority.
func TestRoutesDecideWhoMayUseThem(t *testing.T) {
	t.Parallel()
	plain, secure := freePort(t), freePort(t)
	p := newProject(t, map[string]string{"keys.txt": "", "compose.yaml": fmt.Sprintf(`
x-trellis:
  gateway: {http: "127.0.0.1:%d", https: "127.0.0.1:%d", hosts: [shop.localhost], hsts: 1h, policy: {auth: partner, security_headers: true}}
  auth:
    partner: {api_keys: {secret: partner_keys}}
secrets:
  partner_keys: {file: keys.txt}
services:
  web:
    image: testapp
    ports:
      - target: 80
        x-trellis:
          routes:
            - {path: /*}
            - {path: /healthz, auth: none, rate_limit: {rate: 1/h, burst: 3}}
            - {path: /write, require: {scope: orders:write}}
    x-trellis: {process: {command: [%s]}, probe: {http: /healthz}}
`, plain, secure, built.app)})
	p.env = append(p.env, "XDG_DATA_HOME="+filepath.Join(p.dir, "data"))
	key := strings.TrimSpace(lastLine(p.run("key", "create", "acme", "--scope", "orders:read")))
	p.run("up", "-d", "--yes") // a route without auth is asked about
	c := &http.Client{Timeout: 10 * time.Second, Transport: toThisMachine(nil)}
	at := "http://shop.localhost:" + fmt.Sprint(plain)
	expect := func(want int, path string, fields ...string) {
		t.Helper()
		if status, text, _ := answer(t, c, at+path, fields...); status != want {
			t.Errorf("%s with %.20q: %d, want %d: %s", path, fields, status, want, text)
		}
	}
	expect(401, "/")
	expect(401, "/", "X-Api-Key", key+"0")
	expect(200, "/", "X-Api-Key", key)
	expect(403, "/write", "X-Api-Key", key)
	for _, want := range []int{200, 200, 200, 429} {
		expect(want, "/healthz")
	}
	var routes []api.Route
	p.json(&routes, "routes")
	if i := slices.IndexFunc(routes, func(r api.Route) bool { return r.Path == "/write" }); i < 0 || routes[i].Auth != "partner" || !slices.Contains(routes[i].Rules, "scope=orders:write") || routes[i].Closed != "" || routes[i].Source != "compose.yaml:17:15" {
		t.Errorf("routes: %+v", routes)
	}
	root, err := os.ReadFile(filepath.Join(p.dir, "data", "trellis", "ca", "root.crt"))
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(root)
	tr := toThisMachine(&tls.Config{RootCAs: roots})
	defer tr.CloseIdleConnections()
	status, text, h := answer(t, &http.Client{Transport: tr, Timeout: 10 * time.Second}, fmt.Sprintf("https://shop.localhost:%d/", secure), "X-Api-Key", key)
	if status != 200 || h.Get("Strict-Transport-Security") != "max-age=3600" || h.Get("X-Content-Type-Options") != "nosniff" {
		t.Errorf("over TLS: %d %s %v", status, text, h)
	}
	if url := p.ps().Gateway.HTTPS; url == nil || !strings.HasSuffix(*url, fmt.Sprint(secure)) {
		t.Errorf("ps tells no https: %v", url)
	}
	p.run("key", "revoke", strings.Split(key, "_")[1])
	p.run("up", "-d", "--yes")
	expect(401, "/", "X-Api-Key", key)
	p.write("keys.txt", "what is not a list of keys")
	p.run("up", "-d", "--yes")
	expect(503, "/", "X-Api-Key", key)
}

// TestClientCertificates: who shows a certificate of the partners' authority comes in, and nobody else; one that the file
// takes away again is out at once.
func TestClientCertificates(t *testing.T) {
	t.Parallel()
	plain, secure := freePort(t), freePort(t)
	file := func(ca string) string {
		return fmt.Sprintf(`
x-trellis:
  gateway: {http: "127.0.0.1:%d", https: "127.0.0.1:%d", redirect_https: true, policy: {auth: partner}}
  auth:
    partner: {client_certificate: {ca: partners}}
secrets:
  partners: {file: %s}
services:
  web:
    image: testapp
    ports:
      - target: 80
        x-trellis: {routes: [{path: /*}]}
    x-trellis: {process: {command: [%s]}, probe: {http: /healthz}}
`, plain, secure, ca, built.app)
	}
	mine, others := newPartner(t), newPartner(t)
	p := newProject(t, map[string]string{"compose.yaml": file("mine.pem"), "mine.pem": mine.ca, "others.pem": others.ca})
	p.env = append(p.env, "XDG_DATA_HOME="+filepath.Join(p.dir, "data"))
	p.run("up", "-d", "--yes")
	clients := map[*partner]*http.Client{}
	for _, who := range []*partner{mine, others, nil} {
		conf := &tls.Config{InsecureSkipVerify: true} // who the gateway is is not asked here
		if who != nil {
			conf.Certificates = []tls.Certificate{who.cert}
		}
		tr := toThisMachine(conf)
		defer tr.CloseIdleConnections()
		clients[who] = &http.Client{Transport: tr, Timeout: 10 * time.Second}
	}
	expect := func(who *partner, want int) {
		t.Helper()
		eventually(t, 10*time.Second, "an answer", func() string {
			if status, text, _ := answer(t, clients[who], fmt.Sprintf("https://shop.localhost:%d/", secure)); status != want {
				return fmt.Sprintf("%d, want %d: %s", status, want, text)
			}
			return ""
		})
	}
	expect(mine, 200)
	expect(others, 403)
	expect(nil, 403)
	p.write("compose.yaml", file("others.pem"))
	p.run("up", "-d", "--yes")
	expect(mine, 403) // over the connection that it was let in by
	expect(others, 200)
}

// partner is a client with a certificate, and the authority that issued it.
type partner struct {
	ca   string
	cert tls.Certificate
}

func newPartner(t *testing.T) *partner {
	t.Helper()
	now := time.Now()
	issue := func(template, parent *x509.Certificate, signer *ecdsa.PrivateKey) ([]byte, *ecdsa.PrivateKey) {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		if signer == nil {
			signer = key
		}
		template.SerialNumber, template.NotBefore, template.NotAfter, template.BasicConstraintsValid = big.NewInt(now.UnixNano()), now.Add(-time.Hour), now.Add(time.Hour), true
		der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), signer)
		if err != nil {
			t.Fatal(err)
		}
		return der, key
	}
	ca := &x509.Certificate{Subject: pkix.Name{CommonName: "Partners"}, IsCA: true, KeyUsage: x509.KeyUsageCertSign}
	der, caKey := issue(ca, ca, nil)
	leaf, key := issue(&x509.Certificate{Subject: pkix.Name{CommonName: "acme"}, KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}, ca, caKey)
	return &partner{ca: string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})), cert: tls.Certificate{Certificate: [][]byte{leaf}, PrivateKey: key}}
}

// toThisMachine takes every name to be this machine's.
func toThisMachine(conf *tls.Config) *http.Transport {
	return &http.Transport{TLSClientConfig: conf, ForceAttemptHTTP2: true, DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
		_, port, err := net.SplitHostPort(address)
		if err != nil {
			return nil, err
		}
		return (&net.Dialer{}).DialContext(ctx, network, net.JoinHostPort("127.0.0.1", port))
	}}
}

// lastLine is what a command printed last.
func lastLine(out string) string {
	lines := strings.Split(strings.TrimSpace(out), "\n")
	return lines[len(lines)-1]
}

// TestCallsAreTheList: of processes; TestDocker has it of containers.
func TestCallsAreTheList(t *testing.T) {
	t.Parallel()
	callsAreTheList(t, newProject(t, nil), "kiosk", "image: testapp", "process: {command: ["+built.app+"]}, ")
}

// callsAreTheList: with the first calls of a project, what is not listed is refused in words and with an event, and
// what is listed goes on, under load and while the list changes. Program and trellis are what makes testapp of a service.
func callsAreTheList(t *testing.T, p *project, name, program, trellis string) {
	port := freePort(t)
	file := func(calls string) string {
		return fmt.Sprintf(`name: %[5]s
services:
  web:
    %[2]s
    ports: ["127.0.0.1:%[1]d:80"]
    x-trellis: {%[3]sprobe: {http: /healthz}%[4]s}
  api:
    %[2]s
    expose: ["80"]
    depends_on: [db]
    x-trellis: {%[3]sprobe: {http: /healthz}}
  db:
    %[2]s
    expose: ["80", "5432"]
    environment: {POSTGRES: "5432"}
    x-trellis: {%[3]sprobe: {http: /healthz}}
`, port, program, trellis, calls, name)
	}
	p.write("compose.yaml", file(""))
	p.run("up", "-d")
	at := func(path string) string {
		status, text, _ := answer(t, &http.Client{Timeout: 10 * time.Second}, fmt.Sprintf("http://127.0.0.1:%d%s", port, path))
		return fmt.Sprintf("%d %s", status, text)
	}
	through := func(url string) string { return at("/fetch?url=" + url) }
	for _, url := range []string{"http://api/", "http://db/", "http://api/fetch?url=http://db/"} {
		if got := through(url); !strings.Contains(got, `"version"`) {
			t.Fatalf("before there are calls, %s: %s", url, got)
		}
	}
	load := underLoad(t, fmt.Sprintf("http://127.0.0.1:%d", port), 100, func() {
		p.write("compose.yaml", file(", calls: [api]"))
		p.run("up", "-d")
		for _, url := range []string{"http://api/", "http://api/fetch?url=http://db/"} {
			if got := through(url); !strings.Contains(got, `"version"`) {
				t.Errorf("listed: %s: %s", url, got)
			}
		}
		if got := through("http://db/"); !strings.Contains(got, "web may not call db") {
			t.Errorf("not listed: %s", got)
		}
		for path, want := range map[string]string{ // web calls api, and api db
			"/grpc?host=api": "200 HTTP 200 gRPC 0", "/fetch?url=http://api/grpc?host=db": "200 HTTP 200 gRPC 0",
			"/grpc?host=db": "200 HTTP 403 ", "/fetch?url=http://api/postgres?at=db:5432": "200 R ", "/postgres?at=db:5432": "200 E SFATAL VFATAL C28000 Mweb may not call db",
		} {
			if got := at(path); !strings.HasPrefix(got, want) {
				t.Errorf("%s: %s, want %s", path, got, want)
			}
		}
	})
	load.NoGetLost(t)
	deadline := time.Now().Add(20 * time.Second)
	for {
		found := 0
		for line := range strings.SplitSeq(p.run("events", "--format", "json"), "\n") {
			if strings.Contains(line, "call.refused") && strings.Contains(line, "web may not call db") {
				found++
			}
		}
		if found > 0 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("no event says that a call was refused:\n%s", p.run("events"))
		}
		time.Sleep(100 * time.Millisecond)
	}
}
