package kubernetes

import (
	"net/http"
	"slices"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/runtime/schema"

	"trellis/compose"
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

// TestVolumesWithoutAName: the claims that a StatefulSet had made for its pods go with the volumes, also where everything else has gone
// before; of another project none does. Who may not look at claims needs not, where the project had no such volume.
func TestVolumesWithoutAName(t *testing.T) {
	const claims = "/api/v1/namespaces/shop/persistentvolumeclaims/"
	for name, c := range map[string]struct {
		had, forbidden, before bool
		left                   []string
		fails                  bool
	}{
		"at once":                 {true, false, false, []string{"persistentvolumeclaims/theirs"}, false},
		"afterwards":              {true, false, true, []string{"persistentvolumeclaims/theirs"}, false},
		"may not look":            {true, true, false, []string{"persistentvolumeclaims/data-x-db-0", "persistentvolumeclaims/theirs"}, true},
		"needs not look":          {false, true, false, []string{"persistentvolumeclaims/data-x-db-0", "persistentvolumeclaims/theirs"}, false},
		"of a version long since": {false, false, false, []string{"persistentvolumeclaims/theirs"}, false},
	} {
		t.Run(name, func(t *testing.T) {
			s, client := cluster(t)
			s.more = map[string]map[string]string{"apps/v1": {"deployments": "Deployment", "statefulsets": "StatefulSet"}}
			e := quiet(client)
			db := compose.Service{Name: "db", Image: "db:1"}
			if c.had {
				db.Volumes = []compose.Mount{{Type: compose.MountVolume, Target: "/data"}}
			}
			p := compose.Project{Name: "shop", Services: map[string]compose.Service{"db": db}}
			if _, err := e.Apply(t.Context(), state.Revision{Project: p}, ""); err != nil {
				t.Fatal(err)
			}
			s.mu.Lock()
			s.objects[claims+"data-x-db-0"] = object(persistentVolumeClaims, "data-x-db-0", map[string]string{labelProject: "shop", labelManagedBy: managedBy, labelService: "db"}).Object
			s.objects[claims+"theirs"] = object(persistentVolumeClaims, "theirs", map[string]string{labelProject: "other", labelManagedBy: managedBy}).Object
			s.before = func(w http.ResponseWriter, r *http.Request) bool {
				refused := c.forbidden && strings.HasPrefix(r.URL.Path, strings.TrimSuffix(claims, "/"))
				if refused {
					answer(w, http.StatusForbidden, "Forbidden", "may not")
				}
				return refused
			}
			s.mu.Unlock()
			if c.before {
				if err := e.Delete(t.Context(), "shop", engine.DeleteOptions{}); err != nil || s.objects[claims+"data-x-db-0"] == nil {
					t.Fatalf("without its volumes: %v, the claim is %v", err, s.objects[claims+"data-x-db-0"])
				}
			}
			said, err := e.Volumes(t.Context(), "shop")
			if (err != nil) != c.fails || slices.Contains(said, "data-x-db-0") != (len(c.left) == 1) || slices.Contains(said, "theirs") {
				t.Errorf("said to be deleted: %q, %v", said, err)
			}
			if err := e.Delete(t.Context(), "shop", engine.DeleteOptions{Volumes: true}); (err != nil) != c.fails {
				t.Error(err)
			}
			left := slices.DeleteFunc(s.names(), func(name string) bool { return !strings.HasPrefix(name, "persistentvolumeclaims/") })
			if !slices.Equal(left, c.left) {
				t.Errorf("left: %v", left)
			}
		})
	}
}

// TestVolumeOfSomebodyElse: a volume that was the project's, and that its newest revision calls external, stays.
func TestVolumeOfSomebodyElse(t *testing.T) {
	s, client := cluster(t)
	s.more = map[string]map[string]string{"apps/v1": {"deployments": "Deployment", "statefulsets": "StatefulSet"}}
	e := quiet(client)
	p := compose.Project{Name: "shop", Services: map[string]compose.Service{
		"db": {Name: "db", Image: "db:1", Volumes: []compose.Mount{{Type: compose.MountVolume, Source: "data", Target: "/data"}}},
	}, Volumes: map[string]compose.Volume{"data": {}}}
	if _, err := e.Apply(t.Context(), state.Revision{Project: p}, ""); err != nil {
		t.Fatal(err)
	}
	p.Volumes = map[string]compose.Volume{"data": {External: true}}
	if _, err := e.Apply(t.Context(), state.Revision{Project: p}, ""); err != nil {
		t.Fatal(err)
	}
	if said, err := e.Volumes(t.Context(), "shop"); slices.Contains(said, "data") || err != nil {
		t.Errorf("said to be deleted: %q, %v", said, err)
	}
	if err := e.Delete(t.Context(), "shop", engine.DeleteOptions{Volumes: true}); err != nil {
		t.Fatal(err)
	}
	if left := s.names(); !slices.Contains(left, "persistentvolumeclaims/data") {
		t.Errorf("left: %v", left)
	}
}
