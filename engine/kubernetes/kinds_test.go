package kubernetes

import (
	"errors"
	"net/http"
	"slices"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"trellis/errdefs"
)

// TestKinds: what there is, is asked once; what there is not, is asked again.
func TestKinds(t *testing.T) {
	route := schema.GroupVersionKind{Group: "gateway.networking.k8s.io", Version: "v1", Kind: "HTTPRoute"}
	s, c := cluster(t)
	for range 2 {
		for kind, want := range map[schema.GroupVersionKind]reached{
			appsv1.SchemeGroupVersion.WithKind("Deployment"): {appsv1.SchemeGroupVersion.WithResource("deployments"), true},
			batchv1.SchemeGroupVersion.WithKind("CronJob"):   {batchv1.SchemeGroupVersion.WithResource("cronjobs"), true},
			corev1.SchemeGroupVersion.WithKind("Pod"):        {corev1.SchemeGroupVersion.WithResource("pods"), true},
			corev1.SchemeGroupVersion.WithKind("Namespace"):  {corev1.SchemeGroupVersion.WithResource("namespaces"), false},
		} {
			if got, err := c.kinds.find(kind); err != nil || got != want {
				t.Errorf("%s: %+v, %v", kind, got, err)
			}
		}
	}
	if slices.Sort(s.asked); !slices.Equal(s.asked, []string{"GET /api", "GET /apis"}) {
		t.Errorf("asked %q", s.asked)
	}
	if _, err := c.kinds.find(route); !errors.Is(err, errdefs.ErrUnsupported) {
		t.Errorf("a kind that there is not: %v", err)
	}
	s.mu.Lock()
	s.more = map[string]map[string]string{route.GroupVersion().String(): {"httproutes": "HTTPRoute"}}
	s.mu.Unlock()
	if got, err := c.kinds.find(route); err != nil || got.Resource != "httproutes" {
		t.Errorf("a kind that there is now: %+v, %v", got, err)
	}
}

// TestKindsCannotBeAsked: what the API server says instead of them is told as it is elsewhere.
func TestKindsCannotBeAsked(t *testing.T) {
	for name, c := range map[string]struct {
		answer func(w http.ResponseWriter)
		want   error
	}{
		"not allowed":   {func(w http.ResponseWriter) { answer(w, http.StatusForbidden, "Forbidden", "no") }, errdefs.ErrUnavailable},
		"overloaded":    {func(w http.ResponseWriter) { answer(w, http.StatusServiceUnavailable, "ServiceUnavailable", "later") }, errdefs.ErrUnavailable},
		"a page":        {func(w http.ResponseWriter) { _, _ = w.Write([]byte("<html>sign in</html>")) }, errdefs.ErrUnavailable},
		"an older one":  {func(w http.ResponseWriter) { _, _ = w.Write([]byte(`{"kind": "APIVersions", "versions": ["v1"]}`)) }, errdefs.ErrUnsupported},
		"another shape": {func(w http.ResponseWriter) { _, _ = w.Write([]byte(`{"kind": "APIGroupDiscoveryList", "items": 7}`)) }, errdefs.ErrUnavailable},
	} {
		t.Run(name, func(t *testing.T) {
			client := clientOf(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { c.answer(w) }))
			if _, err := client.resource(pods); !errors.Is(err, c.want) {
				t.Errorf("%v", err)
			}
		})
	}
}
