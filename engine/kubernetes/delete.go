package kubernetes

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"trellis/compose"
	"trellis/engine"
	"trellis/errdefs"
)

// persistentVolumeClaims is the kind PersistentVolumeClaim.
var persistentVolumeClaims = corev1.SchemeGroupVersion.WithKind("PersistentVolumeClaim")

// removePatience is how long a Delete waits for what it removed: the longest grace period that anybody writes, and more.
const removePatience = 10 * time.Minute

// Delete implements engine.Engine. The namespace stays, and in it the revisions, which are what brings everything back.
func (e *Engine) Delete(ctx context.Context, project string, opt engine.DeleteOptions) error {
	fail := func(err error) error {
		return fmt.Errorf("remove %s from namespace %s: %w", project, e.client.Namespace, err)
	}
	e.writes.Lock()
	defer e.writes.Unlock()
	items, err := e.client.inventory(ctx, project)
	if err != nil {
		return fail(err)
	}
	var kept, unnamed []item
	if !opt.Volumes {
		kept = claims(items)
	} else if unnamed, err = e.unnamed(ctx, project); err != nil {
		return fail(err)
	}
	var how metav1.DeleteOptions
	if opt.Now {
		now := int64(0)
		list, err := e.client.podsOf(ctx, project, "")
		if err != nil {
			return fail(err)
		}
		for _, pod := range list {
			items = append(items, itemOf(&pod))
		}
		how.GracePeriodSeconds = &now
	}
	acts := slices.DeleteFunc(slices.Clone(items), func(i item) bool { return i.Kind != "Deployment" || i.Name != controlName(project) })
	for _, step := range []struct {
		items []item
		pods  string
	}{{acts, controlPlane}, {without(items, kept), ""}, {unnamed, ""}} { // what acts goes first: it would bring back what is removed
		if err := e.client.prune(ctx, project, step.items, how, removePatience); err != nil {
			return fail(err)
		}
		if err := e.client.podsGone(ctx, project, step.pods, removePatience); err != nil {
			return fail(err)
		}
	}
	if len(items) == 0 {
		return nil
	}
	if err := e.client.setInventory(ctx, project, kept); err != nil {
		if there, lerr := e.client.namespaceThere(ctx); errors.Is(lerr, errdefs.ErrConflict) || lerr == nil && !there {
			return nil // somebody deletes the namespace meanwhile, and this goes with it
		}
		return fail(err)
	}
	return nil
}

// Volumes implements engine.Engine: the names of the claims.
func (e *Engine) Volumes(ctx context.Context, project string) ([]string, error) {
	fail := func(err error) error {
		return fmt.Errorf("look for the volumes of %s in namespace %s: %w", project, e.client.Namespace, err)
	}
	items, err := e.client.inventory(ctx, project)
	if err != nil {
		return nil, fail(err)
	}
	unnamed, err := e.unnamed(ctx, project)
	if err != nil {
		return nil, fail(err)
	}
	names := []string{}
	for _, claim := range slices.Concat(claims(items), unnamed) {
		names = append(names, claim.Name)
	}
	slices.Sort(names)
	return slices.Compact(names), nil
}

// unnamed finds the claims that no inventory has: those that StatefulSets had made for their pods, which outlive these, and those for
// volumes that a later revision did not mount any more. What the newest one calls external is not the project's to remove. Who may not look
// has none where no revision that is kept had a volume without a name: the role that such a project needs does not say more.
func (e *Engine) unnamed(ctx context.Context, project string) (all []item, err error) {
	r, err := e.client.resource(persistentVolumeClaims)
	if err != nil {
		return nil, err
	}
	kept, herr := e.client.history(ctx, project)
	list, err := r.List(ctx, selectProject(project))
	if apierrors.IsForbidden(err) && herr == nil && !slices.ContainsFunc(kept, func(r record) bool { return hasUnnamed(r.Project) }) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list the claims for volumes without a name: %w", e.client.explain(err))
	}
	if herr != nil {
		return nil, herr
	}
	for _, claim := range list.Items {
		if len(kept) == 0 || !hasExternal(kept[0].Project, claim.GetName()) {
			all = append(all, itemOf(&claim))
		}
	}
	return all, nil
}

// hasExternal says whether a project has the volume of that claim from somebody else.
func hasExternal(p compose.Project, claim string) bool {
	for key, v := range p.Volumes {
		if v.External && externalVolume(v, key) == claim {
			return true
		}
	}
	return false
}

func hasUnnamed(p compose.Project) bool {
	return slices.ContainsFunc(slices.Collect(maps.Values(p.Services)), func(svc compose.Service) bool { return slices.ContainsFunc(svc.Volumes, anonymous) })
}

// claims returns the items that hold data.
func claims(items []item) []item {
	var out []item
	for _, i := range items {
		if i.kind().GroupKind() == persistentVolumeClaims.GroupKind() {
			out = append(out, i)
		}
	}
	return out
}

// podsGone waits until no pod of a project is left, or of one of its components: a workload is gone before the last of its pods has ended.
func (c *Client) podsGone(ctx context.Context, project, component string, patience time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for {
		list, err := c.podsOf(ctx, project, component)
		if err != nil {
			return err
		}
		if len(list) == 0 {
			return nil
		}
		select {
		case <-ctx.Done():
			var names []string
			for _, pod := range list {
				names = append(names, pod.GetName())
			}
			return fmt.Errorf("%w: still there: %s", errdefs.ErrUnavailable, strings.Join(names, ", "))
		case <-time.After(200 * time.Millisecond):
		}
	}
}
