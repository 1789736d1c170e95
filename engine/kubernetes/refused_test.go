package kubernetes

import (
	"errors"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"trellis/compose"
	"trellis/engine"
	"trellis/errdefs"
	"trellis/state"
)

// TestRationed: what admission plugins of a cluster say of quotas and limits is told in a sentence that says what to do; of anything else
// nothing is.
func TestRationed(t *testing.T) {
	for message, c := range map[string]struct {
		why     string
		passing bool
	}{
		`pods "web-1" is forbidden: exceeded quota: team, requested: limits.cpu=2, used: limits.cpu=9, limited: limits.cpu=10`: {
			"ResourceQuota team of namespace shop has no room for it (requested: limits.cpu=2, used: limits.cpu=9, limited: limits.cpu=10): " +
				"remove what is not needed there, ask for less (deploy.replicas, deploy.resources), or have an administrator raise it", true},
		`pods "web-1" is forbidden: failed quota: team: must specify limits.cpu for: web; limits.memory for: web`: {
			"ResourceQuota team of namespace shop takes only what says how much it needs (must specify limits.cpu for: web; limits.memory for: web): " +
				"set deploy.resources.limits and deploy.resources.reservations, or have an administrator set defaults in a LimitRange", false},
		`pods "web-1" is forbidden: [maximum cpu usage per Container is 500m, but limit is 1, maximum memory usage per Pod is 1Gi, but limit is 2Gi]`: {
			"a LimitRange of namespace shop does not take it (pods \"web-1\" is forbidden: [maximum cpu usage per Container is 500m, but limit is 1, " +
				"maximum memory usage per Pod is 1Gi, but limit is 2Gi]): change deploy.resources of the service, or the size of the volume, or have an administrator change it", false},
		`pods "web-1" is forbidden: cpu max limit to request ratio per Container is 2, but provided ratio is 10.000000`: {
			"a LimitRange of namespace shop does not take it (pods \"web-1\" is forbidden: cpu max limit to request ratio per Container is 2, but provided ratio is 10.000000): " +
				"change deploy.resources of the service, or the size of the volume, or have an administrator change it", false},
		`deployments.apps is forbidden: User "me" cannot create resource "deployments" in the namespace "shop"`: {"", false},
		`pods "web-1" is forbidden: violates PodSecurity "restricted:latest"`:                                   {"", false},
	} {
		if why, passing := rationed(message, "shop"); why != c.why || passing != c.passing {
			t.Errorf("%s: %q, %v; want %q, %v", message, why, passing, c.why, c.passing)
		}
	}
}

// TestRefusedPods: why a service has fewer pods than it is to have is told of every kind of workload, until there is a pod that is newer.
func TestRefusedPods(t *testing.T) {
	const refusal = `pods "db-1" is forbidden: exceeded quota: team, requested: pods=1, used: pods=5, limited: pods=5`
	s, client := cluster(t)
	then := time.Now().UTC().Truncate(time.Second)
	s.objects["/api/v1/namespaces/shop/events/one"] = map[string]any{
		"apiVersion": "v1", "kind": "Event", "metadata": map[string]any{"name": "one"}, "reason": "FailedCreate", "lastTimestamp": then.Format(time.RFC3339),
		"message": "create Pod db-1 in StatefulSet db failed error: " + refusal, "involvedObject": map[string]any{"kind": "StatefulSet", "name": "db"},
	}
	labels := map[string]string{labelProject: "shop", labelService: "db"}
	meta := metav1.ObjectMeta{Name: "db", Labels: labels}
	two := pointer(int32(2))
	pod := func(made time.Time) corev1.Pod {
		return corev1.Pod{ObjectMeta: metav1.ObjectMeta{
			Name: "db-0", Labels: labels, CreationTimestamp: metav1.NewTime(made), OwnerReferences: []metav1.OwnerReference{{Kind: "StatefulSet", Controller: pointer(true)}},
		}, Status: corev1.PodStatus{Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}}}
	}
	refused := appsv1.DeploymentStatus{Conditions: []appsv1.DeploymentCondition{{Type: appsv1.DeploymentReplicaFailure, Status: corev1.ConditionTrue, Message: refusal}}}
	const told = "its pods are refused: ResourceQuota team of namespace shop has no room for it (requested: pods=1, used: pods=5, limited: pods=5): " +
		"remove what is not needed there, ask for less (deploy.replicas, deploy.resources), or have an administrator raise it"
	for name, c := range map[string]struct {
		workload Object
		pods     []corev1.Pod
		want     string
	}{
		"a Deployment":       {&appsv1.Deployment{ObjectMeta: meta, Status: refused}, nil, told},
		"a StatefulSet":      {&appsv1.StatefulSet{ObjectMeta: meta}, nil, told},
		"one of its pods":    {&appsv1.StatefulSet{ObjectMeta: meta, Spec: appsv1.StatefulSetSpec{Replicas: two}}, []corev1.Pod{pod(then.Add(-time.Minute))}, told},
		"there is a newer":   {&appsv1.StatefulSet{ObjectMeta: meta, Spec: appsv1.StatefulSetSpec{Replicas: two}}, []corev1.Pod{pod(then.Add(time.Minute))}, ""},
		"there are as many":  {&appsv1.StatefulSet{ObjectMeta: meta}, []corev1.Pod{pod(then.Add(-time.Minute))}, ""},
		"it was another's":   {&batchv1.Job{ObjectMeta: meta}, nil, ""},
		"nothing is refused": {&appsv1.Deployment{ObjectMeta: meta}, nil, ""},
	} {
		now := engine.State{Services: []engine.Service{{Name: "db", State: engine.ServiceStarting}}}
		client.enrich(t.Context(), &now, Live{Objects: []Object{c.workload}, Pods: c.pods})
		if got := now.Services[0].Reason; got != c.want {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
	}
}

// TestRefusedInItsTurn: a service whose turn comes and that the cluster has no room for says so while it is tried again, and is made once there is.
func TestRefusedInItsTurn(t *testing.T) {
	s, client := cluster(t)
	e := quiet(client)
	p := compose.Project{Name: "shop", Services: map[string]compose.Service{
		"db":  {Name: "db", Image: "db:1"},
		"web": {Name: "web", Image: "web:1", DependsOn: map[string]compose.Dependency{"db": {Condition: compose.ServiceStarted, Required: true}}},
	}}
	if _, err := e.Apply(t.Context(), state.Revision{Project: p}, ""); err != nil {
		t.Fatal(err)
	}
	full := true
	s.before = func(w http.ResponseWriter, r *http.Request) bool {
		refused := full && r.Method == http.MethodPatch && r.URL.Path == ofApps+"deployments/web"
		if refused {
			answer(w, http.StatusForbidden, "Forbidden", `deployments.apps "web" is forbidden: exceeded quota: team, requested: count/deployments.apps=1, used: count/deployments.apps=5, limited: count/deployments.apps=5`)
		}
		return refused
	}
	w := watching(e)
	for range 2 {
		if err := w.step(t.Context()); !errors.Is(err, errdefs.ErrUnavailable) {
			t.Fatal(err)
		}
		got, err := e.Observe(t.Context(), "shop")
		if err != nil {
			t.Fatal(err)
		}
		web, _ := stateIn(got, "web")
		if web.State != engine.ServiceStarting || !strings.Contains(web.Reason, "ResourceQuota team of namespace shop has no room for it") || got.Settled {
			t.Errorf("%s: %q", web.State, web.Reason)
		}
	}
	s.mu.Lock()
	full = false
	s.mu.Unlock()
	if err := w.step(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got, err := e.Observe(t.Context(), "shop"); err != nil || !slices.Contains(s.lasting(), "deployments/web") {
		t.Errorf("%v, %+v", err, got.Services)
	} else if web, _ := stateIn(got, "web"); web.Reason != "" {
		t.Errorf("there, and %q", web.Reason)
	}
}
