package proxy

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net/http"
	"testing"
	"time"

	"trellis/identity/identitytest"
)

// newClientRig is a secure gateway with a route for everybody and one for clients with a certificate of ca.
func newClientRig(t *testing.T, ca *identitytest.Certified) *secureRig {
	t.Helper()
	s := newSecureRig(t, func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprint(w, r.URL.Path, " ", r.Header.Values(subjectHeader), r.Header.Values("X-Org"), r.Header.Values(schemeHeader))
	})
	s.snap.Listeners[1].Upgrade = 0
	s.snap.Auth = map[string]Auth{"partner": {
		ClientCertificate: &ClientCertificateAuth{CA: ca.PEM()}, Claims: map[string]string{subjectHeader: "sub", "X-Org": "o"},
	}}
	s.snap.Routes = []Route{
		{Path: "/open", Service: "app", Port: 80, Decision: Decision{Auth: "none"}},
		{Path: "/partner", Service: "app", Port: 80, Decision: Decision{Auth: "partner"}},
		{Path: "/one", Service: "app", Port: 80, Decision: Decision{Auth: "partner", Require: map[string][]string{"dns": {"partner.example.org"}}}},
	}
	s.issue(time.Now(), "shop.localhost")
	s.push()
	return s
}

// with returns a client that shows c whatever the gateway says that it takes; nil: none.
func (s *secureRig) with(c *identitytest.Certified, http2 bool) *http.Client {
	client := s.client(http2)
	if c != nil {
		client.Transport.(*http.Transport).TLSClientConfig.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			return &c.Certificate, nil
		}
	}
	return client
}

// get asks and returns status and text; 0 where the connection failed.
func (s *secureRig) get(c *http.Client, path string) (int, string) {
	s.t.Helper()
	req, _ := http.NewRequest("GET", "https://"+s.secure+path, nil)
	req.Header.Set(subjectHeader, "forged")
	req.Header.Set("X_Org", "forged")
	res, err := c.Do(req)
	if err != nil {
		return 0, err.Error()
	}
	defer res.Body.Close()
	b, _ := io.ReadAll(res.Body)
	return res.StatusCode, string(b)
}

// TestClientCertificates: a certificate is who calls, where a route wants one; what is not good proves nothing and is in
// the way of nobody else's routes.
func TestClientCertificates(t *testing.T) {
	ca := identitytest.NewCA(t, "ca")
	s := newClientRig(t, ca)
	for _, h2 := range []bool{false, true} {
		good := s.with(ca.Sub("between", nil).Issue("partner", nil), h2)
		for range 2 { // the second time it is remembered
			if status, text := s.get(good, "/partner"); status != 200 || text != "/partner [spiffe://example.org/partner] [Test] [partner]" {
				t.Errorf("a good one: %d %s", status, text)
			}
		}
		if status, text := s.get(good, "/one"); status != 200 {
			t.Errorf("the one that is meant: %d %s", status, text)
		}
		if status, _ := s.get(s.with(ca.Issue("stranger", nil), h2), "/one"); status != 403 {
			t.Errorf("another one than is meant: %d", status)
		}
		if status, text := s.get(good, "/open"); status != 200 || text != "/open [] [] []" {
			t.Errorf("a route for everybody: %d %s", status, text)
		}
		none := s.with(nil, h2)
		if status, text := s.get(none, "/open"); status != 200 || text != "/open [] [] []" {
			t.Errorf("no certificate, a route for everybody: %d %s", status, text)
		}
		if status, text := s.get(none, "/partner"); status != 403 {
			t.Errorf("no certificate: %d %s", status, text)
		}
	}
	for name, bad := range identitytest.BadClients(t, ca) {
		c := s.with(bad, false)
		if status, text := s.get(c, "/partner"); status != 403 && status != 0 {
			t.Errorf("%s: %d %s", name, status, text)
		}
	}
	res, err := client(t).Get("http://" + s.plain + "/partner")
	if body(t, res, err); res.StatusCode != 403 {
		t.Errorf("without TLS: %d", res.StatusCode)
	}
	if status, _ := s.get(s.with(&identitytest.Certified{Certificate: tls.Certificate{Certificate: ca.Issue("partner", nil).Certificate.Certificate, PrivateKey: ca.PrivateKey}}, false), "/open"); status != 0 {
		t.Errorf("a certificate without its key: %d", status)
	}
}

// TestClientCertificatesEnd: what a connection has shown counts for as long as it is good and its authority is in the
// file.
func TestClientCertificatesEnd(t *testing.T) {
	t.Parallel()
	ca := identitytest.NewCA(t, "ca")
	s := newClientRig(t, ca)
	brief := s.with(ca.Issue("partner", func(x *x509.Certificate) { x.NotAfter = time.Now().Add(3 * time.Second) }), true)
	long := s.with(ca.Issue("partner", nil), true)
	if status, text := s.get(brief, "/partner"); status != 200 {
		t.Fatalf("before its end: %d %s", status, text)
	}
	eventually(t, "it ends on a connection that goes on", func() bool { status, _ := s.get(brief, "/partner"); return status == 403 })
	if status, text := s.get(long, "/partner"); status != 200 {
		t.Fatalf("%d %s", status, text)
	}
	other := identitytest.NewCA(t, "other")
	s.snap.Auth = map[string]Auth{"partner": {ClientCertificate: &ClientCertificateAuth{CA: other.PEM()}}}
	s.push()
	if status, _ := s.get(long, "/partner"); status != 403 {
		t.Errorf("an authority that was taken out: %d", status)
	}
	if status, text := s.get(s.with(other.Issue("partner", nil), true), "/partner"); status != 200 {
		t.Errorf("the one that came in: %d %s", status, text)
	}
	s.snap.Auth = map[string]Auth{"partner": {ClientCertificate: &ClientCertificateAuth{CA: "x"}}}
	s.push()
	if status, _ := s.get(s.with(other.Issue("partner", nil), true), "/partner"); status != 503 {
		t.Errorf("authorities that can't be read: %d", status)
	}
}

// TestClientCertificateRequired: without one that is good there is no handshake, and so no request.
func TestClientCertificateRequired(t *testing.T) {
	t.Parallel()
	ca := identitytest.NewCA(t, "ca")
	s := newClientRig(t, ca)
	s.snap.Listeners[0].RequireClientCertificate = true
	s.push()
	good := s.with(ca.Issue("partner", nil), true)
	if status, text := s.get(good, "/open"); status != 200 {
		t.Errorf("a good one: %d %s", status, text)
	}
	if status, text := s.get(s.with(nil, true), "/open"); status != 0 {
		t.Errorf("none: %d %s", status, text)
	}
	for name, bad := range identitytest.BadClients(t, ca) {
		if status, text := s.get(s.with(bad, false), "/open"); status != 0 {
			t.Errorf("%s: %d %s", name, status, text)
		}
	}
	s.snap.Auth = map[string]Auth{"partner": {Problem: "gone", ClientCertificate: &ClientCertificateAuth{}}}
	s.push()
	if status, text := s.get(s.with(ca.Issue("partner", nil), false), "/open"); status != 0 {
		t.Errorf("without authorities: %d %s", status, text)
	}
}
