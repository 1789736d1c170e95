package kubernetes

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/dynamic"

	"trellis/compose"
	"trellis/engine"
	"trellis/errdefs"
)

// A service whose workload becomes one of another kind has two of one name for a while: the new one, and the old one, whose pods serve until
// those of the new one do. The inventory says of the old one that it is leaving. What ends by itself is none of the two.

// lasting are the kinds of workload whose pods serve until somebody ends them.
var lasting = []string{"Deployment", "StatefulSet", "DaemonSet"}

// otherKind says whether two items run one service, each in its own way.
func (i item) otherKind(o item) bool {
	return i.Group == o.Group && i.Name == o.Name && i.Kind != o.Kind && slices.Contains(lasting, i.Kind) && slices.Contains(lasting, o.Kind)
}

// outgoing are the items in whose place those of another kind among now run a service.
func outgoing(items, now []item) []item {
	return slices.DeleteFunc(slices.Clone(items), func(i item) bool { return !slices.ContainsFunc(now, i.otherKind) })
}

// marked returns items of which those say that they are leaving in whose place others among now come.
func marked(items, now []item) []item {
	items = slices.Clone(items)
	for n, i := range items {
		items[n].Leaving = i.Leaving || slices.ContainsFunc(now, i.otherKind)
	}
	return items
}

// present returns the items that are there and are the project's, also those that are about to end.
func (c *Client) present(ctx context.Context, project string, items []item) (all []item, err error) {
	for _, i := range items {
		r, err := c.resource(i.kind())
		if errors.Is(err, errdefs.ErrUnsupported) {
			continue // with the definition of its kind it has gone, too
		}
		var o *unstructured.Unstructured
		if err == nil {
			o, err = c.ourOwn(ctx, r, project, i.Name)
		}
		if err != nil && !errors.Is(err, errdefs.ErrConflict) {
			return nil, fmt.Errorf("look at %s: %w", i, err)
		}
		if o != nil {
			all = append(all, i)
		}
	}
	return all, nil
}

// withoutLeaving takes the workloads out of objects that are leaving.
func withoutLeaving(objects []Object, items []item) (stay, leave []Object) {
	leaving := map[item]bool{}
	for _, i := range items {
		leaving[i.object()] = i.Leaving
	}
	for _, o := range objects {
		if leaving[itemOf(o).object()] {
			leave = append(leave, o)
		} else {
			stay = append(stay, o)
		}
	}
	return stay, leave
}

// workloads are those of services, as workloadsOf gives them. One that is leaving is its service's as long as there is no other.
func (l Live) workloads() []workload {
	all := workloadsOf(l.Objects)
	for _, w := range workloadsOf(l.Leaving) {
		if !slices.ContainsFunc(all, func(o workload) bool { return o.service == w.service }) {
			all = append(all, w)
		}
	}
	slices.SortFunc(all, func(a, b workload) int { return strings.Compare(a.service, b.service) })
	return all
}

// madeBy says whether a pod is one of a workload of that kind. The pods of a Deployment are made by what that makes.
func madeBy(pod *corev1.Pod, kind string) bool {
	owner := metav1.GetControllerOf(pod)
	if owner == nil || owner.Kind == "ReplicaSet" {
		return owner == nil || kind == "Deployment"
	}
	return owner.Kind == kind
}

// stopsFirst says whether the workload of a service has to go before next, one of another kind, is there: they would have the same ports of
// a node, or a volume that two pods must not have, or the file wants it so. shared says of a claim that many nodes may have it at a time.
func stopsFirst(svc compose.Service, next, was Object, shared func(claim string) bool) bool {
	a, b := templateOf(next), templateOf(was)
	if a == nil || b == nil || wantsNone(next) || holdsHostPort(*a) && holdsHostPort(*b) {
		return true
	}
	bare := svc
	bare.Volumes = nil // it may have them now, and is alone with them as long as the one before has others
	if first, _ := engine.StopFirst(bare, engine.Replicas(svc)); first {
		return true
	}
	first, _ := engine.StopFirst(svc, engine.Replicas(svc))
	claims := claimedBy(was)
	return slices.ContainsFunc(claimedBy(next), func(claim string) bool { return slices.Contains(claims, claim) && (first || !shared(claim)) })
}

// wantsNone says whether a workload is to have no pods.
func wantsNone(o Object) bool {
	switch o := o.(type) {
	case *appsv1.Deployment:
		return valueOr(o.Spec.Replicas, 1) == 0
	case *appsv1.StatefulSet:
		return valueOr(o.Spec.Replicas, 1) == 0
	case *appsv1.DaemonSet:
		return o.Spec.Template.Spec.NodeSelector[labelNowhere] != ""
	}
	return false
}

// claimedBy are the claims of the pods of a workload.
func claimedBy(o Object) (all []string) {
	for _, v := range templateOf(o).Spec.Volumes {
		if v.PersistentVolumeClaim != nil {
			all = append(all, v.PersistentVolumeClaim.ClaimName)
		}
	}
	if set, ok := o.(*appsv1.StatefulSet); ok {
		for _, t := range set.Spec.VolumeClaimTemplates {
			for n := range valueOr(set.Spec.Replicas, 1) {
				all = append(all, fmt.Sprintf("%s-%s-%d", t.Name, set.Name, n))
			}
		}
	}
	return all
}

// shared says whether pods on many nodes may have a claim at a time. One that cannot be looked at is believed to be for one node alone.
func (c *Client) shared(ctx context.Context, claim string) bool {
	r, err := c.resource(persistentVolumeClaims)
	if err != nil {
		return false
	}
	o, err := r.Get(ctx, claim, metav1.GetOptions{})
	if err != nil {
		return false
	}
	modes, _, _ := unstructured.NestedStringSlice(o.Object, "spec", "accessModes")
	return slices.Contains(modes, string(corev1.ReadWriteMany)) || slices.Contains(modes, string(corev1.ReadOnlyMany))
}

// makeWay removes the workloads in whose place those of another kind among objects come, and that cannot stand beside these. What the
// cluster would refuse is in nobody's place.
func (e *Engine) makeWay(ctx context.Context, p compose.Project, objects []Object, live Live) error {
	var over []item
	var coming []Object
	for _, was := range slices.Concat(live.Objects, live.Leaving) {
		for _, next := range objects {
			if itemOf(was).otherKind(itemOf(next)) && stopsFirst(p.Services[serviceOf(next)], next, was, func(claim string) bool { return e.client.shared(ctx, claim) }) {
				over, coming = append(over, itemOf(was)), append(coming, next)
			}
		}
	}
	if len(over) == 0 {
		return nil
	}
	if err := e.client.rehearse(ctx, e.project, coming); err != nil {
		return err
	}
	return e.client.prune(ctx, e.project, over, metav1.DeleteOptions{}, removePatience)
}

// begunAs makes a workload whose autoscaler is to say how many pods there are. It begins with least, and in place of one of another kind with
// as many as that has, and not with one, which would be all until the autoscaler has looked. It returns what is there then, nil for nothing.
func (c *Client) begunAs(ctx context.Context, r dynamic.ResourceInterface, project string, o *unstructured.Unstructured, least int64) (*unstructured.Unstructured, error) {
	of := itemOf(o)
	if _, has, _ := unstructured.NestedInt64(o.Object, "spec", "replicas"); has || of.Group != appsv1.GroupName || of.Kind != "Deployment" && of.Kind != "StatefulSet" {
		return nil, nil
	}
	most := least
	for _, kind := range lasting {
		of := of
		of.Kind = kind
		other, err := c.resource(of.kind())
		if kind == o.GetKind() || err != nil {
			continue
		}
		was, err := c.ourOwn(ctx, other, project, of.Name)
		if was == nil || err != nil { // who may not look has none to do with: a role has the kinds that its project has
			continue
		}
		path := []string{"spec", "replicas"}
		if kind == "DaemonSet" {
			path = []string{"status", "desiredNumberScheduled"}
		}
		n, _, _ := unstructured.NestedInt64(was.Object, path...)
		most = max(most, n)
	}
	if most < 2 {
		return nil, nil
	}
	first := o.DeepCopy()
	if err := unstructured.SetNestedField(first.Object, most, "spec", "replicas"); err != nil {
		return nil, err
	}
	made, err := r.Apply(ctx, o.GetName(), first, metav1.ApplyOptions{FieldManager: fieldManager})
	return made, c.refusal(err)
}

// dismiss removes the workloads that are leaving and whose pods no one needs any more, and says whether any were still there.
func (w *watcher) dismiss(ctx context.Context, one record, live Live) (standing bool, err error) {
	var over []item
	for _, o := range live.Leaving {
		if o.GetDeletionTimestamp() != nil {
			continue
		}
		standing = true
		if inPlace(one.Project, serviceOf(o), live) {
			over = append(over, itemOf(o))
		}
	}
	if len(over) == 0 {
		return standing, nil
	}
	w.engine.writes.Lock()
	defer w.engine.writes.Unlock()
	return standing, w.unlessOvertaken(ctx, one, func() error { // their pods may take their time
		_, err := w.engine.client.remove(ctx, w.engine.project, over, metav1.DeleteOptions{})
		return err
	})
}

// over waits for the end of a workload that somebody has removed and wants again: dismiss does not wait for it.
func (c *Client) over(ctx context.Context, o *unstructured.Unstructured) error {
	ctx, cancel := context.WithTimeout(ctx, removePatience)
	defer cancel()
	return c.gone(ctx, itemOf(o), o.GetUID())
}

// inPlace says whether all pods of a service are there that its workload is to have, and have been ready for as long as the file has new
// ones watched.
func inPlace(p compose.Project, service string, live Live) bool {
	all := workloadsOf(live.Objects)
	i := slices.IndexFunc(all, func(w workload) bool { return w.service == service })
	if i < 0 || !all[i].current {
		return false
	}
	watched, ready := time.Duration(minReady(p.Services[service]))*time.Second, 0
	for _, pod := range live.Pods {
		if serviceOf(&pod) != service || revisionOf(pod.ObjectMeta) != all[i].revision || !madeBy(&pod, all[i].kind) || !instance(pod).Ready {
			continue
		}
		if since, _ := readySince(pod); watched == 0 || !since.IsZero() && live.At.Sub(since) >= watched {
			ready++
		}
	}
	return ready >= all[i].want
}

// Diff is engine.Diff of what a cluster makes of it: where a service gets a workload of another kind, its instances are replaced.
func (e *Engine) Diff(ctx context.Context, want compose.Project, have engine.State) []engine.Change {
	changes := engine.Diff(want, have)
	if have.Desired == nil || len(changes) == 0 {
		return changes
	}
	before, after := workloadObjects(*have.Desired), workloadObjects(want)
	for _, name := range slices.Sorted(maps.Keys(after)) {
		was, next := before[name], after[name]
		if was == nil || itemOf(was).Kind == itemOf(next).Kind {
			continue
		}
		effect := engine.EffectRollout
		if !itemOf(was).otherKind(itemOf(next)) || stopsFirst(want.Services[name], next, was, func(claim string) bool { return e.client.shared(ctx, claim) }) {
			effect = engine.EffectStopFirst
		}
		for i, c := range changes {
			if replaces(c, name) {
				changes[i].Effect = effect
			}
		}
	}
	return changes
}

// deciding are the attributes of a service that decide of what kind its workload is.
var deciding = []string{"deploy.mode", "deploy.replicas", "deploy.restart_policy", "deploy.update_config", "restart", "volumes"}

// replaces says whether a change is one for which a service whose workload becomes one of another kind gets other instances.
func replaces(c engine.Change, service string) bool {
	attribute, its := strings.CutPrefix(c.Path, compose.JoinPath("services", service)+".")
	if !its { // whoever awaits that it completes
		return strings.HasPrefix(c.Path, "services.") && strings.Contains(c.Path, "."+compose.JoinPath("depends_on", service))
	}
	return c.Effect == engine.EffectRollout || c.Effect == engine.EffectStopFirst || slices.ContainsFunc(deciding, func(path string) bool {
		rest, is := strings.CutPrefix(attribute, path)
		return is && (rest == "" || rest[0] == '.' || rest[0] == '[')
	})
}

// workloadObjects are the workloads of a project's services as a cluster would have them, by service.
func workloadObjects(p compose.Project) map[string]Object {
	r := newRenderer(p, nil, Options{Revision: 1})
	r.project()
	all := map[string]Object{}
	for _, o := range r.out {
		if slices.Contains(workloads, itemOf(o).Kind) && o.GetLabels()[labelComponent] == "" {
			all[serviceOf(o)] = o
		}
	}
	return all
}
