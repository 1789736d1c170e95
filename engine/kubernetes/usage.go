package kubernetes

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"trellis/driver"
	"trellis/engine"
	"trellis/errdefs"
)

var podMetrics = schema.GroupVersionKind{Group: "metrics.k8s.io", Version: "v1beta1", Kind: "PodMetrics"}

// unmeasuredFor is for how long a cluster without a metrics API is believed to have none: to find that out all of its APIs are asked.
const unmeasuredFor = time.Minute

// Stats implements engine.Engine, as the cluster's metrics API measured it last, which is a matter of its resolution: 15 s
// mostly. A pod that it has not measured yet is left out. There is no such API: ErrUnsupported.
func (e *Engine) Stats(ctx context.Context, project string) ([]engine.Usage, error) {
	fail := func(err error) ([]engine.Usage, error) { return nil, fmt.Errorf("measure %s: %w", project, err) }
	none := fmt.Errorf("%w: the cluster has no metrics API: install metrics-server", errdefs.ErrUnsupported)
	if missed := e.unmeasured.Load(); missed != nil && time.Since(*missed) < unmeasuredFor {
		return fail(none)
	}
	r, err := e.client.resource(podMetrics)
	if errors.Is(err, errdefs.ErrUnsupported) {
		now := time.Now()
		e.unmeasured.Store(&now)
		return fail(none)
	}
	if err != nil {
		return fail(err)
	}
	list, err := r.List(ctx, metav1.ListOptions{LabelSelector: labelProject + "=" + labelValue(project)})
	if err != nil {
		return fail(e.client.explain(err))
	}
	pods, err := e.pods(ctx, project)
	if err != nil {
		return fail(err)
	}
	services := map[string]string{}
	for _, pod := range pods {
		services[pod.Name] = serviceOf(&pod)
	}
	all := []engine.Usage{}
	for _, o := range list.Items {
		if service := services[o.GetName()]; service != "" { // not of the data plane
			all = append(all, engine.Usage{Service: service, Instance: engine.InstanceID(o.GetName()), Usage: usageOf(o.Object)})
		}
	}
	slices.SortFunc(all, func(a, b engine.Usage) int {
		return cmp.Or(cmp.Compare(a.Service, b.Service), cmp.Compare(a.Instance, b.Instance))
	})
	return all, nil
}

// usageOf adds up what the containers of one pod use.
func usageOf(metrics map[string]any) driver.Usage {
	u := driver.Usage{Rate: new(float64), Enforced: true}
	containers, _, _ := unstructured.NestedSlice(metrics, "containers")
	for _, c := range containers {
		m, _ := c.(map[string]any)
		usage, _, _ := unstructured.NestedStringMap(m, "usage")
		if q, err := resource.ParseQuantity(usage[string(corev1.ResourceCPU)]); err == nil {
			*u.Rate += q.AsApproximateFloat64()
		}
		if q, err := resource.ParseQuantity(usage[string(corev1.ResourceMemory)]); err == nil {
			u.Memory += q.Value()
		}
	}
	return u
}
