package kubernetes

import (
	"context"
	"encoding/json"
	"slices"

	appsv1 "k8s.io/api/apps/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/dynamic"
)

// scaleManager owns the number of pods of a workload between the apply that no longer has it and the first decision of its
// autoscaler. autoscaleManager is who owns it from then on: the one that runs the autoscalers of a cluster.
const (
	scaleManager     = "trellis-scale"
	autoscaleManager = "kube-controller-manager"
)

// handOver keeps the number of pods as it is when o no longer says it, because an autoscaler is to: an apply that leaves
// out what it alone has owned takes the value away, and the workload would fall to one pod. It is no less than least: what was stopped has
// none, and an autoscaler may take its time before it looks.
func (c *Client) handOver(ctx context.Context, r dynamic.ResourceInterface, o, there *unstructured.Unstructured, least int64) error {
	now, had, _ := unstructured.NestedInt64(there.Object, "spec", "replicas")
	_, has, _ := unstructured.NestedInt64(o.Object, "spec", "replicas")
	scaled := slices.Contains([]string{"Deployment", "StatefulSet"}, o.GetKind())
	now = max(now, least)
	if !scaled || !had || has || now == 0 || !ownsReplicas(there) {
		return nil
	}
	keep := object(o.GroupVersionKind(), o.GetName(), nil)
	if err := unstructured.SetNestedField(keep.Object, now, "spec", "replicas"); err != nil {
		return err
	}
	_, err := r.Apply(ctx, o.GetName(), keep, metav1.ApplyOptions{FieldManager: scaleManager, Force: true})
	return c.explain(err)
}

// leastOf are how many pods the autoscalers among objects let a workload have at least, by the workload.
func leastOf(objects []Object) map[item]int64 {
	all := map[item]int64{}
	for _, o := range objects {
		switch o := o.(type) {
		case *autoscalingv2.HorizontalPodAutoscaler:
			to := o.Spec.ScaleTargetRef
			all[item{Group: appsv1.GroupName, Kind: to.Kind, Name: to.Name}] = int64(valueOr(o.Spec.MinReplicas, 1))
		case *unstructured.Unstructured:
			if to, least, is := scaledBy(o); is {
				all[item{Group: appsv1.GroupName, Kind: to.Kind, Name: to.Name}] = least
			}
		}
	}
	return all
}

// ownsReplicas says whether an apply of Trellis has set how many pods there are.
func ownsReplicas(o *unstructured.Unstructured) bool {
	return slices.ContainsFunc(o.GetManagedFields(), func(f metav1.ManagedFieldsEntry) bool {
		if f.Manager != fieldManager || f.Operation != metav1.ManagedFieldsOperationApply || f.FieldsV1 == nil {
			return false
		}
		var fields map[string]any
		if json.Unmarshal(f.FieldsV1.GetRawBytes(), &fields) != nil {
			return false
		}
		_, has, _ := unstructured.NestedFieldNoCopy(fields, "f:spec", "f:replicas")
		return has
	})
}

// autoscalers says whether all that keeps an apply is the number of pods that an autoscaler has decided: the file no longer
// has the autoscaler, so its number is to be taken back.
func autoscalers(err error) bool {
	if !apierrors.IsConflict(err) {
		return false
	}
	all := conflicts(err)
	for owner, fields := range all {
		if owner != autoscaleManager && owner != scaleManager || len(fields) != 1 || fields[0] != replicasPath {
			return false
		}
	}
	return len(all) > 0
}
