package kubernetes

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"

	"trellis/compose"
	"trellis/engine"
	"trellis/errdefs"
	"trellis/state"
)

func deploymentNamed(name string) Object {
	return &appsv1.Deployment{
		TypeMeta:   metav1.TypeMeta{APIVersion: "apps/v1", Kind: "Deployment"},
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{labelProject: "shop", labelManagedBy: managedBy, labelService: name}},
	}
}

// TestNamespaceOfAProject: without one in the kubeconfig it is the project's name, where that can be one, for a deploy as for an export.
func TestNamespaceOfAProject(t *testing.T) {
	cluster(t) // its kubeconfig
	for project, want := range map[string]string{
		"shop": "shop", "2048": "2048", "my_shop": "my-shop", "shop-": "shop", strings.Repeat("s", 60): strings.Repeat("s", 60),
	} {
		c, err := Dial(project, Access{}, slog.New(slog.DiscardHandler))
		if err != nil || c.Namespace != want || NamespaceOf(project) != want {
			t.Errorf("%s: %v, deployed into %q, exported for %q, want %q", project, err, c.Namespace, NamespaceOf(project), want)
		}
	}
}

// TestPutPrunes: what an apply no longer has is removed, and of that only what Trellis made.
func TestPutPrunes(t *testing.T) {
	s, c := cluster(t)
	if err := c.put(t.Context(), "shop", []Object{deploymentNamed("web"), deploymentNamed("api"), deploymentNamed("old")}, false); err != nil {
		t.Fatal(err)
	}
	// Somebody else takes one over: it is no longer Trellis' to remove.
	api := s.objects["/apis/apps/v1/namespaces/shop/deployments/api"]
	api["metadata"].(map[string]any)["labels"].(map[string]any)[labelManagedBy] = "Helm"
	if err := c.put(t.Context(), "shop", []Object{deploymentNamed("web")}, false); err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff([]string{"configmaps/trellis-shop", "deployments/api", "deployments/web"}, s.names()); d != "" {
		t.Errorf("objects (-want +got):\n%s", d)
	}
	if err := c.put(t.Context(), "shop", []Object{deploymentNamed("web"), deploymentNamed("api")}, false); !errors.Is(err, errdefs.ErrConflict) {
		t.Errorf("an object of somebody else is taken: %v", err)
	}
}

// TestPutKeepsData: a service that leaves, or mounts its volume no more, leaves its data behind, as on one machine: a revision that fails
// finds it again, and who wants it gone says so. What the control plane has measured is no such data.
func TestPutKeepsData(t *testing.T) {
	s, c := cluster(t)
	claim := func(name string) Object { return object(persistentVolumeClaims, name, labelsOf("shop")) }
	if err := c.put(t.Context(), "shop", []Object{deploymentNamed("web"), claim("data"), claim(controlName("shop"))}, false); err != nil {
		t.Fatal(err)
	}
	if err := c.put(t.Context(), "shop", []Object{deploymentNamed("web")}, false); err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff([]string{"configmaps/trellis-shop", "deployments/web", "persistentvolumeclaims/data"}, s.names()); d != "" {
		t.Errorf("objects (-want +got):\n%s", d)
	}
	if err := quiet(c).Delete(t.Context(), "shop", engine.DeleteOptions{}); err != nil || !slices.Contains(s.names(), "persistentvolumeclaims/data") {
		t.Errorf("taken down: %v, left %v", err, s.names())
	}
	if err := quiet(c).Delete(t.Context(), "shop", engine.DeleteOptions{Volumes: true}); err != nil || slices.Contains(s.names(), "persistentvolumeclaims/data") {
		t.Errorf("taken down with its volumes: %v, left %v", err, s.names())
	}
}

// TestPutKeepsWhatPodsHave: what is replaced goes on until what is new serves in its place, and more of it may have to be started meanwhile:
// its variables and files are there until nothing has them. Those of a service that leaves are not kept.
func TestPutKeepsWhatPodsHave(t *testing.T) {
	s, client := cluster(t)
	e := quiet(client)
	apply := func(password string, services ...string) {
		t.Helper()
		p := compose.Project{Name: "shop", Services: map[string]compose.Service{}, Secrets: map[string]compose.FileValue{"key": {}}}
		for _, name := range services {
			p.Services[name] = compose.Service{Image: "web:1", Environment: map[string]string{"PASSWORD": name + password}, Secrets: []compose.FileMount{{Source: "key"}}}
		}
		p, err := e.Keep(t.Context(), p, map[string][]byte{"secrets/key": []byte(password)}, false)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := e.Apply(t.Context(), state.Revision{Project: p}, ""); err != nil {
			t.Fatal(err)
		}
	}
	contents := func() (all []string) {
		for _, name := range s.names() {
			if strings.HasPrefix(name, "secrets/") && !strings.HasPrefix(name, "secrets/trellis-") {
				all = append(all, name)
			}
		}
		return all
	}
	run := func(name string) { // as it is wanted now
		spec, _, _ := unstructured.NestedMap(s.objects["/apis/apps/v1/namespaces/shop/deployments/"+name], "spec", "template")
		s.objects["/api/v1/namespaces/shop/pods/"+name] = map[string]any{"apiVersion": "v1", "kind": "Pod", "metadata": spec["metadata"], "spec": spec["spec"]}
		spec["metadata"].(map[string]any)["name"] = name
	}
	apply("1", "web", "old")
	run("web")
	run("old")
	before := contents()
	apply("2", "web")
	rolling := contents()
	if len(before) != 3 || len(rolling) != 4 {
		t.Errorf("first %v, then %v", before, rolling)
	}
	for _, name := range before {
		if slices.Contains(rolling, name) == strings.HasPrefix(name, "secrets/old-") {
			t.Errorf("%s: left are %v", name, rolling)
		}
	}
	run("web")
	s.well()
	for w := watching(e); ; {
		if err := w.step(t.Context()); err != nil {
			t.Fatal(err)
		}
		all, err := e.History(t.Context(), 1)
		if err != nil {
			t.Fatal(err)
		}
		if all[0].Outcome != state.Pending {
			break
		}
	}
	if left := contents(); len(left) != 2 {
		t.Errorf("when no pod has them any more: %v", left)
	}
}

// TestCutShort: an apply that ends at any of its requests is made good by the next one.
func TestCutShort(t *testing.T) {
	objects := []Object{deploymentNamed("api"), deploymentNamed("web")}
	for after := range 40 {
		s, c := cluster(t)
		if err := c.put(t.Context(), "shop", []Object{deploymentNamed("old"), deploymentNamed("web")}, false); err != nil {
			t.Fatal(err)
		}
		left := after
		s.before = func(w http.ResponseWriter, _ *http.Request) bool {
			left--
			if left < 0 {
				answer(w, http.StatusBadGateway, "", "gone")
			}
			return left < 0
		}
		err := c.put(t.Context(), "shop", objects, false)
		s.mu.Lock() // a request that was given up may still be answered
		whole := left >= 0
		s.before = nil
		s.mu.Unlock()
		if whole != (err == nil) {
			t.Fatalf("cut short after %d requests: %v", after, err)
		}
		if err := c.put(t.Context(), "shop", objects, false); err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff([]string{"configmaps/trellis-shop", "deployments/api", "deployments/web"}, s.names()); d != "" {
			t.Fatalf("cut short after %d requests (-want +got):\n%s", after, d)
		}
		if whole {
			return
		}
	}
	t.Error("an apply of two objects takes more than 40 requests")
}

// TestConflictNamesItsOwner: a field that somebody else has set is theirs until they let go of it.
func TestConflictNamesItsOwner(t *testing.T) {
	s, c := cluster(t)
	s.before = func(w http.ResponseWriter, r *http.Request) bool {
		if r.Method != http.MethodPatch || !strings.Contains(r.URL.Path, "deployments") {
			return false
		}
		if r.URL.Query().Get("force") == "true" || r.URL.Query().Get("fieldManager") != "trellis" {
			t.Errorf("applied with %s", r.URL.RawQuery)
		}
		w.WriteHeader(http.StatusConflict)
		fmt.Fprint(w, `{"kind": "Status", "status": "Failure", "code": 409, "reason": "Conflict", "message": "Apply failed with 1 conflict",
			"details": {"causes": [{"reason": "FieldManagerConflict", "message": "conflict with \"kubectl-edit\" using apps/v1", "field": ".spec.replicas"}]}}`)
		return true
	}
	err := c.put(t.Context(), "shop", []Object{deploymentNamed("web")}, false)
	want := "apply Deployment web: conflict: spec.replicas is set by kubectl-edit: take it out of there, or write into the file what it is to be"
	if !errors.Is(err, errdefs.ErrConflict) || err.Error() != want {
		t.Errorf("got  %v\nwant %s", err, want)
	}
}

// TestVolumesThatHaveGrown: a volume that somebody has had grow, because it was full, keeps nobody from deploying, and is no drift: a cluster takes
// nothing back.
func TestVolumesThatHaveGrown(t *testing.T) {
	const claim = "/api/v1/namespaces/shop/persistentvolumeclaims/data"
	s, c := cluster(t)
	e := quiet(c)
	p := compose.Project{Name: "shop", Volumes: map[string]compose.Volume{"data": {}}, Services: map[string]compose.Service{
		"db": {Name: "db", Image: "db:1", Deploy: compose.Deploy{Mode: "global"}, Volumes: []compose.Mount{{Type: compose.MountVolume, Source: "data", Target: "/data"}}},
	}}
	s.more = map[string]map[string]string{"apps/v1": {"daemonsets": "DaemonSet"}}
	size := func(o map[string]any) string {
		text, _, _ := unstructured.NestedString(o, "spec", "resources", "requests", "storage")
		return text
	}
	s.before = func(w http.ResponseWriter, r *http.Request) bool {
		if r.Method != http.MethodPatch || r.URL.Path != claim || s.objects[claim] == nil {
			return false
		}
		body, _ := io.ReadAll(r.Body)
		r.Body = io.NopCloser(bytes.NewReader(body))
		var asked map[string]any
		if err := yaml.Unmarshal(body, &asked); err != nil || size(asked) == size(s.objects[claim]) {
			return false
		}
		if r.URL.Query().Get("force") == "true" {
			answer(w, http.StatusUnprocessableEntity, "Invalid", "spec.resources.requests.storage: Forbidden: field can not be less than status.capacity")
			return true
		}
		w.WriteHeader(http.StatusConflict)
		fmt.Fprint(w, `{"kind": "Status", "status": "Failure", "code": 409, "reason": "Conflict", "message": "Apply failed with 1 conflict", "details": {"causes":
			[{"reason": "FieldManagerConflict", "message": "conflict with \"kubectl-edit\" using v1", "field": ".spec.resources.requests.storage"}]}}`)
		return true
	}
	if _, err := e.Apply(t.Context(), state.Revision{Project: p}, ""); err != nil {
		t.Fatal(err)
	}
	if got := size(s.objects[claim]); got != "1Gi" {
		t.Fatalf("at first it is of %q", got)
	}
	s.objects[claim]["spec"].(map[string]any)["resources"] = map[string]any{"requests": map[string]any{"storage": "10Gi"}}
	if _, err := e.Apply(t.Context(), state.Revision{Project: p}, ""); err != nil {
		t.Errorf("the next deploy: %v", err)
	}
	if got := size(s.objects[claim]); got != "10Gi" {
		t.Errorf("then it is of %q", got)
	}
	all, err := c.history(t.Context(), "shop")
	if err != nil {
		t.Fatal(err)
	}
	if err := c.settle(t.Context(), all[0], state.Healthy); err != nil {
		t.Fatal(err)
	}
	if found, err := e.Drift(t.Context(), "shop"); err != nil || len(found) > 0 {
		t.Errorf("drift: %v, %+v", err, found)
	}
	claims := []Object{object(persistentVolumeClaims, "data", labelsOf("shop"))}
	if err := unstructured.SetNestedField(claims[0].(*unstructured.Unstructured).Object, "1Gi", "spec", "resources", "requests", "storage"); err != nil {
		t.Fatal(err)
	}
	if err := c.rehearse(t.Context(), "shop", claims); err != nil {
		t.Errorf("rehearsed: %v", err)
	}
}

// TestAsked429: the server is given the time that it asks for, and nothing is done twice.
func TestAsked429(t *testing.T) {
	s, c := cluster(t)
	refusals := 2
	s.before = func(w http.ResponseWriter, r *http.Request) bool {
		if r.Method != http.MethodPatch || refusals == 0 {
			return false
		}
		refusals--
		w.Header().Set("Retry-After", "0")
		answer(w, http.StatusTooManyRequests, "TooManyRequests", "too many")
		return true
	}
	if err := c.put(t.Context(), "shop", []Object{deploymentNamed("web")}, false); err != nil {
		t.Fatal(err)
	}
	if refusals > 0 || !slices.Contains(s.names(), "deployments/web") {
		t.Errorf("%d refusals left, objects %v", refusals, s.names())
	}
}

func TestWhatTheServerAnswersIsExplained(t *testing.T) {
	for name, c := range map[string]struct {
		code   int
		reason string
		body   string
		kind   error
		says   string
	}{
		"credentials": {401, "Unauthorized", "Unauthorized", errdefs.ErrUnavailable, "does not accept the credentials of context \"test\" (401)"},
		"rights":      {403, "Forbidden", "deployments is forbidden", errdefs.ErrUnavailable, "may not do this (403): deployments is forbidden"},
		"a policy's webhook": {403, "Forbidden", `admission webhook "validation.gatekeeper.sh" denied the request: [owner] you must provide labels: {"owner"}`,
			errdefs.ErrInvalid, "a policy of the cluster does not take it: admission webhook \"validation.gatekeeper.sh\" denied the request: [owner]"},
		"a policy": {403, "Forbidden", `deployments.apps "web" is forbidden: ValidatingAdmissionPolicy 'owner' with binding 'all' denied request: no owner`,
			errdefs.ErrInvalid, "a policy of the cluster does not take it: deployments.apps \"web\" is forbidden: ValidatingAdmissionPolicy 'owner'"},
		"a quota": {403, "Forbidden", `persistentvolumeclaims "data" is forbidden: exceeded quota: team, requested: persistentvolumeclaims=1, used: persistentvolumeclaims=5, limited: persistentvolumeclaims=5`,
			errdefs.ErrUnavailable, "unavailable: ResourceQuota team of namespace shop has no room for it (requested: persistentvolumeclaims=1, used: persistentvolumeclaims=5, limited: persistentvolumeclaims=5): remove"},
		"a limit": {403, "Forbidden", `persistentvolumeclaims "data" is forbidden: maximum storage usage per PersistentVolumeClaim is 1Gi, but request is 2Gi`,
			errdefs.ErrInvalid, "invalid: a LimitRange of namespace shop does not take it (persistentvolumeclaims \"data\" is forbidden: maximum storage usage"},
		"invalid": {422, "Invalid", "spec.replicas: must not be negative", errdefs.ErrInvalid, "the cluster refuses it: spec.replicas"},
		"webhook": {500, "InternalError", "failed calling webhook \"policy.example.org\"", errdefs.ErrUnavailable, "a webhook of the cluster cannot be asked"},
	} {
		t.Run(name, func(t *testing.T) {
			s, client := cluster(t)
			s.before = func(w http.ResponseWriter, r *http.Request) bool {
				if r.Method == http.MethodPatch {
					answer(w, c.code, c.reason, c.body)
				}
				return r.Method == http.MethodPatch
			}
			err := client.put(t.Context(), "shop", []Object{deploymentNamed("web")}, false)
			if !errors.Is(err, c.kind) || !strings.Contains(err.Error(), c.says) {
				t.Errorf("%v; want %v that says %q", err, c.kind, c.says)
			}
		})
	}
}

func TestNoClusterToReach(t *testing.T) {
	log := slog.New(slog.DiscardHandler)
	t.Setenv("KUBECONFIG", filepath.Join(t.TempDir(), "none"))
	if _, err := Dial("shop", Access{}, log); err == nil || !strings.Contains(err.Error(), "there is no kubeconfig") {
		t.Errorf("without a kubeconfig: %v", err)
	}
	_, c := cluster(t)
	if _, err := Dial("shop", Access{Context: "staging"}, log); !errors.Is(err, errdefs.ErrInvalid) || !strings.Contains(err.Error(), `no context "staging"; it has test`) {
		t.Errorf("a context that is not there: %v", err)
	}
	broken := filepath.Join(t.TempDir(), "broken")
	if err := os.WriteFile(broken, []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("KUBECONFIG", broken)
	if _, err := Dial("shop", Access{}, log); !errors.Is(err, errdefs.ErrInvalid) {
		t.Errorf("a kubeconfig that is none: %v", err)
	}
	if c.Namespace != "shop" {
		t.Errorf("namespace %s, want the project's name", c.Namespace)
	}
}

func TestNobodyAnswers(t *testing.T) {
	kubeconfig := filepath.Join(t.TempDir(), "kubeconfig")
	text := `{apiVersion: v1, kind: Config, current-context: test, contexts: [{name: test, context: {cluster: c, user: u}}],
		clusters: [{name: c, cluster: {server: "http://127.0.0.1:1"}}], users: [{name: u, user: {}}]}`
	if err := os.WriteFile(kubeconfig, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("KUBECONFIG", kubeconfig)
	c, err := Dial("shop", Access{}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	_, err = New("shop", c, slog.New(slog.DiscardHandler)).Observe(t.Context(), "shop")
	if !errors.Is(err, errdefs.ErrUnavailable) || !strings.Contains(err.Error(), `no answer from the API server http://127.0.0.1:1 of context "test"`) {
		t.Error(err)
	}
}

// TestRevisionsInACluster: what is applied is kept with its contents, comes back with a rollback, and is removed but for
// its revisions.
func TestRevisionsInACluster(t *testing.T) {
	s, c := cluster(t)
	e := New("shop", c, slog.New(slog.DiscardHandler))
	project := func(colour string) compose.Project {
		return compose.Project{Name: "shop", Services: map[string]compose.Service{"web": {Image: "web:1", Environment: map[string]string{"COLOUR": colour}}}}
	}
	if _, err := e.Observe(t.Context(), "shop"); !errors.Is(err, errdefs.ErrNotFound) {
		t.Fatalf("before anything: %v", err)
	}
	s.objects["/api/v1/namespaces/shop"] = map[string]any{"kind": "Namespace", "apiVersion": "v1", "metadata": map[string]any{"name": "shop"}}
	first, err := e.Apply(t.Context(), state.Revision{Project: project("red")}, "")
	if err != nil {
		t.Fatal(err)
	}
	before, err := e.Observe(t.Context(), "shop")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := e.Apply(t.Context(), state.Revision{Project: project("blue")}, before.ID); err != nil {
		t.Fatal(err)
	}
	if _, err := e.Apply(t.Context(), state.Revision{Project: project("green")}, before.ID); !errors.Is(err, errdefs.ErrConflict) {
		t.Errorf("applied although the world has moved: %v", err)
	}
	revisions, err := e.History(t.Context(), 0)
	if err != nil {
		t.Fatal(err)
	}
	if len(revisions) != 2 || revisions[0].Number != 2 || first.Number != 1 {
		t.Fatalf("revisions %+v", revisions)
	}
	if revisions[1].Outcome != state.Superseded || revisions[1].Project.Services["web"].Environment["COLOUR"] != "red" {
		t.Errorf("the first revision is %+v", revisions[1])
	}
	if err := e.Delete(t.Context(), "shop", engine.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff([]string{"configmaps/trellis-shop", "namespaces/shop", "secrets/trellis-shop-r1", "secrets/trellis-shop-r2"}, s.names()); d != "" {
		t.Errorf("after down (-want +got):\n%s", d)
	}
	if _, err := e.Observe(t.Context(), "shop"); !errors.Is(err, errdefs.ErrNotFound) {
		t.Errorf("after down: %v", err)
	}
}

// TestContentsOfARevision: a revision refers to contents that only it keeps, and no ref is made from a content alone.
func TestContentsOfARevision(t *testing.T) {
	p := compose.Project{Name: "shop", Secrets: map[string]compose.FileValue{"key": {File: "/x"}}}
	one, kept := withRefs(p, map[string][]byte{"secrets/key": []byte("hunter2")}, newKey())
	two, _ := withRefs(p, map[string][]byte{"secrets/key": []byte("hunter2")}, newKey())
	if one.Secrets["key"].Ref == two.Secrets["key"].Ref {
		t.Error("two projects have the same ref for the same content")
	}
	got, err := contentsOf(one, kept)
	if err != nil || string(got["secrets/key"]) != "hunter2" {
		t.Errorf("%q, %v", got, err)
	}
	if _, err := contentsOf(one, nil); !errors.Is(err, errdefs.ErrNotFound) {
		t.Errorf("a content that is gone: %v", err)
	}
}

// TestNothingOwnedThatIsNotSaid: what a type writes of itself though nobody has set it is not applied.
func TestNothingOwnedThatIsNotSaid(t *testing.T) {
	o, err := plainObject(&corev1.Service{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Service"}, ObjectMeta: metav1.ObjectMeta{Name: "web"}})
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]any{"apiVersion": "v1", "kind": "Service", "metadata": map[string]any{"name": "web"}, "spec": map[string]any{}}
	if d := cmp.Diff(want, o.Object); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
}

// TestTurn: on the first deploy a service waits for what it depends on; one that is there does not.
func TestTurn(t *testing.T) {
	p := compose.Project{Name: "shop", Services: map[string]compose.Service{
		"db":  {},
		"api": {DependsOn: map[string]compose.Dependency{"db": {Condition: "service_healthy", Required: true}}},
		"web": {DependsOn: map[string]compose.Dependency{"api": {Condition: "service_started", Required: true}, "none": {Condition: "service_healthy"}}},
	}}
	objects := []Object{deploymentNamed("api"), deploymentNamed("db"), deploymentNamed("web")}
	in := func(states ...string) (s engine.State) {
		for i := 0; i < len(states); i += 2 {
			s.Services = append(s.Services, engine.Service{Name: states[i], State: states[i+1]})
		}
		return s
	}
	for _, c := range []struct {
		state engine.State
		now   string
		waits map[string]string
	}{
		{in(), "db", map[string]string{"api": "db to be healthy", "web": "api to be started"}},
		{in("db", engine.ServiceStarting), "db", map[string]string{"api": "db to be healthy", "web": "api to be started"}},
		{in("db", engine.ServiceHealthy), "api db", map[string]string{"web": "api to be started"}},
		{in("db", engine.ServiceHealthy, "api", engine.ServiceStarting), "api db web", map[string]string{}},
		{in("db", engine.ServiceCrashLooping, "api", engine.ServiceDegraded, "web", engine.ServiceHealthy), "api db web", map[string]string{}},
	} {
		now, waits := turn(p, objects, Live{}, c.state)
		var names []string
		for _, o := range now {
			names = append(names, o.GetName())
		}
		if strings.Join(names, " ") != c.now || !cmp.Equal(waits, c.waits) {
			t.Errorf("%v: now %v, waits %v; want %s, %v", c.state.Services, names, waits, c.now, c.waits)
		}
	}
}

// TestNothingToWaitFor: nobody waits for what is not to run, as on one machine, nor for what has failed and is not required.
func TestNothingToWaitFor(t *testing.T) {
	for name, c := range map[string]struct {
		condition, state string
		required         bool
		waits            string
	}{
		"no replicas":                   {compose.ServiceHealthy, engine.ServiceStopped, true, ""},
		"a Job that is held":            {compose.ServiceCompletedSuccessfully, engine.ServiceStopped, true, ""},
		"on its way":                    {compose.ServiceHealthy, engine.ServiceStarting, false, "db to be healthy"},
		"crashes":                       {compose.ServiceHealthy, engine.ServiceCrashLooping, true, "db to be healthy"},
		"crashes, and is not required":  {compose.ServiceHealthy, engine.ServiceCrashLooping, false, ""},
		"has failed, and it is not":     {compose.ServiceCompletedSuccessfully, engine.ServiceFailed, false, ""},
		"has failed, and it is":         {compose.ServiceCompletedSuccessfully, engine.ServiceFailed, true, "db to end well"},
		"not there yet, and it is not":  {compose.ServiceStarted, "", false, "db to be started"},
		"degraded, and is not required": {compose.ServiceHealthy, engine.ServiceDegraded, false, "db to be healthy"},
	} {
		api := compose.Service{DependsOn: map[string]compose.Dependency{"db": {Condition: c.condition, Required: c.required}}}
		p := compose.Project{Services: map[string]compose.Service{"api": api, "db": {}}}
		var s engine.State
		if c.state != "" {
			s.Services = []engine.Service{{Name: "db", State: c.state}}
		}
		if got := awaits(p, api, s); got != c.waits {
			t.Errorf("%s: waits for %q, want %q", name, got, c.waits)
		}
	}
}

// TestTurnOfPrepared: a service is started, and replaced, when the Job that comes before has succeeded.
func TestTurnOfPrepared(t *testing.T) {
	p := compose.Project{Name: "shop", Services: map[string]compose.Service{"web": {}}}
	job := &batchv1.Job{
		TypeMeta:   metav1.TypeMeta{APIVersion: "batch/v1", Kind: "Job"},
		ObjectMeta: metav1.ObjectMeta{Name: "web-1", Labels: map[string]string{labelService: "web", labelComponent: preparation}},
	}
	objects := []Object{job, deploymentNamed("web")}
	running, ended, failed := job.DeepCopy(), job.DeepCopy(), job.DeepCopy()
	ended.Status.Succeeded = 1
	failed.Status.Conditions = []batchv1.JobCondition{{Type: batchv1.JobFailed, Status: corev1.ConditionTrue}}
	there := engine.State{Services: []engine.Service{{Name: "web", State: engine.ServiceHealthy}}}
	for name, c := range map[string]struct {
		live  Live
		state engine.State
		now   int
	}{
		"at first":      {Live{}, engine.State{}, 1},
		"while it runs": {Live{Objects: []Object{running}}, there, 1},
		"failed":        {Live{Objects: []Object{failed}}, there, 1},
		"ended":         {Live{Objects: []Object{ended}}, there, 2},
	} {
		now, waits := turn(p, objects, c.live, c.state)
		if len(now) != c.now || len(waits) != 2-c.now {
			t.Errorf("%s: %d of two objects, waits %v", name, len(now), waits)
		}
		if got := len(failedToPrepare(objects, c.live)); (got == 1) != (name == "failed") {
			t.Errorf("%s: %d have failed", name, got)
		}
	}
}

// TestLost: what the cluster would try for ever has failed; what runs again, or is of another revision, has not.
func TestLost(t *testing.T) {
	crash := &corev1.ContainerStateTerminated{ExitCode: 3}
	backOff := corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: "CrashLoopBackOff"}}
	for name, c := range map[string]struct {
		status    corev1.ContainerStatus
		revision  string
		crashed   bool
		imageless bool
	}{
		"crashed three times": {corev1.ContainerStatus{RestartCount: 2, State: backOff, LastTerminationState: corev1.ContainerState{Terminated: crash}}, "2", true, false},
		"crashed twice":       {corev1.ContainerStatus{RestartCount: 1, State: backOff, LastTerminationState: corev1.ContainerState{Terminated: crash}}, "2", false, false},
		"runs again":          {corev1.ContainerStatus{RestartCount: 5, State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{}}}, "2", false, false},
		"another revision":    {corev1.ContainerStatus{RestartCount: 9, State: corev1.ContainerState{Terminated: crash}}, "1", false, false},
		"ended well":          {corev1.ContainerStatus{RestartCount: 9, State: corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{}}}, "2", false, false},
		"no image":            {corev1.ContainerStatus{State: corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: "ErrImagePull"}}}, "2", false, true},
	} {
		pod := corev1.Pod{ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{labelService: "web"}, Annotations: map[string]string{annotationRevision: c.revision}}}
		pod.Status.ContainerStatuses = []corev1.ContainerStatus{c.status}
		judged := func(what string) {
			t.Helper()
			crash, imageless := lost([]corev1.Pod{pod}, engine.Service{Name: "web", Revision: 2})
			if (crash != nil) != c.crashed || imageless != c.imageless {
				t.Errorf("%s%s: crashed %v, imageless %v", name, what, crash != nil, imageless)
			}
		}
		judged("")
		// What comes before the start of each replica is as much of it.
		waits := corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: "PodInitializing"}}
		pod.Status.InitContainerStatuses, pod.Status.ContainerStatuses = []corev1.ContainerStatus{c.status}, []corev1.ContainerStatus{{State: waits}}
		judged(", before its start")
	}
}
