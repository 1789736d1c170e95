package kubernetes

import (
	"cmp"
	"fmt"
	"slices"

	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/intstr"

	"trellis/autoscale"
	"trellis/compose"
	"trellis/engine"
)

var scaledKind = schema.GroupVersionKind{Group: "keda.sh", Version: "v1alpha1", Kind: "ScaledObject"}

// kedaPaused keeps KEDA from a service that was stopped: it would bring up what has no pods.
const kedaPaused = "autoscaling.keda.sh/paused"

// Autoscaler returns what of the cluster scales a project, "" for Kubernetes itself.
func Autoscaler(p compose.Project) string { return p.Trellis.Environments[p.Environment].Autoscaler }

// byKEDA says whether KEDA scales the project: as whoever renders says, else the environment.
func (r *renderer) byKEDA() bool {
	return cmp.Or(r.opt.Autoscaler, Autoscaler(r.p)) == compose.KEDA
}

// metered says whether the cluster can scale by what the data plane measures.
func (r *renderer) metered() bool { return r.opt.Metered || r.byKEDA() }

// scaledObject is the spec of a ScaledObject (keda.sh/v1alpha1), as far as it is written here.
type scaledObject struct {
	Target   scaleTarget    `json:"scaleTargetRef"`
	Min      int32          `json:"minReplicaCount"`
	Max      int32          `json:"maxReplicaCount"`
	Advanced scaledAdvanced `json:"advanced"`
	Triggers []trigger      `json:"triggers"`
}

type scaleTarget struct {
	APIVersion string `json:"apiVersion"`
	Kind       string `json:"kind"`
	Name       string `json:"name"`
}

type scaledAdvanced struct {
	Autoscaler scaledBehavior `json:"horizontalPodAutoscalerConfig"`
}

type scaledBehavior struct {
	Behavior *autoscalingv2.HorizontalPodAutoscalerBehavior `json:"behavior"`
}

type trigger struct {
	Type     string            `json:"type"`
	Metric   string            `json:"metricType"`
	Metadata map[string]string `json:"metadata"`
}

// scaledObject renders what KEDA makes an autoscaler of: the same one that stands in its place where there is no KEDA, but for requests, which
// KEDA asks the control plane for itself.
func (r *renderer) scaledObject(svc compose.Service, k kind, a compose.Autoscale) Object {
	like := r.autoscaler(svc, k, a)
	to := like.Spec.ScaleTargetRef
	spec := scaledObject{
		Target: scaleTarget{to.APIVersion, to.Kind, to.Name}, Min: *like.Spec.MinReplicas, Max: like.Spec.MaxReplicas,
		Advanced: scaledAdvanced{scaledBehavior{like.Spec.Behavior}},
	}
	for i, t := range r.targets(svc) {
		one := trigger{Type: "cpu", Metric: string(autoscalingv2.AverageValueMetricType)}
		if t.Metric == autoscale.CPU {
			one.Metadata = map[string]string{"value": like.Spec.Metrics[i].Resource.Target.AverageValue.String()}
		} else {
			one.Type = "metrics-api"
			one.Metadata = map[string]string{
				"targetValue":   fmt.Sprint(like.Spec.Metrics[i].External.Target.AverageValue.AsApproximateFloat64()),
				"url":           fmt.Sprintf("http://%s.%s.svc:%d%s", r.telemetry, r.opt.Namespace, HealthPort, LoadPath),
				"valueLocation": r.names.of[svc.Name] + "." + string(t.Metric),
			}
		}
		spec.Triggers = append(spec.Triggers, one)
	}
	meta := r.meta(svc, r.names.of[svc.Name])
	if r.opt.Overrides[svc.Name].Stopped {
		meta.Annotations = with(meta.Annotations, kedaPaused, "true")
	}
	return made(scaledKind, meta, spec)
}

// askedByKEDA is the port of the control plane's Service at which KEDA asks for the load: it looks for no pods.
func (r *renderer) askedByKEDA() []corev1.ServicePort {
	if !r.byKEDA() || !slices.ContainsFunc(r.p.ServiceNames(), func(name string) bool { return byRequests(r.p.Services[name]) }) {
		return nil
	}
	return []corev1.ServicePort{{Name: "load", Port: HealthPort, TargetPort: intstr.FromInt32(HealthPort), Protocol: corev1.ProtocolTCP}}
}

// scaledOf reads what a ScaledObject says of a workload, nil where there is none.
func scaledOf(w workload, all []Object) *engine.Autoscale {
	for _, o := range objectsOf[*unstructured.Unstructured](all) {
		to, least, is := scaledBy(o)
		if !is || to.Kind != w.kind || to.Name != w.name {
			continue
		}
		most, _, _ := unstructured.NestedInt64(o.Object, "spec", "maxReplicaCount")
		return &engine.Autoscale{Min: int(least), Max: int(most), Reason: unready(o)}
	}
	return nil
}

// scaledBy says which workload an object has KEDA scale, and how many pods that has at least; false: it is no ScaledObject.
func scaledBy(o *unstructured.Unstructured) (to scaleTarget, least int64, is bool) {
	if o.GroupVersionKind() != scaledKind {
		return to, 0, false
	}
	to.Kind, _, _ = unstructured.NestedString(o.Object, "spec", "scaleTargetRef", "kind")
	to.Name, _, _ = unstructured.NestedString(o.Object, "spec", "scaleTargetRef", "name")
	least, _, _ = unstructured.NestedInt64(o.Object, "spec", "minReplicaCount")
	return to, least, true
}

// unready says why KEDA does not scale, "" where it does, or has not looked yet.
func unready(o *unstructured.Unstructured) string {
	conditions, _, _ := unstructured.NestedSlice(o.Object, "status", "conditions")
	for _, c := range conditions {
		one, _ := c.(map[string]any)
		if one["type"] == "Ready" && one["status"] == string(metav1.ConditionFalse) {
			return fmt.Sprintf("KEDA does not scale it: %v", one["message"])
		}
	}
	return ""
}
