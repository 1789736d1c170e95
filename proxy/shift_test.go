package proxy

import (
	"encoding/pem"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// other is another gateway: it says how a request came to it.
func other(w http.ResponseWriter, r *http.Request) {
	fmt.Fprintf(w, "there %s %s %s", r.Host, r.RequestURI, r.Header.Get("X-Forwarded-For"))
}

func TestShift(t *testing.T) {
	there := serveFunc(t, other)
	here := serveFunc(t, func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, "here ", r.RequestURI) })
	r := newRig(t, Config{})
	host, port := hostPort(t, there.addr)
	r.snap.Services = []Service{
		{Name: "app", Instances: []Instance{instanceAt("app-1", here.addr)}},
		{Name: "http://there", Instances: []Instance{{ID: "there", Host: host, Ready: true}}},
	}
	r.snap.Routes = []Route{
		{Path: "/v1/*", Service: "app", Port: 80, Decision: Decision{Auth: "none", Rewrite: &Rewrite{From: "/v1", To: "/"}}},
		{Path: "/shut", Service: "app", Port: 80, Decision: Decision{Auth: "none", Problem: "no keys"}},
	}
	gateway := "http://" + r.listen(Listener{Name: "gateway", Protocol: HTTP1})
	share := func(s float64) {
		r.snap.Shift = &Shift{Service: "http://there", Port: port, Share: s}
		r.push()
	}
	share(1)
	name := strings.TrimPrefix(gateway, "http://")
	if _, text := ask(t, "GET", gateway+"/v1/a?b", ""); text != "there "+name+" /v1/a?b 127.0.0.1" {
		t.Errorf("shifted: %q; it is to go as it came", text)
	}
	if res, _ := ask(t, "GET", gateway+"/shut", ""); res.StatusCode != 200 {
		t.Errorf("%d: the other gateway decides about what is shifted", res.StatusCode)
	}
	if res, _ := ask(t, "GET", gateway+"/nowhere", ""); res.StatusCode != 404 {
		t.Errorf("%d where no route is", res.StatusCode)
	}
	if _, text := ask(t, "GET", gateway+"/v1/a", "", shiftedHeader, "1"); text != "here /a" {
		t.Errorf("shifted before: %q; it is not to go on in a circle", text)
	}
	share(0)
	if _, text := ask(t, "GET", gateway+"/v1/a", ""); text != "here /a" {
		t.Errorf("with a share of nothing: %q", text)
	}
	share(0.25)
	n := 0
	for range 400 {
		if _, text := ask(t, "GET", gateway+"/v1/a", ""); strings.HasPrefix(text, "there") {
			n++
		}
	}
	if n < 60 || n > 140 { // 100 expected, 4.6 standard deviations
		t.Errorf("%d of 400 went to a share of 25 %%", n)
	}
	bad := r.snap
	bad.Version++
	bad.Shift = &Shift{Service: "nobody"}
	if _, err := r.proxy.compile(&bad, r.proxy.table.Load(), time.Now()); err == nil {
		t.Error("a shift to no service was taken")
	}
}

// TestShiftIsNoCircle: a gateway that asks who calls takes away what clients may not say, and still sees that a request was shifted.
func TestShiftIsNoCircle(t *testing.T) {
	there := serveFunc(t, other)
	here := serveFunc(t, func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, "here ", r.RequestURI) })
	r := newRig(t, Config{})
	host, port := hostPort(t, there.addr)
	r.snap.Services = []Service{{Name: "http://there", Instances: []Instance{{ID: "there", Host: host, Ready: true}}}}
	r.snap.Shift = &Shift{Service: "http://there", Port: port, Share: 1}
	gateway := r.policed(here, map[string]Auth{"key": {APIKeys: &APIKeyAuth{}}}, Route{Path: "/*"})
	if _, text := ask(t, "GET", gateway+"/a", ""); !strings.HasPrefix(text, "there ") {
		t.Errorf("not shifted: %q", text)
	}
	if _, text := ask(t, "GET", gateway+"/a", "", shiftedHeader, "1"); text != "here /a" {
		t.Errorf("shifted before: %q; it is not to go on in a circle", text)
	}
}

func TestShiftOverTLS(t *testing.T) {
	host, port, ca := serveTLS(t, other)
	plain := serveFunc(t, other)
	_, plainPort := hostPort(t, plain.addr)
	r := newRig(t, Config{})
	gateway := "http://" + r.gateway()
	for _, c := range []struct {
		name   string
		tls    UpstreamTLS
		port   int
		status int
	}{
		{"its name and authority", UpstreamTLS{ServerName: "example.com", CA: ca}, port, 200},
		{"another name", UpstreamTLS{ServerName: "example.org", CA: ca}, port, 503},
		{"an authority that the machine does not trust", UpstreamTLS{ServerName: "example.com"}, port, 503},
		{"no authority", UpstreamTLS{ServerName: "example.com", CA: "none"}, port, 503},
		{"no TLS", UpstreamTLS{ServerName: "example.com", CA: ca}, plainPort, 503},
	} {
		t.Run(c.name, func(t *testing.T) {
			name := "https://" + c.name // connections of another are not to be used
			r.snap.Services = append(r.snap.Services[:1:1], Service{Name: name, TLS: &c.tls, Instances: []Instance{{ID: "there", Host: host, Ready: true}}})
			r.snap.Shift = &Shift{Service: name, Port: c.port, Share: 1}
			r.push()
			for range 2 {
				res, text := ask(t, "POST", gateway+"/a", "content")
				if status := res.StatusCode; status != c.status || status == 200 && !strings.HasPrefix(text, "there ") {
					t.Errorf("%d %q", status, text)
				}
			}
		})
	}
}

// serveTLS serves HTTP/1.1 and HTTP/2 over TLS as example.com. It returns where, and the certificate that vouches for it.
func serveTLS(t testing.TB, h http.HandlerFunc) (host string, port int, ca string) {
	t.Helper()
	s := httptest.NewUnstartedServer(h)
	s.EnableHTTP2 = true
	s.StartTLS()
	t.Cleanup(s.Close)
	host, port = hostPort(t, s.Listener.Addr().String())
	return host, port, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw}))
}

func hostPort(t testing.TB, addr string) (string, int) {
	t.Helper()
	a, err := net.ResolveTCPAddr("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	return a.IP.String(), a.Port
}

// TestShiftToSomebodyElse: who the other gateway has to prove to be is asked of connections that were made before, too.
func TestShiftToSomebodyElse(t *testing.T) {
	host, port, ca := serveTLS(t, other)
	r := newRig(t, Config{})
	gateway := "http://" + r.gateway()
	over2 := h2client(t)
	grpc := func() int {
		req, err := http.NewRequest("POST", gateway+"/a", strings.NewReader("content"))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Content-Type", "application/grpc")
		res, err := over2.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		io.Copy(io.Discard, res.Body)
		res.Body.Close()
		if res.Header.Get("Grpc-Status") != "" || res.Trailer.Get("Grpc-Status") != "" {
			return 503 // of the data plane's own, in gRPC's words
		}
		return res.StatusCode
	}
	for _, c := range []struct {
		tls    UpstreamTLS
		status int
	}{
		{UpstreamTLS{ServerName: "example.com", CA: ca}, 200}, {UpstreamTLS{ServerName: "example.org", CA: ca}, 503},
		{UpstreamTLS{ServerName: "example.com", CA: ca}, 200}, {UpstreamTLS{ServerName: "example.com"}, 503},
	} {
		r.snap.Services = append(r.snap.Services[:1:1], Service{Name: "https://there", TLS: &c.tls, Instances: []Instance{{ID: "there", Host: host, Ready: true}}})
		r.snap.Shift = &Shift{Service: "https://there", Port: port, Share: 1}
		r.push()
		if res, _ := ask(t, "GET", gateway+"/a", ""); res.StatusCode != c.status {
			t.Errorf("%s with an authority of %d bytes: %d, want %d", c.tls.ServerName, len(c.tls.CA), res.StatusCode, c.status)
		}
		if status := grpc(); status != c.status {
			t.Errorf("%s with an authority of %d bytes: %d over HTTP/2, want %d", c.tls.ServerName, len(c.tls.CA), status, c.status)
		}
	}
}

// TestShiftKeepsConnections: another share, and anything else that is pushed, ends no connection to the other gateway.
func TestShiftKeepsConnections(t *testing.T) {
	var conns atomic.Int32
	there := httptest.NewUnstartedServer(http.HandlerFunc(other))
	there.Config.ConnState = func(_ net.Conn, s http.ConnState) {
		if s == http.StateNew {
			conns.Add(1)
		}
	}
	there.StartTLS()
	defer there.Close()
	host, port := hostPort(t, there.Listener.Addr().String())
	ca := string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: there.Certificate().Raw}))
	r := newRig(t, Config{})
	gateway := "http://" + r.gateway()
	for _, share := range []float64{1, 0, 1, 0.999999999} {
		r.snap.Services = append(r.snap.Services[:1:1], Service{
			Name: "https://there", TLS: &UpstreamTLS{ServerName: "example.com", CA: ca}, Instances: []Instance{{ID: "there", Host: host, Ready: true}},
		})
		r.snap.Shift = &Shift{Service: "https://there", Port: port, Share: share}
		r.push()
		if share == 0 {
			continue
		}
		if res, _ := ask(t, "GET", gateway+"/a", ""); res.StatusCode != 200 {
			t.Errorf("with a share of %v: %d", share, res.StatusCode)
		}
	}
	if n := conns.Load(); n != 1 {
		t.Errorf("%d connections, want one", n)
	}
}
