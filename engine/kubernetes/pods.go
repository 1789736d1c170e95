package kubernetes

import (
	"context"
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
)

var pods = corev1.SchemeGroupVersion.WithKind("Pod")

// pods returns the pods of a namespace that a selector of labels finds. Which kinds the cluster has is not asked for that.
func (c *Client) pods(ctx context.Context, namespace, selector string) (all []corev1.Pod, err error) {
	at := corev1.SchemeGroupVersion.WithResource("pods")
	err = c.each(ctx, at, pods, namespace, selector, func(o Object) { all = append(all, *o.(*corev1.Pod)) })
	if err != nil {
		return nil, fmt.Errorf("list pods: %w", c.explain(err))
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

// program returns in which container of a pod its service's program runs: others may have put theirs beside it, before or after it.
func program(pod *corev1.Pod) *corev1.Container {
	all := pod.Spec.Containers
	if i := slices.IndexFunc(all, func(c corev1.Container) bool { return c.Name == pod.Labels[labelService] }); i >= 0 {
		return &all[i]
	}
	if len(all) == 0 {
		return &corev1.Container{}
	}
	return &all[0]
}

// programStatus is how that container is, nil where the cluster does not say so yet.
func programStatus(pod *corev1.Pod) *corev1.ContainerStatus {
	all, name := pod.Status.ContainerStatuses, program(pod).Name
	if i := slices.IndexFunc(all, func(c corev1.ContainerStatus) bool { return c.Name == name }); i >= 0 {
		return &all[i]
	}
	if len(all) == 0 {
		return nil
	}
	return &all[0]
}
