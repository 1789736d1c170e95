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
	"time"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"

	"trellis/compose"
	"trellis/engine"
	"trellis/state"
)

// everyLasting starts an API server that has every kind of workload.
func everyLasting(t *testing.T) (*apiServer, *Client) {
	t.Helper()
	s, client := cluster(t)
	s.more = map[string]map[string]string{
		"apps/v1":        {"deployments": "Deployment", "statefulsets": "StatefulSet", "daemonsets": "DaemonSet"},
		"autoscaling/v2": {"horizontalpodautoscalers": "HorizontalPodAutoscaler"},
	}
	return s, client
}

const ofApps = "/apis/apps/v1/namespaces/shop/"

// run has the controllers of the cluster look at a workload ("deployments/web"): it has a pod, as it is wanted now, that is ready or not.
func (s *apiServer) run(workload string, ready bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	o := s.objects[ofApps+workload]
	o["status"] = map[string]any{"observedGeneration": int64(1), "updatedReplicas": int64(1), "replicas": int64(1), "desiredNumberScheduled": int64(1), "updatedNumberScheduled": int64(1)}
	template, _, _ := unstructured.NestedMap(o, "spec", "template")
	pod := &unstructured.Unstructured{Object: map[string]any{"apiVersion": "v1", "kind": "Pod", "metadata": template["metadata"], "spec": template["spec"]}}
	pod.SetName(strings.ReplaceAll(workload, "/", "-"))
	kind := map[string]string{"deployments": "ReplicaSet", "statefulsets": "StatefulSet", "daemonsets": "DaemonSet"}[filepath.Dir(workload)]
	pod.SetOwnerReferences([]metav1.OwnerReference{{Kind: kind, Name: "web", UID: (&unstructured.Unstructured{Object: o}).GetUID(), Controller: pointer(true)}})
	pod.Object["status"] = map[string]any{"containerStatuses": []any{map[string]any{
		"name": "web", "ready": ready, "state": map[string]any{"running": map[string]any{"startedAt": "2026-01-02T03:04:05Z"}},
	}}}
	s.objects["/api/v1/namespaces/shop/pods/"+pod.GetName()] = pod.Object
}

// lasting are the workloads that are there, "deployments/web" and so on.
func (s *apiServer) lasting() (all []string) {
	for _, name := range s.names() {
		if slices.Contains([]string{"deployments", "statefulsets", "daemonsets"}, filepath.Dir(name)) {
			all = append(all, name)
		}
	}
	return all
}

func shopOf(web compose.Service) compose.Project {
	web.Name, web.Image = "web", "web:1"
	return compose.Project{Name: "shop", Services: map[string]compose.Service{"web": web}, Volumes: map[string]compose.Volume{"data": {}, "nfs": {External: true}}}
}

func (s *apiServer) applied(t *testing.T, e *Engine, web compose.Service) {
	t.Helper()
	if _, err := e.Apply(t.Context(), state.Revision{Project: shopOf(web)}, ""); err != nil {
		t.Fatal(err)
	}
	for _, name := range s.lasting() {
		s.objects[ofApps+name]["metadata"].(map[string]any)["generation"] = int64(1)
	}
}

func stepped(t *testing.T, w *watcher, times int) (newest state.Revision) {
	t.Helper()
	for range times {
		if err := w.step(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	all, err := w.engine.History(t.Context(), 1)
	if err != nil {
		t.Fatal(err)
	}
	return all[0]
}

// The services that run as a Deployment, a StatefulSet and a DaemonSet.
var (
	plainly    = compose.Service{}
	owning     = compose.Service{Volumes: []compose.Mount{{Type: compose.MountVolume, Target: "/cache"}}}
	holding    = compose.Service{Volumes: []compose.Mount{{Type: compose.MountVolume, Source: "data", Target: "/data"}}}
	lending    = compose.Service{Volumes: []compose.Mount{{Type: compose.MountVolume, Source: "nfs", Target: "/data"}}}
	everywhere = compose.Service{Deploy: compose.Deploy{Mode: "global"}}
)

// TestOtherKindServesMeanwhile: a service whose workload becomes one of another kind has both until the pods of the new one are ready, also
// where nothing else about them is new; then the old one goes, and then its revision is well. Meanwhile it is told as it is wanted, and
// nothing of that is drift.
func TestOtherKindServesMeanwhile(t *testing.T) {
	for name, c := range map[string]struct {
		first, second compose.Service
		was, is       string
	}{
		"a volume is dropped":           {owning, plainly, "statefulsets/web", "deployments/web"},
		"a volume with a name is":       {holding, plainly, "statefulsets/web", "deployments/web"},
		"a volume is added":             {plainly, owning, "deployments/web", "statefulsets/web"},
		"a volume with a name is added": {plainly, holding, "deployments/web", "statefulsets/web"},
		"on every node":                 {plainly, everywhere, "deployments/web", "daemonsets/web"},
		"on every node no more":         {everywhere, plainly, "daemonsets/web", "deployments/web"},
	} {
		t.Run(name, func(t *testing.T) {
			s, client := everyLasting(t)
			e := quiet(client)
			w := watching(e)
			s.applied(t, e, c.first)
			s.run(c.was, true)
			if now := stepped(t, w, 2); now.Outcome != state.Healthy {
				t.Fatalf("the first revision is %s", now.Outcome)
			}
			s.applied(t, e, c.second)
			both := []string{c.was, c.is}
			slices.Sort(both)
			for _, what := range []string{"is not looked at", "is not ready"} {
				now := stepped(t, w, 2)
				if d := cmp.Diff(both, s.lasting()); d != "" || now.Outcome != state.Pending {
					t.Fatalf("the new one %s: %s (-want +got):\n%s", what, now.Outcome, d)
				}
				s.run(c.is, false)
			}
			got, err := e.Observe(t.Context(), "shop")
			if err != nil || len(got.Services) != 1 || got.Services[0].Revision != 2 || got.Services[0].State == engine.ServiceHealthy || got.Services[0].Ready != 1 {
				t.Errorf("meanwhile: %v, %+v", err, got.Services)
			}
			if len(got.Rollouts) != 1 || got.Rollouts[0].Over() {
				t.Errorf("its rollouts are %+v", got.Rollouts)
			}
			if drift, err := e.Drift(t.Context(), "shop"); err != nil || len(drift) > 0 {
				t.Errorf("drift: %v, %v", drift, err)
			}
			s.run(c.is, true)
			if now := stepped(t, w, 1); now.Outcome != state.Pending || !slices.Equal(s.lasting(), []string{c.is}) {
				t.Errorf("once the new one is ready: %s, %v", now.Outcome, s.lasting())
			}
			if now := stepped(t, w, 1); now.Outcome != state.Healthy {
				t.Errorf("at the end: %s", now.Outcome)
			}
			s.applied(t, e, c.second)
			if items, err := client.inventory(t.Context(), "shop"); err != nil || slices.ContainsFunc(items, func(i item) bool { return i.Leaving }) {
				t.Errorf("the next apply still has %v, %v", items, err)
			}
		})
	}
}

// TestOtherKindIsTakenBack: the pods of the new workload never become ready: the old one serves all along, and stays.
func TestOtherKindIsTakenBack(t *testing.T) {
	for name, second := range map[string]compose.Service{"statefulsets/web": owning, "daemonsets/web": everywhere} {
		t.Run(name, func(t *testing.T) {
			s, client := everyLasting(t)
			e := quiet(client)
			w := watching(e)
			s.applied(t, e, plainly)
			s.run("deployments/web", true)
			stepped(t, w, 2)
			s.applied(t, e, second)
			s.run(name, false)
			pod := s.objects["/api/v1/namespaces/shop/pods/"+strings.ReplaceAll(name, "/", "-")]
			pod["status"] = map[string]any{"conditions": []any{map[string]any{"type": "PodScheduled", "status": "False", "message": "0/1 nodes are available"}}}
			if now := stepped(t, w, 2); now.Number != 2 || now.Outcome != state.Pending {
				t.Fatalf("revision %d is %s", now.Number, now.Outcome)
			}
			w.late["web"] = lateness{0, time.Now().Add(-time.Hour)}
			if now := stepped(t, w, 1); now.Number != 3 || now.Undoes != 2 || !slices.Contains(s.lasting(), "deployments/web") {
				t.Fatalf("revision %d undoes %d, there are %v", now.Number, now.Undoes, s.lasting())
			}
			s.run("deployments/web", true) // the status is lost with what is applied
			if now := stepped(t, w, 3); now.Outcome != state.Healthy || !slices.Equal(s.lasting(), []string{"deployments/web"}) {
				t.Errorf("at the end: %s, %v", now.Outcome, s.lasting())
			}
			if revision := revisionOf(templateIn(t, s, "deployments/web")); revision != 1 {
				t.Errorf("its pods are replaced by those of revision %d", revision)
			}
			if slices.Contains(s.writes, "DELETE "+ofApps+"deployments/web") {
				t.Error("what served was removed")
			}
		})
	}
}

func templateIn(t *testing.T, s *apiServer, workload string) metav1.ObjectMeta {
	t.Helper()
	o, err := typed(&unstructured.Unstructured{Object: s.objects[ofApps+workload]})
	if err != nil {
		t.Fatal(err)
	}
	return templateOf(o).ObjectMeta
}

// TestOtherKindInTheWay: what cannot stand beside the new workload goes before that is there, and not at all where the cluster would refuse
// it.
func TestOtherKindInTheWay(t *testing.T) {
	two, order := 2, func(web compose.Service, order string) compose.Service {
		web.Deploy.UpdateConfig = &compose.UpdateConfig{Order: order}
		return web
	}
	shared := func(web compose.Service) compose.Service {
		web.Deploy.Replicas = &two
		return web
	}
	ports := func(web compose.Service) compose.Service {
		web.Ports = []compose.Port{{Target: 80, Published: "80", Mode: "host"}}
		return web
	}
	for name, c := range map[string]struct {
		first, second compose.Service
		mode          string
		effect        string
	}{
		"the same volume":                   {holding, shared(holding), "", engine.EffectStopFirst},
		"the same volume, start-first":      {holding, order(holding, compose.StartFirst), "", engine.EffectStopFirst},
		"a volume of somebody else's":       {lending, shared(lending), "ReadWriteOnce", engine.EffectStopFirst},
		"one that nobody finds":             {lending, shared(lending), "", engine.EffectStopFirst},
		"one for many nodes":                {lending, shared(lending), "ReadWriteMany", engine.EffectRollout},
		"one for many nodes, written alone": {shared(lending), lending, "ReadWriteMany", engine.EffectStopFirst},
		"stop-first":                        {plainly, order(everywhere, compose.StopFirst), "", engine.EffectStopFirst},
		"a port of the node":                {ports(plainly), ports(everywhere), "", engine.EffectStopFirst},
		"the network of the node":           {compose.Service{NetworkMode: "host"}, compose.Service{NetworkMode: "host", Deploy: everywhere.Deploy}, "", engine.EffectStopFirst},
		"a port of the node that is let go": {ports(everywhere), plainly, "", engine.EffectRollout},
		"nothing":                           {plainly, everywhere, "", engine.EffectRollout},
		"another volume":                    {plainly, holding, "", engine.EffectRollout},
	} {
		t.Run(name, func(t *testing.T) {
			s, client := everyLasting(t)
			e := quiet(client)
			s.applied(t, e, c.first)
			was := s.lasting()[0]
			s.run(was, true)
			stepped(t, watching(e), 2)
			if c.mode != "" {
				claim := object(persistentVolumeClaims, "nfs", nil)
				claim.Object["spec"] = map[string]any{"accessModes": []any{c.mode}}
				s.objects["/api/v1/namespaces/shop/persistentvolumeclaims/nfs"] = claim.Object
			}
			have, err := e.Observe(t.Context(), "shop")
			if err != nil {
				t.Fatal(err)
			}
			for _, change := range e.Diff(t.Context(), shopOf(c.second), have) {
				if change.Effect != c.effect && !strings.HasPrefix(change.Path, "services.web.ports") {
					t.Errorf("%s is %s, want %s", change.Path, change.Effect, c.effect)
				}
			}
			refuse := true
			s.before = func(w http.ResponseWriter, r *http.Request) bool {
				is := filepath.Base(filepath.Dir(r.URL.Path)) + "/web"
				if !refuse || r.Method != http.MethodPatch || is == was || !slices.Contains([]string{"deployments/web", "statefulsets/web", "daemonsets/web"}, is) {
					return false
				}
				answer(w, http.StatusUnprocessableEntity, "Invalid", "a policy")
				return true
			}
			if _, err := e.Apply(t.Context(), state.Revision{Project: shopOf(c.second)}, ""); err == nil || !slices.Equal(s.lasting(), []string{was}) {
				t.Errorf("refused: %v, and there are %v", err, s.lasting())
			}
			refuse, s.writes = false, nil
			s.applied(t, e, c.second)
			gone := slices.Index(s.writes, "DELETE "+ofApps+was)
			made := slices.IndexFunc(s.writes, func(w string) bool { return strings.HasPrefix(w, "PATCH "+ofApps) })
			if first := gone >= 0 && gone < made; first != (c.effect == engine.EffectStopFirst) || gone > made {
				t.Errorf("there are %v after %v", s.lasting(), s.writes)
			}
		})
	}
}

// TestOtherKindWithoutPods: a service that is stopped while both of its workloads stand has no pods of either, and down leaves none.
func TestOtherKindWithoutPods(t *testing.T) {
	for _, down := range []bool{false, true} {
		s, client := everyLasting(t)
		e := quiet(client)
		s.applied(t, e, owning)
		s.run("statefulsets/web", true)
		stepped(t, watching(e), 2)
		s.applied(t, e, plainly)
		var err error
		want := []string{"deployments/web"}
		if down {
			want = nil
			err = e.Delete(t.Context(), "shop", engine.DeleteOptions{})
		} else {
			err = e.Override(t.Context(), "shop", state.Override{Service: "web", Stopped: true})
		}
		if err != nil || !slices.Equal(s.lasting(), want) {
			t.Errorf("down %v: %v, there are %v", down, err, s.lasting())
		}
	}
}

// TestOtherKindThatEnds: who wants a workload again that has been removed and still has pods to end waits until it is gone, and has another.
func TestOtherKindThatEnds(t *testing.T) {
	s, client := everyLasting(t)
	e := quiet(client)
	s.applied(t, e, plainly)
	was := (&unstructured.Unstructured{Object: s.objects[ofApps+"deployments/web"]}).GetUID()
	s.applied(t, e, everywhere)
	s.objects[ofApps+"deployments/web"]["metadata"].(map[string]any)["deletionTimestamp"] = "2026-01-02T03:04:05Z"
	looks := 0
	s.before = func(_ http.ResponseWriter, r *http.Request) bool {
		if r.Method == http.MethodGet && r.URL.Path == ofApps+"deployments/web" {
			looks++
		}
		if o := s.objects[ofApps+"deployments/web"]; looks > 2 && (&unstructured.Unstructured{Object: o}).GetUID() == was {
			delete(s.objects, ofApps+"deployments/web")
		}
		return false
	}
	s.applied(t, e, plainly)
	if is := s.objects[ofApps+"deployments/web"]; is == nil || (&unstructured.Unstructured{Object: is}).GetUID() == was {
		t.Errorf("what is wanted is %v", is)
	}
}

// TestOtherKindIsCutShort: an apply that ends at any of its requests leaves what serves in its place, and the next one goes on from there.
func TestOtherKindIsCutShort(t *testing.T) {
	for after := range 100 {
		s, client := everyLasting(t)
		e := quiet(client)
		s.applied(t, e, owning)
		s.run("statefulsets/web", true)
		stepped(t, watching(e), 2)
		left := after
		s.before = func(w http.ResponseWriter, _ *http.Request) bool {
			if left--; left < 0 {
				answer(w, http.StatusBadGateway, "", "gone")
			}
			return left < 0
		}
		_, err := e.Apply(t.Context(), state.Revision{Project: shopOf(plainly)}, "")
		s.mu.Lock() // a request that was given up may still be answered
		whole := left >= 0
		s.before = nil
		s.mu.Unlock()
		if got, oerr := e.Observe(t.Context(), "shop"); oerr != nil || len(got.Services) != 1 || got.Services[0].Ready != 1 || !slices.Contains(s.lasting(), "statefulsets/web") {
			t.Fatalf("cut short after %d requests: %v, %v, %+v", after, err, oerr, got.Services)
		}
		s.applied(t, e, plainly)
		s.run("deployments/web", true)
		if now := stepped(t, watching(e), 3); now.Outcome != state.Healthy || !slices.Equal(s.lasting(), []string{"deployments/web"}) {
			t.Fatalf("cut short after %d requests: %s, %v", after, now.Outcome, s.lasting())
		}
		if whole && err == nil {
			return
		}
	}
	t.Error("an apply takes more than 100 requests")
}

// TestOtherKindBeginsWithAsMany: what an autoscaler is to scale begins with as many pods as what it comes in place of has.
func TestOtherKindBeginsWithAsMany(t *testing.T) {
	s, client := everyLasting(t)
	e := quiet(client)
	scaled := func(web compose.Service) compose.Service {
		web.Deploy.Resources.Limits.CPUs = 1
		web.Deploy.Trellis.Autoscale = &compose.Autoscale{Min: 2, Max: 9, Target: map[string]float64{"cpu": 0.5}}
		return web
	}
	s.applied(t, e, scaled(owning))
	_ = unstructured.SetNestedField(s.objects[ofApps+"statefulsets/web"], int64(5), "spec", "replicas") // its autoscaler
	var numbers []string
	s.before = func(_ http.ResponseWriter, r *http.Request) bool {
		n, _, _ := unstructured.NestedFieldNoCopy(s.objects[ofApps+"deployments/web"], "spec", "replicas")
		numbers = append(numbers, fmt.Sprint(n))
		return false
	}
	s.applied(t, e, scaled(plainly))
	if !slices.Contains(numbers, "5") {
		t.Errorf("it has %v pods", numbers)
	}
}

// TestOtherKindIsNotTheOneWanted: a revision is not well by what it is to replace, where somebody has removed what is to serve instead.
func TestOtherKindIsNotTheOneWanted(t *testing.T) {
	s, client := everyLasting(t)
	e := quiet(client)
	w := watching(e)
	s.applied(t, e, plainly)
	s.run("deployments/web", true)
	stepped(t, w, 2)
	s.applied(t, e, everywhere)
	delete(s.objects, ofApps+"daemonsets/web")
	if now := stepped(t, w, 3); now.Outcome != state.Pending || !slices.Equal(s.lasting(), []string{"deployments/web"}) {
		t.Errorf("the revision is %s, there are %v", now.Outcome, s.lasting())
	}
	if got, err := e.Observe(t.Context(), "shop"); err != nil || len(got.Services) != 1 || got.Services[0].Ready != 1 {
		t.Errorf("%v, %+v", err, got.Services)
	}
}

// TestOfWhichKind: pods tell of what kind what made them is.
func TestOfWhichKind(t *testing.T) {
	for owner, kind := range map[string]string{"ReplicaSet": "Deployment", "StatefulSet": "StatefulSet", "DaemonSet": "DaemonSet"} {
		pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{OwnerReferences: []metav1.OwnerReference{{Kind: owner, Controller: pointer(true)}}}}
		for _, one := range lasting {
			if got := madeBy(pod, one); got != (one == kind) {
				t.Errorf("a pod of a %s is one of a %s: %v", owner, one, got)
			}
		}
	}
}

// TestBeginsWithAsManyAsItsAutoscalerKeepsAtLeast: what an autoscaler is to scale has as many pods as that keeps at least before it looks for
// the first time, when it is made and when it was stopped. What the autoscaler has decided stays.
func TestBeginsWithAsManyAsItsAutoscalerKeepsAtLeast(t *testing.T) {
	for _, autoscaler := range []string{"", compose.KEDA} {
		s, client := everyLasting(t)
		s.more[scaledKind.GroupVersion().String()] = map[string]string{"scaledobjects": scaledKind.Kind}
		e := quiet(client)
		owns := func(manager string) []metav1.ManagedFieldsEntry {
			return []metav1.ManagedFieldsEntry{{
				Manager: manager, Operation: metav1.ManagedFieldsOperationApply, FieldsV1: metav1.NewFieldsV1(`{"f:spec":{"f:replicas":{}}}`),
			}}
		}
		var sent []string // the number of pods in what is applied of the workload, and by whom
		s.before = func(_ http.ResponseWriter, r *http.Request) bool {
			if r.Method == http.MethodPatch && r.URL.Path == ofApps+"deployments/web" {
				body, _ := io.ReadAll(r.Body)
				var o appsv1.Deployment
				if err := yaml.Unmarshal(body, &o); err != nil {
					t.Error(err)
				}
				manager := r.URL.Query().Get("fieldManager")
				sent = append(sent, fmt.Sprint(manager, " ", valueOr(o.Spec.Replicas, -1)))
				if o.Spec.Replicas != nil {
					o.ManagedFields = owns(manager)
				}
				body, _ = json.Marshal(o)
				r.Body = io.NopCloser(bytes.NewReader(body))
			}
			return false
		}
		web := plainly
		web.Deploy.Resources.Limits.CPUs = 1
		web.Deploy.Trellis.Autoscale = &compose.Autoscale{Min: 3, Max: 9, Target: map[string]float64{"cpu": 0.5}}
		p := shopOf(web)
		p.Environment, p.Trellis.Environments = "staging", map[string]compose.EnvironmentRef{"staging": {Autoscaler: autoscaler}}
		for _, c := range []struct {
			what  string
			there int64 // how many pods there are; -1: the workload is not there yet
			owner string
			want  []string
		}{
			{"made", -1, "", []string{"trellis 3", "trellis-scale 3", "trellis -1"}},
			{"scaled", 5, autoscaleManager, []string{"trellis -1"}},
			{"scaled by Trellis before", 5, fieldManager, []string{"trellis-scale 5", "trellis -1"}},
			{"fewer before", 2, fieldManager, []string{"trellis-scale 3", "trellis -1"}},
			{"stopped before", 0, fieldManager, []string{"trellis-scale 3", "trellis -1"}},
			{"stopped by somebody else", 0, "kubectl", []string{"trellis -1"}},
		} {
			if c.there >= 0 {
				one := &unstructured.Unstructured{Object: s.objects[ofApps+"deployments/web"]}
				_ = unstructured.SetNestedField(one.Object, c.there, "spec", "replicas")
				one.SetManagedFields(owns(c.owner))
			}
			sent = nil
			if _, err := e.Apply(t.Context(), state.Revision{Project: p}, ""); err != nil {
				t.Fatal(err)
			}
			if !slices.Equal(sent, c.want) {
				t.Errorf("autoscaler %q, %s: sent %q, want %q", autoscaler, c.what, sent, c.want)
			}
		}
	}
}
