package fake

import (
	"context"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
	"time"

	"trellis/driver"
	"trellis/errdefs"
	"trellis/lazyregexp"
)

// Driver is a driver.Driver on a World. Drivers on one world see the same instances.
type Driver struct{ w *World }

// Capabilities is driver.Driver's.
func (d *Driver) Capabilities() driver.Capabilities {
	return driver.Capabilities{Name: "fake", Durable: true, Namespaces: true, Limits: false, Users: true,
		Lacks: []string{"nothing runs: this driver is for tests"}}
}

var (
	validID     = lazyregexp.New(`^[A-Za-z0-9][A-Za-z0-9_.-]*/[A-Za-z0-9][A-Za-z0-9_.-]*$`)
	validSignal = []string{"", "SIGTERM", "SIGINT", "SIGQUIT", "SIGKILL"}
)

func validate(spec driver.Spec) error {
	switch {
	case !validID.MatchString(string(spec.ID)):
		return fmt.Errorf("start %q: %w: the ID is not PROJECT/NAME", spec.ID, errdefs.ErrInvalid)
	case spec.Project == "" || !strings.HasPrefix(string(spec.ID), spec.Project+"/"):
		return fmt.Errorf("start %s: %w: the ID does not begin with the project", spec.ID, errdefs.ErrInvalid)
	case spec.Service == "":
		return fmt.Errorf("start %s: %w: no service", spec.ID, errdefs.ErrInvalid)
	case len(spec.Command) == 0 && spec.Image == "":
		return fmt.Errorf("start %s: %w: command and image are both empty", spec.ID, errdefs.ErrInvalid)
	case !slices.Contains(validSignal, spec.StopSignal):
		return fmt.Errorf("start %s: %w: stop signal %q", spec.ID, errdefs.ErrInvalid, spec.StopSignal)
	}
	return nil
}

// Start is driver.Driver's.
func (d *Driver) Start(ctx context.Context, spec driver.Spec) error {
	if err := validate(spec); err != nil {
		return err
	}
	if err := d.w.failing("start", spec.ID); err != nil {
		return err
	}
	inst, wait, err := d.w.place(spec)
	if err != nil || inst == nil {
		return err
	}
	if wait > 0 {
		// As with a real machine, a caller that leaves does not undo what it began.
		return d.w.awaitRunning(ctx, inst)
	}
	return nil
}

// Prepare names the network namespace that the instance will have. Nothing is made: nothing here exists.
func (d *Driver) Prepare(_ context.Context, spec driver.Spec) (string, error) {
	if err := validate(spec); err != nil {
		return "", err
	}
	if err := d.w.failing("prepare", spec.ID); err != nil {
		return "", err
	}
	return netns(spec.ID), nil
}

// Revive lets the run of an instance that is known by its Restarts be followed at once by the next.
func (d *Driver) Revive(id driver.ID, restarts int, when driver.Revival) error {
	d.w.mu.Lock()
	defer d.w.mu.Unlock()
	inst := d.w.get(id)
	if inst == nil {
		return fmt.Errorf("let %s revive: %w: no such instance", id, errdefs.ErrNotFound)
	}
	if inst.Restarts == restarts {
		inst.revival = when
	}
	return nil
}

func netns(id driver.ID) string { return "/run/fake/netns/" + string(id) }

// place makes or renews an instance; nil: it runs already.
func (w *World) place(spec driver.Spec) (*instance, time.Duration, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	p := w.projects[spec.Project]
	if p == nil {
		p = &projectWorld{instances: map[driver.ID]*instance{}}
		w.projects[spec.Project] = p
	}
	inst := p.instances[spec.ID]
	switch {
	case inst == nil:
		inst = w.make(spec)
		p.instances[spec.ID] = inst
		p.order = nil
	case inst.Hash != spec.Hash:
		return nil, 0, fmt.Errorf("start %s: %w: it exists with hash %s, not %s", spec.ID, errdefs.ErrConflict, inst.Hash, spec.Hash)
	case inst.State != driver.Exited:
		return inst, inst.script.StartAfter, nil
	default:
		inst.Restarts++
	}
	inst.spec, inst.script = spec, w.script(spec, inst.Restarts)
	if inst.Exit != nil {
		inst.Before = inst.Exit
	}
	inst.State, inst.Exit, inst.StartedAt, inst.revival = driver.Starting, nil, time.Now(), driver.ReviveNever
	inst.Revision, inst.stopping, inst.hung, inst.deviations = spec.Revision, false, false, nil
	missing := inst.script.StartError
	if missing != "" {
		w.end(inst, driver.Exit{Code: 127, Error: missing})
		return inst, 0, nil
	}
	w.changed(inst)
	w.after(inst, inst.script.StartAfter, func() { w.begin(inst) })
	return inst, inst.script.StartAfter, nil
}

func (w *World) make(spec driver.Spec) *instance {
	w.nextHost++
	inst := &instance{
		Instance: driver.Instance{
			ID: spec.ID, Project: spec.Project, Service: spec.Service, Slot: spec.Slot, Hash: spec.Hash,
			Host:  fmt.Sprintf("10.%d.%d.%d", w.nextHost>>16&255, w.nextHost>>8&255, w.nextHost&255),
			Netns: netns(spec.ID),
		},
		moved: make(chan struct{}),
	}
	w.hosts[inst.Host] = inst
	return inst
}

func (w *World) awaitRunning(ctx context.Context, inst *instance) error {
	for {
		w.mu.Lock()
		state, moved := inst.State, inst.moved
		w.mu.Unlock()
		if state != driver.Starting {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("start %s: %w", inst.ID, ctx.Err())
		case <-moved:
		}
	}
}

// Stop is driver.Driver's.
func (d *Driver) Stop(ctx context.Context, id driver.ID, grace time.Duration) error {
	if err := d.w.failing("stop", id); err != nil {
		return err
	}
	d.w.mu.Lock()
	inst := d.w.get(id)
	if inst == nil || inst.State == driver.Exited {
		d.w.mu.Unlock()
		return nil
	}
	if !inst.stopping {
		d.w.stop(inst, grace)
	} else if at := time.Now().Add(grace); at.Before(inst.killAt) {
		inst.killAt = at
		d.w.after(inst, grace, func() { d.w.end(inst, exitOf(0, "SIGKILL")) })
	}
	run := inst.Restarts
	for inst.State != driver.Exited && inst.Restarts == run {
		moved := inst.moved
		d.w.mu.Unlock()
		select {
		case <-ctx.Done():
			return fmt.Errorf("stop %s: %w", id, ctx.Err())
		case <-moved:
		}
		d.w.mu.Lock()
	}
	d.w.mu.Unlock()
	return nil
}

// stop sets going what ends an instance: hooks, then the signal, and the kill after grace.
func (w *World) stop(inst *instance, grace time.Duration) {
	inst.stopping, inst.killAt = true, time.Now().Add(grace)
	var hooks time.Duration
	endless := false
	for _, h := range inst.spec.PreStop {
		s, ok := parse(h.Command)
		if ok && s.Touch != "" {
			_ = os.WriteFile(s.Touch, nil, 0o644)
		}
		hooks += s.ExitAfter
		endless = endless || ok && !s.Exits
	}
	if inst.State == driver.Starting {
		w.end(inst, exitOf(0, "SIGTERM"))
		return
	}
	if !endless && hooks <= grace {
		w.after(inst, hooks, func() { w.signal(inst) })
	}
	if inst.State != driver.Exited {
		w.after(inst, grace, func() { w.end(inst, exitOf(0, "SIGKILL")) })
	}
}

// Remove is driver.Driver's.
func (d *Driver) Remove(_ context.Context, id driver.ID) error {
	if err := d.w.failing("remove", id); err != nil {
		return err
	}
	d.w.mu.Lock()
	defer d.w.mu.Unlock()
	inst := d.w.get(id)
	if inst == nil {
		return nil
	}
	if inst.State != driver.Exited {
		return fmt.Errorf("remove %s: %w: it is %s", id, errdefs.ErrConflict, inst.State)
	}
	p := d.w.projects[inst.Project]
	delete(p.instances, id)
	delete(d.w.hosts, inst.Host)
	p.order = nil
	d.w.changed(inst)
	return nil
}

// List is driver.Driver's.
func (d *Driver) List(_ context.Context, project string) ([]driver.Instance, error) {
	if err := d.w.failing("list", driver.ID(project)); err != nil {
		return nil, err
	}
	d.w.mu.Lock()
	defer d.w.mu.Unlock()
	p := d.w.projects[project]
	if p == nil {
		return nil, nil
	}
	if p.order == nil {
		p.order = slices.Sorted(maps.Keys(p.instances))
	}
	all := make([]driver.Instance, len(p.order))
	for i, id := range p.order {
		all[i] = p.instances[id].view()
	}
	return all, nil
}

// Exec is driver.Driver's. It knows command lines made by Command; any other exits 0 at once.
func (d *Driver) Exec(ctx context.Context, id driver.ID, cmd driver.Command) (int, error) {
	d.w.mu.Lock()
	inst := d.w.get(id)
	if inst == nil || inst.State != driver.Running {
		d.w.mu.Unlock()
		return 0, fmt.Errorf("exec in %s: %w: it does not run", id, errdefs.ErrNotFound)
	}
	env := slices.Concat(inst.spec.Env, cmd.Env)
	d.w.mu.Unlock()
	s, _ := parse(cmd.Args)
	if err := s.write(cmd, env); err != nil {
		return 0, fmt.Errorf("exec in %s: %w", id, err)
	}
	select {
	case <-ctx.Done():
		return 0, fmt.Errorf("exec in %s: %w", id, ctx.Err())
	case <-time.After(s.ExitAfter):
		return exitOf(s.ExitCode, s.ExitSignal).Code, nil
	}
}

func (s Script) write(cmd driver.Command, env []string) error {
	out, errs := cmd.Stdout, cmd.Stderr
	if out == nil {
		out = io.Discard
	}
	if errs == nil {
		errs = io.Discard
	}
	var lines []string
	if s.PrintEnv {
		for _, kv := range slices.Sorted(slices.Values(env)) {
			lines = append(lines, "env "+kv)
		}
	}
	for _, text := range append(lines, s.Print...) {
		if _, err := fmt.Fprintln(out, text); err != nil {
			return err
		}
	}
	for _, text := range s.PrintErr {
		if _, err := fmt.Fprintln(errs, text); err != nil {
			return err
		}
	}
	if s.CopyInput && cmd.Stdin != nil {
		_, err := io.Copy(out, cmd.Stdin)
		return err
	}
	return nil
}

// Stats is driver.Driver's: 1 MiB for each process, and what CPU it was told to burn.
func (d *Driver) Stats(_ context.Context, id driver.ID) (driver.Usage, error) {
	if err := d.w.failing("stats", id); err != nil {
		return driver.Usage{}, err
	}
	d.w.mu.Lock()
	defer d.w.mu.Unlock()
	inst := d.w.get(id)
	if inst == nil || inst.State != driver.Running {
		return driver.Usage{}, fmt.Errorf("stats of %s: %w: it does not run", id, errdefs.ErrNotFound)
	}
	n := 1 + inst.script.Children
	d.w.burn(inst)
	return driver.Usage{
		CPU:       inst.burnt,
		Memory:    int64(n) << 20,
		Processes: n,
		Why:       "nothing runs that could be limited",
	}, nil
}

// Examine is driver.Examiner's: it says what the world was told with Deviate.
func (d *Driver) Examine(_ context.Context, spec driver.Spec) ([]driver.Deviation, error) {
	if err := d.w.failing("examine", spec.ID); err != nil {
		return nil, err
	}
	d.w.mu.Lock()
	defer d.w.mu.Unlock()
	inst := d.w.get(spec.ID)
	if inst == nil || inst.State != driver.Running || inst.Hash != spec.Hash {
		return nil, fmt.Errorf("examine %s: %w: it does not run", spec.ID, errdefs.ErrNotFound)
	}
	return slices.Clone(inst.deviations), nil
}
