package server

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"trellis/engine/kubernetes"
	"trellis/errdefs"
)

// issuer is an authority of client certificates.
type issuer struct {
	t    *testing.T
	key  *ecdsa.PrivateKey
	cert *x509.Certificate
}

func newIssuer(t *testing.T) issuer {
	t.Helper()
	i := issuer{t: t}
	i.cert, i.key = i.sign(&x509.Certificate{IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign})
	return i
}

func (i issuer) sign(template *x509.Certificate) (*x509.Certificate, *ecdsa.PrivateKey) {
	i.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		i.t.Fatal(err)
	}
	template.SerialNumber, template.NotBefore, template.NotAfter = big.NewInt(time.Now().UnixNano()), time.Now().Add(-time.Minute), time.Now().Add(time.Hour)
	parent, by := i.cert, i.key
	if parent == nil {
		parent, by = template, key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), by)
	if err != nil {
		i.t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		i.t.Fatal(err)
	}
	return cert, key
}

// client is one that shows a certificate of that name and use.
func (i issuer) client(name string, use x509.ExtKeyUsage) []tls.Certificate {
	cert, key := i.sign(&x509.Certificate{Subject: pkix.Name{CommonName: name}, ExtKeyUsage: []x509.ExtKeyUsage{use}})
	return []tls.Certificate{{Certificate: [][]byte{cert.Raw}, PrivateKey: key}}
}

func (i issuer) known(names ...string) *kubernetes.FrontProxy {
	f := &kubernetes.FrontProxy{Authorities: x509.NewCertPool(), Names: names}
	f.Authorities.AddCert(i.cert)
	return f
}

// asMetrics serves m, and returns how it is asked with certificates.
func asMetrics(t *testing.T, m *metricsAPI) func(certificates []tls.Certificate, path string) (int, string) {
	t.Helper()
	const name = "trellis-metrics-api.ns.svc"
	certificate, authority, err := selfSigned(name)
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewUnstartedServer(m)
	server.TLS = &tls.Config{Certificates: []tls.Certificate{certificate}, ClientAuth: tls.RequestClientCert}
	server.StartTLS()
	t.Cleanup(server.Close)
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(authority)
	return func(certificates []tls.Certificate, path string) (int, string) {
		t.Helper()
		transport := &http.Transport{DisableKeepAlives: true, TLSClientConfig: &tls.Config{RootCAs: roots, ServerName: name, Certificates: certificates}}
		resp, err := (&http.Client{Transport: transport}).Get(server.URL + path)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return resp.StatusCode, string(body)
	}
}

const metricsRoot = "/apis/external.metrics.k8s.io/v1beta1"

func TestOnlyTheAPIServerIsAnswered(t *testing.T) {
	ours, others := newIssuer(t), newIssuer(t)
	m := newMetricsAPI(nil, slog.New(slog.DiscardHandler))
	ask := asMetrics(t, m)
	if code, _ := ask(ours.client("front-proxy", x509.ExtKeyUsageClientAuth), metricsRoot); code != http.StatusServiceUnavailable {
		t.Errorf("before it knows whom to believe: %d", code)
	}
	for name, c := range map[string]struct {
		known        *kubernetes.FrontProxy
		certificates []tls.Certificate
		want         int
	}{
		"the API server":             {ours.known("front-proxy"), ours.client("front-proxy", x509.ExtKeyUsageClientAuth), http.StatusOK},
		"any name is allowed":        {ours.known(), ours.client("somebody", x509.ExtKeyUsageClientAuth), http.StatusOK},
		"no certificate":             {ours.known("front-proxy"), nil, http.StatusUnauthorized},
		"of another authority":       {ours.known("front-proxy"), others.client("front-proxy", x509.ExtKeyUsageClientAuth), http.StatusUnauthorized},
		"of another name":            {ours.known("front-proxy"), ours.client("somebody", x509.ExtKeyUsageClientAuth), http.StatusForbidden},
		"a server's, not a client's": {ours.known("front-proxy"), ours.client("front-proxy", x509.ExtKeyUsageServerAuth), http.StatusUnauthorized},
	} {
		t.Run(name, func(t *testing.T) {
			m.known.Store(c.known)
			if code, body := ask(c.certificates, metricsRoot); code != c.want {
				t.Errorf("%d, want %d: %s", code, c.want, body)
			}
		})
	}
}

// TestExternalMetrics: discovery and values are as a cluster's autoscaler reads them; what is not known is an error, and never 0.
func TestExternalMetrics(t *testing.T) {
	ours := newIssuer(t)
	m := newMetricsAPI(func(_ context.Context, namespace, project string) (map[string]kubernetes.Load, error) {
		if namespace != "ns" || project != "shop" {
			return nil, errdefs.ErrUnavailable
		}
		return map[string]kubernetes.Load{"web": {Concurrency: 7.5, RPS: 150}, "idle": {}}, nil
	}, slog.New(slog.DiscardHandler))
	m.known.Store(ours.known())
	get := asMetrics(t, m)
	ask := func(path string) (int, string) {
		t.Helper()
		return get(ours.client("front-proxy", x509.ExtKeyUsageClientAuth), path)
	}
	if code, body := ask(metricsRoot); code != http.StatusOK || !strings.Contains(body, `"groupVersion":"external.metrics.k8s.io/v1beta1"`) ||
		!strings.Contains(body, `"name":"trellis_concurrency"`) || !strings.Contains(body, `"name":"trellis_requests_per_second"`) {
		t.Errorf("discovery: %d %s", code, body)
	}
	value := func(namespace, metric, selector string) (int, map[string]any) {
		t.Helper()
		code, body := ask(metricsRoot + "/namespaces/" + namespace + "/" + metric + "?labelSelector=" + url.QueryEscape(selector))
		var doc map[string]any
		if err := json.Unmarshal([]byte(body), &doc); err != nil {
			t.Fatalf("%v: %s", err, body)
		}
		return code, doc
	}
	of := func(project, service string) string {
		return "app.kubernetes.io/name=" + service + ",app.kubernetes.io/part-of=" + project
	}
	for metric, want := range map[string]string{"trellis_concurrency": "7500m", "trellis_requests_per_second": "150"} {
		code, doc := value("ns", metric, of("shop", "web"))
		items, _ := doc["items"].([]any)
		if code != http.StatusOK || doc["kind"] != "ExternalMetricValueList" || doc["apiVersion"] != "external.metrics.k8s.io/v1beta1" || len(items) != 1 {
			t.Fatalf("%d %v", code, doc)
		}
		one := items[0].(map[string]any)
		if _, err := time.Parse(time.RFC3339, one["timestamp"].(string)); err != nil {
			t.Error(err)
		}
		delete(one, "timestamp")
		if d := cmp.Diff(map[string]any{
			"metricName": metric, "value": want, "window": 15.0,
			"metricLabels": map[string]any{"app.kubernetes.io/name": "web", "app.kubernetes.io/part-of": "shop"},
		}, one); d != "" {
			t.Errorf("-want +got:\n%s", d)
		}
	}
	if code, doc := value("ns", "trellis_concurrency", of("shop", "idle")); code != http.StatusOK || !strings.Contains(toJSON(t, doc), `"value":"0"`) {
		t.Errorf("a service that nobody calls: %d %v", code, doc)
	}
	for name, c := range map[string]struct {
		namespace, metric, selector string
		want                        int
	}{
		"a service that is not measured": {"ns", "trellis_concurrency", of("shop", "new"), http.StatusServiceUnavailable},
		"no control plane":               {"other", "trellis_concurrency", of("shop", "web"), http.StatusServiceUnavailable},
		"another metric":                 {"ns", "queue_length", of("shop", "web"), http.StatusNotFound},
		"no selector":                    {"ns", "trellis_concurrency", "", http.StatusBadRequest},
		"a selector of several":          {"ns", "trellis_concurrency", "app.kubernetes.io/name in (a,b)", http.StatusBadRequest},
		"no service":                     {"ns", "trellis_concurrency", "app.kubernetes.io/part-of=shop", http.StatusBadRequest},
	} {
		t.Run(name, func(t *testing.T) {
			code, doc := value(c.namespace, c.metric, c.selector)
			if code != c.want || doc["kind"] != "Status" || doc["items"] != nil || doc["message"] == "" {
				t.Errorf("%d %v", code, doc)
			}
		})
	}
}

func toJSON(t *testing.T, v any) string {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// TestControlPlanesAreAsked: once a second for all services of a project; one that cannot be asked is an error.
func TestControlPlanesAreAsked(t *testing.T) {
	var asked atomic.Int64
	answering := func(code int, body string) (*controlPlanes, *httptest.Server) {
		plane := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			asked.Add(1)
			if r.URL.Path != kubernetes.LoadPath {
				t.Errorf("asked for %s", r.URL.Path)
			}
			w.WriteHeader(code)
			_, _ = io.WriteString(w, body)
		}))
		t.Cleanup(plane.Close)
		host, text, err := net.SplitHostPort(plane.Listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		port, err := strconv.Atoi(text)
		if err != nil {
			t.Fatal(err)
		}
		return &controlPlanes{port: port, find: func(context.Context, string, string) (string, error) { return host, nil }}, plane
	}
	const loads = `{"web": {"concurrency": 2, "rps": 10}}`
	c, _ := answering(http.StatusOK, loads)
	begun := time.Now()
	for range 3 {
		all, err := c.loads(t.Context(), "ns", "shop")
		if d := cmp.Diff(map[string]kubernetes.Load{"web": {Concurrency: 2, RPS: 10}}, all); d != "" || err != nil {
			t.Fatalf("%v\n%s", err, d)
		}
	}
	if n := asked.Load(); n != 1 && time.Since(begun) < keptLoad {
		t.Errorf("asked %d times in a moment", n)
	}
	c, _ = answering(http.StatusServiceUnavailable, loads)
	if all, err := c.loads(t.Context(), "ns", "shop"); !errors.Is(err, errdefs.ErrUnavailable) || all != nil {
		t.Errorf("one that is not ready: %v, %v", all, err)
	}
	c, _ = answering(http.StatusOK, "<html>")
	if all, err := c.loads(t.Context(), "ns", "shop"); !errors.Is(err, errdefs.ErrUnavailable) || all != nil {
		t.Errorf("one that says something else: %v, %v", all, err)
	}
	c, plane := answering(http.StatusOK, loads)
	plane.Close()
	if all, err := c.loads(t.Context(), "ns", "shop"); !errors.Is(err, errdefs.ErrUnavailable) || all != nil {
		t.Errorf("one that is not reached: %v, %v", all, err)
	}
}
