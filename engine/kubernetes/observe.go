package kubernetes

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	appsv1 "k8s.io/api/apps/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	batchv1 "k8s.io/api/batch/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"trellis/engine"
	"trellis/errdefs"
)

var scalerKind = autoscalingv2.SchemeGroupVersion.WithKind("HorizontalPodAutoscaler")

// typed makes of an object one of the types that Render and Read know; any other kind stays as it is.
func typed(o *unstructured.Unstructured) (Object, error) {
	var one Object
	switch o.GroupVersionKind() {
	case appsv1.SchemeGroupVersion.WithKind("Deployment"):
		one = &appsv1.Deployment{}
	case appsv1.SchemeGroupVersion.WithKind("StatefulSet"):
		one = &appsv1.StatefulSet{}
	case appsv1.SchemeGroupVersion.WithKind("DaemonSet"):
		one = &appsv1.DaemonSet{}
	case batchv1.SchemeGroupVersion.WithKind("Job"):
		one = &batchv1.Job{}
	case corev1.SchemeGroupVersion.WithKind("Service"):
		one = &corev1.Service{}
	case scalerKind:
		one = &autoscalingv2.HorizontalPodAutoscaler{}
	case coordinationv1.SchemeGroupVersion.WithKind("Lease"):
		one = &coordinationv1.Lease{}
	case gatewayKind:
		one = &gatewayv1.Gateway{}
	case httpRouteKind:
		one = &gatewayv1.HTTPRoute{}
	case grpcRouteKind:
		one = &gatewayv1.GRPCRoute{}
	default:
		return o, nil
	}
	return one, runtime.DefaultUnstructuredConverter.FromUnstructured(o.Object, one)
}

// live reads what is there of a project: the objects of every kind of its inventory, and its pods.
func (c *Client) live(ctx context.Context, project string) (Live, error) {
	items, err := c.inventory(ctx, project)
	if err != nil {
		return Live{}, err
	}
	return c.liveOf(ctx, project, items)
}

// liveOf is live with an inventory that was read.
func (c *Client) liveOf(ctx context.Context, project string, items []item) (Live, error) {
	ours := map[item]bool{}
	var asked []schema.GroupVersionKind
	for _, i := range items {
		ours[i.object()] = true
		if !slices.ContainsFunc(asked, func(k schema.GroupVersionKind) bool { return k.GroupKind() == i.kind().GroupKind() }) {
			asked = append(asked, i.kind())
		}
	}
	lists := make([][]Object, len(asked))
	var out Live
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(listsAtOnce)
	for n, kind := range asked {
		g.Go(func() error {
			list, err := c.list(ctx, kind, project)
			if err != nil {
				return err
			}
			for _, o := range list {
				if !ours[itemOf(&o).object()] {
					continue // Trellis' own, or made by hand with its labels
				}
				one, err := typed(&o)
				if err != nil {
					return fmt.Errorf("read %s: %w", itemOf(&o), err)
				}
				lists[n] = append(lists[n], one)
			}
			return nil
		})
	}
	g.Go(func() (err error) {
		out.Pods, err = c.podsOf(ctx, project, "")
		return err
	})
	if err := g.Wait(); err != nil {
		return Live{}, err
	}
	out.Objects = slices.Concat(lists...)
	return out, nil
}

// listsAtOnce are how many kinds are asked for at a time: while the server writes one list, another is read.
const listsAtOnce = 4

// list returns the objects of a kind that Trellis made for a project: none where the cluster has no such kind any more, for with the
// definition of a kind goes all that there was of it.
func (c *Client) list(ctx context.Context, kind schema.GroupVersionKind, project string) ([]unstructured.Unstructured, error) {
	r, err := c.resource(kind)
	if errors.Is(err, errdefs.ErrUnsupported) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	list, err := r.List(ctx, selectProject(project))
	if apierrors.IsNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list %s: %w", kind.Kind, c.explain(err))
	}
	return list.Items, nil
}

// lastLines are how many lines of a failed instance are kept.
const lastLines = 50

// enrich says where ports are open that are so at every node, and of services that are not well what only the cluster's events and
// the pods' output tell.
func (c *Client) enrich(ctx context.Context, s *engine.State, live Live) {
	c.atNodes(ctx, s)
	refusals := sync.OnceValue(func() map[string]string { return refusals(live) })
	for i := range s.Services {
		svc := &s.Services[i]
		if svc.State == engine.ServiceHealthy || svc.State == engine.ServiceStopped || svc.State == engine.ServiceCompleted {
			continue
		}
		worst := worstOf(live.Pods, svc.Name)
		if worst == nil {
			svc.Reason = cmp.Or(svc.Reason, refusals()[svc.Name])
			continue
		}
		for n := range svc.Instances {
			if in := &svc.Instances[n]; string(in.ID) == worst.Name {
				in.Probe = c.lastProbe(ctx, worst)
				svc.Reason = cmp.Or(svc.Reason, in.Probe)
			}
		}
		step := slices.IndexFunc(worst.Status.InitContainerStatuses, func(c corev1.ContainerStatus) bool { return !c.Ready && crashOf(c) != nil })
		switch {
		case forsaken(*worst):
		case step >= 0: // it never came to the program
			svc.LastLog = c.lastOf(ctx, worst, logsOf{container: worst.Status.InitContainerStatuses[step].Name})
		default:
			if status := programStatus(worst); status != nil {
				svc.LastLog = c.tail(ctx, worst, status.RestartCount > 0)
			}
		}
	}
}

// worstOf returns the newest pod of a service that is not ready, nil where there is none.
func worstOf(all []corev1.Pod, service string) *corev1.Pod {
	var worst *corev1.Pod
	for i, pod := range all {
		if _, ready := readySince(pod); ready || serviceOf(&pod) != service || pod.DeletionTimestamp != nil {
			continue
		}
		if worst == nil || worst.CreationTimestamp.Before(&pod.CreationTimestamp) {
			worst = &all[i]
		}
	}
	return worst
}

// refusals say why services have no pods at all, by service; those whose pods nothing refuses are left out.
func refusals(live Live) map[string]string {
	all := map[string]string{}
	for _, w := range workloadsOf(live.Objects) {
		if w.refused != "" {
			all[w.service] = "its pods are refused: " + w.refused
		}
	}
	return all
}

var events = corev1.SchemeGroupVersion.WithKind("Event")

// lastProbe returns what the newest failed probe of a pod was answered, "" where none has failed.
func (c *Client) lastProbe(ctx context.Context, pod *corev1.Pod) string {
	r, err := c.resource(events)
	if err != nil {
		return ""
	}
	list, err := r.List(ctx, metav1.ListOptions{FieldSelector: "involvedObject.name=" + pod.Name + ",reason=Unhealthy"})
	if err != nil {
		return "" // the rest is said without it
	}
	var newest time.Time
	said := ""
	for _, o := range list.Items {
		var e corev1.Event
		if runtime.DefaultUnstructuredConverter.FromUnstructured(o.Object, &e) != nil {
			continue
		}
		if at := latest(e.LastTimestamp.Time, e.EventTime.Time); !at.Before(newest) {
			newest, said = at, e.Message
		}
	}
	return strings.TrimSpace(said)
}

func latest(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}
