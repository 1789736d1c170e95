package kubernetes

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"trellis/compose"
	"trellis/driver"
	"trellis/engine"
	"trellis/errdefs"
	"trellis/state"
)

// TestOverride: a wish beside the file is in the objects at once, outlives an apply as far as it should, and is refused where
// it cannot be had.
func TestOverride(t *testing.T) {
	s, c := cluster(t)
	e := New("shop", c, slog.New(slog.DiscardHandler))
	two := 2
	p := compose.Project{Name: "shop", Services: map[string]compose.Service{
		"web": {Name: "web", Image: "web:1", Deploy: compose.Deploy{Replicas: &two}},
	}}
	if _, err := e.Apply(t.Context(), state.Revision{Project: p, Cause: "up", Actor: "me"}, ""); err != nil {
		t.Fatal(err)
	}
	deployment := func() (replicas int64, restart string) {
		t.Helper()
		o := s.objects["/apis/apps/v1/namespaces/shop/deployments/web"]
		number, _, _ := unstructured.NestedFieldNoCopy(o, "spec", "replicas")
		restart, _, _ = unstructured.NestedString(o, "spec", "template", "metadata", "annotations", annotationRestart)
		return int64(number.(float64)), restart
	}
	five := 5
	for _, step := range []struct {
		o        state.Override
		replicas int64
		restart  string
	}{
		{state.Override{Service: "web", Replicas: &five}, 5, ""},
		{state.Override{Service: "web", Replicas: &five, Stopped: true}, 0, ""},
		{state.Override{Service: "web", Replicas: &five, Restart: 3, Stopped: true}, 0, "3"},
	} {
		if err := e.Override(t.Context(), "shop", step.o); err != nil {
			t.Fatal(err)
		}
		if n, restart := deployment(); n != step.replicas || restart != step.restart {
			t.Errorf("%+v: %d replicas, restart %q", step.o, n, restart)
		}
	}
	if _, err := e.Apply(t.Context(), state.Revision{Project: p, Cause: "up", Actor: "me"}, ""); err != nil {
		t.Fatal(err)
	}
	if n, restart := deployment(); n != 5 || restart != "3" {
		t.Errorf("after an apply that changes nothing: %d replicas, restart %q", n, restart)
	}
	three := 3
	web := p.Services["web"]
	web.Deploy.Replicas = &three
	p.Services["web"] = web
	if _, err := e.Apply(t.Context(), state.Revision{Project: p, Cause: "up", Actor: "me"}, ""); err != nil {
		t.Fatal(err)
	}
	if n, _ := deployment(); n != 3 {
		t.Errorf("a number in the file does not end the wish for another one: %d", n)
	}
	if err := e.Override(t.Context(), "shop", state.Override{Service: "web", Stopped: true}); err != nil {
		t.Fatal(err)
	}
	for _, step := range []struct {
		rev  state.Revision
		want int64
	}{{state.Revision{Project: p, Undoes: 3, Actor: "trellis"}, 0}, {state.Revision{Project: p, Cause: "up", Actor: "me"}, 3}} {
		if _, err := e.Apply(t.Context(), step.rev, ""); err != nil {
			t.Fatal(err)
		}
		if n, _ := deployment(); n != step.want {
			t.Errorf("what was stopped has %d replicas after %q, want %d", n, step.rev.Actor, step.want)
		}
	}
	if err := e.Override(t.Context(), "shop", state.Override{Service: "nobody"}); !errors.Is(err, errdefs.ErrNotFound) {
		t.Errorf("a service that is not there: %v", err)
	}
}

// TestAJobThatRunsOtherwise: no apply changes of a Job whether its pods are started again and how many complete, so where the file does it is
// another Job, as it is with other pods. How often it may fail a cluster takes as it comes.
func TestAJobThatRunsOtherwise(t *testing.T) {
	migrate := func(restart string, replicas int, image string) *batchv1.Job {
		svc := compose.Service{Name: "migrate", Image: image, Restart: restart, Deploy: compose.Deploy{Replicas: &replicas}}
		return objectsOf[*batchv1.Job](renderAs(t, compose.Project{Name: "shop", Services: map[string]compose.Service{"migrate": svc}}, nil, 1))[0]
	}
	before := migrate("no", 1, "shop:1")
	for _, c := range []struct {
		was, is *batchv1.Job
		same    bool
	}{
		{before, migrate("no", 1, "shop:1"), true},
		{before, migrate("no", 1, "shop:2"), false},
		{before, migrate("no", 3, "shop:1"), false},
		{before, migrate("on-failure", 1, "shop:1"), false},
		{migrate("on-failure", 1, "shop:1"), migrate("on-failure", 2, "shop:1"), false},
		{migrate("on-failure:2", 1, "shop:1"), migrate("on-failure:5", 1, "shop:1"), true},
	} {
		fixed := func(j *batchv1.Job) string {
			spec := j.DeepCopy().Spec
			spec.BackoffLimit = nil
			return string(mustJSON(spec))
		}
		if same := c.was.Name == c.is.Name; same != c.same {
			t.Errorf("same name %v, want %v:\n%s\n%s", same, c.same, fixed(c.was), fixed(c.is))
		} else if same && fixed(c.was) != fixed(c.is) {
			t.Errorf("an apply would be refused:\n%s\n%s", fixed(c.was), fixed(c.is))
		}
	}
}

// TestRestartOfAJob: what runs to its end runs once after a restart too, as it was asked for last, and what comes before it stays done.
func TestRestartOfAJob(t *testing.T) {
	s, c := cluster(t)
	e := quiet(c)
	worker := compose.Service{Name: "worker", Image: "worker:1", Restart: "on-failure"}
	worker.PreStart = []compose.PreStart{{Hook: compose.Hook{Command: []string{"migrate"}}}}
	other := compose.Service{Name: "worker-2", Image: "worker:1", Restart: "on-failure"}
	p := compose.Project{Name: "shop", Services: map[string]compose.Service{"worker": worker, "worker-2": other}}
	jobs := func() (names []string) {
		for _, name := range s.names() {
			if strings.HasPrefix(name, "jobs/") {
				names = append(names, name)
			}
		}
		return names
	}
	if _, err := e.Apply(t.Context(), state.Revision{Project: p}, ""); err != nil {
		t.Fatal(err)
	}
	prepared := func() { // an apply takes the status away here
		for path, o := range s.objects {
			if strings.Contains(path, "/jobs/") && (&unstructured.Unstructured{Object: o}).GetLabels()[labelComponent] == preparation {
				o["status"] = map[string]any{"succeeded": int64(1)}
			}
		}
	}
	prepared()
	if err := watching(e).step(t.Context()); err != nil {
		t.Fatal(err)
	}
	before := jobs()
	if len(before) != 3 {
		t.Fatalf("there are %v", before)
	}
	for n := range 2 {
		prepared()
		if err := e.Override(t.Context(), "shop", state.Override{Service: "worker", Restart: int64(n + 1)}); err != nil {
			t.Fatal(err)
		}
		after := jobs()
		kept := slices.DeleteFunc(slices.Clone(after), func(name string) bool { return !slices.Contains(before, name) })
		if len(after) != 3 || len(kept) != 2 {
			t.Errorf("restart %d: %v, then %v", n+1, before, after)
		}
		before = after
	}
}

func TestWhatCannotBeScaled(t *testing.T) {
	n, minus := 3, -1
	scaled := compose.Service{Name: "one", Deploy: compose.Deploy{
		Resources: compose.Resources{Limits: compose.ResourceAmounts{CPUs: 1}},
		Trellis:   compose.DeployExtension{Autoscale: &compose.Autoscale{Min: 1, Max: 4, Target: map[string]float64{"cpu": 0.5}}},
	}}
	for _, c := range []struct {
		svc  compose.Service
		n    *int
		want error
	}{
		{compose.Service{Name: "one"}, &n, nil},
		{compose.Service{Name: "one"}, &minus, errdefs.ErrInvalid},
		{scaled, &n, errdefs.ErrConflict},
		{scaled, nil, nil},
		{compose.Service{Name: "one", Deploy: compose.Deploy{Mode: "global"}}, &n, errdefs.ErrUnsupported},
		{compose.Service{Name: "one", Restart: "no"}, &n, errdefs.ErrUnsupported},
	} {
		p := compose.Project{Name: "p", Services: map[string]compose.Service{"one": c.svc}}
		if err := scalable(p, c.svc, state.Override{Service: "one", Replicas: c.n}, Options{}); !errors.Is(err, c.want) {
			t.Errorf("%+v: %v, want %v", c.svc, err, c.want)
		}
	}
}

// TestPlaces: what was changed, taken out and added by another hand, and what the API server writes itself.
func TestPlaces(t *testing.T) {
	pod := func(env ...any) map[string]any {
		return map[string]any{"spec": map[string]any{"containers": []any{map[string]any{"name": "web", "image": "web:1", "env": env}}}}
	}
	variable := func(name, value string) any { return map[string]any{"name": name, "value": value} }
	object := func(replicas int64, labels map[string]any, template map[string]any) map[string]any {
		return map[string]any{
			"kind": "Deployment", "metadata": map[string]any{"labels": labels, "generation": replicas}, "status": map[string]any{"replicas": replicas},
			"spec": map[string]any{"replicas": replicas, "template": template},
		}
	}
	ours := object(2, map[string]any{"a": "1"}, pod(variable("A", "1"), variable("B", "1")))
	have := object(5, map[string]any{"a": "2"}, pod(variable("A", "2"), variable("C", "1")))
	would := object(2, map[string]any{"a": "1"}, pod(variable("A", "1"), variable("B", "1"), variable("C", "1")))
	have["spec"].(map[string]any)["template"].(map[string]any)["spec"].(map[string]any)["volumes"] = []any{map[string]any{"name": "extra"}}
	would["spec"].(map[string]any)["template"].(map[string]any)["spec"].(map[string]any)["volumes"] = []any{map[string]any{"name": "extra"}}
	var got []string
	have["spec"].(map[string]any)["template"].(map[string]any)["spec"].(map[string]any)["nodeSelector"] = map[string]any{"disk": "ssd"}
	would["spec"].(map[string]any)["template"].(map[string]any)["spec"].(map[string]any)["nodeSelector"] = map[string]any{"disk": "ssd"}
	owners := []metav1.ManagedFieldsEntry{
		{Manager: fieldManager, FieldsV1: metav1.NewFieldsV1(`{"f:spec":{"f:template":{"f:spec":{"f:volumes":{}}}}}`)},
		{Manager: "kubectl-edit", FieldsV1: metav1.NewFieldsV1(`{"f:spec":{"f:replicas":{},"f:template":{"f:spec":{
			"f:containers":{"k:{\"name\":\"web\"}":{".":{},"f:gone":{},"f:env":{"k:{\"name\":\"A\"}":{"f:value":{}},"k:{\"name\":\"C\"}":{".":{},"f:name":{},"f:value":{}}}}},
			"f:nodeSelector":{},"f:volumes":{"k:{\"name\":\"extra\"}":{".":{}}}}}}}`)},
		{Manager: "another", FieldsV1: metav1.NewFieldsV1(`{"f:spec":{"f:template":{"f:spec":{"f:nodeSelector":{}}}}}`)},
	}
	for _, at := range placesIn(ours, would, have, owners) {
		got = append(got, fmt.Sprintf("%s: %v, not %v %s %s", at.path, at.have, at.want, at.pointer, at.owner))
	}
	want := []string{
		".metadata.labels.a: 2, not 1  ",
		".spec.replicas: 5, not 2  ",
		`.spec.template.spec.containers[name="web"].env[name="A"].value: 2, not 1  `,
		`.spec.template.spec.containers[name="web"].env[name="B"]: <nil>, not map[name:B value:1]  `,
		`.spec.template.spec.containers[name="web"].env[name="C"]: map[name:C value:1], not <nil> /spec/template/spec/containers/0/env/1 kubectl-edit`,
		`.spec.template.spec.nodeSelector: map[disk:ssd], not <nil> /spec/template/spec/nodeSelector kubectl-edit`,
		`.spec.template.spec.volumes[name="extra"]: map[name:extra], not <nil> /spec/template/spec/volumes/0 kubectl-edit`,
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("-want +got:\n%s", d)
	}
}

// TestTakenOutFromTheEnd: what is taken out of lists does not move what is taken out of them afterwards.
func TestTakenOutFromTheEnd(t *testing.T) {
	got := slices.SortedFunc(slices.Values([]string{"/c/0/env/9", "/c/10", "/c/0/env/11", "/c/9", "/c/0", "/a"}), lastFirst)
	if want := []string{"/c/10", "/c/9", "/c/0/env/11", "/c/0/env/9", "/c/0", "/a"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

// TestTakenOutIsWhatWasFound: nothing is removed from a list by its place alone, which another may have by then. All is looked at before any of
// it is removed, and who was too late is told so.
func TestTakenOutIsWhatWasFound(t *testing.T) {
	s, client := cluster(t)
	body, reply := "", ""
	s.before = func(w http.ResponseWriter, r *http.Request) bool {
		if r.Method != http.MethodPatch {
			return false
		}
		text, _ := io.ReadAll(r.Body)
		body = string(text)
		w.WriteHeader(http.StatusUnprocessableEntity)
		fmt.Fprintf(w, `{"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": 422, "reason": "Invalid", "message": "no", "details": {%s}}`, reply)
		return true
	}
	o := deploymentNamed("web")
	plain, err := plainObject(o)
	if err != nil {
		t.Fatal(err)
	}
	added := map[string]any{"/c/0": map[string]any{"name": "sidecar"}, "/c/0/env/1": map[string]any{"name": "A", "value": "1"}}
	if err := client.takeOut(t.Context(), plain, added); !errors.Is(err, errdefs.ErrConflict) {
		t.Errorf("another is there by now: %v", err)
	}
	want := `[{"op":"test","path":"/c/0/env/1","value":{"name":"A","value":"1"}},{"op":"test","path":"/c/0","value":{"name":"sidecar"}},` +
		`{"op":"remove","path":"/c/0/env/1"},{"op":"remove","path":"/c/0"}]`
	if body != want {
		t.Errorf("sent %s, want %s", body, want)
	}
	reply = `"causes": [{"reason": "FieldValueNotFound", "field": "spec.template.spec.containers[0].volumeMounts[0].name"}]`
	if err := client.takeOut(t.Context(), plain, added); !errors.Is(err, errdefs.ErrInvalid) {
		t.Errorf("something else needs it: %v", err)
	}
}

// TestDriftInWordsOfTheFile: fields of objects are told as attributes of the service, with values that its file could have.
func TestDriftInWordsOfTheFile(t *testing.T) {
	svc := compose.Service{Name: "web", Image: "web:1"}
	d := drifting{project: compose.Project{Name: "shop", Services: map[string]compose.Service{"web": svc}}}
	d.names = newNames(d.project)
	const container = `.spec.template.spec.containers[name="web"]`
	for _, c := range []struct {
		path       string
		want, have any
		told       string
		kind       string
		adoptable  bool
	}{
		{".spec.replicas", int64(2), int64(5), "services.web.deploy.replicas 2 5", engine.DriftScaled, true},
		{container + ".image", "web:1", "web:2", "services.web.image web:1 web:2", engine.DriftChanged, true},
		{container + `.env[name="COLOR"].value`, "blue", "red", "services.web.environment.COLOR blue red", engine.DriftChanged, true},
		{container + `.env[name="DB_PASSWORD"].value`, nil, "hunter2", "services.web.environment.DB_PASSWORD <nil> ***", engine.DriftChanged, false},
		{container + ".resources.limits.cpu", "500m", "2", "services.web.deploy.resources.limits.cpus 0.5 2", engine.DriftChanged, true},
		{container + ".resources.limits.memory", "128Mi", nil, "services.web.deploy.resources.limits.memory 134217728 <nil>", engine.DriftChanged, true},
		{`.spec.template.spec.containers[name="sidecar"]`, nil, map[string]any{}, "services.web <nil> <nil>", engine.DriftChanged, false},
		{".spec.template.spec.terminationGracePeriodSeconds", int64(15), int64(40), "services.web.stop_grace_period 10s 35s", engine.DriftChanged, true},
		{".spec.template.spec.nodeSelector.disk", nil, "ssd", "services.web.deploy.placement <nil> <nil>", engine.DriftChanged, false},
		{container + ".securityContext.privileged", nil, true, "services.web.privileged <nil> true", engine.DriftChanged, true},
		{".spec.strategy.rollingUpdate.maxSurge", int64(1), int64(2), "services.web.deploy.update_config <nil> <nil>", engine.DriftObject, false},
		{".spec.type", "ClusterIP", "NodePort", "services.web <nil> <nil>", engine.DriftObject, false},
	} {
		one := d.driftAt("web", item{Kind: "Deployment", Name: "web"}, c.path, c.want, c.have, "kubectl-edit")
		if told := fmt.Sprint(one.Path, " ", one.From, " ", one.To); told != c.told || one.Kind != c.kind || one.Adoptable != c.adoptable {
			t.Errorf("%s: %s (%s, adoptable %v), want %s (%s, %v)", c.path, told, one.Kind, one.Adoptable, c.told, c.kind, c.adoptable)
		}
	}
}

// TestHandOver: the number of pods is handed over where Trellis' apply has set it and no longer says it, and taken back from
// an autoscaler alone.
func TestHandOver(t *testing.T) {
	o := &unstructured.Unstructured{Object: map[string]any{}}
	if ownsReplicas(o) {
		t.Error("nobody's fields are Trellis'")
	}
	fields := func(manager, raw string) metav1.ManagedFieldsEntry {
		return metav1.ManagedFieldsEntry{Manager: manager, Operation: metav1.ManagedFieldsOperationApply, FieldsV1: metav1.NewFieldsV1(raw)}
	}
	o.SetManagedFields([]metav1.ManagedFieldsEntry{fields("somebody", `{"f:spec":{"f:replicas":{}}}`), fields(fieldManager, `{"f:spec":{"f:template":{}}}`)})
	if ownsReplicas(o) {
		t.Error("somebody else's number is Trellis'")
	}
	o.SetManagedFields([]metav1.ManagedFieldsEntry{fields(fieldManager, `{"f:spec":{"f:replicas":{}}}`)})
	if !ownsReplicas(o) {
		t.Error("Trellis' number is not")
	}
	conflict := func(owner string, paths ...string) error {
		err := apierrors.NewConflict(schema.GroupResource{Resource: "deployments"}, "web", errors.New("conflict"))
		for _, p := range paths {
			err.ErrStatus.Details.Causes = append(err.ErrStatus.Details.Causes, metav1.StatusCause{
				Type: metav1.CauseTypeFieldManagerConflict, Field: p, Message: fmt.Sprintf("conflict with %q", owner),
			})
		}
		return err
	}
	for _, c := range []struct {
		err  error
		want bool
	}{
		{conflict(autoscaleManager, replicasPath), true},
		{conflict("kubectl", replicasPath), false},
		{conflict(autoscaleManager, replicasPath, ".spec.paused"), false},
		{conflict(autoscaleManager), false},
		{errors.New("another"), false},
		{nil, false},
	} {
		if got := autoscalers(c.err); got != c.want {
			t.Errorf("%v: %v", c.err, got)
		}
	}
}

// TestEventsOfAService: events of pods that are no more are still those of their service, and others are nobody's.
func TestEventsOfAService(t *testing.T) {
	of := owners{
		pods:      map[string]corev1.Pod{"web-6c9f7d5b8-abcde": {ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{labelService: "web"}}}},
		workloads: []workload{{name: "web", service: "web"}, {name: "web-admin", service: "web-admin"}, {name: "db", service: "db"}},
	}
	for name, want := range map[string]string{
		"web-6c9f7d5b8-abcde": "web", "web-7d9f7d5b8-xyz12": "web", "web-7d9f7d5b8": "web", "web": "web", "db-0": "db",
		"web-admin-6c9f7d5b8-abcde": "web-admin", "webshop-6c9f7d5b8-abcde": "", "somebody": "", "web-what-ever-else": "",
	} {
		if got := of.service(name); got != want {
			t.Errorf("%s is of %q, want %q", name, got, want)
		}
	}
	if got := hyphenated("FailedScheduling"); got != "failed-scheduling" {
		t.Error(got)
	}
}

func TestRolloutsEnd(t *testing.T) {
	then := time.Unix(1, 0)
	all := ended([]state.Rollout{{Service: "a", Phase: state.Rolling}, {Service: "b", Phase: state.TakenBack}}, state.Promoted, "", then)
	if all[0].Phase != state.Promoted || !all[0].Ended.Equal(then) || all[1].Phase != state.TakenBack || all[1].Ended != nil {
		t.Errorf("%+v", all)
	}
}

func TestCommandWithItsOwnFolder(t *testing.T) {
	got := commandOf(driver.Command{Args: []string{"ls", "-l"}, Env: []string{"A=1 2"}, Dir: "/it's"})
	want := []string{"sh", "-c", `cd "$0" && exec "$@"`, "/it's", "env", "A=1 2", "ls", "-l"}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("-want +got:\n%s", d)
	}
}

// TestAProgramThatIsNotThere: what containerd and CRI-O answer, as a kubelet passes it on.
func TestAProgramThatIsNotThere(t *testing.T) {
	for answer, want := range map[string]bool{
		`failed to exec in container: failed to start exec "76df": OCI runtime exec failed: exec failed: unable to start container process: exec: "/nowhere": stat /nowhere: no such file or directory: unknown`: true,
		`OCI runtime exec failed: exec failed: unable to start container process: exec: "nowhere": executable file not found in $PATH: unknown`:                                                                  true,
		`unable to upgrade connection: container not found ("web")`: false,
	} {
		if notThere(answer) != want {
			t.Errorf("%s: want %v", answer, want)
		}
	}
}

// TestGoingBackKeepsThePodsThatAreWell: the template of a revision that was left for a moment is what it was, as long as one
// of its pods runs, so the cluster takes the new pods away and touches no other.
func TestGoingBackKeepsThePodsThatAreWell(t *testing.T) {
	project := func(version string) compose.Project {
		return compose.Project{Name: "shop", Services: map[string]compose.Service{"web": {Name: "web", Image: "web:" + version}}}
	}
	template := func(objects []Object) corev1.PodTemplateSpec {
		all := objectsOf[*appsv1.Deployment](objects)
		return all[slices.IndexFunc(all, func(d *appsv1.Deployment) bool { return serviceOf(d) == "web" })].Spec.Template
	}
	good := renderAs(t, project("1"), nil, 2)
	bad := renderAs(t, project("2"), good, 3)
	if back := template(renderAs(t, project("1"), bad, 4)); revisionOf(back.ObjectMeta) != 4 {
		t.Errorf("no pod of it runs, and it is of revision %d", revisionOf(back.ObjectMeta))
	}
	running := &corev1.Pod{ObjectMeta: template(good).ObjectMeta}
	if d := cmp.Diff(template(good), template(renderAs(t, project("1"), append(bad, running), 4))); d != "" {
		t.Errorf("-before +after going back:\n%s", d)
	}
}

// TestAnOldPodDoesNotSpeakForANewOne: a service is healthy when pods of its newest template are ready, and no sooner: the pod
// that one of them is to replace is ready all the while.
func TestAnOldPodDoesNotSpeakForANewOne(t *testing.T) {
	pod := func(name, revision string, ready bool) corev1.Pod {
		p := corev1.Pod{ObjectMeta: metav1.ObjectMeta{
			Name: name, Labels: map[string]string{labelService: "web"}, Annotations: map[string]string{annotationRevision: revision},
		}}
		p.Status.ContainerStatuses = []corev1.ContainerStatus{{Ready: ready, State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{}}}}
		return p
	}
	one := int32(1)
	web := &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Name: "web", Labels: map[string]string{labelService: "web"}}}
	web.Spec.Replicas, web.Spec.Template.Annotations = &one, map[string]string{annotationRevision: "2"}
	web.Status = appsv1.DeploymentStatus{UpdatedReplicas: 1, Replicas: 2}
	live := Live{Objects: []Object{web}, Pods: []corev1.Pod{pod("old", "1", true), pod("new", "2", false)}}
	if s := Read(state.Revision{Number: 2}, live).Services[0]; s.State != engine.ServiceStarting {
		t.Errorf("while the new pod is not ready: %+v", s)
	}
	web.Status.Replicas, live.Pods = 1, []corev1.Pod{pod("new", "2", true)}
	if s := Read(state.Revision{Number: 2}, live).Services[0]; s.State != engine.ServiceHealthy {
		t.Errorf("when it is: %+v", s)
	}
}
