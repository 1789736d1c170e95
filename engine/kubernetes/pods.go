package kubernetes

import (
	"context"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
)

var pods = corev1.SchemeGroupVersion.WithKind("Pod")

// pods returns the pods of a namespace that a selector of labels finds. Which kinds the cluster has is not asked for that.
func (c *Client) pods(ctx context.Context, namespace, selector string) ([]corev1.Pod, error) {
	list, err := c.dynamic.Resource(corev1.SchemeGroupVersion.WithResource("pods")).Namespace(namespace).List(ctx, metav1.ListOptions{LabelSelector: selector})
	if err != nil {
		return nil, fmt.Errorf("list pods: %w", c.explain(err))
	}
	all := make([]corev1.Pod, len(list.Items))
	for i, o := range list.Items {
		if err := runtime.DefaultUnstructuredConverter.FromUnstructured(o.Object, &all[i]); err != nil {
			return nil, fmt.Errorf("read pod %s: %w", o.GetName(), err)
		}
	}
	return all, nil
}

// podsOf returns those of a project; with component the pods of a part of Trellis alone.
func (c *Client) podsOf(ctx context.Context, project, component string) ([]corev1.Pod, error) {
	selector := selectProject(project).LabelSelector
	if component != "" {
		selector += "," + labelComponent + "=" + component
	}
	return c.pods(ctx, c.Namespace, selector)
}

// readySince returns since when a pod is ready; false: it is not.
func readySince(pod corev1.Pod) (since time.Time, ready bool) {
	for _, c := range pod.Status.Conditions {
		if c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue {
			return c.LastTransitionTime.Time, true
		}
	}
	return time.Time{}, false
}
