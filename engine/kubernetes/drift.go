package kubernetes

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"golang.org/x/sync/errgroup"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"

	"trellis/compose"
	"trellis/engine"
	"trellis/errdefs"
	"trellis/state"
)

// compareAtOnce bounds how many objects are looked at at a time.
const compareAtOnce = 8

// drifting is a comparison of what a cluster has with what the newest revision says.
type drifting struct {
	revision  record
	project   compose.Project
	names     names
	overrides map[string]state.Override
	found     []stray
}

// stray is one difference. Its object is the zero item for a wish beside the file.
type stray struct {
	engine.Drift
	object  item
	pointer string // of what somebody has added, which applying does not take away; "" for anything else
	was     any    // what that is
}

// Drift implements engine.Engine. Each object is compared with what applying it once more would make of it, which the API
// server says.
func (e *Engine) Drift(ctx context.Context, project string) ([]engine.Drift, error) {
	d, err := e.compare(ctx, project)
	if err != nil {
		return nil, fmt.Errorf("compare %s with its revision: %w", project, err)
	}
	return d.drifts(), nil
}

func (d *drifting) drifts() []engine.Drift {
	all := []engine.Drift{}
	for _, s := range d.found {
		all = append(all, s.Drift)
	}
	return all
}

func (e *Engine) compare(ctx context.Context, project string) (*drifting, error) {
	all, live, _, err := e.look(ctx, project)
	if err != nil {
		return nil, err
	}
	rev := all[0]
	d := &drifting{revision: rev, project: rev.Project, names: newNames(rev.Project)}
	if d.overrides, err = e.Overrides(ctx); err != nil {
		return nil, err
	}
	g, err := e.ground(ctx, rev.Project, live)
	if err != nil {
		return nil, err
	}
	objects, err := e.renderWith(rev, live, d.overrides, g)
	if err != nil {
		return nil, err
	}
	for name, o := range d.overrides {
		d.overridden(d.project.Services[name], name, o)
	}
	if rev.Outcome != state.Pending { // what is on its way is not astray
		if err := d.look(ctx, e.client, objects); err != nil {
			return nil, err
		}
	}
	slices.SortStableFunc(d.found, func(a, b stray) int {
		return cmp.Or(strings.Compare(a.Path, b.Path), strings.Compare(a.Reason, b.Reason))
	})
	return d, nil
}

// overridden tells the wish beside the file that holds for a service.
func (d *drifting) overridden(svc compose.Service, name string, o state.Override) {
	replicas := engine.Replicas(svc)
	one := engine.Drift{
		Change: engine.Change{
			Path: compose.JoinPath("services", name) + ".deploy.replicas", Action: engine.Modify, From: replicas, Effect: engine.EffectInPlace,
		},
		Service: name, Adoptable: true,
	}
	switch {
	case o.Stopped && replicas > 0:
		one.Kind, one.To, one.Reason = engine.DriftStopped, 0, "the service was stopped ('trellis stop')"
	case !o.Stopped && o.Replicas != nil && *o.Replicas != replicas:
		one.Kind, one.To, one.Reason = engine.DriftScaled, *o.Replicas, "another number was asked for ('trellis scale')"
	default:
		return
	}
	d.found = append(d.found, stray{Drift: one})
}

// look compares every object with what it was made as.
func (d *drifting) look(ctx context.Context, c *Client, objects []Object) error {
	found := make([][]stray, len(objects))
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(compareAtOnce)
	for i, o := range objects {
		g.Go(func() error {
			want, err := plainObject(o)
			if err == nil {
				found[i], err = d.strays(ctx, c, serviceOf(o), want)
			}
			if err != nil {
				return fmt.Errorf("compare %s: %w", itemOf(o), err)
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	d.found = append(d.found, slices.Concat(found...)...)
	return nil
}

func (d *drifting) strays(ctx context.Context, c *Client, service string, want *unstructured.Unstructured) ([]stray, error) {
	of := itemOf(want)
	r, err := c.resource(want.GroupVersionKind())
	if err != nil {
		return nil, err
	}
	have, err := r.Get(ctx, of.Name, metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err):
		return []stray{d.gone(service, of, "is not there any more")}, nil
	case err != nil:
		return nil, c.explain(err)
	case !ours(have, d.project.Name):
		return []stray{d.gone(service, of, "is "+whose(have))}, nil
	}
	keepGrown(want, have)
	var found []stray
	for _, at := range frozen(want, have) { // no dry run gets past these
		found = append(found, stray{d.driftAt(service, of, at.path, at.want, at.have, "somebody else"), of, "", nil})
	}
	if found != nil {
		return found, nil
	}
	dry := metav1.ApplyOptions{FieldManager: fieldManager, Force: true, DryRun: []string{metav1.DryRunAll}}
	would, err := r.Apply(ctx, of.Name, want, dry)
	if err != nil {
		return nil, c.explain(err)
	}
	places := placesIn(want.Object, would.Object, have.Object, have.GetManagedFields())
	if len(places) == 0 {
		return nil, nil
	}
	dry.Force = false
	_, err = r.Apply(ctx, of.Name, want, dry) // a conflict says whose a field is
	owner := ownerIn(err)
	for _, at := range places {
		found = append(found, stray{d.driftAt(service, of, at.path, at.want, at.have, cmp.Or(at.owner, owner(at.path))), of, at.pointer, at.have})
	}
	return found, nil
}

// place is a field of an object that is another than was asked for.
type place struct {
	path       string
	want, have any
	pointer    string // JSON pointer of what was added; "" for what was asked for and is another
	owner      string // of what was added
}

// placesIn compares what an object is with what applying it once more would make of it, and with whom its fields belong to.
// What the API server writes itself does not count.
func placesIn(want, would, have map[string]any, owners []metav1.ManagedFieldsEntry) []place {
	var all []place
	one := func(path string, want, have any) { all = append(all, place{path: path, want: want, have: have}) }
	for _, key := range slices.Sorted(maps.Keys(bothKeys(would, have))) {
		switch key {
		case "status", "apiVersion", "kind":
		case "metadata":
			is, _ := would[key].(map[string]any)
			was, _ := have[key].(map[string]any)
			for _, of := range []string{"labels", "annotations"} {
				differing(".metadata."+of, is[of], was[of], one)
			}
		default:
			differing("."+key, would[key], have[key], one)
		}
	}
	at := func(o map[string]any) any {
		v, _, _ := unstructured.NestedFieldNoCopy(o, "spec", "template", "spec")
		return v
	}
	added(at(want), at(have), owners, func(path, pointer string, v any, owner string) {
		all = append(all, place{path: path, have: v, pointer: pointer, owner: owner})
	})
	return all
}

// ownerIn returns who owns a field, as a conflict says it, or who comes next to it.
func ownerIn(conflict error) func(path string) string {
	owners := map[string]string{}
	for owner, fields := range conflicts(conflict) {
		for _, field := range fields {
			owners[field] = owner
		}
	}
	return func(path string) string {
		for field, owner := range owners {
			if field == path || strings.HasPrefix(path, field) || strings.HasPrefix(field, path) {
				return owner
			}
		}
		return "somebody else"
	}
}

// gone tells an object that is not there.
func (d *drifting) gone(service string, of item, why string) stray {
	one := engine.Drift{
		Change: engine.Change{Path: compose.JoinPath("services", service), Action: engine.Remove, From: of.String(), Effect: engine.EffectInPlace},
		Kind:   engine.DriftGone, Service: service, Reason: fmt.Sprintf("%s %s", of, why),
	}
	if service == "" {
		one.Path = d.ofProject(of)
	}
	return stray{Drift: one, object: of}
}

// Revert implements engine.Engine. It is the one place where Trellis takes a field from whoever has set it.
func (e *Engine) Revert(ctx context.Context, project string, services []string, actor string) ([]engine.Drift, error) {
	fail := func(err error) ([]engine.Drift, error) { return nil, fmt.Errorf("revert %s: %w", project, err) }
	e.writes.Lock()
	defer e.writes.Unlock()
	d, err := e.compare(ctx, project)
	if err != nil {
		return fail(err)
	}
	d.found = slices.DeleteFunc(d.found, func(s stray) bool { return s.Heals || len(services) > 0 && !slices.Contains(services, s.Service) })
	words := map[string][]string{}
	for _, s := range d.found {
		words[s.Service] = append(words[s.Service], s.Path)
		if s.object != (item{}) {
			continue
		}
		o := d.overrides[s.Service]
		o.Replicas, o.Stopped = nil, false
		if err := e.client.setOverride(ctx, project, o); err != nil {
			return fail(err)
		}
	}
	if err := e.restore(ctx, project, d.found); err != nil {
		return fail(err)
	}
	for _, name := range slices.Sorted(maps.Keys(words)) {
		e.tell(ctx, engine.EventDriftReverted, name, "brought back: "+strings.Join(slices.Compact(words[name]), ", "), actor)
	}
	return d.drifts(), nil
}

// restore applies the objects that strayed, and those of services that a wish beside the file no longer holds for.
func (e *Engine) restore(ctx context.Context, project string, found []stray) error {
	all, live, _, err := e.look(ctx, project)
	if err != nil {
		return err
	}
	objects, err := e.render(ctx, all[0], live)
	if err != nil {
		return err
	}
	least := leastOf(objects)
	for _, o := range objects {
		of := itemOf(o)
		strayed, wished := false, false
		added := map[string]any{}
		for _, s := range found {
			strayed = strayed || s.object == of
			wished = wished || s.object == (item{}) && s.Service == serviceOf(o)
			if s.object == of && s.pointer != "" {
				added[s.pointer] = s.was
			}
		}
		if !strayed && !wished {
			continue
		}
		want, err := plainObject(o)
		if err != nil {
			return fmt.Errorf("bring back %s: %w", of, err)
		}
		if err := e.client.takeOut(ctx, want, added); err != nil {
			return fmt.Errorf("bring back %s: %w", of, err)
		}
		if err := e.client.apply(ctx, project, want, least[of.object()], strayed); err != nil {
			return fmt.Errorf("bring back %s: %w", of, err)
		}
	}
	return nil
}

// takeOut removes what somebody has added to an object, by JSON pointer, the last element of a list first, so that the places of the others
// still hold. It is another by now, or elsewhere: ErrConflict, and nothing is removed.
func (c *Client) takeOut(ctx context.Context, o *unstructured.Unstructured, added map[string]any) error {
	if len(added) == 0 {
		return nil
	}
	var tests, removals []map[string]any // of what one removal leaves no test of another would hold
	for _, pointer := range slices.SortedFunc(maps.Keys(added), lastFirst) {
		tests = append(tests, map[string]any{"op": "test", "path": pointer, "value": added[pointer]})
		removals = append(removals, map[string]any{"op": "remove", "path": pointer})
	}
	patch, err := json.Marshal(append(tests, removals...))
	if err != nil {
		return err
	}
	r, err := c.resource(o.GroupVersionKind())
	if err != nil {
		return err
	}
	_, err = r.Patch(ctx, o.GetName(), types.JSONPatchType, patch, metav1.PatchOptions{FieldManager: fieldManager})
	if outpaced(err) {
		return fmt.Errorf("%w: somebody has changed it since it was compared: look at what has drifted now, and revert that", errdefs.ErrConflict)
	}
	return c.explain(err)
}

// outpaced says whether a JSON patch does not fit what is there. Unlike what makes an object that is not valid, this has no field as its cause.
func outpaced(err error) bool {
	var status apierrors.APIStatus
	return apierrors.IsInvalid(err) && errors.As(err, &status) && (status.Status().Details == nil || len(status.Status().Details.Causes) == 0)
}
