package kubernetes

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	batchv1 "k8s.io/api/batch/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"trellis/compose"
	"trellis/engine"
	"trellis/errdefs"
	"trellis/state"
)

// overridePrefix begins the keys of the notes that hold wishes beside the file, one for each service.
const overridePrefix = "override."

// overridesIn reads the wishes beside the file out of a project's notes, by service.
func overridesIn(notes map[string]string) (map[string]state.Override, error) {
	all := map[string]state.Override{}
	for key, text := range notes {
		name, ok := strings.CutPrefix(key, overridePrefix)
		if !ok {
			continue
		}
		var o state.Override
		if err := json.Unmarshal([]byte(text), &o); err != nil {
			return nil, fmt.Errorf("read what was asked for of %s: %w: %w", name, errdefs.ErrInvalid, err)
		}
		all[name] = o
	}
	return all, nil
}

// Overrides returns the wishes beside the file that hold, by service.
func (e *Engine) Overrides(ctx context.Context) (map[string]state.Override, error) {
	notes, err := e.client.notes(ctx, e.project)
	if err != nil {
		return nil, fmt.Errorf("read what was asked for: %w", err)
	}
	return overridesIn(notes)
}

func (c *Client) setOverride(ctx context.Context, project string, o state.Override) error {
	text := ""
	if o != (state.Override{Service: o.Service}) {
		b, err := json.Marshal(o)
		if err != nil {
			return err
		}
		text = string(b)
	}
	return c.setNote(ctx, project, overridePrefix+o.Service, text)
}

// remaining are the wishes that outlive an apply of p after before, or with back the engine's own way back to p, and the ones that it ends.
func remaining(all map[string]state.Override, before *compose.Project, p compose.Project, back bool) (left map[string]state.Override, ended []state.Override) {
	left = map[string]state.Override{}
	for name, o := range all {
		left[name] = engine.Remaining(o, engine.ServiceOf(before, name), engine.ServiceOf(&p, name), back)
		if left[name] != o {
			ended = append(ended, left[name])
		}
	}
	slices.SortFunc(ended, func(a, b state.Override) int { return strings.Compare(a.Service, b.Service) })
	return left, ended
}

// Override implements engine.Engine. The wish is kept in the cluster, and the objects of the service are applied with it. A Job that is run
// again ends first: both would do the same work.
func (e *Engine) Override(ctx context.Context, project string, o state.Override) error {
	fail := func(err error) error { return fmt.Errorf("override %s: %w", o.Service, err) }
	actor := o.Actor
	o.Actor = ""
	e.writes.Lock()
	defer e.writes.Unlock()
	all, live, s, err := e.look(ctx, project)
	if err != nil {
		return fail(err)
	}
	rev := all[0]
	svc, known := rev.Project.Services[o.Service]
	if !known {
		return fail(fmt.Errorf("%w: no such service in revision %d", errdefs.ErrNotFound, rev.Number))
	}
	g, err := e.ground(ctx, rev.Project, live)
	if err != nil {
		return fail(err)
	}
	opt := Options{Revision: rev.Number, Image: g.image, Metered: g.metered}
	if err := scalable(rev.Project, svc, o, opt); err != nil {
		return fail(err)
	}
	if err := e.client.setOverride(ctx, project, o); err != nil {
		return fail(err)
	}
	wishes, err := e.Overrides(ctx)
	if err != nil {
		return fail(err)
	}
	objects, err := e.renderWith(rev, live, wishes, g)
	if err != nil {
		return fail(err)
	}
	now, _ := turn(rev.Project, objects, live, s)
	now = slices.DeleteFunc(now, func(one Object) bool { return serviceOf(one) != o.Service })
	if err := e.client.prune(ctx, project, replaced(live, now), metav1.DeleteOptions{}, removePatience); err != nil {
		return fail(err)
	}
	if err := e.makeWay(ctx, rev.Project, now, live); err != nil {
		return fail(err)
	}
	if err := e.client.put(ctx, project, now, true); err != nil {
		return fail(err)
	}
	e.tell(ctx, kindOverride, o.Service, engine.Wish(o), actor)
	return nil
}

// replaced are the Jobs that are there in place of which others run their services.
func replaced(live Live, objects []Object) []item {
	other := map[string]string{} // by service
	for _, job := range objectsOf[*batchv1.Job](objects) {
		if !prepares(job) {
			other[serviceOf(job)] = job.Name
		}
	}
	var all []item
	for _, job := range objectsOf[*batchv1.Job](live.Objects) {
		if name := other[serviceOf(job)]; name != "" && name != job.Name && !prepares(job) {
			all = append(all, jobItem(job))
		}
	}
	return all
}

// scalable refuses a number of instances that a service cannot have.
func scalable(p compose.Project, svc compose.Service, o state.Override, opt Options) error {
	if o.Replicas == nil {
		return nil
	}
	r := newRenderer(p, nil, opt)
	switch a := svc.Deploy.Trellis.Autoscale; {
	case *o.Replicas < 0:
		return fmt.Errorf("%w: %d replicas", errdefs.ErrInvalid, *o.Replicas)
	case r.autoscaled(svc):
		return fmt.Errorf("%w: %s is scaled by its load, between %d and %d; change deploy.x-trellis.autoscale in the file and run up",
			errdefs.ErrConflict, o.Service, a.Min, a.Max)
	case r.kindOf(svc) == daemonSet:
		return fmt.Errorf("%w: %s runs once on every node (deploy.mode: global)", errdefs.ErrUnsupported, o.Service)
	case r.kindOf(svc) == job:
		return fmt.Errorf("%w: %s runs to its end, and how often cannot be changed any more", errdefs.ErrUnsupported, o.Service)
	}
	return nil
}
