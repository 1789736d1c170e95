package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"trellis/api"
	"trellis/compose"
	"trellis/driver"
	"trellis/engine"
	"trellis/errdefs"
	"trellis/state"
)

// world is what the fake control plane knows, kept in world.json between two commands of a script. What changes it is
// written to the file calls, one line each.
type world struct {
	Running   bool
	Status    api.Status
	Revisions []state.Revision
	Events    []state.Event
	Changes   []engine.Change // of every plan
	Again     string          // of every plan
	Drifted   []engine.Drift
	Routes    []api.Route
	Door      api.Door
	Seen      seen
	Top       [][]engine.Usage // one measurement after the other
	Traffic   []api.TrafficStep
	Lines     []api.LogLine
	Others    []running          // for ls
	Theirs    []composeContainer // that docker compose runs
	// Unprivileged says that there are no mounts and no other users here.
	Unprivileged bool

	// Frames are what Watch shows after a change; the last one stays.
	Frames []api.Status
	// Outcome is the outcome of the revision that the frames end with; healthy where it is empty.
	Outcome string
	// Busy makes the first so many applies fail with ErrConflict.
	Busy     int
	Exec     execAnswer
	Fail     map[string]string // method to "kind: message"
	DownTime time.Duration
	Left     []string // by Down
	Volumes  []string // that Down deletes
}

type execAnswer struct {
	Code   int
	Stderr string
}

// fake is a backend and the one control plane of it.
type fake struct {
	api.Viewer // but for Door no command uses it

	dir string
	mu  sync.Mutex
	world
	now chan struct{} // closed by Down at once
}

func newFake(dir string) *fake {
	f := &fake{dir: dir, now: make(chan struct{})}
	b, err := os.ReadFile(filepath.Join(dir, "world.json"))
	if errors.Is(err, os.ErrNotExist) {
		return f
	}
	if err == nil {
		err = json.Unmarshal(b, &f.world)
	}
	if err != nil {
		panic(fmt.Sprintf("world.json: %v", err))
	}
	return f
}

// called notes a call and keeps the world.
func (f *fake) called(format string, args ...any) error {
	b, err := json.MarshalIndent(f.world, "", "  ")
	if err == nil {
		err = os.WriteFile(filepath.Join(f.dir, "world.json"), b, 0o600)
	}
	if err != nil {
		return err
	}
	file, err := os.OpenFile(filepath.Join(f.dir, "calls"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer file.Close()
	_, err = fmt.Fprintf(file, format+"\n", args...)
	return err
}

// failure is what world says that a method returns.
func (f *fake) failure(method string) error {
	kind, message, ok := strings.Cut(f.Fail[method], ": ")
	if !ok {
		return nil
	}
	if known := errdefs.FromKind(kind); known != nil {
		return fmt.Errorf("%s: %w", message, known)
	}
	return errors.New(message)
}

func (f *fake) Close() error { return nil }

// fakeDeposit names images by their services alone, and notes what is put.
type fakeDeposit struct {
	*fake
	registry string
	named    []string
}

func (f *fake) Deposit(_ location, registry string) (deposit, error) {
	return &fakeDeposit{fake: f, registry: registry}, f.failure("deposit")
}

func (f *fake) ServeImages(_ context.Context, dir string, _ *slog.Logger) error {
	return f.called("registry %s", dir)
}

func (d *fakeDeposit) Registry(context.Context) (string, error) {
	return d.registry, d.failure("registry")
}

func (d *fakeDeposit) Of(_ context.Context, svc compose.Service) (string, error) {
	d.named = append(d.named, svc.Name)
	return d.registry + "/" + svc.Name + "@sha256:0", d.failure("of")
}

func (d *fakeDeposit) Trellis(context.Context) (string, error) {
	return "", fmt.Errorf("no registry: %w", errdefs.ErrNotFound)
}

func (d *fakeDeposit) Put(_ context.Context, tell func(string)) error {
	for _, name := range d.named {
		tell(name)
	}
	return d.called("put %s", strings.Join(d.named, " "))
}

func (d *fakeDeposit) Keep(context.Context, []state.Revision) error { return d.called("keep") }

func (f *fake) Door(context.Context) (api.Door, error) { return f.world.Door, f.failure("door") }

func (f *fake) Connect(_ context.Context, l location) (api.Control, io.Closer, error) {
	if !f.Running {
		return nil, nil, fmt.Errorf("project %s: %w", l.Project, errdefs.ErrNotFound)
	}
	return f, f, f.failure("connect")
}

func (f *fake) Ensure(_ context.Context, l location) (api.Control, io.Closer, error) {
	if !f.Running {
		f.Running = true
		f.world.Status.Project, f.world.Status.Engine = l.Project, "local"
		if err := f.called("started the control plane of %s", l.Project); err != nil {
			return nil, nil, err
		}
	}
	return f, f, f.failure("ensure")
}

func (f *fake) Look(location, bool, bool) (machine, error) {
	return machine{Unprivileged: f.Unprivileged}, nil
}

func (f *fake) Projects(_ context.Context, down bool) ([]running, error) {
	return slices.DeleteFunc(slices.Clone(f.Others), func(r running) bool { return r.Down && !down }), nil
}

func (f *fake) Images(context.Context, location) (images, error) { return f, f.failure("images") }

func (f *fake) Get(_ context.Context, _ string, svc compose.Service, pull, force bool, _ io.Writer) (image, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	err := f.called("image of %s, pull %v, force %v", svc.Name, pull, force)
	return image{ID: "sha256:" + svc.Name}, errors.Join(err, f.failure("image "+svc.Name))
}

func (f *fake) Compose(context.Context, string) ([]composeContainer, error) { return f.Theirs, nil }
func (f *fake) Elsewhere(context.Context, location) ([]string, error)       { return nil, nil }
func (f *fake) Halt(_ context.Context, ids []string, _ time.Duration) error {
	return f.called("halt %s", strings.Join(ids, ","))
}
func (f *fake) Resume(context.Context, []string) error { return nil }
func (f *fake) Discard(_ context.Context, ids []string) error {
	return f.called("discard %s", strings.Join(ids, ","))
}

func (f *fake) Serve(_ context.Context, l string, _ *slog.Logger) error {
	return f.called("serve %s", l)
}

func (f *fake) Proxy(_ context.Context, l string, _ *slog.Logger) error {
	return f.called("proxy %s", l)
}

func (f *fake) ProxyInCluster(_ context.Context, project, namespace string, _ io.Writer, _ *slog.Logger) error {
	return f.called("proxy of %s in namespace %s", project, namespace)
}

func (f *fake) ServeInCluster(_ context.Context, project, namespace string, _ *slog.Logger) error {
	return f.called("serve %s in namespace %s", project, namespace)
}

func (f *fake) ServeMetricsAPI(_ context.Context, namespace string, _ *slog.Logger) error {
	return f.called("serve external metrics in namespace %s", namespace)
}

func (f *fake) TellDriftInCluster(_ context.Context, project, namespace string, _ *slog.Logger) error {
	return f.called("tell of drift of %s in namespace %s", project, namespace)
}

func (f *fake) Status(context.Context) (api.Status, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.world.Status, f.failure("status")
}

func (f *fake) Watch(ctx context.Context, fn func(api.Status) error) error {
	f.mu.Lock()
	frames := f.Frames
	if len(frames) == 0 {
		frames = []api.Status{f.world.Status}
	}
	f.mu.Unlock()
	for _, frame := range frames {
		if err := fn(frame); err != nil {
			return err
		}
		time.Sleep(30 * time.Millisecond)
	}
	<-ctx.Done()
	return ctx.Err()
}

func (f *fake) Events(ctx context.Context, filter state.EventFilter, follow bool, fn func(state.Event) error) error {
	for _, e := range f.world.Events {
		if e.Time.Before(filter.Since) || filter.Service != "" && e.Service != filter.Service {
			continue
		}
		if err := fn(e); err != nil {
			return err
		}
	}
	if follow {
		<-ctx.Done()
		return ctx.Err()
	}
	return nil
}

func (f *fake) History(_ context.Context, limit int) ([]state.Revision, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if limit > 0 && limit < len(f.Revisions) {
		return f.Revisions[:limit], nil
	}
	return f.Revisions, f.failure("history")
}

func (f *fake) Routes(context.Context) ([]api.Route, error) { return f.world.Routes, nil }

func (f *fake) Top(context.Context) ([]engine.Usage, error) {
	if len(f.world.Top) == 0 {
		return nil, f.failure("top")
	}
	now := f.world.Top[0]
	if len(f.world.Top) > 1 {
		f.world.Top = f.world.Top[1:]
	}
	return now, nil
}

func (f *fake) Traffic(_ context.Context, fn func([]api.TrafficStep) error) error {
	return fn(f.world.Traffic)
}

func (f *fake) Drift(context.Context) (api.Drift, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return api.Drift{Project: f.world.Status.Project, Revision: f.world.Status.Revision, Changes: append([]engine.Drift{}, f.Drifted...)}, f.failure("drift")
}

func (f *fake) Volumes(context.Context) ([]string, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.world.Volumes, f.failure("volumes")
}

func (f *fake) Revert(_ context.Context, req api.RevertRequest) (api.Drift, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.failure("revert"); err != nil {
		return api.Drift{}, err
	}
	asked := api.Drift{Project: f.world.Status.Project, Revision: f.world.Status.Revision}
	var left []engine.Drift
	for _, d := range f.Drifted {
		if !d.Heals && (len(req.Services) == 0 || slices.Contains(req.Services, d.Service)) {
			asked.Changes = append(asked.Changes, d)
		} else if !d.Heals {
			left = append(left, d)
		}
	}
	f.Drifted = left
	f.arrive()
	return asked, f.called("revert %s by %s", strings.Join(req.Services, ","), req.Actor)
}

func (f *fake) Plan(_ context.Context, req api.ApplyRequest) (api.Plan, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return api.Plan{Base: f.world.Status.ID, Changes: f.Changes, Again: f.Again}, f.failure("plan")
}

func (f *fake) Apply(_ context.Context, req api.ApplyRequest) (state.Revision, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.Busy > 0 {
		f.Busy--
		return state.Revision{}, fmt.Errorf("deploy %s: %w: ann@desk deploys revision 4 (up) since 12:00:00", req.Project.Name, errdefs.ErrConflict)
	}
	if req.Base != "" && req.Base != f.world.Status.ID {
		return state.Revision{}, fmt.Errorf("apply %s: %w: the project is at %q", req.Project.Name, errdefs.ErrConflict, f.world.Status.ID)
	}
	if err := f.failure("apply"); err != nil {
		return state.Revision{}, err
	}
	return f.add(req.Project, req.Commit, req.Cause, req.Actor,
		fmt.Sprintf("services=%s contents=%d base=%s", strings.Join(req.Project.ServiceNames(), ","), len(req.Contents), req.Base))
}

func (f *fake) add(p compose.Project, commit *state.Commit, cause, actor, note string) (state.Revision, error) {
	rev := state.Revision{
		Number: int64(len(f.Revisions) + 1), Project: p, Commit: commit, AppliedAt: fixedNow(), Outcome: f.Outcome, Cause: cause, Actor: actor,
	}
	if rev.Outcome == "" {
		rev.Outcome = state.Healthy
	}
	f.Revisions = slices.Insert(f.Revisions, 0, rev)
	f.arrive()
	return rev, f.called("%s %s: revision %d %s", cause, p.Name, rev.Number, note)
}

// arrive makes the last frame the present.
func (f *fake) arrive() {
	if len(f.Frames) > 0 {
		f.world.Status = f.Frames[len(f.Frames)-1]
	}
}

func (f *fake) Rollback(_ context.Context, n int64, actor string) (state.Revision, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, rev := range f.Revisions {
		if rev.Number == n {
			return f.add(rev.Project, rev.Commit, fmt.Sprintf("rollback to %d", n), actor, "")
		}
	}
	return state.Revision{}, fmt.Errorf("revision %d: %w", n, errdefs.ErrNotFound)
}

func (f *fake) Rollout(_ context.Context, req api.RolloutRequest) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.failure("rollout"); err != nil {
		return err
	}
	f.arrive()
	return f.called("rollout %s %s by %s", req.Action, req.Service, req.Actor)
}

func (f *fake) Override(_ context.Context, req api.OverrideRequest) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.failure("override"); err != nil {
		return err
	}
	f.arrive()
	req.Actor = ""
	b, _ := json.Marshal(req)
	return f.called("override %s", b)
}

func (f *fake) Down(_ context.Context, opt engine.DeleteOptions) error {
	if opt.Now {
		close(f.now)
	}
	select {
	case <-time.After(f.DownTime):
	case <-f.now:
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.failure("down"); err != nil {
		return err
	}
	if f.Running {
		f.Running = false
		f.world.Status = api.Status{}
	}
	for _, what := range f.Left {
		if opt.Left != nil {
			opt.Left(what)
		}
	}
	return f.called("down volumes=%v now=%v", opt.Volumes, opt.Now)
}

func (f *fake) Logs(ctx context.Context, req api.LogsRequest) (io.ReadCloser, error) {
	r, w := io.Pipe()
	go func() {
		enc := json.NewEncoder(w)
		for _, line := range f.Lines {
			if len(req.Services) > 0 && !slices.Contains(req.Services, line.Service) || req.Instance != "" && line.Instance != req.Instance {
				continue
			}
			if enc.Encode(line) != nil {
				return
			}
		}
		if req.Follow {
			<-ctx.Done()
		}
		_ = w.Close()
	}()
	return r, f.failure("logs")
}

func (f *fake) Exec(_ context.Context, req api.ExecRequest, cmd driver.Command) (int, error) {
	if err := f.failure("exec"); err != nil {
		return 0, err
	}
	if cmd.TTY {
		size := <-cmd.Resize
		keys := make([]byte, 3)
		fmt.Fprintf(cmd.Stdout, "size %dx%d\r\n", size.Cols, size.Rows)
		_, _ = io.ReadFull(cmd.Stdin, keys)
		fmt.Fprintf(cmd.Stdout, "keys %q\r\n", keys)
	} else {
		_, _ = io.Copy(cmd.Stdout, cmd.Stdin)
	}
	fmt.Fprint(cmd.Stderr, f.world.Exec.Stderr)
	b, _ := json.Marshal(req)
	return f.world.Exec.Code, f.called("exec %s %q tty=%v env=%q user=%s dir=%s", b, cmd.Args, cmd.TTY, cmd.Env, cmd.User, cmd.Dir)
}

func (f *fake) Shutdown(_ context.Context, stop bool) error {
	f.Running = false
	return f.called("shutdown stop=%v", stop)
}

// fixedNow is the time in scripts.
func fixedNow() time.Time { return time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC) }
