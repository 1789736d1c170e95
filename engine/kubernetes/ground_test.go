package kubernetes

import (
	"log/slog"
	"net/http"
	"slices"
	"testing"
	"time"

	"trellis/compose"
	"trellis/state"
)

// TestWhatTheClusterGivesIsAskedOnce: an apply and an override ask once each what the cluster gives besides the project's objects, also
// where a time to live is begun with it.
func TestWhatTheClusterGivesIsAskedOnce(t *testing.T) {
	s, client := cluster(t)
	s.more = map[string]map[string]string{"autoscaling/v2": {"horizontalpodautoscalers": "HorizontalPodAutoscaler"}}
	metrics := 0
	s.before = func(w http.ResponseWriter, r *http.Request) bool {
		if r.URL.Path != "/apis/"+MetricsVersion {
			return false
		}
		metrics++
		answerKinds(w, MetricsVersion, map[string]string{metricConcurrency: "ExternalMetricValueList"})
		return true
	}
	p := loaded(t, "testdata/scaled.yaml")
	hour := compose.Duration(time.Hour)
	p.Environment, p.Trellis.Environments = "test", map[string]compose.EnvironmentRef{"test": {TTL: &hour}}
	worker := p.Services["worker"]
	worker.Deploy.Trellis.Autoscale = nil
	p.Services["worker"] = worker
	e := New(p.Name, client, slog.New(slog.DiscardHandler))
	e.UsePlane(Plane{Image: planeImage})
	asked := func(what string) {
		t.Helper()
		const classes = "GET /apis/storage.k8s.io/v1/storageclasses"
		if n := len(slices.DeleteFunc(s.asked, func(one string) bool { return one != classes })); n != 1 || metrics != 1 {
			t.Errorf("%s asks %d times for storage classes and %d times for external metrics", what, n, metrics)
		}
		s.asked, metrics = nil, 0
	}
	if _, err := e.Apply(t.Context(), state.Revision{Project: p}, ""); err != nil {
		t.Fatal(err)
	}
	asked("an apply")
	three := 3
	if err := e.Override(t.Context(), p.Name, state.Override{Service: "worker", Replicas: &three}); err != nil {
		t.Fatal(err)
	}
	asked("an override")
}
