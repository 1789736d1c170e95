package kubernetes

import (
	"net/http"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/runtime/schema"

	"trellis/engine"
	"trellis/state"
)

// TestKindThatIsGone: with the definition of a kind a cluster removes what there was of it. A project that had one of these is still seen,
// deployed again, and taken down: by whoever has asked for the kinds before, and by whoever asks now.
func TestKindThatIsGone(t *testing.T) {
	const gone = "/apis/gateway.networking.k8s.io/v1/namespaces/shop/httproutes"
	for name, knows := range map[string]bool{"who asks now": false, "who has asked before": true} {
		t.Run(name, func(t *testing.T) {
			s, client := cluster(t)
			s.more = map[string]map[string]string{"gateway.networking.k8s.io/v1": {"httproutes": "HTTPRoute"}}
			route := object(schema.GroupVersionKind{Group: "gateway.networking.k8s.io", Version: "v1", Kind: "HTTPRoute"}, "api", map[string]string{
				labelProject: "shop", labelManagedBy: managedBy,
			})
			e := quiet(client)
			if _, err := e.Apply(t.Context(), state.Revision{Project: version("1")}, ""); err != nil {
				t.Fatal(err)
			}
			if err := client.put(t.Context(), "shop", []Object{route}, true); err != nil {
				t.Fatal(err)
			}
			s.mu.Lock()
			delete(s.more, "gateway.networking.k8s.io/v1")
			delete(s.objects, gone+"/api")
			s.before = func(w http.ResponseWriter, r *http.Request) bool {
				if !strings.HasPrefix(r.URL.Path, gone) {
					return false
				}
				answer(w, http.StatusNotFound, "NotFound", "the server could not find the requested resource")
				return true
			}
			s.mu.Unlock()
			if !knows {
				e = quiet(clientOf(t, s))
			}
			if got, err := e.Observe(t.Context(), "shop"); err != nil || len(got.Services) != 2 {
				t.Errorf("seen: %v, %d services", err, len(got.Services))
			}
			if _, err := e.Apply(t.Context(), state.Revision{Project: version("2")}, ""); err != nil {
				t.Errorf("deployed: %v", err)
			}
			if err := e.Delete(t.Context(), "shop", engine.DeleteOptions{}); err != nil {
				t.Errorf("taken down: %v", err)
			}
		})
	}
}

// TestNamespaceThatGoes: a project is taken down while somebody deletes its namespace, which takes nothing new by then. What could not be
// noted goes with the namespace; where that stays, it is an error.
func TestNamespaceThatGoes(t *testing.T) {
	for name, goes := range map[string]bool{"goes": true, "stays": false} {
		t.Run(name, func(t *testing.T) {
			s, client := cluster(t)
			e := quiet(client)
			if _, err := e.Apply(t.Context(), state.Revision{Project: version("1")}, ""); err != nil {
				t.Fatal(err)
			}
			refused := 0
			s.mu.Lock()
			s.before = func(w http.ResponseWriter, r *http.Request) bool {
				if r.Method == http.MethodGet || r.Method == http.MethodDelete {
					return false
				}
				refused++
				if namespace := s.objects["/api/v1/namespaces/shop"]; goes && namespace != nil {
					namespace["metadata"].(map[string]any)["deletionTimestamp"] = "2026-01-01T00:00:00Z"
				}
				answer(w, http.StatusForbidden, "Forbidden", "unable to create new content in namespace shop")
				return true
			}
			s.mu.Unlock()
			err := e.Delete(t.Context(), "shop", engine.DeleteOptions{})
			if refused == 0 || goes != (err == nil) {
				t.Errorf("taken down: %v, after %d refusals", err, refused)
			}
		})
	}
}
