package kubernetes

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"trellis/compose"
	"trellis/engine"
	"trellis/state"
)

// removals writes down what is removed of three kinds, and how: "services/api Foreground".
func removals(s *apiServer) *[]string {
	var all []string
	s.before = func(_ http.ResponseWriter, r *http.Request) bool {
		kind := filepath.Base(filepath.Dir(r.URL.Path))
		if r.Method != http.MethodDelete || !slices.Contains([]string{"services", "statefulsets", "pods"}, kind) {
			return false
		}
		var opt metav1.DeleteOptions
		body, _ := io.ReadAll(r.Body)
		r.Body = io.NopCloser(bytes.NewReader(body))
		if err := json.Unmarshal(body, &opt); err != nil || opt.Preconditions == nil || opt.Preconditions.UID == nil {
			all = append(all, fmt.Sprintf("%v: %s", err, body))
			return false
		}
		all = append(all, kind+"/"+filepath.Base(r.URL.Path)+" "+string(*opt.PropagationPolicy))
		return false
	}
	return &all
}

// TestWhatNoApplyChanges: what a cluster keeps for good of a Service and of a StatefulSet is another in a later revision, and that is there
// then; the pods of a StatefulSet go on where they can, and nothing is made anew that need not be.
func TestWhatNoApplyChanges(t *testing.T) {
	const service, set = "/api/v1/namespaces/shop/services/", "/apis/apps/v1/namespaces/shop/statefulsets/db"
	port := []string{"8080"}
	data := compose.Mount{Type: compose.MountVolume, Target: "/data"}
	cache := compose.Mount{Type: compose.MountVolume, Target: "/cache"}
	s, client := cluster(t)
	s.more = map[string]map[string]string{"apps/v1": {"deployments": "Deployment", "statefulsets": "StatefulSet"}}
	e := quiet(client)
	for _, step := range []struct {
		what    string
		api, db compose.Service
		removed []string
		address string // of Service api
		governs string // the StatefulSet
		claims  int
	}{
		{"at first", compose.Service{}, compose.Service{Volumes: []compose.Mount{data}}, nil, "None", "db", 1},
		{"the same", compose.Service{}, compose.Service{Volumes: []compose.Mount{data}}, nil, "None", "db", 1},
		{"a first port", compose.Service{Expose: port}, compose.Service{Volumes: []compose.Mount{data}}, []string{"services/api Foreground"}, "10.0.0.1", "db", 1},
		{"a second port", compose.Service{Expose: []string{"8080", "9090"}}, compose.Service{Volumes: []compose.Mount{data}}, nil, "10.0.0.1", "db", 1},
		{"endpoint_mode: dnsrr", compose.Service{Expose: port, Deploy: compose.Deploy{EndpointMode: "dnsrr"}}, compose.Service{Volumes: []compose.Mount{data}},
			[]string{"services/api Foreground"}, "None", "db", 1},
		{"a first port of what owns data", compose.Service{}, compose.Service{Volumes: []compose.Mount{data}, Expose: port},
			[]string{"services/db Foreground", "statefulsets/db Orphan"}, "None", "db-direct", 1},
		{"one more volume", compose.Service{}, compose.Service{Volumes: []compose.Mount{data, cache}, Expose: port}, []string{"pods/db-0 Foreground", "statefulsets/db Orphan"}, "None", "db-direct", 2},
		{"one less", compose.Service{}, compose.Service{Volumes: []compose.Mount{cache}, Expose: port}, []string{"statefulsets/db Orphan"}, "None", "db-direct", 1},
		{"no port any more", compose.Service{}, compose.Service{Volumes: []compose.Mount{cache}},
			[]string{"services/db Foreground", "services/db-direct Foreground", "statefulsets/db Orphan"}, "None", "db", 1},
	} {
		if set := s.objects[set]; set != nil {
			of := []any{map[string]any{"kind": "StatefulSet", "name": "db", "controller": true, "uid": string((&unstructured.Unstructured{Object: set}).GetUID())}}
			pod := object(pods, "db-0", map[string]string{labelProject: "shop", labelManagedBy: managedBy, labelService: "db"})
			pod.Object["metadata"].(map[string]any)["ownerReferences"] = of
			pod.Object["spec"] = map[string]any{"volumes": volumesOf(set)}
			s.objects["/api/v1/namespaces/shop/pods/db-0"] = pod.Object
			s.objects["/api/v1/namespaces/shop/pods/other"] = object(pods, "other", pod.GetLabels()).Object
		}
		step.api.Name, step.api.Image, step.db.Name, step.db.Image = "api", "api:1", "db", "db:1"
		removed := removals(s)
		p := compose.Project{Name: "shop", Services: map[string]compose.Service{"api": step.api, "db": step.db}}
		if _, err := e.Apply(t.Context(), state.Revision{Project: p}, ""); err != nil {
			t.Fatalf("%s: %v", step.what, err)
		}
		slices.Sort(*removed)
		if d := cmp.Diff(step.removed, *removed); d != "" {
			t.Errorf("%s: removed (-want +got):\n%s", step.what, d)
		}
		address, _, _ := unstructured.NestedString(s.objects[service+"api"], "spec", "clusterIP")
		governs, _, _ := unstructured.NestedString(s.objects[set], "spec", "serviceName")
		claims, _, _ := unstructured.NestedSlice(s.objects[set], "spec", "volumeClaimTemplates")
		if address != step.address || governs != step.governs || len(claims) != step.claims || s.objects[service+governs] == nil {
			t.Errorf("%s: Service api is at %q, the StatefulSet of %q with %d claims", step.what, address, governs, len(claims))
		}
	}
}

// volumesOf are those that a pod of a StatefulSet has by its claims.
func volumesOf(set map[string]any) (all []any) {
	for _, t := range claimTemplates(&unstructured.Unstructured{Object: set}) {
		all = append(all, map[string]any{"name": t.(map[string]any)["name"]})
	}
	return all
}

// TestAnewIsCutShort: a StatefulSet that claims one more volume is made by the next apply, too, with no pod in its way, where the one before
// ended once the older StatefulSet was gone.
func TestAnewIsCutShort(t *testing.T) {
	const set, pod = "/apis/apps/v1/namespaces/shop/statefulsets/db", "/api/v1/namespaces/shop/pods/db-0"
	s, client := cluster(t)
	s.more = map[string]map[string]string{"apps/v1": {"deployments": "Deployment", "statefulsets": "StatefulSet"}}
	e := quiet(client)
	apply := func(targets ...string) error {
		db := compose.Service{Name: "db", Image: "db:1"}
		for _, target := range targets {
			db.Volumes = append(db.Volumes, compose.Mount{Type: compose.MountVolume, Target: target})
		}
		_, err := e.Apply(t.Context(), state.Revision{Project: compose.Project{Name: "shop", Services: map[string]compose.Service{"db": db}}}, "")
		return err
	}
	if err := apply("/data"); err != nil {
		t.Fatal(err)
	}
	one := object(pods, "db-0", map[string]string{labelProject: "shop", labelManagedBy: managedBy, labelService: "db"})
	one.SetOwnerReferences([]metav1.OwnerReference{{Kind: "StatefulSet", Name: "db", Controller: pointer(true), UID: (&unstructured.Unstructured{Object: s.objects[set]}).GetUID()}})
	one.Object["spec"] = map[string]any{"volumes": volumesOf(s.objects[set])}
	s.objects[pod] = one.Object
	s.before = func(w http.ResponseWriter, _ *http.Request) bool {
		away := s.objects[set] == nil
		if away {
			answer(w, http.StatusServiceUnavailable, "ServiceUnavailable", "down")
		}
		return away
	}
	if err := apply("/data", "/cache"); err == nil || s.objects[set] != nil || s.objects[pod] == nil {
		t.Fatalf("not cut short: %v", err)
	}
	s.before = nil
	if err := apply("/data", "/cache"); err != nil || s.objects[set] == nil || s.objects[pod] != nil {
		t.Errorf("%v; a pod without the second volume is there: %v", err, s.objects[pod] != nil)
	}
}

// TestWhatAClusterAddsIsNoDifference: defaults in the claims of a StatefulSet do not have it made anew.
func TestWhatAClusterAddsIsNoDifference(t *testing.T) {
	p := compose.Project{Name: "shop", Services: map[string]compose.Service{
		"db": {Image: "db:1", Volumes: []compose.Mount{{Type: compose.MountVolume, Target: "/data"}}},
	}}
	var want *unstructured.Unstructured
	for _, o := range renderAs(t, p, nil, 1) {
		if o.GetObjectKind().GroupVersionKind().Kind == "StatefulSet" {
			want, _ = plainObject(o)
		}
	}
	have := want.DeepCopy()
	claims, _, _ := unstructured.NestedSlice(have.Object, "spec", "volumeClaimTemplates")
	one := claims[0].(map[string]any)
	delete(one, "kind")
	one["status"] = map[string]any{"phase": "Pending"}
	one["spec"].(map[string]any)["volumeMode"] = "Filesystem"
	_ = unstructured.SetNestedSlice(have.Object, claims, "spec", "volumeClaimTemplates")
	if got := frozen(want, have); got != nil {
		t.Errorf("%+v", got)
	}
	one["spec"].(map[string]any)["resources"] = map[string]any{"requests": map[string]any{"storage": "2Gi"}}
	_ = unstructured.SetNestedSlice(have.Object, claims, "spec", "volumeClaimTemplates")
	if got := frozen(want, have); len(got) != 1 {
		t.Errorf("another size: %+v", got)
	}
}

// TestMadeAnewWithAsManyPods: a StatefulSet whose number of pods is its autoscaler's to say begins with as many as there are.
func TestMadeAnewWithAsManyPods(t *testing.T) {
	const set = "/apis/apps/v1/namespaces/shop/statefulsets/db"
	s, client := cluster(t)
	s.more = map[string]map[string]string{"apps/v1": {"statefulsets": "StatefulSet"}}
	made := func(governing string) *unstructured.Unstructured {
		o := object(appsv1.SchemeGroupVersion.WithKind("StatefulSet"), "db", map[string]string{labelProject: "shop", labelManagedBy: managedBy})
		o.Object["spec"] = map[string]any{"serviceName": governing}
		return o
	}
	first := made("db")
	first.Object["spec"].(map[string]any)["replicas"] = int64(4)
	if err := client.apply(t.Context(), "shop", first, 0, false); err != nil {
		t.Fatal(err)
	}
	var begun []string
	s.before = func(_ http.ResponseWriter, r *http.Request) bool {
		if r.Method == http.MethodPatch && r.URL.Path == set && s.objects[set] == nil {
			body, _ := io.ReadAll(r.Body)
			begun = append(begun, string(body))
			r.Body = io.NopCloser(strings.NewReader(string(body)))
		}
		return false
	}
	if err := client.apply(t.Context(), "shop", made("db-direct"), 0, false); err != nil {
		t.Fatal(err)
	}
	if len(begun) != 1 || !strings.Contains(begun[0], `"replicas":4`) {
		t.Errorf("begun as %v", begun)
	}
}

// TestDriftThatNoApplyChanges: a Service that somebody has made anew without an address is told, and brought back.
func TestDriftThatNoApplyChanges(t *testing.T) {
	const api = "/api/v1/namespaces/shop/services/api"
	s, client := cluster(t)
	e := quiet(client)
	p := compose.Project{Name: "shop", Services: map[string]compose.Service{"api": {Name: "api", Image: "api:1", Expose: []string{"8080"}}}}
	if _, err := e.Apply(t.Context(), state.Revision{Project: p}, ""); err != nil {
		t.Fatal(err)
	}
	all, err := client.history(t.Context(), "shop")
	if err != nil {
		t.Fatal(err)
	}
	if err := client.settle(t.Context(), all[0], state.Healthy); err != nil {
		t.Fatal(err)
	}
	s.objects[api]["spec"].(map[string]any)["clusterIP"] = "None"
	found, err := e.Drift(t.Context(), "shop")
	if err != nil || len(found) != 1 || found[0].Kind != engine.DriftObject || !strings.HasPrefix(found[0].Reason, "spec.clusterIP of Service api") {
		t.Fatalf("%v, %+v", err, found)
	}
	if _, err := e.Revert(t.Context(), "shop", nil, "me"); err != nil {
		t.Fatal(err)
	}
	if found, err = e.Drift(t.Context(), "shop"); err != nil || len(found) != 0 {
		t.Errorf("then %v, %+v", err, found)
	}
}
