package kubernetes

import (
	"fmt"
	"math"
	"strings"

	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"trellis/autoscale"
	"trellis/compose"
	"trellis/engine"
	"trellis/proxy"
)

// downDelay is how long fewer replicas have to be enough, where the file does not say; as everywhere else in Trellis.
const downDelay = 30

// The external metrics by which a cluster scales, as MetricsAPI serves them.
const (
	metricConcurrency = "trellis_concurrency"
	metricRPS         = "trellis_requests_per_second"
)

// ExternalMetrics are the external metrics by their names, and what each of them is.
func ExternalMetrics() map[string]autoscale.Metric {
	return map[string]autoscale.Metric{metricConcurrency: autoscale.Concurrency, metricRPS: autoscale.RPS}
}

// targets are those of a service that the cluster has a measure of: its CPU, which every cluster measures, and what the data plane
// measures, where the cluster has the external metrics of Trellis.
func (r *renderer) targets(svc compose.Service) (all []autoscale.Target) {
	a, k := svc.Deploy.Trellis.Autoscale, r.kindOf(svc)
	if a == nil || k != deployment && k != statefulSet {
		return nil
	}
	for _, m := range []autoscale.Metric{autoscale.Concurrency, autoscale.RPS, autoscale.CPU} {
		known := r.controlled() && r.metered() && r.throughPlane(svc)
		if m == autoscale.CPU {
			known = svc.Deploy.Resources.Limits.CPUs > 0
		}
		if value := a.Target[string(m)]; known && value > 0 {
			all = append(all, autoscale.Target{Metric: m, Value: value})
		}
	}
	return all
}

// autoscaled says whether the cluster scales a service by itself.
func (r *renderer) autoscaled(svc compose.Service) bool { return len(r.targets(svc)) > 0 }

// measures has the data plane measure the load of a service that is scaled by it. It returns what one instance is given at a time, which
// as on one machine is a target of concurrency; 0: any number.
func (r *renderer) measures(to *proxy.Service, svc compose.Service) (most int) {
	for _, t := range r.targets(svc) {
		to.Measured = to.Measured || t.Metric != autoscale.CPU
		if t.Metric == autoscale.Concurrency {
			most = int(math.Ceil(t.Value))
		}
	}
	return most
}

// byRequests says whether the file wants a service to be scaled by what the data plane measures.
func byRequests(svc compose.Service) bool {
	a := svc.Deploy.Trellis.Autoscale
	return a != nil && (a.Target[string(autoscale.Concurrency)] > 0 || a.Target[string(autoscale.RPS)] > 0)
}

// scaling renders what keeps the number of a service's pods: its autoscaler, and its budget for disruptions.
func (r *renderer) scaling(svc compose.Service, k kind) {
	if a := svc.Deploy.Trellis.Autoscale; a != nil {
		r.checkScaling(svc, *a)
		if r.autoscaled(svc) && r.byKEDA() {
			r.add(r.scaledObject(svc, k, *a))
		} else if r.autoscaled(svc) {
			r.add(r.autoscaler(svc, k, *a))
		}
	}
	if r.most(svc) > 1 {
		one := intstr.FromInt32(1)
		r.add(&policyv1.PodDisruptionBudget{
			TypeMeta: metav1.TypeMeta{APIVersion: "policy/v1", Kind: "PodDisruptionBudget"}, ObjectMeta: r.meta(svc, r.names.of[svc.Name]),
			Spec: policyv1.PodDisruptionBudgetSpec{
				MaxUnavailable: &one, Selector: &metav1.LabelSelector{MatchLabels: r.selector(svc.Name)},
				// A pod that is not well anyway keeps no node from being drained.
				UnhealthyPodEvictionPolicy: pointer(policyv1.AlwaysAllow),
			},
		})
	}
}

// checkScaling says what of a service's autoscaling the cluster does not do.
func (r *renderer) checkScaling(svc compose.Service, a compose.Autoscale) {
	path := at(svc, "deploy.x-trellis.autoscale")
	possible := r.controlled() && r.throughPlane(svc)
	if possible && byRequests(svc) && r.limited && len(svc.Ports) > 0 {
		r.note(path, "is changed: services that not everyone may reach call each other directly: only what comes through the gateway and published ports is counted")
	}
	switch {
	case r.autoscaled(svc) || possible && byRequests(svc):
	case r.controlled() && byRequests(svc):
		r.note(path, "has no effect: requests are counted by the data plane, which leads to ports that the file names and to no Job: add expose, or target.cpu and deploy.resources.limits.cpus")
		return
	default:
		r.note(path, "has no effect: a cluster measures only CPU by itself: add target.cpu and deploy.resources.limits.cpus")
		return
	}
	for _, key := range []string{"concurrency", "rps"} {
		if _, ok := a.Target[key]; !ok || r.metered() && possible {
			continue
		}
		if possible {
			r.note(path+".target."+key, "has an effect only where the cluster has Trellis' metrics API: an administrator installs it once for all projects: %s", InstallMetrics)
		} else {
			r.note(path+".target."+key, "has no effect: a cluster measures only CPU by itself")
		}
	}
	if a.Min < 1 {
		r.note(path+".min", "is changed: at least one instance runs; a cluster wakes nothing up")
	}
}

func (r *renderer) autoscaler(svc compose.Service, k kind, a compose.Autoscale) *autoscalingv2.HorizontalPodAutoscaler {
	var metrics []autoscalingv2.MetricSpec
	for _, t := range r.targets(svc) {
		metrics = append(metrics, r.metric(svc, t))
	}
	return &autoscalingv2.HorizontalPodAutoscaler{
		TypeMeta: metav1.TypeMeta{APIVersion: "autoscaling/v2", Kind: "HorizontalPodAutoscaler"}, ObjectMeta: r.meta(svc, r.names.of[svc.Name]),
		Spec: autoscalingv2.HorizontalPodAutoscalerSpec{
			ScaleTargetRef: autoscalingv2.CrossVersionObjectReference{APIVersion: "apps/v1", Kind: k.String(), Name: r.names.of[svc.Name]},
			MinReplicas:    pointer(max(1, clamp(a.Min))), MaxReplicas: max(1, clamp(a.Max)), Metrics: metrics,
			Behavior: &autoscalingv2.HorizontalPodAutoscalerBehavior{ScaleDown: &autoscalingv2.HPAScalingRules{
				StabilizationWindowSeconds: pointer(min(3600, seconds(a.DownDelay.Or(downDelay*1e9)))),
			}},
		},
	}
}

// metric is a target in the cluster's words. What is aimed at is the same as on one machine.
func (r *renderer) metric(svc compose.Service, t autoscale.Target) autoscalingv2.MetricSpec {
	value := autoscale.Aim(t)
	if t.Metric == autoscale.CPU { // a share of the limit, where Utilization would be one of the request: so it is given as an amount
		value *= svc.Deploy.Resources.Limits.CPUs
	}
	target := autoscalingv2.MetricTarget{
		Type: autoscalingv2.AverageValueMetricType, AverageValue: resource.NewMilliQuantity(max(1, int64(math.Round(min(value, 1e6)*1000))), resource.DecimalSI),
	}
	if t.Metric == autoscale.CPU {
		return autoscalingv2.MetricSpec{
			Type: autoscalingv2.ResourceMetricSourceType, Resource: &autoscalingv2.ResourceMetricSource{Name: corev1.ResourceCPU, Target: target},
		}
	}
	for name, of := range ExternalMetrics() {
		if of == t.Metric {
			return autoscalingv2.MetricSpec{Type: autoscalingv2.ExternalMetricSourceType, External: &autoscalingv2.ExternalMetricSource{
				Metric: autoscalingv2.MetricIdentifier{Name: name, Selector: &metav1.LabelSelector{MatchLabels: r.selector(svc.Name)}}, Target: target,
			}}
		}
	}
	panic(fmt.Sprintf("no external metric is %s", t.Metric)) // targets has no other
}

// most is how many pods of a service there may be.
func (r *renderer) most(svc compose.Service) int {
	if r.autoscaled(svc) {
		return svc.Deploy.Trellis.Autoscale.Max
	}
	return engine.Replicas(svc)
}

// autoscaleOf reads what the autoscaler of a workload says, nil where it has none.
func autoscaleOf(w workload, all []Object) *engine.Autoscale {
	for _, h := range objectsOf[*autoscalingv2.HorizontalPodAutoscaler](all) {
		if h.Spec.ScaleTargetRef.Kind != w.kind || h.Spec.ScaleTargetRef.Name != w.name {
			continue
		}
		a := &engine.Autoscale{Min: int(valueOr(h.Spec.MinReplicas, 1)), Max: int(h.Spec.MaxReplicas), Reason: scaledWhy(h)}
		if h.Status.LastScaleTime != nil {
			a.DecidedAt = h.Status.LastScaleTime.Time
		}
		return a
	}
	return scaledOf(w, all)
}

// scaledWhy says in one sentence why an autoscaler has decided as it did, "" as long as it has not.
func scaledWhy(h *autoscalingv2.HorizontalPodAutoscaler) string {
	for _, c := range h.Status.Conditions {
		if c.Type == autoscalingv2.ScalingActive && c.Status == corev1.ConditionFalse || c.Type == autoscalingv2.AbleToScale && c.Status == corev1.ConditionFalse {
			return fmt.Sprintf("stays at %d: %s", h.Status.DesiredReplicas, c.Message)
		}
	}
	var loads []string
	for _, wanted := range h.Spec.Metrics {
		name, target := measured(wanted)
		for _, m := range h.Status.CurrentMetrics {
			if of, now := current(m); name != "" && of == name && now != nil {
				loads = append(loads, fmt.Sprintf("%s %s a replica of %s", name, figure(now), figure(target)))
			}
		}
	}
	if len(loads) == 0 {
		return ""
	}
	return fmt.Sprintf("%s: %d", strings.Join(loads, ", "), h.Status.DesiredReplicas)
}

// measured is what an autoscaler goes by, as the file calls it, and how much of it a replica is to have. "": it is none of Trellis'.
func measured(s autoscalingv2.MetricSpec) (name string, target *resource.Quantity) {
	switch {
	case s.External != nil:
		return string(ExternalMetrics()[s.External.Metric.Name]), s.External.Target.AverageValue
	case s.Resource != nil:
		return string(s.Resource.Name), s.Resource.Target.AverageValue
	}
	return "", nil
}

// current is how much of that a replica has now; nil: it is not known.
func current(m autoscalingv2.MetricStatus) (name string, now *resource.Quantity) {
	switch {
	case m.External != nil:
		return string(ExternalMetrics()[m.External.Metric.Name]), m.External.Current.AverageValue
	case m.Resource != nil:
		return string(m.Resource.Name), m.Resource.Current.AverageValue
	}
	return "", nil
}

func figure(q *resource.Quantity) string {
	if q == nil {
		return "?"
	}
	return autoscale.Figure(q.AsApproximateFloat64())
}
