package server

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"time"

	"trellis/api"
	"trellis/driver"
	"trellis/engine"
	"trellis/engine/kubernetes"
	"trellis/errdefs"
	"trellis/proxy"
	"trellis/state"
)

// Cluster says where a project runs that does not run on this machine.
type Cluster struct {
	Context   string `json:"context"`   // of the kubeconfig; "": its current one
	Namespace string `json:"namespace"` // "": that of the context, or else the project's name
	// Trellis is the image of Trellis that was put where the cluster pulls it from, "" for none.
	Trellis string `json:"-"`
}

// Where names a cluster and the place in it, for people.
func (c Cluster) where(client *kubernetes.Client) string {
	return fmt.Sprintf("namespace %s of %s (context %s)", client.Namespace, client.Server, client.Context)
}

// dial returns a client of the cluster where a project runs; nobody is asked yet.
func (l Location) dial(log *slog.Logger) (*kubernetes.Client, error) {
	return kubernetes.Dial(l.Project, kubernetes.Access{Context: l.Cluster.Context, Namespace: l.Cluster.Namespace}, log)
}

// ConnectCluster returns what controls a project in a cluster: the cluster itself, asked from here, and its control plane for what was
// measured and heard. The project does not run there: ErrNotFound, unless any is set.
func ConnectCluster(ctx context.Context, l Location, any bool, log *slog.Logger) (api.Control, io.Closer, error) {
	client, err := l.dial(log)
	if err != nil {
		return nil, nil, err
	}
	e := kubernetes.New(l.Project, client, log)
	plane := Plane(os.Getenv(kubernetes.ImageEnv))
	plane.Made = l.Cluster.Trellis
	e.UsePlane(plane)
	c := cluster{location: l, engine: e, changed: &broadcast{}, owner: ownerIn(client, l.Project)}
	// Whether images can be pulled is no reason to see and do nothing in the cluster.
	images, err := usedRegistry(client, l.Project)
	if err == nil && images != nil {
		err = ensureRegistry(ctx, images) // it may have ended with this machine
	}
	if err != nil {
		log.WarnContext(ctx, "images cannot be pulled from this machine", "project", l.Project, "err", err)
	}
	if err := e.Runs(ctx); err != nil && !(any && errors.Is(err, errdefs.ErrNotFound)) {
		return nil, nil, err
	}
	reach := &afar{engine: e}
	return distant{c, reach}, reach, nil
}

// distant is the control of a project in a cluster from elsewhere: the cluster is asked itself, and its control plane for what that alone
// knows.
type distant struct {
	cluster
	*afar
}

var _ api.Control = distant{}

// ClusterOf says which cluster a location means, for people; it asks nobody.
func ClusterOf(l Location) (string, error) {
	client, err := l.dial(slog.New(slog.DiscardHandler))
	if err != nil {
		return "", err
	}
	return l.Cluster.where(client), nil
}

// ClusterNow returns the cluster that a location means now, by the names of its context and namespace; it asks nobody.
func ClusterNow(l Location) (*Cluster, error) {
	client, err := l.dial(slog.New(slog.DiscardHandler))
	if err != nil {
		return nil, err
	}
	return &Cluster{Context: client.Context, Namespace: client.Namespace}, nil
}

// cluster is the control of a project in a cluster, as far as the cluster itself knows and does things.
type cluster struct {
	location Location
	engine   *kubernetes.Engine
	changed  *broadcast
	owner    string // of images in the registry of this machine, "" in a pod
}

// observe is the engine's Observe, with the empty State for a project that does not run.
func (c cluster) observe(ctx context.Context) (engine.State, error) {
	s, err := c.engine.Observe(ctx, c.location.Project)
	if errors.Is(err, errdefs.ErrNotFound) {
		return engine.State{Project: c.location.Project, Engine: c.engine.Capabilities().Name, Services: []engine.Service{}}, nil
	}
	return s, err
}

// Status implements api.Observer.
func (c cluster) Status(ctx context.Context) (api.Status, error) {
	s, err := c.observe(ctx)
	status := api.Status{State: s, Version: Version}
	if err != nil || s.Desired == nil {
		return status, err
	}
	if s.Desired.TTL() > 0 {
		if status.Ends, err = c.engine.Ends(ctx); err != nil {
			return status, err
		}
	}
	doors, err := c.engine.Doors(ctx, *s.Desired)
	status.Gateway = api.Gateway{HTTP: unlessEmpty(doors.HTTP), HTTPS: unlessEmpty(doors.HTTPS)}
	return status, err
}

// Routes implements api.Observer. They are those of the data plane in the cluster, or the file's at a gateway of the cluster's own.
func (c cluster) Routes(ctx context.Context) ([]api.Route, error) {
	s, err := c.observe(ctx)
	if err != nil || s.Desired == nil {
		return []api.Route{}, err
	}
	doors, err := c.engine.Doors(ctx, *s.Desired)
	if err != nil {
		return nil, err
	}
	address := cmp.Or(doors.HTTP, doors.HTTPS)
	if kubernetes.GatewayClass(*s.Desired) != "" {
		return routesIn(proxy.Snapshot{Routes: kubernetes.OutsideRoutes(*s.Desired, s.Unserved)}, address), nil
	}
	traffic, err := c.engine.Traffic(ctx)
	if err != nil {
		return nil, err
	}
	return routesIn(traffic, address), nil
}

// unlessEmpty returns a text, nil for none.
func unlessEmpty(text string) *string {
	if text == "" {
		return nil
	}
	return &text
}

// breath is how long a Watch waits at least between two looks at the cluster.
const breath = 300 * time.Millisecond

// Watch implements api.Observer. While it lasts, the engine's loop runs here.
func (c cluster) Watch(ctx context.Context, fn func(api.Status) error) error {
	ctx, cancel := context.WithCancel(ctx)
	ended := make(chan error, 1)
	go func() { ended <- c.engine.Run(ctx, func(string) { c.changed.wake() }) }()
	defer func() { <-ended }()
	defer cancel()
	for {
		next := c.changed.next()
		status, err := c.Status(ctx)
		if err != nil {
			return err
		}
		if err := fn(status); err != nil {
			return err
		}
		for _, wait := range []<-chan struct{}{next, after(breath)} {
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-wait:
			}
		}
	}
}

// after returns a channel that is closed after d.
func after(d time.Duration) <-chan struct{} {
	c := make(chan struct{})
	time.AfterFunc(d, func() { close(c) })
	return c
}

// History implements api.Observer.
func (c cluster) History(ctx context.Context, limit int) ([]state.Revision, error) {
	return c.engine.History(ctx, limit)
}

// Deployments implements api.Viewer.
func (c cluster) Deployments(ctx context.Context, limit int) ([]api.Deployment, error) {
	revisions, err := c.engine.History(ctx, limit)
	if err != nil {
		return nil, err
	}
	rollouts, err := c.engine.Rollouts(ctx)
	if err != nil {
		return nil, err
	}
	all := []api.Deployment{}
	for _, rev := range revisions {
		all = append(all, deployment(rev, rollouts[rev.Number]))
	}
	return all, nil
}

// Compare implements api.Viewer.
func (c cluster) Compare(ctx context.Context, from, to int64) ([]engine.Change, error) {
	revisions, err := c.engine.History(ctx, 0)
	if err != nil {
		return nil, err
	}
	return compare(from, to, func(number int64) (state.Revision, error) { return backTo(c.location.Project, revisions, number) })
}

// Plan implements api.Deployer.
func (c cluster) Plan(ctx context.Context, req api.ApplyRequest) (api.Plan, error) {
	want, err := c.engine.Keep(ctx, req.Project, req.Contents, true)
	if err != nil {
		return api.Plan{}, err
	}
	have, err := c.observe(ctx)
	if err != nil {
		return api.Plan{}, err
	}
	plan := api.Plan{Base: have.ID, Changes: c.engine.Diff(ctx, want, have)}
	if len(plan.Changes) == 0 {
		plan.Again, err = c.engine.Behind(ctx)
	}
	return plan, err
}

// Apply implements api.Deployer. Whoever deploys meanwhile is not waited for: of two the later one counts.
func (c cluster) Apply(ctx context.Context, req api.ApplyRequest) (state.Revision, error) {
	project, err := c.engine.Keep(ctx, req.Project, req.Contents, false)
	if err != nil {
		return state.Revision{}, err
	}
	return c.engine.Apply(ctx, state.Revision{Project: project, Commit: req.Commit, Cause: req.Cause, Actor: req.Actor}, req.Base)
}

// Rollback implements api.Deployer.
func (c cluster) Rollback(ctx context.Context, number int64, actor string) (state.Revision, error) {
	revisions, err := c.engine.History(ctx, 0)
	if err != nil {
		return state.Revision{}, err
	}
	goal, err := backTo(c.location.Project, revisions, number)
	if err != nil {
		return state.Revision{}, err
	}
	goal.Actor, goal.Cause = actor, fmt.Sprintf("rollback to %d", goal.Number)
	return c.engine.Apply(ctx, state.Revision{Project: goal.Project, Commit: goal.Commit, Cause: goal.Cause, Actor: goal.Actor}, "")
}

// Override implements api.Deployer.
func (c cluster) Override(ctx context.Context, req api.OverrideRequest) error {
	all, err := c.engine.Overrides(ctx)
	if err != nil {
		return err
	}
	return c.engine.Override(ctx, c.location.Project, overridden(all[req.Service], req))
}

// Rollout implements api.Deployer.
func (c cluster) Rollout(ctx context.Context, req api.RolloutRequest) error {
	return c.engine.Instruct(ctx, c.location.Project, req.Service, req.Action, req.Actor)
}

// Drift implements api.Observer.
func (c cluster) Drift(ctx context.Context) (api.Drift, error) {
	all, err := c.engine.Drift(ctx, c.location.Project)
	if errors.Is(err, errdefs.ErrNotFound) {
		return api.Drift{Project: c.location.Project, Changes: []engine.Drift{}}, nil
	}
	return c.drift(ctx, all, err)
}

// Revert implements api.Deployer.
func (c cluster) Revert(ctx context.Context, req api.RevertRequest) (api.Drift, error) {
	all, err := c.engine.Revert(ctx, c.location.Project, req.Services, req.Actor)
	return c.drift(ctx, all, err)
}

func (c cluster) drift(ctx context.Context, all []engine.Drift, err error) (api.Drift, error) {
	if err != nil {
		return api.Drift{}, err
	}
	revisions, err := c.engine.History(ctx, 1)
	if err != nil || len(revisions) == 0 {
		return api.Drift{}, err
	}
	return api.Drift{Project: c.location.Project, Revision: revisions[0].Number, Changes: all}, nil
}

// Top implements api.Observer.
func (c cluster) Top(ctx context.Context) ([]engine.Usage, error) {
	return c.engine.Stats(ctx, c.location.Project)
}

// Events implements api.Observer.
func (c cluster) Events(ctx context.Context, f state.EventFilter, follow bool, fn func(state.Event) error) error {
	return c.engine.Events(ctx, f, follow, fn)
}

// Volumes implements api.Observer.
func (c cluster) Volumes(ctx context.Context) ([]string, error) {
	return c.engine.Volumes(ctx, c.location.Project)
}

// Down implements api.Deployer.
func (c cluster) Down(ctx context.Context, opt engine.DeleteOptions) error {
	if err := c.engine.Delete(ctx, c.location.Project, opt); err != nil || c.owner == "" {
		return err
	}
	images, err := existingRegistry()
	if err != nil || images == nil {
		return err
	}
	return images.Release(c.owner)
}

// Logs implements api.Operator.
func (c cluster) Logs(ctx context.Context, req api.LogsRequest) (io.ReadCloser, error) {
	m := &logMerger{observe: c.observe, engine: c.engine, project: c.location.Project, changed: c.next, req: req}
	return merged(ctx, m), nil
}

// next returns what a follower of output waits for: new instances are looked for again and again.
func (c cluster) next() <-chan struct{} { return after(2 * time.Second) }

// Exec implements api.Operator.
func (c cluster) Exec(ctx context.Context, req api.ExecRequest, cmd driver.Command) (int, error) {
	if req.OneOff {
		return 0, lacking("running a command in an instance of its own")
	}
	if req.Instance == "" {
		s, err := c.observe(ctx)
		if err != nil {
			return 0, err
		}
		if req.Instance, err = running(s, req.Service); err != nil {
			return 0, err
		}
	}
	return c.engine.Exec(ctx, c.location.Project, req.Instance, cmd)
}

// Shutdown implements api.Operator. Nothing of Trellis runs that could end.
func (c cluster) Shutdown(ctx context.Context, stop bool) error {
	if stop {
		return c.Down(ctx, engine.DeleteOptions{})
	}
	return nil
}
