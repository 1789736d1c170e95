package kubernetes

import (
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/yaml"
)

// apiServer is as much of an API server as this package talks to: it keeps objects, of a few kinds, in one namespace.
// What is applied takes the place of what was there, but for what never changes; the real server's merge is tested against the real server.
type apiServer struct {
	mu      sync.Mutex
	objects map[string]map[string]any // by path
	uid     int
	writes  []string                     // method and path
	asked   []string                     // all requests: method, path and query
	more    map[string]map[string]string // kinds beside those that are served
	// before may answer a request itself: then it returns true.
	before func(w http.ResponseWriter, r *http.Request) bool
}

// served are the kinds that the server has, by group and version and then by their plural; names that are not of namespaces begin with
// a slash.
func served() map[string]map[string]string {
	return map[string]map[string]string{
		"v1": {
			"/namespaces": "Namespace", "/nodes": "Node", "configmaps": "ConfigMap", "secrets": "Secret", "services": "Service", "pods": "Pod",
			"events": "Event", "serviceaccounts": "ServiceAccount", "persistentvolumeclaims": "PersistentVolumeClaim",
		},
		"apps/v1":                      {"deployments": "Deployment"},
		"batch/v1":                     {"jobs": "Job", "cronjobs": "CronJob"},
		"coordination.k8s.io/v1":       {"leases": "Lease"},
		"networking.k8s.io/v1":         {"networkpolicies": "NetworkPolicy"},
		"policy/v1":                    {"poddisruptionbudgets": "PodDisruptionBudget"},
		"rbac.authorization.k8s.io/v1": {"roles": "Role", "rolebindings": "RoleBinding"},
		"storage.k8s.io/v1":            {"/storageclasses": "StorageClass"},
	}
}

func (s *apiServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	w.Header().Set("Content-Type", "application/json")
	s.asked = append(s.asked, r.Method+" "+r.URL.RequestURI())
	if s.before != nil && s.before(w, r) {
		return
	}
	all := served()
	maps.Copy(all, s.more)
	group := strings.TrimPrefix(strings.TrimPrefix(r.URL.Path, "/apis/"), "/api/")
	switch kinds := all[group]; {
	case r.URL.Path == "/api", r.URL.Path == "/apis":
		answerAll(w, all, r.URL.Path == "/api")
	case kinds != nil:
		answerKinds(w, group, kinds)
	default:
		s.object(w, r, r.URL.Path)
	}
}

// answerAll writes which kinds there are, of the core group or of all others, as served has them.
func answerAll(w http.ResponseWriter, all map[string]map[string]string, core bool) {
	groups := []map[string]any{}
	for version, kinds := range all {
		name, number, ok := strings.Cut(version, "/")
		if ok == core {
			continue
		}
		if core {
			name, number = "", version
		}
		list := []map[string]any{}
		for name, kind := range kinds {
			plural, global := strings.CutPrefix(name, "/")
			one := map[string]any{"resource": plural, "responseKind": map[string]any{"group": "", "version": "", "kind": kind}, "scope": "Namespaced",
				"subresources": []any{map[string]any{"subresource": "status", "responseKind": map[string]any{"kind": kind}}}}
			if global {
				one["scope"] = "Cluster"
			}
			list = append(list, one)
		}
		groups = append(groups, map[string]any{"metadata": map[string]any{"name": name}, "versions": []any{map[string]any{"version": number, "resources": list}}})
	}
	body, _ := json.Marshal(map[string]any{"kind": "APIGroupDiscoveryList", "apiVersion": "apidiscovery.k8s.io/v2", "items": groups})
	w.Header().Set("Content-Type", "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList")
	_, _ = w.Write(body)
}

// answerKinds writes which kinds there are of a group and version, as served has them.
func answerKinds(w http.ResponseWriter, group string, kinds map[string]string) {
	var list []string
	for name, kind := range kinds {
		plural, global := strings.CutPrefix(name, "/")
		list = append(list, fmt.Sprintf(`{"name": %q, "kind": %q, "namespaced": %v, "verbs": ["get", "list", "watch", "create", "patch", "delete"]}`, plural, kind, !global))
	}
	fmt.Fprintf(w, `{"kind": "APIResourceList", "groupVersion": %q, "resources": [%s]}`, group, strings.Join(list, ","))
}

// answer writes a Status as the real server does.
func answer(w http.ResponseWriter, code int, reason, message string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	fmt.Fprintf(w, `{"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": %d, "reason": %q, "message": %q}`, code, reason, message)
}

func (s *apiServer) object(w http.ResponseWriter, r *http.Request, path string) {
	there := s.objects[path]
	rehearsed := r.URL.Query().Has("dryRun")
	if r.Method != http.MethodGet && !rehearsed {
		s.writes = append(s.writes, r.Method+" "+path)
	}
	body, _ := io.ReadAll(r.Body)
	var fields map[string]any
	switch {
	case r.Method == http.MethodGet && there == nil && strings.HasSuffix(path, "s"): // a collection, by its plural
		s.list(w, r, path)
		return
	case r.Method == http.MethodPost:
		_ = json.Unmarshal(body, &fields)
		one := &unstructured.Unstructured{Object: fields}
		if one.GetName() == "" {
			one.SetName(fmt.Sprint(one.GetGenerateName(), len(s.objects)))
		}
		path += "/" + one.GetName()
		if s.objects[path] != nil {
			answer(w, http.StatusConflict, "AlreadyExists", one.GetName()+" already exists")
			return
		}
		there = s.keep(path, fields)
	case r.Method == http.MethodPatch && r.Header.Get("Content-Type") == "application/apply-patch+yaml":
		_ = yaml.Unmarshal(body, &fields)
		if why := unchanging(fields, there); why != "" {
			answer(w, http.StatusUnprocessableEntity, "Invalid", why)
			return
		}
		if there = fields; !rehearsed {
			there = s.keep(path, fields)
		}
	case there == nil:
		answer(w, http.StatusNotFound, "NotFound", path+" not found")
		return
	case r.Method == http.MethodPut:
		_ = json.Unmarshal(body, &fields)
		one := &unstructured.Unstructured{Object: fields}
		if one.GetResourceVersion() != (&unstructured.Unstructured{Object: there}).GetResourceVersion() {
			answer(w, http.StatusConflict, "Conflict", path+" was changed meanwhile")
			return
		}
		s.uid++
		one.SetResourceVersion(fmt.Sprint(s.uid))
		there = s.keep(path, fields)
	case r.Method == http.MethodPatch:
		_ = json.Unmarshal(body, &fields)
		for key, value := range fields {
			if old, ok := there[key].(map[string]any); ok {
				maps.Copy(old, value.(map[string]any))
				maps.DeleteFunc(old, func(_ string, v any) bool { return v == nil })
				continue
			}
			there[key] = value
		}
	case r.Method == http.MethodDelete:
		delete(s.objects, path)
		var how metav1.DeleteOptions
		_ = json.Unmarshal(body, &how)
		s.collect((&unstructured.Unstructured{Object: there}).GetUID(), how.PropagationPolicy != nil && *how.PropagationPolicy == metav1.DeletePropagationOrphan)
	}
	_ = json.NewEncoder(w).Encode(there)
}

// collect removes what the object of that uid owned alone, or with orphaned leaves it without an owner.
func (s *apiServer) collect(owner types.UID, orphaned bool) {
	for path, fields := range s.objects {
		one := &unstructured.Unstructured{Object: fields}
		left := slices.DeleteFunc(one.GetOwnerReferences(), func(ref metav1.OwnerReference) bool { return ref.UID == owner })
		switch {
		case owner == "" || len(left) == len(one.GetOwnerReferences()):
		case orphaned || len(left) > 0:
			one.SetOwnerReferences(left)
		default:
			delete(s.objects, path)
			s.collect(one.GetUID(), false)
		}
	}
}

// unchanging says what an apply may not change of an object, "" for nothing. A Service keeps its address, also that it has none.
func unchanging(fields, there map[string]any) string {
	spec := func(o map[string]any, field string) any {
		v, _, _ := unstructured.NestedFieldNoCopy(o, "spec", field)
		return v
	}
	switch kind := fields["kind"]; {
	case kind == "Service" && spec(fields, "clusterIP") == nil && spec(there, "clusterIP") != nil:
		fields["spec"].(map[string]any)["clusterIP"] = spec(there, "clusterIP")
	case kind == "Service" && spec(fields, "clusterIP") == nil:
		fields["spec"].(map[string]any)["clusterIP"] = "10.0.0.1"
	case there == nil:
	case kind == "Service" && spec(fields, "clusterIP") != spec(there, "clusterIP"):
		return "spec.clusterIPs[0]: may not change once set"
	case kind == "StatefulSet" && fmt.Sprint(spec(fields, "serviceName"), spec(fields, "volumeClaimTemplates")) != fmt.Sprint(spec(there, "serviceName"), spec(there, "volumeClaimTemplates")):
		return "spec: Forbidden: updates to statefulset spec for fields other than 'replicas' are forbidden"
	}
	return ""
}

func (s *apiServer) keep(path string, fields map[string]any) map[string]any {
	one := &unstructured.Unstructured{Object: fields}
	if old := s.objects[path]; old != nil {
		one.SetUID((&unstructured.Unstructured{Object: old}).GetUID())
	} else {
		s.uid++
		one.Object["metadata"].(map[string]any)["uid"] = fmt.Sprint("uid-", s.uid)
	}
	s.objects[path] = fields
	return fields
}

func (s *apiServer) list(w http.ResponseWriter, r *http.Request, path string) {
	items := []any{}
	kind, version := "List", "v1"
	limit, err := strconv.Atoi(r.URL.Query().Get("limit"))
	if err != nil {
		limit = len(s.objects)
	}
	for _, key := range slices.Sorted(maps.Keys(s.objects)) {
		if filepath.Dir(key) != path || len(items) == limit {
			continue
		}
		one := &unstructured.Unstructured{Object: s.objects[key]}
		matches := true
		for _, want := range strings.Split(r.URL.Query().Get("labelSelector"), ",") {
			if name, value, ok := strings.Cut(want, "="); ok && one.GetLabels()[name] != value {
				matches = false
			}
		}
		if matches {
			items = append(items, one.Object)
		}
		kind, version = one.GetKind()+"List", one.GetAPIVersion()
	}
	_ = json.NewEncoder(w).Encode(map[string]any{"kind": kind, "apiVersion": version, "metadata": map[string]any{}, "items": items})
}

// names returns the objects that are there, "deployments/web" and so on.
func (s *apiServer) names() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var all []string
	for path := range s.objects {
		all = append(all, filepath.Base(filepath.Dir(path))+"/"+filepath.Base(path))
	}
	slices.Sort(all)
	return all
}

// cluster starts an API server and returns a client of it, and of project shop in the namespace of that name.
func cluster(t testing.TB) (*apiServer, *Client) {
	t.Helper()
	s := &apiServer{objects: map[string]map[string]any{}}
	return s, clientOf(t, s)
}

// clientOf returns a client of an API server, and of project shop in the namespace of that name.
func clientOf(t testing.TB, s http.Handler) *Client {
	t.Helper()
	server := httptest.NewServer(s)
	t.Cleanup(server.Close)
	kubeconfig := filepath.Join(t.TempDir(), "kubeconfig")
	text := fmt.Sprintf(`{apiVersion: v1, kind: Config, current-context: test, contexts: [{name: test, context: {cluster: c, user: u}}],
		clusters: [{name: c, cluster: {server: %q}}], users: [{name: u, user: {token: t}}]}`, server.URL)
	if err := os.WriteFile(kubeconfig, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("KUBECONFIG", kubeconfig)
	c, err := Dial("shop", Access{}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	return c
}
