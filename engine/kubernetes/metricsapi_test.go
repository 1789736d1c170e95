package kubernetes

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"math/big"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"trellis/errdefs"
)

func TestMetricsAPIGolden(t *testing.T) {
	var out strings.Builder
	decoder := strict(t)
	for _, o := range MetricsAPI(MetricsNamespace, planeImage) {
		out.WriteString("---\n" + string(text(t, o)))
		if _, untyped := o.(*unstructured.Unstructured); untyped {
			continue
		}
		if _, _, err := decoder.Decode(text(t, o), nil, nil); err != nil {
			t.Errorf("%s %s: %v", o.GetObjectKind().GroupVersionKind().Kind, o.GetName(), err)
		}
	}
	golden(t, "testdata/metrics-api.yaml", out.String())
}

// authority is a certificate as PEM.
func authority(t *testing.T) string {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
}

func TestWhoSpeaksForTheAPIServer(t *testing.T) {
	s, c := cluster(t)
	if _, err := c.FrontProxy(t.Context()); !errors.Is(err, errdefs.ErrNotFound) {
		t.Errorf("without the ConfigMap: %v", err)
	}
	data := map[string]any{"requestheader-client-ca-file": authority(t), "requestheader-allowed-names": `["front-proxy"]`}
	s.objects["/api/v1/namespaces/kube-system/configmaps/extension-apiserver-authentication"] = map[string]any{
		"apiVersion": "v1", "kind": "ConfigMap", "metadata": map[string]any{"name": "extension-apiserver-authentication"}, "data": data,
	}
	known, err := c.FrontProxy(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff([]string{"front-proxy"}, known.Names); d != "" || known.Authorities.Equal(x509.NewCertPool()) {
		t.Errorf("names: %s, authorities: %v", d, known.Authorities)
	}
	data["requestheader-client-ca-file"] = ""
	if _, err := c.FrontProxy(t.Context()); !errors.Is(err, errdefs.ErrUnsupported) {
		t.Errorf("an API server that passes nothing on: %v", err)
	}
}

func TestAPIServerIsToldWhomToBelieve(t *testing.T) {
	s, c := cluster(t)
	if err := c.TrustMetrics(t.Context(), []byte("one")); !errors.Is(err, errdefs.ErrNotFound) {
		t.Errorf("nothing is registered: %v", err)
	}
	const path = "/apis/apiregistration.k8s.io/v1/apiservices/" + registration
	o, err := plainObject(metricsRegistration("ns", nil))
	if err != nil {
		t.Fatal(err)
	}
	s.objects[path] = o.Object
	for _, authority := range []string{"one", "one", "two"} {
		if err := c.TrustMetrics(t.Context(), []byte(authority)); err != nil {
			t.Fatal(err)
		}
		got, _, _ := unstructured.NestedString(s.objects[path], "spec", "caBundle")
		if want := base64.StdEncoding.EncodeToString([]byte(authority)); got != want {
			t.Errorf("believed is %q, want %q", got, want)
		}
	}
	if want := []string{"PATCH " + path, "PATCH " + path}; !cmp.Equal(s.writes, want) {
		t.Errorf("written: %v", s.writes)
	}
}

func TestControlPlaneIsFound(t *testing.T) {
	s, c := cluster(t)
	pod := func(name, component, ready string) {
		s.objects["/api/v1/namespaces/ns/pods/"+name] = map[string]any{
			"apiVersion": "v1", "kind": "Pod",
			"metadata": map[string]any{"name": name, "labels": map[string]any{labelProject: "shop", labelComponent: component}},
			"status":   map[string]any{"podIP": "10.0.0." + name, "conditions": []any{map[string]any{"type": "Ready", "status": ready}}},
		}
	}
	pod("1", dataPlane, "True")
	pod("2", controlPlane, "False")
	if _, err := c.ControlPlane(t.Context(), "ns", "shop"); !errors.Is(err, errdefs.ErrUnavailable) {
		t.Errorf("none is ready: %v", err)
	}
	pod("3", controlPlane, "True")
	if host, err := c.ControlPlane(t.Context(), "ns", "shop"); err != nil || host != "10.0.0.3" {
		t.Errorf("%s, %v", host, err)
	}
	if _, err := c.ControlPlane(t.Context(), "ns", "other"); !errors.Is(err, errdefs.ErrUnavailable) {
		t.Errorf("another project's: %v", err)
	}
}
