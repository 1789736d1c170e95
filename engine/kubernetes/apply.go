package kubernetes

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"

	"trellis/errdefs"
)

// fieldManager is whose fields Trellis' are: one name for everything, so that what a file no longer says is removed.
const fieldManager = "trellis"

// prunePatience is how long an apply waits for what it removed to be gone.
const prunePatience = 2 * time.Minute

// tidyPatience is the same for what is not in the way of anything.
const tidyPatience = 10 * time.Second

// applying is how many objects are applied at a time: a request waits on the server's disk, not on its processor.
const applying = 8

// stage is when an object is applied: what others refer to goes before them.
func stage(kind string) int {
	switch kind {
	case "Role":
		return 0
	case "Deployment", "StatefulSet", "DaemonSet", "Job", "CronJob":
		return 2
	case "HorizontalPodAutoscaler", "PodDisruptionBudget", "ScaledObject":
		return 3
	}
	return 1
}

// put makes objects those of a project: applied stage by stage, server-side, and never by force; then what an earlier put has
// made and these are not is removed, unless more are to follow: all but the claims for volumes of the file, which are what going back finds
// again, and what Delete finds by their labels, what pods still have, see leftOver, and the workload of a service that gets one of another
// kind, see dismiss. It may be repeated at any point.
// Another hand has a field: ErrConflict that names it and the field; nothing is removed then. All that can go wrong is
// said at once.
func (c *Client) put(ctx context.Context, project string, objects []Object, more bool) error {
	items := itemsOf(objects)
	before, err := c.inventory(ctx, project)
	if err != nil {
		return err
	}
	before = marked(without(before, items), items)
	if err := c.setInventory(ctx, project, union(before, items)); err != nil {
		return fmt.Errorf("write the inventory of %s: %w", project, err)
	}
	leaving := without(before, slices.DeleteFunc(claims(before), func(i item) bool { return i.Name == controlName(project) }))
	var used []item
	if !more {
		if used, err = c.usedOf(ctx, project, leaving, objects); err != nil {
			return err
		}
		stay, err := c.present(ctx, project, outgoing(leaving, items))
		if err != nil {
			return err
		}
		used = append(used, stay...)
		leaving = without(leaving, used)
		// An autoscaler that goes must not decide once more when its number has been taken back, and a mesh must not ask those who they are that
		// leave it.
		first := slices.DeleteFunc(slices.Clone(leaving), func(i item) bool { return i.Kind != "HorizontalPodAutoscaler" && !isForeign(i) })
		if err := c.prune(ctx, project, first, metav1.DeleteOptions{}, prunePatience); err != nil {
			return err
		}
	}
	now, later := withRoleLast(objects, leaving)
	if err := c.applyAll(ctx, project, now); err != nil {
		return err
	}
	if more {
		return nil
	}
	if err := c.prune(ctx, project, leaving, metav1.DeleteOptions{}, prunePatience); err != nil {
		return err
	}
	if err := c.applyAll(ctx, project, later); err != nil {
		return err
	}
	return c.setInventory(ctx, project, union(items, used))
}

// usedOf returns the ConfigMaps and Secrets of leaving that pods have whose workloads are among objects. They go on until new ones serve in
// their place, and for good where these never do: who loses a node meanwhile, or is scaled, gets more of them.
func (c *Client) usedOf(ctx context.Context, project string, leaving []item, objects []Object) ([]item, error) {
	used := slices.DeleteFunc(slices.Clone(leaving), func(i item) bool { return !holdsContent(i) })
	if len(used) == 0 {
		return nil, nil
	}
	list, err := c.podsOf(ctx, project, "")
	if err != nil {
		return nil, err
	}
	stays := map[string]bool{} // by the service's name in the cluster
	for _, o := range objects {
		if slices.Contains(workloads, itemOf(o).Kind) {
			stays[InCluster(o)] = true
		}
	}
	has := map[item]bool{}
	for _, pod := range list {
		if stays[InCluster(&pod)] && pod.DeletionTimestamp == nil && pod.Status.Phase != corev1.PodSucceeded && pod.Status.Phase != corev1.PodFailed {
			for _, i := range contentsIn(pod.Spec) {
				has[i] = true
			}
		}
	}
	return slices.DeleteFunc(used, func(i item) bool { return !has[i.object()] }), nil
}

// leftOver returns what a put of objects has left to pods, and none of them has any more.
func (c *Client) leftOver(ctx context.Context, project string, objects []Object) ([]item, error) {
	before, err := c.inventory(ctx, project)
	if err != nil {
		return nil, err
	}
	left := slices.DeleteFunc(without(before, itemsOf(objects)), func(i item) bool { return !holdsContent(i) })
	used, err := c.usedOf(ctx, project, left, objects)
	return without(left, used), err
}

// holdsContent says whether an item is one of which pods have variables and files.
func holdsContent(i item) bool {
	return i.Group == "" && (i.Kind == "ConfigMap" || i.Kind == "Secret")
}

// contentsIn are the ConfigMaps and Secrets that a pod of Trellis' making has: variables and files.
func contentsIn(pod corev1.PodSpec) (all []item) {
	add := func(kind, name string) { all = append(all, item{Kind: kind, Name: name}) }
	for _, v := range pod.Volumes {
		if v.ConfigMap != nil {
			add("ConfigMap", v.ConfigMap.Name)
		}
		if v.Secret != nil {
			add("Secret", v.Secret.SecretName)
		}
	}
	for _, c := range slices.Concat(pod.InitContainers, pod.Containers) {
		for _, v := range c.Env {
			if v.ValueFrom != nil && v.ValueFrom.SecretKeyRef != nil {
				add("Secret", v.ValueFrom.SecretKeyRef.Name)
			}
		}
	}
	return all
}

func isForeign(i item) bool {
	_, foreign := foreignOf(i.kind().GroupKind())
	return foreign
}

// withRoleLast sets apart what is applied last: where something of a foreigner's is to go, the Role of the control plane, which says no more that
// it may be removed. It may be the control plane that removes it.
func withRoleLast(objects []Object, leaving []item) (now, later []Object) {
	if !slices.ContainsFunc(leaving, isForeign) {
		return objects, nil
	}
	for _, o := range objects {
		if o.GetObjectKind().GroupVersionKind().Kind == "Role" && o.GetLabels()[labelComponent] == controlPlane {
			later = append(later, o)
		} else {
			now = append(now, o)
		}
	}
	return now, later
}

// applyAll applies objects. What goes wrong with any is said of all, in their order. Where the server is away it ends at once: the
// next one would only say the same.
func (c *Client) applyAll(ctx context.Context, project string, objects []Object) error {
	failed, least := make([]error, len(objects)), leastOf(objects)
	for now := range 4 {
		g, one := errgroup.WithContext(ctx)
		g.SetLimit(applying)
		for i, o := range objects {
			if stage(itemOf(o).Kind) != now {
				continue
			}
			g.Go(func() error {
				plain, err := plainObject(o)
				if err == nil {
					err = c.apply(one, project, plain, least[itemOf(o).object()], false)
				}
				if err != nil && (one.Err() == nil || ctx.Err() != nil) {
					failed[i] = fmt.Errorf("apply %s: %w", itemOf(o), err)
					if errors.Is(err, errdefs.ErrUnavailable) {
						return err
					}
				}
				return nil
			})
		}
		if g.Wait() != nil {
			break
		}
	}
	return errors.Join(failed...)
}

// apply applies one object; with force it takes fields from whoever has set them. What cannot become it is removed first, see anew. One of
// that name that is not the project's: ErrConflict. least is how many pods its autoscaler lets it have at least, see leastOf.
func (c *Client) apply(ctx context.Context, project string, o *unstructured.Unstructured, least int64, force bool) error {
	r, err := c.resource(o.GroupVersionKind())
	if err != nil {
		return err
	}
	there, err := c.ourOwn(ctx, r, project, o.GetName())
	if err != nil {
		return err
	}
	if there != nil && there.GetDeletionTimestamp() != nil && slices.Contains(lasting, o.GetKind()) { // it ends all the same
		if err := c.over(ctx, there); err != nil {
			return err
		}
		there = nil
	}
	if there != nil {
		keepGrown(o, there)
	}
	if there != nil && len(frozen(o, there)) > 0 {
		if there, err = c.anew(ctx, r, project, o, there); err != nil {
			return err
		}
	}
	if there == nil {
		if err = c.clearWay(ctx, project, o); err == nil {
			there, err = c.begunAs(ctx, r, project, o, least)
		}
	}
	if err == nil && there != nil {
		err = c.handOver(ctx, r, o, there, least)
	}
	if err != nil {
		return err
	}
	for try := 0; ; try++ {
		_, err = r.Apply(ctx, o.GetName(), o, metav1.ApplyOptions{FieldManager: fieldManager, Force: force})
		if !force && autoscalers(err) {
			force = true
			continue
		}
		if !repeatable(err) || try == 4 {
			break
		}
		select {
		case <-ctx.Done():
			return c.explain(ctx.Err())
		case <-time.After(backoff(err, try)):
		}
	}
	return c.refusal(err)
}

// rehearse says what would keep objects from being applied, as the cluster says it; it writes nothing. Of what has to be made anew it says
// only whether that is another's: a cluster rehearses no removal.
func (c *Client) rehearse(ctx context.Context, project string, objects []Object) error {
	for _, one := range objects {
		o, err := plainObject(one)
		if err != nil {
			return fmt.Errorf("make %s: %w", itemOf(one), err)
		}
		r, err := c.resource(o.GroupVersionKind())
		var there *unstructured.Unstructured
		if err == nil {
			there, err = c.ourOwn(ctx, r, project, o.GetName())
		}
		if there != nil {
			keepGrown(o, there)
		}
		if err == nil && (there == nil || len(frozen(o, there)) == 0) {
			_, err = r.Apply(ctx, o.GetName(), o, metav1.ApplyOptions{FieldManager: fieldManager, DryRun: []string{metav1.DryRunAll}})
		}
		if err != nil && !autoscalers(err) {
			return fmt.Errorf("apply %s: %w", itemOf(o), c.refusal(err))
		}
	}
	return nil
}

// ourOwn returns the object of that name, nil where there is none. It is not the project's: ErrConflict.
func (c *Client) ourOwn(ctx context.Context, r dynamic.ResourceInterface, project, name string) (*unstructured.Unstructured, error) {
	there, err := r.Get(ctx, name, metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err):
		return nil, nil
	case err != nil:
		return nil, c.explain(err)
	case !ours(there, project):
		return nil, fmt.Errorf("%w: there is one already, %s: rename the service, use another namespace, or delete it", errdefs.ErrConflict, whose(there))
	}
	return there, nil
}

// refusal is explain for an apply: where another hand has a field it is an ErrConflict that names both.
func (c *Client) refusal(err error) error {
	if owners := ownersOf(err); owners != "" {
		return fmt.Errorf("%w: %s", errdefs.ErrConflict, owners)
	}
	return c.explain(err)
}

// repeatable says whether the API server may answer otherwise a moment later.
func repeatable(err error) bool {
	return apierrors.IsTooManyRequests(err) || apierrors.IsServerTimeout(err) || apierrors.IsServiceUnavailable(err) ||
		apierrors.IsConflict(err) && ownersOf(err) == ""
}

// backoff is what the server asks for, or else 100 ms doubled with each try.
func backoff(err error, try int) time.Duration {
	if s, ok := apierrors.SuggestsClientDelay(err); ok && s > 0 {
		return min(time.Duration(s)*time.Second, 10*time.Second)
	}
	return 100 * time.Millisecond << try
}

// whose says who made an object.
func whose(o *unstructured.Unstructured) string {
	if l := o.GetLabels(); l[labelManagedBy] == managedBy && l[labelProject] != "" {
		return "of project " + l[labelProject]
	}
	var names []string
	for _, f := range o.GetManagedFields() {
		if f.Manager != "" && f.Subresource == "" && !slices.Contains(names, f.Manager) {
			names = append(names, f.Manager)
		}
	}
	if len(names) == 0 {
		return "made by somebody else"
	}
	return "made with " + strings.Join(names, " and ")
}

// conflicts are the fields that an apply wants and others own, by owner; none for an error of another kind. The server's
// causes read `conflict with "kubectl-edit" using apps/v1`.
func conflicts(err error) map[string][]string {
	var status apierrors.APIStatus
	if !errors.As(err, &status) || status.Status().Details == nil {
		return nil
	}
	fields := map[string][]string{}
	for _, cause := range status.Status().Details.Causes {
		if cause.Type != metav1.CauseTypeFieldManagerConflict {
			continue
		}
		owner := cause.Message
		if parts := strings.SplitN(cause.Message, `"`, 3); len(parts) == 3 {
			owner = parts[1]
		}
		fields[owner] = append(fields[owner], cause.Field)
	}
	return fields
}

// ownersOf says which fields an apply wants that others own, "" for an error of another kind.
func ownersOf(err error) string {
	fields := conflicts(err)
	var all []string
	for _, owner := range slices.Sorted(maps.Keys(fields)) {
		names := strings.ReplaceAll(" "+strings.Join(fields[owner], ", "), " .", " ")
		all = append(all, fmt.Sprintf("%s is set by %s", strings.TrimSpace(names), owner))
	}
	if len(all) == 0 {
		return ""
	}
	return strings.Join(all, "; ") + ": take it out of there, or write into the file what it is to be"
}

// namespaces is the kind Namespace.
var namespaces = schema.GroupVersionKind{Version: "v1", Kind: "Namespace"}

// ensureNamespace makes the namespace where there is none.
func (c *Client) ensureNamespace(ctx context.Context, project string) error {
	there, err := c.namespaceThere(ctx)
	if there || err != nil {
		return err
	}
	r, err := c.resource(namespaces)
	if err != nil {
		return err
	}
	_, err = r.Create(ctx, object(namespaces, c.Namespace, labelsOf(project)), metav1.CreateOptions{FieldManager: fieldManager})
	if err != nil && !apierrors.IsAlreadyExists(err) {
		return fmt.Errorf("make namespace %s: %w", c.Namespace, c.explain(err))
	}
	return nil
}

// namespaceThere says whether the namespace is there; one that is about to go: ErrConflict. Who may not look at namespaces is believed
// to have been given one.
func (c *Client) namespaceThere(ctx context.Context) (bool, error) {
	r, err := c.resource(namespaces)
	if err != nil {
		return false, err
	}
	o, err := r.Get(ctx, c.Namespace, metav1.GetOptions{})
	switch {
	case apierrors.IsForbidden(err):
		return true, nil
	case apierrors.IsNotFound(err):
		return false, nil
	case err != nil:
		return false, c.explain(err)
	case o.GetDeletionTimestamp() != nil:
		return false, fmt.Errorf("%w: namespace %s is being deleted and takes nothing new: wait until it is gone, or choose another one",
			errdefs.ErrConflict, c.Namespace)
	}
	return true, nil
}
