//go:build e2e

package e2e

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestMutualTLS: a program that speaks mutual TLS is told by certificate who calls it, whether the caller speaks TLS itself
// or not; and a new root takes over while requests go on.
func TestMutualTLS(t *testing.T) {
	t.Parallel()
	port, vault := freePort(t), freePort(t)
	p := newProject(t, map[string]string{"compose.yaml": fmt.Sprintf(`name: bank
services:
  web:
    image: testapp
    ports: ["127.0.0.1:%d:80"]
    x-trellis: {process: {command: [%[3]s]}, probe: {http: /healthz}, identity: true}
  vault:
    image: testapp
    ports:
      - {target: 443, published: "%[2]d", host_ip: 127.0.0.1, app_protocol: http}
      - {target: 80, x-trellis: {tls: none}}
    environment: {MUTUAL: "443"}
    x-trellis: {process: {command: [%[3]s]}, probe: {http: /healthz, port: 80}, tls: mutual}
`, port, vault, built.app)})
	p.run("up", "-d")
	c := &http.Client{Timeout: 10 * time.Second}
	ask := func(url string) string {
		status, text, _ := answer(t, c, url)
		return fmt.Sprintf("%d %s", status, text)
	}
	web := fmt.Sprintf("http://127.0.0.1:%d", port)
	outside := fmt.Sprintf("http://127.0.0.1:%d/", vault)
	expect := func(url, want string) {
		t.Helper()
		eventually(t, 10*time.Second, url, func() string { // the port opens a moment after the probe's
			if got := ask(url); !strings.HasPrefix(got, want) {
				return got
			}
			return ""
		})
	}
	expect(outside, "200 spiffe://bank/gateway ")
	expect(web+"/fetch?url=http://vault:443/", "200 spiffe://bank/service/web ")
	expect(web+"/fetch?url=https://vault:443/", "200 spiffe://bank/service/web ")
	expect(web+"/fetch?url=http://vault/healthz", "200 ok")
	before := ask(outside)
	load := underLoad(t, fmt.Sprintf("http://127.0.0.1:%d", vault), 50, func() {
		p.run("cert", "rotate")
		eventually(t, 20*time.Second, "a second root", func() string {
			b, err := os.ReadFile(filepath.Join(p.dir, ".trellis", "bank", "identity", "issued", "gateway", "svid_bundle.pem"))
			if n := strings.Count(string(b), "BEGIN CERTIFICATE"); err != nil || n != 2 {
				return fmt.Sprint(n, " roots: ", err)
			}
			return ""
		})
		p.run("cert", "rotate", "--issuer")
		if out, err := p.try("cert", "rotate"); err == nil || !strings.Contains(out, "replaces its predecessor") {
			t.Errorf("rotated twice: %v %s", err, out)
		}
	})
	load.NoGetLost(t)
	p.run("cert", "rotate", "--now")
	expect(web+"/fetch?url=https://vault:443/", "200 spiffe://bank/service/web ")
	eventually(t, 20*time.Second, "a certificate of the new root", func() string {
		if now := ask(outside); !strings.HasPrefix(now, "200 ") || now == before {
			return now
		}
		return ""
	})
	var listed struct {
		Services []struct{ ID string }
		Roots    []struct{ Issues bool }
	}
	p.json(&listed, "cert", "services")
	if len(listed.Services) != 3 || len(listed.Roots) != 1 || !listed.Roots[0].Issues {
		t.Errorf("cert services: %+v", listed)
	}
}
