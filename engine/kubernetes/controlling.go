package kubernetes

import (
	"context"
	"fmt"
	"slices"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"

	"trellis/engine/judge"
	"trellis/errdefs"
)

// Control says that the engine is part of the control plane in the cluster: its loop acts although, and because, that holds the
// project's Lease.
type Control struct {
	Image string // of this pod: one that is to be replaced by another version leaves the deciding to that
	// Tally is what the data plane has measured, as it tells it. nil: rollouts are judged by the health of instances alone.
	Tally *judge.Tally
}

// UseControl makes the engine that of the control plane in the cluster. It is called before the engine is used.
func (e *Engine) UseControl(c Control) { e.control = &c }

// outdated says whether this is the control plane of an image that is not wanted any more. What it would render, the next one
// would render otherwise.
func (e *Engine) outdated(live Live) bool {
	if e.control == nil {
		return false
	}
	return !slices.ContainsFunc(objectsOf[*appsv1.Deployment](live.Objects), func(d *appsv1.Deployment) bool {
		return d.Name == controlName(e.project) && imageIn(d.Spec.Template.Spec) == e.control.Image
	})
}

// Content returns what a secret or config of a kept revision held. None: ErrNotFound.
func (e *Engine) Content(ctx context.Context, ref string) ([]byte, error) {
	all, err := e.history(ctx)
	if err != nil {
		return nil, err
	}
	for _, r := range all {
		if content, ok := r.contents[ref]; ok {
			return content, nil
		}
	}
	return nil, fmt.Errorf("read a content of %s: %w: no revision that is kept has it", e.project, errdefs.ErrNotFound)
}

// DataPlanes returns the addresses of the pods of the data plane that run, and what they want to hear before they tell what they
// have measured. Only the control plane in the cluster asks for them.
func (e *Engine) DataPlanes(ctx context.Context) (hosts []string, key string, err error) {
	now, err := e.recent(ctx, e.project)
	if err != nil {
		return nil, "", err
	}
	for _, pod := range now.live.Pods {
		if pod.Labels[labelComponent] == dataPlane && pod.Status.Phase == corev1.PodRunning && pod.Status.PodIP != "" {
			hosts = append(hosts, pod.Status.PodIP)
		}
	}
	return hosts, planeKey(now.key), nil
}
