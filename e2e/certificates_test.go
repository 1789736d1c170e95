//go:build e2e

package e2e

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"trellis/identity/acmetest"
)

// TestACME: https has the certificate of an authority that the file names, a name that it can't look at keeps nobody from
// theirs, and all of it is told.
func TestACME(t *testing.T) {
	t.Parallel()
	plain, secure := freePort(t), freePort(t)
	ca := acmetest.Start(t, plain, secure, 24*time.Hour)
	p := newProject(t, map[string]string{"compose.yaml": fmt.Sprintf(`
x-trellis:
  gateway:
    http: "127.0.0.1:%d"
    https: "127.0.0.1:%d"
    hosts: [gone%s, shop.example.org]
    redirect_https: true
    acme: {email: ops@example.org, directory: %q}
    policy: {auth: none}
services:
  web:
    image: testapp
    ports:
      - target: 80
        x-trellis: {routes: [{path: /*}]}
    x-trellis: {process: {command: [%s]}, probe: {http: /healthz}}
`, plain, secure, acmetest.Missing, ca.Directory, built.app)})
	trusted := filepath.Join(p.dir, "trusted.pem")
	if err := os.WriteFile(trusted, ca.Web, 0o600); err != nil {
		t.Fatal(err)
	}
	p.env = append(p.env, "SSL_CERT_FILE="+trusted, "XDG_DATA_HOME="+filepath.Join(p.dir, "data"))
	p.run("up", "-d", "--yes")
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(ca.Roots())
	tr := toThisMachine(&tls.Config{RootCAs: roots})
	defer tr.CloseIdleConnections()
	c := &http.Client{Transport: tr, Timeout: 10 * time.Second}
	eventually(t, 60*time.Second, "a certificate of the authority", func() string {
		res, err := c.Get(fmt.Sprintf("https://shop.example.org:%d/healthz", secure))
		if err != nil {
			return err.Error()
		}
		res.Body.Close()
		if res.StatusCode != 200 {
			return res.Status
		}
		return ""
	})
	c.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	if status, _, h := answer(t, c, fmt.Sprintf("http://shop.example.org:%d/.well-known/acme-challenge/none", plain)); status != 308 {
		t.Errorf("what was not asked for: %d %v", status, h)
	}
	eventually(t, 30*time.Second, "both told", func() string {
		var said []string
		for _, e := range p.events() {
			said = append(said, e.Kind+": "+e.Message)
		}
		all := strings.Join(said, "\n")
		if !strings.Contains(all, "certificate.issued: certificate issued for shop.example.org by 127.0.0.1:") || !strings.Contains(all, "certificate.failed: no certificate for gone"+acmetest.Missing) {
			return all
		}
		return ""
	})
}
