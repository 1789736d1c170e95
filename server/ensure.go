package server

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"trellis/api"
	"trellis/engine"
	"trellis/errdefs"
	"trellis/filelock"
	"trellis/holder"
)

// Connect returns the running control plane of a project. None is running: ErrNotFound.
func Connect(ctx context.Context, l Location) (api.Control, io.Closer, error) {
	if err := ours(filepath.Dir(l.RuntimeDir)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, nil, fmt.Errorf("reach the control plane of %s: %w", l.Project, err)
	}
	client, err := holder.Dial(ctx, l.holderSocket())
	if err != nil {
		return nil, nil, fmt.Errorf("project %s does not run here: %w; start it with `trellis up`", l.Project, errdefs.ErrNotFound)
	}
	defer client.Close()
	return wait(ctx, l, client)
}

// held says whether a holder answers: then there is or will be a control plane.
func held(ctx context.Context, l Location) bool {
	client, err := holder.Dial(ctx, l.holderSocket())
	if err != nil {
		return false
	}
	_ = client.Close()
	return true
}

// starts keeps others from starting the project, or removing its runtime directory, until started is called.
func (l Location) starts(ctx context.Context) (started func(), err error) {
	return filelock.Lock(ctx, filepath.Join(l.StateDir, "start.lock"))
}

// remote is a control plane in a process of its own, whose Down and Shutdown return when that process is gone.
type remote struct {
	*api.Client
	location Location
	holder   int // its pid
}

// Down implements api.Deployer.
func (r remote) Down(ctx context.Context, opt engine.DeleteOptions) error {
	if err := r.Client.Down(ctx, opt); err != nil {
		return err
	}
	return r.gone(ctx)
}

// Shutdown implements api.Operator.
func (r remote) Shutdown(ctx context.Context, stop bool) error {
	if err := r.Client.Shutdown(ctx, stop); err != nil {
		return err
	}
	return r.gone(ctx)
}

// gone waits until the holder has ended, which it does last, and removes the runtime directory, unless somebody has
// started the project again: then it is theirs.
func (r remote) gone(ctx context.Context) error {
	for pause := 5 * time.Millisecond; holderInfo(ctx, r.location).PID == r.holder || runs(r.holder); pause = min(2*pause, 100*time.Millisecond) {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(pause):
		}
	}
	started, err := r.location.starts(ctx)
	switch {
	case errors.Is(err, fs.ErrNotExist): // the state is gone too, so nobody starts it
	case err != nil:
		return fmt.Errorf("remove the runtime directory: %w", err)
	default:
		defer started()
	}
	again := held(ctx, r.location)
	if err := ctx.Err(); err != nil || again {
		return err
	}
	if err := os.RemoveAll(r.location.RuntimeDir); err != nil {
		return fmt.Errorf("remove the runtime directory: %w", err)
	}
	return nil
}

// holderInfo returns what the project's holder says of itself, nothing where none answers.
func holderInfo(ctx context.Context, l Location) holder.Info {
	client, err := holder.Dial(ctx, l.holderSocket())
	if err != nil {
		return holder.Info{}
	}
	defer client.Close()
	info, err := client.Info(ctx)
	if err != nil {
		return holder.Info{}
	}
	return info
}

// runs says whether a process has not ended, also where nobody has asked yet how it did.
func runs(pid int) bool {
	cmdline, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	return err == nil && len(cmdline) > 0
}

// wait waits up to 20 s for the control plane that the holder has started to answer: one that another holder has
// started is about to end.
func wait(ctx context.Context, l Location, client *holder.Client) (api.Control, io.Closer, error) {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	control := api.NewClient(l.apiSocket())
	for pause := time.Millisecond; ; pause = min(2*pause, 100*time.Millisecond) {
		status, err := control.Status(ctx)
		if err == nil {
			var info holder.Info
			if info, err = client.Info(ctx); err == nil && info.ControlPlane.PID == status.ControlPlane.PID {
				return remote{control, l, info.PID}, control, nil
			}
		} else if failed := l.failedToStart(); failed != nil && pausing(ctx, client) {
			_ = control.Close()
			return nil, nil, failed
		}
		select {
		case <-ctx.Done():
			_ = control.Close()
			return nil, nil, fmt.Errorf("reach the control plane of %s: %w; its log is %s%s", l.Project, cmp.Or(err, ctx.Err()), l.log(), stuck(client))
		case <-time.After(pause):
		}
	}
}

// stuck says how a control plane that runs and does not answer is started again, "" where none runs.
func stuck(client *holder.Client) string {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	info, err := client.Info(ctx)
	if err != nil || info.ControlPlane.PID == 0 {
		return ""
	}
	return fmt.Sprintf("; 'kill -9 %d' has it started again, and nothing that runs is touched", info.ControlPlane.PID)
}

// pausing says that the control plane has failed more than once and is not being tried at the moment: the first failure
// may only be a predecessor that had not let go yet.
func pausing(ctx context.Context, client *holder.Client) bool {
	info, err := client.Info(ctx)
	return err == nil && info.ControlPlane.PID == 0 && info.ControlPlane.Restarts > 1
}

// Ensure returns the control plane of a project and starts it if it does not run. One of another build is replaced by
// this one, control plane first, then data plane; no instance restarts.
func Ensure(ctx context.Context, l Location) (api.Control, io.Closer, error) {
	client, ran, err := begin(ctx, l)
	if err != nil {
		return nil, nil, fmt.Errorf("start %s: %w", l.Project, err)
	}
	defer client.Close()
	control, closer, err := wait(ctx, l, client)
	if err != nil {
		if !ran && l.failedToStart() != nil { // nothing that this call began goes on in vain
			stop, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
			defer cancel()
			err = errors.Join(err, client.Stop(stop))
		}
		return nil, nil, err
	}
	status, err := control.Status(ctx)
	if err == nil {
		var id string
		if id, err = buildID(); err == nil && id == status.Version {
			return control, closer, nil
		}
	}
	_ = closer.Close()
	if err != nil {
		return nil, nil, err
	}
	if err := replace(ctx, l, client); err != nil {
		return nil, nil, fmt.Errorf("replace the control plane of %s: %w", l.Project, err)
	}
	return wait(ctx, l, client)
}

// begin returns the project's holder, and whether it ran before.
func begin(ctx context.Context, l Location) (client *holder.Client, ran bool, err error) {
	if err := private(l.StateDir); err != nil {
		return nil, false, err
	}
	started, err := l.starts(ctx)
	if err != nil {
		return nil, false, err
	}
	defer started()
	if err := l.prepare(); err != nil {
		return nil, false, err
	}
	if ran = held(ctx, l); !ran {
		if err := l.forgetFailure(); err != nil {
			return nil, false, err
		}
	}
	if client, err = startHolder(ctx, l); err != nil && !ran {
		l.withdraw()
	}
	return client, ran, err
}

// commands are what the holder starts: this binary, twice.
func commands(l Location) (control, data []string, err error) {
	exe, err := os.Executable()
	if err != nil {
		return nil, nil, fmt.Errorf("find the running binary: %w", err)
	}
	return []string{exe, "serve", "--location", l.registration()}, []string{exe, "proxy", "--location", l.registration()}, nil
}

func replace(ctx context.Context, l Location, client *holder.Client) error {
	control, data, err := commands(l)
	if err != nil {
		return err
	}
	if err := client.Replace(ctx, holder.RoleControlPlane, control); err != nil {
		return err
	}
	return client.Replace(ctx, holder.RoleDataPlane, data)
}

// startHolder returns the project's holder, started if there is none.
func startHolder(ctx context.Context, l Location) (*holder.Client, error) {
	shim, err := shimCommand(l)
	if err != nil {
		return nil, err
	}
	control, data, err := commands(l)
	if err != nil {
		return nil, err
	}
	return holder.Start(ctx, shim, holder.Config{
		Project: l.Project, Dir: l.RuntimeDir, ControlPlane: control, DataPlane: data, Log: l.log(), Env: environment(),
		Keep: []string{filepath.Base(l.registration())},
	})
}

// environment is what control plane and data plane get of the caller's: no more, so that nothing of the shell that
// happened to start them first is kept.
func environment() []string {
	var env []string
	for _, key := range append([]string{"XDG_RUNTIME_DIR", withoutEnv, "GOTRACEBACK", "GODEBUG", "GORACE", "GOCOVERDIR"}, Inherited()...) {
		if v, ok := os.LookupEnv(key); ok {
			env = append(env, key+"="+v)
		}
	}
	return env
}

// Inherited returns the names of the variables by which the caller says where things are, and which somebody who starts a project in its
// place has to have too.
func Inherited() []string {
	return []string{"PATH", "HOME", "LANG", "TZ", "SSL_CERT_FILE", "SSL_CERT_DIR", "XDG_STATE_HOME", "HTTPS_PROXY", "NO_PROXY",
		"DOCKER_HOST", "DOCKER_CONTEXT", "DOCKER_CONFIG", "DOCKER_TLS_VERIFY", "DOCKER_CERT_PATH", "DOCKER_API_VERSION", publishedEnv}
}

// Running is a project of this user on this machine.
type Running struct {
	Location
	Status *api.Status // nil: its control plane does not answer
	Down   bool        // it does not run
}

// projectAnswers is how long a control plane may take to answer whoever looks at all of them.
const projectAnswers = 3 * time.Second

// statusWithin returns what a control plane says, nil where it does not answer in time.
func statusWithin(ctx context.Context, l Location, patience time.Duration) *api.Status {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	client := api.NewClient(l.apiSocket())
	defer client.Close()
	status, err := client.Status(ctx)
	if err != nil {
		return nil
	}
	return &status
}

// Projects returns every project that runs on this machine as this user, in order of name; with down also those that do
// not run and whose state exists.
func Projects(ctx context.Context, down bool) ([]Running, error) {
	locations, err := registered()
	if err != nil {
		return nil, err
	}
	var all []Running
	runs := map[string]bool{}
	for _, l := range locations {
		if !held(ctx, l) {
			continue
		}
		r := Running{Location: l}
		r.Status = statusWithin(ctx, l, projectAnswers)
		all = append(all, r)
		runs[l.StateDir] = true
	}
	if down {
		locations, err := known()
		if err != nil {
			return nil, err
		}
		for _, l := range locations {
			if !runs[l.StateDir] {
				all = append(all, Running{Location: l, Down: true})
			}
		}
	}
	sortProjects(all)
	return all, nil
}
