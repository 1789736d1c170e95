package kubernetes

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"trellis/engine"
	"trellis/errdefs"
)

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
	var kept []item
	if !opt.Volumes {
		kept = claims(items)
	}
	var how metav1.DeleteOptions
	if opt.Now {
		now := int64(0)
		list, err := e.client.list(ctx, pods, project)
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
	}{{acts, controlPlane}, {without(items, kept), ""}} { // what acts goes first: it would bring back what is removed
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

// claims returns the items that hold data.
func claims(items []item) []item {
	var out []item
	for _, i := range items {
		if i.Kind == "PersistentVolumeClaim" && i.Group == "" {
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
		list, err := c.list(ctx, pods, project)
		if err != nil {
			return err
		}
		list = slices.DeleteFunc(list, func(o unstructured.Unstructured) bool {
			return component != "" && o.GetLabels()[labelComponent] != component
		})
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
