package kubernetes

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"

	"trellis/errdefs"
)

// item is an object by its name; which version of its kind is asked for does not matter.
type item struct {
	Group   string `json:"group,omitempty"`
	Version string `json:"version"`
	Kind    string `json:"kind"`
	Name    string `json:"name"`
	Leaving bool   `json:"leaving,omitempty"` // a workload that serves until one of another kind does in its place
}

func itemOf(o Object) item {
	kind := o.GetObjectKind().GroupVersionKind()
	return item{Group: kind.Group, Version: kind.Version, Kind: kind.Kind, Name: o.GetName()}
}

func itemsOf(objects []Object) []item {
	all := make([]item, 0, len(objects))
	for _, o := range objects {
		all = append(all, itemOf(o))
	}
	return all
}

func (i item) String() string { return i.Kind + " " + i.Name }

func (i item) kind() schema.GroupVersionKind {
	return schema.GroupVersionKind{Group: i.Group, Version: i.Version, Kind: i.Kind}
}

// object returns what is the same of all items that are one object.
func (i item) object() item { return item{Group: i.Group, Kind: i.Kind, Name: i.Name} }

// same says whether two items are one object.
func (i item) same(o item) bool { return i.object() == o.object() }

// union returns the items of both lists, each once, in a fixed order.
func union(a, b []item) []item {
	all := append(slices.Clone(a), b...)
	slices.SortFunc(all, func(a, b item) int {
		return cmp.Or(cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Name, b.Name), cmp.Compare(a.Group, b.Group), cmp.Compare(b.Version, a.Version))
	})
	return slices.CompactFunc(all, item.same)
}

// without returns the items of a that are not in b.
func without(a, b []item) []item {
	in := map[item]bool{}
	for _, i := range b {
		in[i.object()] = true
	}
	return slices.DeleteFunc(slices.Clone(a), func(i item) bool { return in[i.object()] })
}

// inventoryKey is where the inventory stands in a project's ConfigMap.
const inventoryKey = "inventory"

// inventory reads what Trellis has made for a project and not yet removed. It is written before anything of it is made,
// so that whatever an apply that was cut short has left is in it.
func (c *Client) inventory(ctx context.Context, project string) ([]item, error) {
	notes, err := c.notes(ctx, project)
	if err != nil {
		return nil, err
	}
	return inventoryIn(notes, project)
}

// inventoryIn is inventory where the project's notes were read.
func inventoryIn(notes map[string]string, project string) ([]item, error) {
	text := notes[inventoryKey]
	if text == "" {
		return nil, nil
	}
	var items []item
	if err := json.Unmarshal([]byte(text), &items); err != nil {
		return nil, fmt.Errorf("read the inventory in ConfigMap %s: %w: %w", notesName(project), errdefs.ErrInvalid, err)
	}
	return items, nil
}

func (c *Client) setInventory(ctx context.Context, project string, items []item) error {
	text, err := json.Marshal(items)
	if err != nil {
		return err
	}
	return c.setNote(ctx, project, inventoryKey, string(text))
}

var configMaps = corev1.SchemeGroupVersion.WithKind("ConfigMap")

// notesName is the ConfigMap in which Trellis notes what it needs to know of a project besides its revisions.
func notesName(project string) string { return cleaned("trellis-"+project, maxName) }

// projectKey is the note of the project's name, as its file has it: what a cluster calls it may be the name of another, too.
const projectKey = "project"

// notes reads the notes of a project. They are another's, whose name becomes the same in a cluster: ErrConflict.
func (c *Client) notes(ctx context.Context, project string) (map[string]string, error) {
	maps, err := c.resource(configMaps)
	if err != nil {
		return nil, err
	}
	o, err := maps.Get(ctx, notesName(project), metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, c.explain(err)
	}
	all, _, err := unstructured.NestedStringMap(o.Object, "data")
	if err != nil {
		return nil, err
	}
	label := o.GetLabels()[labelProject]
	if whose := cmp.Or(all[projectKey], label, project); whose != project && (all[projectKey] != "" || label != labelValue(project)) {
		return nil, c.mistaken(whose, project)
	}
	return all, nil
}

// mistaken says that what was found is another project's, whose name becomes the same in a cluster.
func (c *Client) mistaken(whose, project string) error {
	return fmt.Errorf("%w: namespace %s has project %s, which a cluster cannot tell from %s: deploy into another namespace, or rename one of them",
		errdefs.ErrConflict, c.Namespace, whose, project)
}

// note reads one note of a project, "" where there is none.
func (c *Client) note(ctx context.Context, project, key string) (string, error) {
	all, err := c.notes(ctx, project)
	return all[key], err
}

// setNote writes one note, or removes it with "", and leaves the others as they are, whoever writes them meanwhile.
func (c *Client) setNote(ctx context.Context, project, key, text string) error {
	maps, err := c.resource(configMaps)
	if err != nil {
		return err
	}
	value := any(text)
	if text == "" {
		value = nil
	}
	patch, err := json.Marshal(map[string]any{"data": map[string]any{projectKey: project, key: value}})
	if err != nil {
		return err
	}
	_, err = maps.Patch(ctx, notesName(project), types.MergePatchType, patch, metav1.PatchOptions{FieldManager: fieldManager})
	if !apierrors.IsNotFound(err) {
		return c.explain(err)
	}
	o := object(configMaps, notesName(project), labelsOf(project))
	o.Object["data"] = map[string]any{projectKey: project, key: text}
	_, err = maps.Create(ctx, o, metav1.CreateOptions{FieldManager: fieldManager})
	if apierrors.IsAlreadyExists(err) {
		return c.setNote(ctx, project, key, text)
	}
	return c.explain(err)
}

// labelsOf are those of what Trellis keeps for itself: it is no part of any service.
func labelsOf(project string) map[string]string {
	return map[string]string{labelProject: labelValue(project), labelManagedBy: managedBy, labelComponent: controlPlane}
}

// object makes an empty object.
func object(kind schema.GroupVersionKind, name string, labels map[string]string) *unstructured.Unstructured {
	o := &unstructured.Unstructured{Object: map[string]any{}}
	o.SetGroupVersionKind(kind)
	o.SetName(name)
	o.SetLabels(labels)
	return o
}

// plainObject makes of a typed object what is applied: without what its type writes though nobody has set it, or Trellis
// would own fields that it says nothing about.
func plainObject(o runtime.Object) (*unstructured.Unstructured, error) {
	if u, ok := o.(*unstructured.Unstructured); ok {
		return u.DeepCopy(), nil
	}
	fields, err := runtime.DefaultUnstructuredConverter.ToUnstructured(o)
	if err != nil {
		return nil, err
	}
	delete(fields, "status")
	withoutEmpty(fields)
	return &unstructured.Unstructured{Object: fields}, nil
}

// withoutEmpty removes null values and the strategy and metadata that types write as {}.
func withoutEmpty(fields map[string]any) {
	for key, value := range fields {
		switch v := value.(type) {
		case nil:
			delete(fields, key)
		case map[string]any:
			withoutEmpty(v)
			if len(v) == 0 && (key == "metadata" || key == "strategy" || key == "updateStrategy" || key == "resources") {
				delete(fields, key)
			}
		case []any:
			for _, one := range v {
				if m, ok := one.(map[string]any); ok {
					withoutEmpty(m)
				}
			}
		}
	}
}

// prune deletes items, of which only those that still carry the label of Trellis and of the project are touched, and
// waits until they are gone, for at most patience: with all that depends on them where opt does not say otherwise. What the time to live
// owns does not go with that, which would take along what is to stay: volumes.
func (c *Client) prune(ctx context.Context, project string, items []item, opt metav1.DeleteOptions, patience time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	waiting, err := c.remove(ctx, project, items, opt)
	if err != nil {
		return err
	}
	for i, uid := range waiting {
		if err := c.gone(ctx, i, uid); err != nil {
			return err
		}
	}
	return nil
}

// remove is prune that does not wait. It returns what was there, by its UID.
func (c *Client) remove(ctx context.Context, project string, items []item, opt metav1.DeleteOptions) (map[item]types.UID, error) {
	if opt.PropagationPolicy == nil {
		opt.PropagationPolicy = pointer(metav1.DeletePropagationForeground)
	}
	waiting := map[item]types.UID{}
	for _, i := range items {
		r, err := c.resource(i.kind())
		if errors.Is(err, errdefs.ErrUnsupported) {
			continue // with the definition of its kind it has gone, too
		}
		if err != nil {
			return nil, fmt.Errorf("remove %s: %w", i, err)
		}
		o, err := r.Get(ctx, i.Name, metav1.GetOptions{})
		if apierrors.IsNotFound(err) || err == nil && !ours(o, project) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("remove %s: %w", i, c.explain(err))
		}
		uid := o.GetUID()
		one := opt
		if i.object() == lifetimeItem(project) {
			one.PropagationPolicy = pointer(metav1.DeletePropagationOrphan)
		}
		one.Preconditions = &metav1.Preconditions{UID: &uid}
		if err := r.Delete(ctx, i.Name, one); err != nil && !apierrors.IsNotFound(err) {
			return nil, fmt.Errorf("remove %s: %w", i, c.explain(err))
		}
		waiting[i] = uid
	}
	return waiting, nil
}

// gone waits until an object is no more.
func (c *Client) gone(ctx context.Context, i item, uid types.UID) error {
	r, err := c.resource(i.kind())
	if err != nil {
		return err
	}
	for {
		o, err := r.Get(ctx, i.Name, metav1.GetOptions{})
		if apierrors.IsNotFound(err) || err == nil && o.GetUID() != uid {
			return nil
		}
		if err != nil && ctx.Err() == nil {
			return fmt.Errorf("wait for the end of %s: %w", i, c.explain(err))
		}
		select {
		case <-ctx.Done():
			held := ""
			if o != nil && len(o.GetFinalizers()) > 0 {
				held = fmt.Sprintf("; its finalizers hold it: %v", o.GetFinalizers())
			}
			return fmt.Errorf("%w: %s is not gone yet%s", errdefs.ErrUnavailable, i, held)
		case <-time.After(200 * time.Millisecond):
		}
	}
}

// ours says whether Trellis made an object for a project.
func ours(o *unstructured.Unstructured, project string) bool {
	l := o.GetLabels()
	return l[labelManagedBy] == managedBy && l[labelProject] == labelValue(project)
}
