package kubernetes

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"trellis/compose"
	"trellis/driver"
	"trellis/engine"
	"trellis/errdefs"
	"trellis/state"
)

// Engine runs one project in one namespace of a cluster. What is wanted is applied by Apply, and Kubernetes carries it
// out, whether or not anybody runs the loop: Run only watches what becomes of the newest revision, writes down how it
// ended, and goes back from one that fails.
type Engine struct {
	project string
	client  *Client
	log     *slog.Logger
	plane   Plane
	control *Control // nil outside of the control plane in the cluster
	writes  sync.Mutex
	last    lastLook
	woken   atomic.Uint64 // how often a watch of the loop said that something has changed
	// unmeasured is when the cluster had no metrics API.
	unmeasured atomic.Pointer[time.Time]
	// hindered is what kept the loop from carrying out a revision last, nil for nothing.
	hindered atomic.Pointer[hindrance]

	// contents are those of revisions that are about to be applied, by ref.
	contents sync.Map
}

var _ engine.Engine = (*Engine)(nil)

// New returns the engine of a project. It asks the cluster nothing yet.
func New(project string, client *Client, log *slog.Logger) *Engine {
	return &Engine{project: project, client: client, log: log}
}

// Capabilities implements engine.Engine.
func (e *Engine) Capabilities() engine.Capabilities { return engine.Capabilities{Name: "kubernetes"} }

// Keep returns p with the Ref of every secret, config and bind mount that goes along set, and keeps the contents (by
// "secrets/NAME", "configs/NAME", and as FolderContents names them) for an Apply of it. With look nothing is written: where the cluster has no key yet the refs are made
// with none, which differ from those of anything that is there. Either way a namespace that is about to go, or has a project that a cluster cannot tell
// from this one, is an ErrConflict, and a cluster that is too old for any project, or has not what the environment says that it has, an
// ErrUnsupported.
func (e *Engine) Keep(ctx context.Context, p compose.Project, contents map[string][]byte, look bool) (compose.Project, error) {
	if _, err := e.version(); err != nil {
		return p, err
	}
	if err := e.client.foreignIn(p); err != nil {
		return p, err
	}
	var err error
	if look {
		_, err = e.client.namespaceThere(ctx)
	} else {
		err = e.client.ensureNamespace(ctx, e.project)
	}
	if err != nil {
		return p, err
	}
	if _, err := e.client.notes(ctx, e.project); err != nil {
		return p, err
	}
	key, err := e.client.refKey(ctx, e.project, !look)
	if err != nil {
		return p, err
	}
	p, kept := withRefs(p, contents, key)
	for ref, content := range kept {
		e.contents.Store(ref, content)
	}
	return p, nil
}

// Apply implements engine.Engine. Unlike an engine with a loop of its own it also applies the objects: where that fails
// the revision stays, as the one that is wanted and was not reached, and the next Apply, of whatever, goes on from there.
func (e *Engine) Apply(ctx context.Context, rev state.Revision, base engine.StateID) (state.Revision, error) {
	fail := func(err error) (state.Revision, error) {
		return state.Revision{}, fmt.Errorf("apply %s: %w", e.project, err)
	}
	if rev.Project.Name != e.project {
		return fail(fmt.Errorf("%w: this engine runs %s", errdefs.ErrInvalid, e.project))
	}
	e.writes.Lock()
	defer e.writes.Unlock()
	if _, err := e.version(); err != nil {
		return fail(err)
	}
	if err := e.client.foreignIn(rev.Project); err != nil {
		return fail(err)
	}
	if err := e.client.ensureNamespace(ctx, e.project); err != nil {
		return fail(err)
	}
	all, err := e.client.history(ctx, e.project)
	if err != nil {
		return fail(err)
	}
	live, err := e.client.live(ctx, e.project)
	if err != nil {
		return fail(err)
	}
	if len(all) > 0 {
		if base != "" && base != Read(all[0].Revision, live).ID {
			return fail(fmt.Errorf("%w: the project is no longer as it was when this was planned: plan again", errdefs.ErrConflict))
		}
		if rev.Undoes != 0 && rev.Undoes != all[0].Number {
			return fail(fmt.Errorf("%w: revision %d is not the newest any more", errdefs.ErrConflict, rev.Undoes))
		}
		rev.Number = all[0].Number
	}
	rev.Number++
	rev.Outcome, rev.HealthyAt = state.Pending, nil
	if rev.AppliedAt.IsZero() {
		rev.AppliedAt = time.Now()
	}
	g, err := e.ground(ctx, rev.Project, live)
	if err != nil {
		return fail(err)
	}
	if err := e.noteGround(ctx, rev.Project, g); err != nil {
		return fail(err)
	}
	overrides, err := e.Overrides(ctx)
	if err != nil {
		return fail(err)
	}
	var before *compose.Project
	if len(all) > 0 {
		before = &all[0].Project
	}
	overrides, ended := remaining(overrides, before, rev.Project, rev.Undoes > 0)
	one := record{Revision: rev, contents: e.kept(rev.Project, all)}
	if live, err = e.begin(ctx, one, live, g); err != nil {
		return fail(err)
	}
	objects, err := e.renderWith(one, live, overrides, g)
	if err != nil {
		return fail(err)
	}
	one.rollouts = begun(objects, live, rev)
	var again []item // what failed before is tried anew
	for _, job := range failedToPrepare(objects, live) {
		again = append(again, jobItem(job))
	}
	if err := e.client.prune(ctx, e.project, again, metav1.DeleteOptions{}, prunePatience); err != nil {
		return fail(err)
	}
	if err := e.client.append(ctx, one); err != nil {
		return fail(err)
	}
	for _, o := range ended {
		if err := e.client.setOverride(ctx, e.project, o); err != nil {
			return fail(err)
		}
	}
	if _, err := e.carryOut(ctx, one, objects, live); err != nil {
		return fail(err)
	}
	if err := e.client.forgetOld(ctx, append([]record{one}, all...)); err != nil {
		e.log.WarnContext(ctx, "old revisions were not removed", "project", e.project, "err", err)
	}
	return rev, nil
}

// kept returns the contents that a project refers to, out of those kept for this apply and of what earlier revisions had.
func (e *Engine) kept(p compose.Project, all []record) map[string][]byte {
	out := map[string][]byte{}
	for _, ref := range refsOf(p) {
		if content, ok := e.contents.Load(ref); ok {
			out[ref] = content.([]byte)
			continue
		}
		for _, r := range all {
			if content, ok := r.contents[ref]; ok {
				out[ref] = content
				break
			}
		}
	}
	return out
}

// render returns the objects of a revision, as it is wanted now.
func (e *Engine) render(ctx context.Context, one record, live Live) ([]Object, error) {
	overrides, err := e.Overrides(ctx)
	if err != nil {
		return nil, err
	}
	g, err := e.ground(ctx, one.Project, live)
	if err != nil {
		return nil, err
	}
	return e.renderWith(one, live, overrides, g)
}

func (e *Engine) renderWith(one record, live Live, overrides map[string]state.Override, g ground) ([]Object, error) {
	contents, err := contentsOf(one.Project, one.contents)
	if err != nil {
		return nil, err
	}
	folders, err := foldersOf(contents)
	if err != nil {
		return nil, err
	}
	return Render(one.Project, slices.Concat(live.Objects, live.Leaving, podsIn(live)), Options{
		Namespace: e.client.Namespace, Revision: one.Number, AppliedAt: one.AppliedAt, Contents: contents, Folders: folders, Overrides: overrides,
		Image: g.image, Direct: !planeServes(live.Objects), Durable: g.durable, Metered: g.metered, Version: g.version, Key: planeKey(g.key),
	})
}

// podsIn are the pods of a project as objects.
func podsIn(live Live) []Object {
	all := make([]Object, 0, len(live.Pods))
	for i := range live.Pods {
		all = append(all, &live.Pods[i])
	}
	return all
}

// look returns the revisions, what is there, and what that means. Nothing was ever applied, or all of it was removed:
// ErrNotFound.
func (e *Engine) look(ctx context.Context, project string) (all []record, live Live, s engine.State, err error) {
	now, err := e.read(ctx, project)
	if err != nil {
		return nil, live, s, err
	}
	s, err = e.stateOf(project, now)
	return now.revisions, now.live, s, err
}

// stateOf says what a sighting means, as look does.
func (e *Engine) stateOf(project string, now sighting) (s engine.State, err error) {
	all, items, live := now.revisions, now.items, now.live
	if len(all) == 0 || len(without(items, claims(items))) == 0 {
		return s, e.nothing()
	}
	if err := over(items, live, project); err != nil {
		return s, fmt.Errorf("observe %s in namespace %s: %w", project, e.client.Namespace, err)
	}
	s = Read(all[0].Revision, live)
	for _, name := range all[0].Project.ServiceNames() {
		svc := all[0].Project.Services[name]
		if _, there := stateIn(s, name); !there && !svc.Provided() && all[0].Outcome == state.Pending {
			s.Services = append(s.Services, engine.Service{
				Name: name, State: engine.ServiceStarting, Want: engine.Replicas(svc), Ports: []engine.Port{}, Instances: []engine.Instance{},
				Reason: cmp.Or(waitsFor(awaits(all[0].Project, svc, s)), e.hindrance(all[0].goal())),
			})
		}
	}
	slices.SortFunc(s.Services, func(a, b engine.Service) int { return strings.Compare(a.Name, b.Name) })
	s.Rollouts = rolloutsOf(all)
	return s, nil
}

// nothing says that there is nothing to look at.
func (e *Engine) nothing() error {
	return fmt.Errorf("observe %s in namespace %s: %w: nothing was ever applied", e.project, e.client.Namespace, errdefs.ErrNotFound)
}

// Runs fails with ErrNotFound where the project does not run: nothing of it was ever applied, or all of it is gone again. It
// asks for much less than Observe does.
func (e *Engine) Runs(ctx context.Context) error {
	items, err := e.client.inventory(ctx, e.project)
	if err != nil {
		return err
	}
	if len(without(items, claims(items))) == 0 {
		return e.nothing()
	}
	if !timed(items, e.project) {
		return nil
	}
	jobs, err := e.client.resource(batchv1.SchemeGroupVersion.WithKind("Job"))
	if err != nil {
		return err
	}
	if _, err := jobs.Get(ctx, lifetimeName(e.project), metav1.GetOptions{}); err != nil {
		return fmt.Errorf("observe %s in namespace %s: its time to live: %w", e.project, e.client.Namespace, e.client.explain(err))
	}
	return nil
}

// Client is how the engine reaches its cluster.
func (e *Engine) Client() *Client { return e.client }

// Observe implements engine.Engine.
func (e *Engine) Observe(ctx context.Context, project string) (engine.State, error) {
	now, err := e.recent(ctx, project)
	if err != nil {
		return engine.State{}, err
	}
	s, err := e.stateOf(project, now)
	if err != nil {
		return engine.State{}, err
	}
	e.client.enrich(ctx, &s, now.live)
	return s, nil
}

// History returns the revisions, newest first; limit 0 is all.
func (e *Engine) History(ctx context.Context, limit int) ([]state.Revision, error) {
	all, err := e.history(ctx)
	if err != nil {
		return nil, err
	}
	var out []state.Revision
	for _, r := range all {
		if limit == 0 || len(out) < limit {
			out = append(out, r.Revision)
		}
	}
	return out, nil
}

// Rollouts returns those of every revision that is kept, by its number.
func (e *Engine) Rollouts(ctx context.Context) (map[int64][]state.Rollout, error) {
	all, err := e.history(ctx)
	if err != nil {
		return nil, err
	}
	out := map[int64][]state.Rollout{}
	for _, r := range all {
		out[r.Number] = r.rollouts
	}
	return out, nil
}

// Logs implements engine.Engine.
func (e *Engine) Logs(ctx context.Context, project string, id engine.InstanceID, opt driver.LogOptions) (io.ReadCloser, error) {
	r, err := e.client.programOutput(ctx, string(id), logsOf{follow: opt.Follow, times: true, tail: opt.Tail, since: opt.Since})
	if err != nil {
		return nil, err
	}
	return linesOf(r, opt.Since), nil
}

// Run implements engine.Engine.
func (e *Engine) Run(ctx context.Context, changed func(project string)) error {
	w := watcher{engine: e, changed: changed}
	return w.run(ctx)
}
