package kubernetes

import (
	"cmp"
	"context"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"trellis/engine"
)

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
	out := Live{At: time.Now()}
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(listsAtOnce)
	for n, kind := range asked {
		g.Go(func() error {
			list, err := c.list(ctx, kind, project)
			if err != nil {
				return err
			}
			// The others are Trellis' own, or made by hand with its labels.
			lists[n] = slices.DeleteFunc(list, func(o Object) bool { return !ours[itemOf(o).object()] })
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
	out.Objects, out.Leaving = withoutLeaving(slices.Concat(lists...), items)
	return out, nil
}

// listsAtOnce are how many kinds are asked for at a time: while the server writes one list, another is read.
const listsAtOnce = 4

// lastLines are how many lines of a failed instance are kept.
const lastLines = 50

// enrich says where ports are open that are so at every node, and of services that are not well what only the cluster's events and
// the pods' output tell.
func (c *Client) enrich(ctx context.Context, s *engine.State, live Live) {
	c.atNodes(ctx, s)
	refusals := sync.OnceValue(func() map[string]string { return c.refusals(ctx, live) })
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

var events = corev1.SchemeGroupVersion.WithKind("Event")

// lastProbe returns what the newest failed probe of a pod was answered, "" where none has failed.
func (c *Client) lastProbe(ctx context.Context, pod *corev1.Pod) string {
	_, said := c.lastEvent(ctx, "Pod", pod.Name, "Unhealthy")
	return said
}

func latest(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}
