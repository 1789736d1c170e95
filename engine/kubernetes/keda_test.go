package kubernetes

import (
	"encoding/json"
	"maps"
	"slices"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"trellis/compose"
	"trellis/state"
)

// TestScaledByKEDA: a ScaledObject stands in the place of the autoscaler, aims at what that would, and asks where the control plane answers; nobody
// else owns the number of pods.
func TestScaledByKEDA(t *testing.T) {
	p, opt, objects := beside(t, func(o *Options) { o.Autoscaler = compose.KEDA })
	if n := len(objectsOf[*autoscalingv2.HorizontalPodAutoscaler](objects)); n > 0 {
		t.Errorf("%d autoscalers beside it", n)
	}
	_, _, by := beside(t, func(o *Options) { o.Metered = true })
	like := objectsOf[*autoscalingv2.HorizontalPodAutoscaler](by)[0].Spec
	spec := specsOf[scaledObject](t, objects, "ScaledObject")["web"]
	if spec.Min != *like.MinReplicas || spec.Max != like.MaxReplicas || spec.Target.Name != like.ScaleTargetRef.Name || spec.Target.Kind != like.ScaleTargetRef.Kind {
		t.Errorf("%+v, in the place of %+v", spec, like)
	}
	text, err := json.Marshal(map[string]Load{"web": {Concurrency: 1, RPS: 2}})
	if err != nil {
		t.Fatal(err)
	}
	var answer map[string]map[string]float64
	if err := json.Unmarshal(text, &answer); err != nil {
		t.Fatal(err)
	}
	asked := map[string]string{}
	for _, one := range spec.Triggers {
		if one.Type == "cpu" {
			asked["cpu"] = one.Metadata["value"]
			continue
		}
		service, key, _ := strings.Cut(one.Metadata["valueLocation"], ".")
		if _, told := answer[service][key]; !told {
			t.Errorf("%s is nowhere in %s", one.Metadata["valueLocation"], text)
		}
		asked[key] = one.Metadata["targetValue"]
		if one.Metadata["url"] != "http://trellis-shop.shop-live.svc:19000/load" || one.Metric != "AverageValue" {
			t.Errorf("it asks %+v", one)
		}
	}
	if want := map[string]string{"concurrency": "14", "rps": "35", "cpu": "350m"}; !maps.Equal(asked, want) {
		t.Errorf("it aims at %v, want %v", asked, want)
	}
	for _, s := range objectsOf[*corev1.Service](objects) {
		leads := slices.ContainsFunc(s.Spec.Ports, func(p corev1.ServicePort) bool { return p.Port == HealthPort })
		if leads != (s.Name == "trellis-shop") {
			t.Errorf("%s leads to where the load is told: %v", s.Name, leads)
		}
	}
	for _, n := range Notes(p, opt) {
		if strings.HasPrefix(n.Path, "services.web.deploy.x-trellis.autoscale.target") {
			t.Errorf("said of what holds: %s %s", n.Path, n.Message)
		}
	}
	for _, d := range objectsOf[*appsv1.Deployment](objects) {
		if d.Name == "web" && d.Spec.Replicas != nil {
			t.Errorf("the number of pods is owned beside KEDA: %d", *d.Spec.Replicas)
		}
	}
}

// TestStoppedIsPaused: KEDA brings up what has no pods, so it leaves a service alone that was stopped.
func TestStoppedIsPaused(t *testing.T) {
	for _, stopped := range []bool{false, true} {
		_, _, objects := beside(t, func(o *Options) {
			o.Autoscaler, o.Overrides = compose.KEDA, map[string]state.Override{"web": {Service: "web", Stopped: stopped}}
		})
		for _, o := range objects {
			if o.GetObjectKind().GroupVersionKind() == scaledKind && (o.GetAnnotations()[kedaPaused] == "true") != stopped {
				t.Errorf("stopped %v, and annotations %v", stopped, o.GetAnnotations())
			}
		}
	}
}

// TestScaledIsRead back from a ScaledObject as from an autoscaler, with why KEDA does nothing.
func TestScaledIsRead(t *testing.T) {
	_, _, objects := beside(t, func(o *Options) { o.Autoscaler = compose.KEDA })
	for _, o := range objects {
		if u, ok := o.(*unstructured.Unstructured); ok && u.GroupVersionKind() == scaledKind {
			u.Object["status"] = map[string]any{"conditions": []any{map[string]any{"type": "Ready", "status": "False", "message": "no metrics"}}}
		}
	}
	a := autoscaleOf(workload{kind: "Deployment", name: "web"}, objects)
	if a == nil || a.Min != 1 || a.Max != 5 || a.Reason != "KEDA does not scale it: no metrics" {
		t.Errorf("%+v", a)
	}
	if other := autoscaleOf(workload{kind: "Deployment", name: "db"}, objects); other != nil {
		t.Errorf("of a service that is not scaled: %+v", other)
	}
}

// TestHandedOverToKEDAAndBack: of an autoscaler and a ScaledObject the one is gone before the other comes, and the number of pods stays.
func TestHandedOverToKEDAAndBack(t *testing.T) {
	s, c := cluster(t)
	s.more = map[string]map[string]string{"keda.sh/v1alpha1": {"scaledobjects": "ScaledObject"}, "autoscaling/v2": {"horizontalpodautoscalers": "HorizontalPodAutoscaler"}}
	const scaled, scaler = "/scaledobjects/web", "/horizontalpodautoscalers/web"
	for i, by := range []string{"", compose.KEDA, ""} {
		_, _, objects := beside(t, func(o *Options) { o.Namespace, o.Autoscaler = c.Namespace, by })
		s.writes = nil
		if err := c.put(t.Context(), "shop", objects, false); err != nil {
			t.Fatal(err)
		}
		comes, goes := scaler, scaled
		if by == compose.KEDA {
			comes, goes = scaled, scaler
		}
		at := func(method, path string) int {
			return slices.IndexFunc(s.writes, func(w string) bool { return strings.HasPrefix(w, method) && strings.HasSuffix(w, path) })
		}
		came, went := at("PATCH", comes), at("DELETE", goes)
		if came < 0 || went > came || went < 0 && i > 0 {
			t.Errorf("%q: %s comes as number %d, %s goes as number %d", by, comes, came, goes, went)
		}
	}
}
