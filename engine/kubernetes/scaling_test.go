package kubernetes

import (
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"trellis/autoscale"
	"trellis/engine"
	"trellis/errdefs"
	"trellis/proxy"
	"trellis/state"
)

// byLoad are Options of a project with a control plane, in a cluster with or without the external metrics.
func byLoad(metered bool) Options {
	return Options{Namespace: "ns", Revision: 1, Image: planeImage, Metered: metered}
}

// TestScalesByRequests: where the cluster has the external metrics an autoscaler goes by them; where it has not, what is left is done, and
// the rest is said.
func TestScalesByRequests(t *testing.T) {
	p := loaded(t, "testdata/scaled.yaml")
	var out strings.Builder
	for _, metered := range []bool{true, false} {
		fmt.Fprintf(&out, "# With external metrics: %v\n", metered)
		for _, n := range Notes(p, byLoad(metered)) {
			fmt.Fprintf(&out, "# %d:%d: %s %s\n", n.Line, n.Column, n.Path, n.Message)
		}
		objects, err := Render(p, nil, byLoad(metered))
		if err != nil {
			t.Fatal(err)
		}
		valid(t, objects)
		for _, h := range objectsOf[*autoscalingv2.HorizontalPodAutoscaler](objects) {
			out.WriteString("---\n" + string(text(t, h)))
		}
		for name, scaled := range map[string]bool{"web": metered, "api": true, "worker": false} {
			if owned := newRenderer(p, nil, byLoad(metered)).replicas(p.Services[name]) != nil; owned == scaled {
				t.Errorf("with metrics %v: replicas of %s are owned beside its autoscaler, or by nobody: %v", metered, name, owned)
			}
		}
	}
	golden(t, "testdata/scaled.autoscalers.yaml", out.String())
}

// TestDataPlaneMeasuresWhatIsScaledByIt: and gives one instance no more at a time than the target says.
func TestDataPlaneMeasuresWhatIsScaledByIt(t *testing.T) {
	p := loaded(t, "testdata/scaled.yaml")
	for _, metered := range []bool{true, false} {
		objects, err := Render(p, nil, byLoad(metered))
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, s := range planAmong(objects).Snapshot.Services {
			if s.Measured || s.Concurrency > 0 {
				got = append(got, fmt.Sprint(s.Name, " ", s.Measured, " ", s.Concurrency))
			}
		}
		want := []string{"api true 0", "web true 4"}
		if !metered {
			want = nil
		}
		if d := cmp.Diff(want, got); d != "" {
			t.Errorf("with metrics %v (-want +got):\n%s", metered, d)
		}
	}
	svc := p.Services["web"]
	svc.Name = "web"
	one := proxy.Service{Concurrency: 2}
	if most := newRenderer(p, nil, byLoad(true)).measures(&one, svc); most != 4 || !one.Measured {
		t.Errorf("%d at a time, measured: %v", most, one.Measured)
	}
}

// TestWhoIsScaledByRequestsIsNotScaledByHand: two owners of one number would undo each other.
func TestWhoIsScaledByRequestsIsNotScaledByHand(t *testing.T) {
	p := loaded(t, "testdata/scaled.yaml")
	svc, n := p.Services["web"], 2
	svc.Name = "web"
	for metered, want := range map[bool]error{true: errdefs.ErrConflict, false: nil} {
		if err := scalable(p, svc, state.Override{Service: "web", Replicas: &n}, byLoad(metered)); !errors.Is(err, want) {
			t.Errorf("with metrics %v: %v", metered, err)
		}
	}
}

// TestWhetherClusterHasMetrics: it has them when it says so. One that does not answer keeps whom it scales, and gets no new ones.
func TestWhetherClusterHasMetrics(t *testing.T) {
	p := loaded(t, "testdata/scaled.yaml")
	render := func(metered bool) []Object {
		objects, err := Render(p, nil, byLoad(metered))
		if err != nil {
			t.Fatal(err)
		}
		return objects
	}
	list := func(names ...string) func(w http.ResponseWriter) {
		return func(w http.ResponseWriter) {
			all := map[string]string{}
			for _, name := range names {
				all[name] = "ExternalMetricValueList"
			}
			answerKinds(w, MetricsVersion, all)
		}
	}
	refuse := func(code int, reason string) func(w http.ResponseWriter) {
		return func(w http.ResponseWriter) { answer(w, code, reason, "no") }
	}
	for name, c := range map[string]struct {
		says    func(w http.ResponseWriter)
		live    []Object
		metered bool
		err     error
	}{
		"they are there":        {list(metricConcurrency, metricRPS), nil, true, nil},
		"another adapter's":     {list("externalmetrics"), render(true), false, nil},
		"none":                  {refuse(http.StatusNotFound, "NotFound"), render(true), false, nil},
		"not answered, new":     {refuse(http.StatusServiceUnavailable, "ServiceUnavailable"), render(false), false, nil},
		"not answered, in use":  {refuse(http.StatusServiceUnavailable, "ServiceUnavailable"), render(true), true, nil},
		"credentials have gone": {refuse(http.StatusUnauthorized, "Unauthorized"), render(true), false, errdefs.ErrUnavailable},
	} {
		t.Run(name, func(t *testing.T) {
			s, client := cluster(t)
			s.before = func(w http.ResponseWriter, r *http.Request) bool {
				if r.URL.Path != "/apis/"+MetricsVersion {
					return false
				}
				c.says(w)
				return true
			}
			e := New("scaled", client, slog.New(slog.DiscardHandler))
			got, err := e.metered(p, planeImage, Live{Objects: c.live})
			if got != c.metered || !errors.Is(err, c.err) {
				t.Errorf("%v, %v; want %v, %v", got, err, c.metered, c.err)
			}
			if got, err := e.metered(p, "", Live{Objects: c.live}); got || err != nil {
				t.Errorf("without a control plane: %v, %v", got, err)
			}
		})
	}
}

// TestWhyItIsScaled reads an autoscaler in the words of ps.
func TestWhyItIsScaled(t *testing.T) {
	p := loaded(t, "testdata/scaled.yaml")
	objects, err := Render(p, nil, byLoad(true))
	if err != nil {
		t.Fatal(err)
	}
	var api *autoscalingv2.HorizontalPodAutoscaler
	for _, h := range objectsOf[*autoscalingv2.HorizontalPodAutoscaler](objects) {
		if h.Name == "api" {
			api = h
		}
	}
	show := func() *engine.Autoscale {
		s := Read(state.Revision{Project: p, Number: 1}, Live{Objects: objects})
		i := slices.IndexFunc(s.Services, func(s engine.Service) bool { return s.Name == "api" })
		if worker := slices.IndexFunc(s.Services, func(s engine.Service) bool { return s.Name == "worker" }); s.Services[worker].Autoscale != nil {
			t.Error("a service without an autoscaler has one")
		}
		return s.Services[i].Autoscale
	}
	if got, want := show(), (&engine.Autoscale{Min: 2, Max: 9}); !cmp.Equal(got, want) {
		t.Errorf("before anything was decided: %+v", got)
	}
	now := metav1.Now()
	api.Status.DesiredReplicas, api.Status.LastScaleTime = 4, &now
	api.Status.CurrentMetrics = []autoscalingv2.MetricStatus{
		{Type: autoscalingv2.ExternalMetricSourceType, External: &autoscalingv2.ExternalMetricStatus{
			Metric: autoscalingv2.MetricIdentifier{Name: metricRPS}, Current: autoscalingv2.MetricValueStatus{AverageValue: resource.NewMilliQuantity(140_000, resource.DecimalSI)},
		}},
		{Type: autoscalingv2.ResourceMetricSourceType, Resource: &autoscalingv2.ResourceMetricStatus{
			Name: corev1.ResourceCPU, Current: autoscalingv2.MetricValueStatus{AverageValue: resource.NewMilliQuantity(250, resource.DecimalSI)},
		}},
	}
	want := &engine.Autoscale{Min: 2, Max: 9, DecidedAt: now.Time, Reason: "rps 140 a replica of 70, cpu 0.25 a replica of 1.6: 4"}
	if got := show(); !cmp.Equal(got, want) {
		t.Errorf("got %+v, want %+v", got, want)
	}
	api.Status.Conditions = []autoscalingv2.HorizontalPodAutoscalerCondition{{
		Type: autoscalingv2.ScalingActive, Status: corev1.ConditionFalse, Message: "unable to get external metric",
	}}
	if got := show(); got.Reason != "stays at 4: unable to get external metric" {
		t.Errorf("while it is not told: %+v", got)
	}
}

// TestEveryExternalMetricIsATarget: what is served and what is rendered are the same.
func TestEveryExternalMetricIsATarget(t *testing.T) {
	for name, of := range ExternalMetrics() {
		p := loaded(t, "testdata/scaled.yaml")
		m := newRenderer(p, nil, byLoad(true)).metric(p.Services["web"], autoscale.Target{Metric: of, Value: 1000})
		if m.External == nil || m.External.Metric.Name != name || m.External.Target.AverageValue.MilliValue() != 700_000 {
			t.Errorf("%s: %+v", of, m.External)
		}
	}
}
