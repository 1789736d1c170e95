package kubernetes

import (
	"slices"

	autoscalingv2 "k8s.io/api/autoscaling/v2"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"trellis/compose"
)

// metered says whether a project that wants to be scaled by requests can be: the cluster has the external metrics of Trellis. One that
// does not answer for a moment is still there for whom it scales already: its replicas are not to be taken back for that.
func (e *Engine) metered(p compose.Project, image string, live Live) (bool, error) {
	wanted := false
	for _, svc := range p.Services {
		wanted = wanted || byRequests(svc)
	}
	if image == "" || !wanted || Autoscaler(p) != "" {
		return false, nil
	}
	list, err := e.client.kinds.resources(MetricsVersion)
	switch {
	case err == nil:
		return slices.ContainsFunc(list, func(r metav1.APIResource) bool { return r.Name == metricConcurrency }), nil
	case apierrors.IsNotFound(err), apierrors.IsForbidden(err):
		return false, nil
	case apierrors.IsServiceUnavailable(err):
		return scaledByRequests(live.Objects), nil
	}
	return false, e.client.explain(err)
}

// scaledByRequests says whether an autoscaler among objects goes by an external metric of Trellis.
func scaledByRequests(objects []Object) bool {
	for _, h := range objectsOf[*autoscalingv2.HorizontalPodAutoscaler](objects) {
		for _, m := range h.Spec.Metrics {
			if m.External != nil && ExternalMetrics()[m.External.Metric.Name] != "" {
				return true
			}
		}
	}
	return false
}
