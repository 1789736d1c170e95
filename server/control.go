package server

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"trellis/api"
	"trellis/compose"
	"trellis/driver"
	"trellis/engine"
	"trellis/errdefs"
	"trellis/state"
	"trellis/telemetry/metrics"
)

// control is the control plane of one project: what api.Handler serves.
type control struct {
	location Location
	engine   engine.Engine
	store    state.Store
	contents *state.Contents
	plane    *plane
	changed  *broadcast
	console  *consoleDoor
	*sight
	stop     func() // ends holder, data plane and this process, after the answer that is being given
	once     func(ctx context.Context, project, service string, cmd driver.Command) (int, error)
	drifted  func() map[string]int // in how many places a service differs from its revision
	stopping atomic.Bool
	log      *slog.Logger
	build    string

	issuing   sync.Mutex
	unissued  string       // the last failure to issue that was told
	deploying sync.Mutex   // held from the decision to the written revision
	keeping   sync.RWMutex // read-locked while a deploy refers to contents that no revision needs yet
}

var _ api.Control = (*control)(nil)

// Status implements api.Observer.
func (c *control) Status(ctx context.Context) (api.Status, error) {
	s, err := c.observe(ctx)
	if err != nil {
		return api.Status{}, err
	}
	status := api.Status{State: s, Version: c.build, ControlPlane: api.Process{PID: os.Getpid()}}
	c.plane.describe(ctx, &status)
	if s.Desired != nil {
		if status.Ends, err = c.ends(ctx); err != nil {
			return api.Status{}, err
		}
	}
	if url := c.console.url(); url != "" {
		status.Console = &url
	}
	if address := c.sight.prometheus.address.Load(); address != nil {
		url := "http://" + *address
		status.Prometheus = &url
	}
	if address := c.sight.otlp.address.Load(); address != nil {
		url := "http://" + *address
		status.OTLP = api.Endpoints{GRPC: address, HTTP: &url}
	}
	return status, nil
}

// observe is the engine's Observe, with the empty State for a project that was never applied.
func (c *control) observe(ctx context.Context) (engine.State, error) {
	s, err := c.engine.Observe(ctx, c.location.Project)
	if errors.Is(err, errdefs.ErrNotFound) {
		return engine.State{Project: c.location.Project, Engine: c.engine.Capabilities().Name, Services: []engine.Service{}}, nil
	}
	return s, err
}

// Watch implements api.Observer.
func (c *control) Watch(ctx context.Context, fn func(api.Status) error) error {
	return watchIn(ctx, c.changed, c.Status, fn)
}

// watchIn is api.Observer's Watch of what changed tells to look at again.
func watchIn(ctx context.Context, changed *broadcast, look func(context.Context) (api.Status, error), fn func(api.Status) error) error {
	for {
		// The channel is taken before the look, so that a change in between is not missed.
		next := changed.next()
		status, err := look(ctx)
		if err != nil {
			return err
		}
		if err := fn(status); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-next:
		}
	}
}

// Events implements api.Observer.
func (c *control) Events(ctx context.Context, f state.EventFilter, follow bool, fn func(state.Event) error) error {
	return eventsIn(ctx, c.store, c.changed, f, follow, fn)
}

// eventsIn is api.Observer's Events of a store.
func eventsIn(ctx context.Context, store state.Store, changed *broadcast, f state.EventFilter, follow bool, fn func(state.Event) error) error {
	for {
		next := changed.next()
		for e, err := range store.Events(ctx, f) {
			if err != nil {
				return err
			}
			if err := fn(e); err != nil {
				return err
			}
			f.After = e.Seq
		}
		if !follow {
			return nil
		}
		f.Limit = 0
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-next:
		}
	}
}

// History implements api.Observer.
func (c *control) History(ctx context.Context, limit int) ([]state.Revision, error) {
	return c.store.History(ctx, limit)
}

// Routes implements api.Observer.
func (c *control) Routes(context.Context) ([]api.Route, error) { return c.plane.routes(), nil }

// Top implements api.Observer.
func (c *control) Top(ctx context.Context) ([]engine.Usage, error) {
	return c.engine.Stats(ctx, c.location.Project)
}

// Plan implements api.Deployer.
func (c *control) Plan(ctx context.Context, req api.ApplyRequest) (api.Plan, error) {
	if err := c.mine(req.Project); err != nil {
		return api.Plan{}, err
	}
	want, err := c.withRefs(req, func(b []byte) (string, error) { return c.contents.Ref(b), nil })
	if err != nil {
		return api.Plan{}, err
	}
	have, err := c.observe(ctx)
	if err != nil {
		return api.Plan{}, err
	}
	return api.Plan{Base: have.ID, Changes: engine.Diff(want, have)}, nil
}

// Apply implements api.Deployer.
func (c *control) Apply(ctx context.Context, req api.ApplyRequest) (state.Revision, error) {
	if err := c.mine(req.Project); err != nil {
		return state.Revision{}, err
	}
	c.keeping.RLock()
	defer c.keeping.RUnlock()
	project, err := c.withRefs(req, c.contents.Put)
	if err != nil {
		return state.Revision{}, err
	}
	if err := c.whole(project); err != nil {
		return state.Revision{}, err
	}
	rev := state.Revision{Project: project, Commit: req.Commit, Cause: req.Cause, Actor: req.Actor}
	return c.deploy(ctx, rev, req.Base, req.NoWait)
}

// Rollback implements api.Deployer.
func (c *control) Rollback(ctx context.Context, number int64, actor string) (state.Revision, error) {
	c.keeping.RLock()
	defer c.keeping.RUnlock()
	revs, err := c.store.History(ctx, 0)
	if err != nil {
		return state.Revision{}, err
	}
	rev, err := backTo(c.location.Project, revs, number)
	if err != nil {
		return state.Revision{}, err
	}
	if err := c.complete(rev); err != nil {
		return state.Revision{}, err
	}
	again := state.Revision{Project: rev.Project, Commit: rev.Commit, Actor: actor, Cause: fmt.Sprintf("rollback to %d", rev.Number)}
	return c.deploy(ctx, again, "", false)
}

// backTo returns the revision of that number, 0 for the last healthy one before the newest. There is none: ErrNotFound.
func backTo(project string, revs []state.Revision, number int64) (state.Revision, error) {
	if len(revs) == 0 {
		return state.Revision{}, fmt.Errorf("roll back %s: %w: nothing was ever applied", project, errdefs.ErrNotFound)
	}
	for _, rev := range revs {
		if number == 0 && rev.Number < revs[0].Number && rev.Outcome == state.Healthy || number != 0 && rev.Number == number {
			return rev, nil
		}
	}
	if number == 0 {
		return state.Revision{}, fmt.Errorf("roll back %s: %w: no healthy revision before %d", project, errdefs.ErrNotFound, revs[0].Number)
	}
	return state.Revision{}, fmt.Errorf("roll back %s to %d: %w: no such revision; see `trellis history`", project, number, errdefs.ErrNotFound)
}

// Rollout implements api.Deployer.
func (c *control) Rollout(ctx context.Context, req api.RolloutRequest) error {
	return c.engine.Instruct(ctx, c.location.Project, req.Service, req.Action, req.Actor)
}

// Override implements api.Deployer.
func (c *control) Override(ctx context.Context, req api.OverrideRequest) error {
	c.deploying.Lock()
	defer c.deploying.Unlock()
	latest, err := c.store.Latest(ctx)
	if err != nil {
		return fmt.Errorf("change %s: %w: nothing is applied; run `trellis up` first", req.Service, err)
	}
	if _, ok := latest.Project.Services[req.Service]; !ok {
		return fmt.Errorf("change %s: %w: no such service in revision %d", req.Service, errdefs.ErrNotFound, latest.Number)
	}
	all, err := c.store.Overrides(ctx)
	if err != nil {
		return err
	}
	var o state.Override
	for _, have := range all {
		if have.Service == req.Service {
			o = have
		}
	}
	return c.engine.Override(ctx, c.location.Project, overridden(o, req))
}

// overridden is what holds for a service after a request, o what held before.
func overridden(o state.Override, req api.OverrideRequest) state.Override {
	o.Service, o.Actor = req.Service, req.Actor
	if req.Replicas != nil {
		o.Replicas = req.Replicas
	}
	if req.Stopped != nil {
		o.Stopped = *req.Stopped
	}
	if req.Restart {
		o.Restart++
	}
	return o
}

// Volumes implements api.Observer.
func (c *control) Volumes(ctx context.Context) ([]string, error) {
	return c.engine.Volumes(ctx, c.location.Project)
}

// Down implements api.Deployer.
func (c *control) Down(ctx context.Context, opt engine.DeleteOptions) error {
	if !opt.Now { // one that is to end at once does not wait behind the one that it hurries
		c.deploying.Lock()
		defer c.deploying.Unlock()
	}
	if err := c.takeDown(ctx, opt); err != nil {
		return err
	}
	c.stop()
	return nil
}

// takeDown removes what there is of the project, for who sees to it that nobody deploys meanwhile and that the control plane ends then.
func (c *control) takeDown(ctx context.Context, opt engine.DeleteOptions) error {
	if err := c.engine.Delete(ctx, c.location.Project, opt); err != nil {
		return err
	}
	if err := c.giveUp(ctx); err != nil {
		return err
	}
	if err := os.RemoveAll(c.location.Watched()); err != nil {
		return fmt.Errorf("remove what was watched of %s: %w", c.location.Project, err)
	}
	if opt.Volumes {
		if err := c.plane.forget(); err != nil {
			return fmt.Errorf("give up the ports of %s: %w", c.location.Project, err)
		}
	}
	return c.store.SetValue(ctx, expiringValue, nil)
}

// giveUp settles a revision that was still on its way when the project was taken down: nobody deploys it any more.
func (c *control) giveUp(ctx context.Context) error {
	latest, err := c.store.Latest(ctx)
	if errors.Is(err, errdefs.ErrNotFound) || err == nil && latest.Outcome != state.Pending {
		return nil
	}
	if err != nil {
		return err
	}
	if err := c.store.Settle(ctx, latest.Number, state.Failed, time.Now()); err != nil && !errors.Is(err, errdefs.ErrConflict) {
		return fmt.Errorf("settle revision %d: %w", latest.Number, err)
	}
	return nil
}

// Exec implements api.Operator.
func (c *control) Exec(ctx context.Context, req api.ExecRequest, cmd driver.Command) (int, error) {
	if req.OneOff {
		return c.once(ctx, c.location.Project, req.Service, cmd)
	}
	id := req.Instance
	if id == "" {
		s, err := c.observe(ctx)
		if err != nil {
			return 0, err
		}
		if id, err = running(s, req.Service); err != nil {
			return 0, err
		}
	}
	return c.engine.Exec(ctx, c.location.Project, id, cmd)
}

// running returns the service's instance of the lowest slot that runs, or the first one where there are no slots.
func running(s engine.State, service string) (engine.InstanceID, error) {
	for _, svc := range s.Services {
		if svc.Name != service {
			continue
		}
		best := engine.Instance{}
		for _, in := range svc.Instances {
			runs := in.State != engine.InstanceExited && (in.PID != 0 || in.Slot == 0 && in.State != engine.InstancePending)
			if runs && (best.ID == "" || in.Slot < best.Slot) {
				best = in
			}
		}
		if best.ID == "" {
			return "", fmt.Errorf("exec in %s: %w: no instance runs (%s)", service, errdefs.ErrNotFound, svc.State)
		}
		return best.ID, nil
	}
	return "", fmt.Errorf("exec in %s: %w: no such service", service, errdefs.ErrNotFound)
}

// Shutdown implements api.Operator.
func (c *control) Shutdown(ctx context.Context, stop bool) error {
	if stop {
		return c.Down(ctx, engine.DeleteOptions{})
	}
	c.stop()
	return nil
}

// mine refuses a project that another control plane serves.
func (c *control) mine(p compose.Project) error {
	if p.Name != c.location.Project {
		return fmt.Errorf("apply %s: %w: this control plane serves %s", p.Name, errdefs.ErrInvalid, c.location.Project)
	}
	return nil
}

// withRefs returns the project with the Ref of every secret and config set to where its content is kept.
func (c *control) withRefs(req api.ApplyRequest, keep func([]byte) (string, error)) (compose.Project, error) {
	p := req.Project
	fill := func(kind string, values map[string]compose.FileValue) (map[string]compose.FileValue, error) {
		filled := make(map[string]compose.FileValue, len(values))
		for name, v := range values {
			content, ok := req.Contents[kind+"/"+name]
			if ok {
				ref, err := keep(content)
				if err != nil {
					return nil, fmt.Errorf("keep %s %s: %w", kind, name, err)
				}
				v.Ref = ref
			}
			v.Content = ""
			filled[name] = v
		}
		return filled, nil
	}
	var err error
	if p.Secrets, err = fill("secrets", p.Secrets); err != nil {
		return p, err
	}
	if p.Configs, err = fill("configs", p.Configs); err != nil {
		return p, err
	}
	if a := p.Trellis.Alerts; a != nil {
		for _, name := range a.Rules {
			if _, err := metrics.ParseRules(req.Contents["configs/"+name]); err != nil {
				return p, fmt.Errorf("alert rules of config %s: %w: %w", name, errdefs.ErrInvalid, err)
			}
		}
	}
	return p, nil
}

// deploy writes rev down once no other deploy is under way and every address it publishes is ours.
func (c *control) deploy(ctx context.Context, rev state.Revision, base engine.StateID, noWait bool) (state.Revision, error) {
	for {
		c.deploying.Lock()
		if c.stopping.Load() { // what it began nobody would look after
			c.deploying.Unlock()
			return state.Revision{}, fmt.Errorf("deploy %s: %w: it was taken down meanwhile, and its control plane ends; run `trellis up` again", c.location.Project, errdefs.ErrConflict)
		}
		next := c.changed.next()
		busy, err := c.underWay(ctx)
		if err == nil && (busy == nil || continues(rev, *busy)) {
			defer c.deploying.Unlock()
			if err := roomForInstance(c.location.StateDir); err != nil {
				return state.Revision{}, fmt.Errorf("deploy %s: %w", c.location.Project, err)
			}
			if err := c.plane.reserve(ctx, rev.Project); err != nil {
				return state.Revision{}, err
			}
			if err := c.issue(rev.Project, time.Now()); err != nil {
				return state.Revision{}, err
			}
			return c.engine.Apply(ctx, rev, base)
		}
		c.deploying.Unlock()
		if err != nil {
			return state.Revision{}, err
		}
		if noWait {
			return state.Revision{}, fmt.Errorf("deploy %s: %w: %s deploys revision %d (%s) since %s; wait for it, or leave out --no-wait",
				c.location.Project, errdefs.ErrConflict, busy.Actor, busy.Number, busy.Cause, busy.AppliedAt.Format(time.TimeOnly))
		}
		select {
		case <-ctx.Done():
			return state.Revision{}, ctx.Err()
		case <-next:
		}
	}
}

// continues says whether whoever deploys rev also deploys what is under way, file by file as it is saved: a watch does not
// wait for a version of its own that does not become healthy.
func continues(rev, busy state.Revision) bool {
	return rev.Cause == api.CauseWatch && busy.Cause == api.CauseWatch && rev.Actor == busy.Actor
}

// underWay returns the revision whose deploy goes on. One that visibly fails, or that waits for somebody, does not count:
// the next deploy is most likely its repair.
func (c *control) underWay(ctx context.Context) (*state.Revision, error) {
	latest, err := c.store.Latest(ctx)
	if errors.Is(err, errdefs.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	if latest.Outcome != state.Pending {
		return nil, nil
	}
	s, err := c.observe(ctx)
	if err != nil {
		return nil, err
	}
	for _, r := range s.Rollouts {
		if r.Revision == latest.Number && r.Phase == state.Paused {
			return nil, nil
		}
	}
	for _, svc := range s.Services {
		if svc.State == engine.ServiceCrashLooping || svc.State == engine.ServiceFailed {
			return nil, nil
		}
	}
	return &latest, nil
}
