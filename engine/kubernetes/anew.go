package kubernetes

import (
	"context"
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/dynamic"
)

// frozen are the fields that want says otherwise than have, and that no apply changes: whether a Service has an address (one that is left
// out stays "None", without an error), and what a StatefulSet calls its pods and claims for them (which is refused).
func frozen(want, have *unstructured.Unstructured) []place {
	var all []place
	differ := func(path string, w, h any, same bool) {
		if !same {
			all = append(all, place{path: path, want: w, have: h})
		}
	}
	spec := func(o *unstructured.Unstructured, field string) any {
		v, _, _ := unstructured.NestedFieldNoCopy(o.Object, "spec", field)
		return v
	}
	switch want.GetKind() {
	case "Service":
		w, h := spec(want, "clusterIP"), spec(have, "clusterIP")
		differ(".spec.clusterIP", w, h, (w == corev1.ClusterIPNone) == (h == corev1.ClusterIPNone))
	case "StatefulSet":
		w, h := spec(want, "serviceName"), spec(have, "serviceName")
		differ(".spec.serviceName", w, h, w == h)
		claims, were := claimTemplates(want), claimTemplates(have)
		differ(".spec.volumeClaimTemplates", claims, were, slices.EqualFunc(claims, were, fulfils))
	}
	return all
}

// keepGrown has a claim ask for as much as have does where that is more. Somebody has had the volume grow, as whoever runs out of room does, and a
// cluster takes nothing back: whoever asked for less would be refused from then on, and no file could say what it is to be.
func keepGrown(want, have *unstructured.Unstructured) {
	if want.GroupVersionKind().GroupKind() != persistentVolumeClaims.GroupKind() {
		return
	}
	path := []string{"spec", "resources", "requests", string(corev1.ResourceStorage)}
	asked := func(o *unstructured.Unstructured) (resource.Quantity, error) {
		text, _, _ := unstructured.NestedString(o.Object, path...)
		return resource.ParseQuantity(text)
	}
	least, err := asked(want)
	now, herr := asked(have)
	if err == nil && herr == nil && now.Cmp(least) > 0 {
		_ = unstructured.SetNestedField(want.Object, now.String(), path...) // it has been read there
	}
}

// claimTemplates are what a StatefulSet claims for each of its pods, as far as somebody asks for it.
func claimTemplates(o *unstructured.Unstructured) []any {
	all, _, _ := unstructured.NestedSlice(o.Object, "spec", "volumeClaimTemplates")
	for i, t := range all {
		one, _ := t.(map[string]any)
		name, _, _ := unstructured.NestedString(one, "metadata", "name")
		labels, _, _ := unstructured.NestedMap(one, "metadata", "labels")
		all[i] = map[string]any{"name": name, "labels": labels, "spec": one["spec"]}
	}
	return all
}

// fulfils says whether have is what want says; what the cluster has added to it does not count.
func fulfils(want, have any) bool {
	w, isMap := want.(map[string]any)
	h, _ := have.(map[string]any)
	if !isMap {
		return reflect.DeepEqual(want, have)
	}
	for key, value := range w {
		if !fulfils(value, h[key]) {
			return false
		}
	}
	return true
}

// anew removes there, which can never become o, and makes o in its place where that has to be begun from what was there: an autoscaler's
// number of pods. It returns what is there then, nil for nothing. The pods and claims of a StatefulSet stay: the new one takes them over,
// and replaces the pods one after the other, see clearWay.
func (c *Client) anew(ctx context.Context, r dynamic.ResourceInterface, project string, o, there *unstructured.Unstructured) (*unstructured.Unstructured, error) {
	fail := func(err error) (*unstructured.Unstructured, error) { return nil, fmt.Errorf("make it anew: %w", err) }
	var how metav1.DeleteOptions
	if o.GetKind() == "StatefulSet" {
		how.PropagationPolicy = pointer(metav1.DeletePropagationOrphan)
	}
	if err := c.prune(ctx, project, []item{itemOf(o)}, how, removePatience); err != nil {
		return fail(err)
	}
	now, had, _ := unstructured.NestedInt64(there.Object, "spec", "replicas")
	if _, has, _ := unstructured.NestedInt64(o.Object, "spec", "replicas"); has || !had {
		return nil, nil
	}
	if err := c.clearWay(ctx, project, o); err != nil {
		return fail(err)
	}
	first := o.DeepCopy()
	if err := unstructured.SetNestedField(first.Object, now, "spec", "replicas"); err != nil {
		return nil, err
	}
	made, err := r.Apply(ctx, o.GetName(), first, metav1.ApplyOptions{FieldManager: fieldManager})
	return made, c.refusal(err)
}

// clearWay ends the pods that a StatefulSet which is about to be made would take over, and that lack a volume which it claims for each of
// them: it can give that to none that runs, and would not get as far as replacing it. They are what it left that was there before, by anew,
// which may have been cut short.
func (c *Client) clearWay(ctx context.Context, project string, o *unstructured.Unstructured) error {
	claims := claimTemplates(o)
	if o.GetKind() != "StatefulSet" || len(claims) == 0 {
		return nil
	}
	list, err := c.podsOf(ctx, project, "")
	if err != nil {
		return err
	}
	var ending []item
	for _, pod := range list {
		number, its := strings.CutPrefix(pod.Name, o.GetName()+"-")
		if _, err := strconv.ParseUint(number, 10, 31); !its || err != nil || metav1.GetControllerOf(&pod) != nil {
			continue
		}
		if slices.ContainsFunc(claims, func(t any) bool {
			return !slices.ContainsFunc(pod.Spec.Volumes, func(v corev1.Volume) bool { return v.Name == t.(map[string]any)["name"] })
		}) {
			ending = append(ending, itemOf(&pod))
		}
	}
	return c.prune(ctx, project, ending, metav1.DeleteOptions{}, removePatience)
}
