package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"time"

	"trellis/api"
	"trellis/compose"
	"trellis/engine"
	"trellis/errdefs"
)

// session is one `up` from its first contact with the control plane.
type session struct {
	program *program
	control api.Control
	ready   prepared
	flags   deployFlags
	before  api.Status // when it began
	started bool       // its control plane is of this command's making
	fresh   bool       // nothing of the project ran before
	applied bool
	begin   time.Time
}

// open reaches the control plane; with start it starts one where none runs, and otherwise fails with ErrNotFound.
func (u *session) open(ctx context.Context, start bool) (io.Closer, error) {
	p := u.program
	begin := time.Now()
	_, closer, err := p.backend.Connect(ctx, u.ready.location)
	switch {
	case start && errors.Is(err, errdefs.ErrNotFound):
		u.started = true
	case err != nil:
		return nil, err
	default:
		_ = closer.Close()
	}
	if u.control, closer, err = p.backend.Ensure(ctx, u.ready.location); err != nil {
		return nil, err
	}
	// Instances outlive the control plane: one that was just started may find some.
	err = patiently(ctx, func() (err error) {
		if u.before, err = u.control.Status(ctx); err == nil {
			err = u.tellTheTime(ctx)
		}
		return err
	})
	if err != nil {
		_ = closer.Close()
		return nil, err
	}
	u.fresh = !slices.ContainsFunc(u.before.Services, func(svc engine.Service) bool {
		return slices.ContainsFunc(svc.Instances, func(in engine.Instance) bool {
			return in.State != engine.InstanceExited && (!u.started || in.StartedAt.Before(begin))
		})
	})
	return closer, nil
}

// tolerance is how far ahead of this machine's clock a revision may have been applied until the clock is called wrong.
const tolerance = time.Minute

// tellTheTime warns of a clock that is behind what it was at the last deploy. Nothing depends on it but the times that
// are shown: revisions and events are in the order of their numbers.
func (u *session) tellTheTime(ctx context.Context) error {
	revisions, err := u.control.History(ctx, 1)
	if err != nil || len(revisions) == 0 {
		return err
	}
	rev := revisions[0]
	if behind := rev.AppliedAt.Sub(u.program.now()); behind > tolerance {
		u.program.progressf("%s this machine's clock is at least %s behind: revision %d was applied at %s; set it ('timedatectl' shows it), or times in history, events and logs are wrong",
			u.program.styleOf(u.program.stderr).yellow("warning:"), shortly(behind), rev.Number, rev.AppliedAt.Local().Format(time.DateTime))
	}
	return nil
}

// deploy applies the project and follows it until it is healthy or has failed.
func (u *session) deploy(ctx context.Context, names []string) error {
	p := u.program
	project := u.ready.project
	if len(names) > 0 {
		last, err := appliedLast(ctx, u.control)
		if err != nil {
			return err
		}
		project = only(project, last, serviceNames(u.before.State), names)
	}
	done, err := u.takeover(ctx, project)
	if err != nil {
		return err
	}
	rev, changes, err := p.deploy(ctx, u.control, api.ApplyRequest{
		Project: project, Contents: u.ready.contents, Commit: commitOf(ctx, project.WorkingDir, p.environ),
		Cause: "up", Actor: p.actor(),
	}, u.flags)
	if err != nil {
		return err
	}
	u.applied = true
	if len(changes) > 0 {
		p.tidy(ctx, u.control, u.ready.images)
	}
	if err := u.follow(ctx, rev.Number, project, len(changes)); err != nil {
		return err
	}
	return done(ctx)
}

// arrive follows the project until done, and says why where it does not come to that. took is by service.
func (p *program) arrive(
	ctx context.Context, control api.Control, title string, f deployFlags, done func(api.Status) (bool, error), services []string,
) (status api.Status, took map[string]time.Duration, err error) {
	follow := &follower{
		program: p, control: control, title: title, quiet: f.quiet, services: services, timeout: time.Duration(f.timeout), done: done,
	}
	status, err = follow.run(ctx)
	took = follow.passage.took(p.now())
	switch {
	case err == nil, ctx.Err() != nil, errors.Is(err, errdefs.ErrUnavailable):
		return status, took, err
	case errors.Is(err, errTimeout):
		err = withHint(fmt.Errorf("%s: not healthy after %s", title, time.Duration(f.timeout)),
			"it goes on trying: 'trellis ps' shows how it stands, --timeout waits longer")
	default:
		hint := "'trellis events' tells what happened"
		if better := (hinted{}); errors.As(err, &better) {
			hint = better.hint
		}
		err = withHint(fmt.Errorf("%s: %w", title, err), "%s", hint)
	}
	follow.explain()
	return status, took, err
}

// leave ends an up that did not arrive. Only an interrupt stops what it has started.
func (u *session) leave(ctx context.Context, err error, detached bool) error {
	if ctx.Err() == nil {
		return err
	}
	if interrupted(ctx) && u.fresh && !detached {
		if serr := u.stop(ctx); serr != nil {
			return serr
		}
		return exitError(errdefs.ExitFailed)
	}
	u.program.progressf("%s goes on without being followed; 'trellis ps' shows how it stands", u.ready.project.Name)
	return exitError(errdefs.ExitFailed)
}

// interrupted says whether it was Ctrl-C that ended ctx.
func interrupted(ctx context.Context) bool {
	var s signalled
	return errors.As(context.Cause(ctx), &s) && s.Signal == os.Interrupt
}

// attach shows the output of the services until a signal, and then stops the project or lets go of it.
func (u *session) attach(ctx context.Context, names []string) error {
	p := u.program
	name := u.ready.project.Name
	if !u.flags.quiet {
		if u.fresh {
			p.progressf("following the output; Ctrl-C stops %s", name)
		} else {
			p.progressf("following the output; Ctrl-C lets go of %s, which ran before", name)
		}
	}
	err := p.showLogs(ctx, u.control, p.gone(u.ready.location), api.LogsRequest{Services: names, Follow: true, Since: u.begin}, logStyle{prefix: true})
	if ctx.Err() == nil {
		return u.lost(ctx, err)
	}
	if ctx.Err() != nil && interrupted(ctx) && u.fresh {
		return u.stop(ctx)
	}
	p.progressf("%s goes on; 'trellis logs -f' follows it again, 'trellis down' stops it", name)
	return nil
}

// lost says what became of a project whose output is told no more; err is why. One that somebody has taken down has ended well.
func (u *session) lost(ctx context.Context, err error) error {
	name := u.ready.project.Name
	_, closer, cerr := u.program.backend.Connect(ctx, u.ready.location)
	switch {
	case errors.Is(cerr, errdefs.ErrNotFound):
		u.program.progressf("%s does not run any more", name)
		return nil
	case cerr == nil:
		_ = closer.Close()
	}
	return withHint(cmp.Or(err, api.ErrUnreachable), "'trellis ps' shows how %s stands, 'trellis logs -f' follows it again", name)
}

// wait blocks until a signal, and lets go of the project.
func (u *session) wait(ctx context.Context) error {
	<-ctx.Done()
	u.program.progressf("%s goes on; 'trellis down' stops it", u.ready.project.Name)
	return nil
}

// stop removes the project from this machine; a second signal kills what has not yet ended.
func (u *session) stop(ctx context.Context) error {
	p := u.program
	ctx = context.WithoutCancel(ctx)
	p.progressf("\nstopping %s (again: at once)", u.ready.project.Name)
	ended := make(chan error, 2)
	go func() { ended <- u.control.Down(ctx, engine.DeleteOptions{Left: p.left}) }()
	again := p.again
	for {
		select {
		case err := <-ended:
			if err == nil {
				p.progressf("stopped %s", u.ready.project.Name)
			}
			return err
		case <-again:
			again = nil
			p.progressf("killing what still runs")
			go func() { ended <- u.control.Down(ctx, engine.DeleteOptions{Now: true, Left: p.left}) }()
		}
	}
}

// follow waits for a revision and prints what came of it.
func (u *session) follow(ctx context.Context, number int64, project compose.Project, changes int) error {
	p := u.program
	title := fmt.Sprintf("%s r%d", project.Name, number)
	after, took, err := p.arrive(ctx, u.control, title, u.flags, settled(ctx, u.control, number), nil)
	if err != nil {
		return err
	}
	if !u.flags.quiet {
		before := u.before
		if u.fresh {
			before.Services = nil // what is left of an earlier time is nothing that this one has passed from
		}
		p.summary(before, after, changes, passageTimes{p.now().Sub(u.begin), took})
		after = p.served(ctx, u.control, after)
		p.addresses(after, project)
		for _, line := range unservedLines(after.Unserved) {
			p.progressf("%s not served: %s", p.styleOf(p.stderr).yellow("warning:"), line)
		}
	}
	return nil
}

// gatewayPatience is how long the controller of a gateway of the cluster's own has to look at routes: an address of a cloud's takes
// minutes, and the project is there without it.
const gatewayPatience = 10 * time.Second

// served waits until a gateway of the cluster's own serves the routes, for gatewayPatience at most. It returns the status then, or the
// last one that there was: the deploy is over, whatever comes between.
func (p *program) served(ctx context.Context, control api.Control, status api.Status) api.Status {
	for end := time.Now().Add(gatewayPatience); len(status.Unserved) > 0 && time.Now().Before(end); {
		select {
		case <-ctx.Done():
			return status
		case <-time.After(gatewayPatience / 20):
		}
		now, err := control.Status(ctx)
		if err != nil {
			return status
		}
		status = now
	}
	return status
}

// finish ends a deploy that may have failed, and takes away what was started for one that never began.
func (u *session) finish(ctx context.Context, err error, detached bool) error {
	switch {
	case err == nil:
		return nil
	case u.applied:
		return u.leave(ctx, err, detached)
	case u.started && u.fresh:
		cleanup, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
		defer cancel()
		if serr := u.control.Shutdown(cleanup, true); serr != nil {
			u.program.progressf("the control plane of %s goes on: %v", u.ready.project.Name, serr)
		}
	}
	return err
}
