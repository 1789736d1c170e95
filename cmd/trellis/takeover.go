package main

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"trellis/api"
	"trellis/compose"
	"trellis/engine"
	"trellis/errdefs"
)

// A project that docker compose runs is taken over service by service. Those without data are started beside theirs, at
// any free port; then theirs are stopped, and the ports move without a restart. Those with data are stopped first, and
// started again on the same volumes, one after the other, what others depend on last. Theirs are removed at the very end:
// until then they are started again where ours do not come up.

// takeover takes a project over from docker compose, all but the last apply, and returns what there is to do after that.
// Where docker compose does not run the project there is nothing to do.
func (u *session) takeover(ctx context.Context, project compose.Project) (done func(context.Context) error, err error) {
	nothing := func(context.Context) error { return nil }
	if u.ready.location.Cluster != nil || len(contained(project, nil)) == 0 {
		return nothing, nil
	}
	docker, err := u.program.backend.Images(ctx, u.ready.location)
	if err != nil {
		return nothing, err
	}
	if err := onlyHere(ctx, docker, u.ready.location); err != nil {
		_ = docker.Close()
		return nothing, err
	}
	theirs, err := docker.Compose(ctx, project.Name)
	if err != nil || len(theirs) == 0 {
		_ = docker.Close()
		return nothing, err
	}
	t := newTaking(u, docker, project, theirs)
	if err := t.run(ctx); err != nil {
		_ = docker.Close()
		return nothing, err
	}
	return func(ctx context.Context) error {
		defer docker.Close()
		return t.discard(ctx)
	}, nil
}

// onlyHere refuses a project of which another checkout has containers: names and volumes of containers are the machine's.
func onlyHere(ctx context.Context, docker images, l location) error {
	dirs, err := docker.Elsewhere(ctx, l)
	if err != nil || len(dirs) == 0 {
		return err
	}
	return fmt.Errorf("%w: project %s has containers from %s, and their names and volumes are this machine's: run 'trellis down' there, or this checkout as a copy, with --copy NAME",
		errdefs.ErrConflict, l.Project, strings.Join(dirs, " and "))
}

// taking is one takeover.
type taking struct {
	session *session
	docker  images
	project compose.Project
	theirs  map[string][]composeContainer // by service
	lone    []string                      // services without data, in order of name
	data    []string                      // services with data, dependents first
	others  []string                      // theirs that are not in the file
	dies    func()                        // ends what has this command outlive the reader of its output
}

func newTaking(u *session, docker images, project compose.Project, theirs []composeContainer) *taking {
	t := &taking{session: u, docker: docker, project: project, theirs: map[string][]composeContainer{}}
	for _, c := range theirs {
		t.theirs[c.Service] = append(t.theirs[c.Service], c)
	}
	for _, name := range slices.Sorted(maps.Keys(t.theirs)) {
		svc, ok := project.Services[name]
		switch {
		case !ok:
			t.others = append(t.others, name)
		case keepsData(svc):
			t.data = append(t.data, name)
		default:
			t.lone = append(t.lone, name)
		}
	}
	slices.SortStableFunc(t.data, func(a, b string) int {
		switch {
		case dependsOn(project, a, b, map[string]bool{}):
			return -1
		case dependsOn(project, b, a, map[string]bool{}):
			return 1
		}
		return strings.Compare(a, b)
	})
	return t
}

// keepsData says whether a service writes where two copies of it must not at the same time, as far as its file says.
func keepsData(svc compose.Service) bool {
	return slices.ContainsFunc(svc.Volumes, func(m compose.Mount) bool { return m.Type != compose.MountTmpfs && !m.ReadOnly })
}

// dependsOn says whether service a depends on b, however far.
func dependsOn(project compose.Project, a, b string, seen map[string]bool) bool {
	if seen[a] {
		return false
	}
	seen[a] = true
	for name := range project.Services[a].DependsOn {
		if name == b || dependsOn(project, name, b, seen) {
			return true
		}
	}
	return false
}

// run shows the plan, asks, and takes the services over.
func (t *taking) run(ctx context.Context) error {
	p := t.session.program
	t.dies = p.steadfast() // theirs would be stopped and ours not be there
	p.progressf("%s", t.plan())
	ask := []string{"stops the containers that docker compose started: " + strings.Join(append(slices.Clone(t.lone), t.data...), ", ")}
	for _, name := range t.data {
		ask = append(ask, fmt.Sprintf("%s is away while it is stopped and started again on its data", name))
	}
	if err := p.agree(ctx, "taking "+t.project.Name+" over from docker compose", ask, t.session.flags.yes); err != nil {
		return err
	}
	if len(t.lone) > 0 {
		if err := t.apply(ctx, t.lone, true); err != nil {
			return withHint(err, "nothing of docker compose was touched: its containers go on; 'trellis down' removes what was begun")
		}
		if err := t.stop(ctx, t.lone, nil); err != nil {
			return err
		}
		if err := t.apply(ctx, t.lone, false); err != nil {
			return t.back(ctx, t.lone, nil, err)
		}
	}
	ours := slices.Clone(t.lone)
	for _, name := range t.data {
		if err := t.stop(ctx, []string{name}, ours); err != nil {
			return err
		}
		if err := t.apply(ctx, append(slices.Clone(ours), name), false); err != nil {
			return t.back(ctx, []string{name}, ours, err)
		}
		ours = append(ours, name)
		p.progressf("took over %s", name)
	}
	return nil
}

// plan says in words what will happen.
func (t *taking) plan() string {
	var b strings.Builder
	n, files := 0, ""
	for _, list := range t.theirs {
		n += len(list)
		files = list[0].Files
	}
	fmt.Fprintf(&b, "%s is run by docker compose: %s", t.project.Name, plural(n, "container"))
	if files != "" {
		fmt.Fprintf(&b, ", from %s", files)
	}
	b.WriteString("\ntaking it over:")
	for _, name := range t.lone {
		fmt.Fprintf(&b, "\n  %s: started beside theirs; then theirs is stopped", name)
	}
	for _, name := range t.data {
		on := "the same folders"
		if volumes := t.theirs[name][0].Volumes; len(volumes) > 0 {
			on = "the same volumes (" + strings.Join(volumes, ", ") + ")"
		}
		fmt.Fprintf(&b, "\n  %s: theirs is stopped; then it is started on %s", name, on)
	}
	for _, name := range t.others {
		fmt.Fprintf(&b, "\n  %s: not in this file, stays with docker compose", name)
	}
	return b.String()
}

// apply deploys the named services alone and waits until they are healthy; with aside they publish other ports.
func (t *taking) apply(ctx context.Context, names []string, aside bool) error {
	u := t.session
	part := alone(t.project, names)
	for name, svc := range part.Services {
		part.Services[name] = partOf(svc, part, aside)
	}
	flags := u.flags
	flags.quiet, flags.yes = true, true // it was asked already
	rev, _, err := u.program.deploy(ctx, u.control, api.ApplyRequest{
		Project: part, Contents: u.ready.contents, Cause: "takeover", Actor: u.program.actor(),
	}, flags)
	if err != nil {
		return err
	}
	u.applied = true
	title := fmt.Sprintf("%s r%d", part.Name, rev.Number)
	_, _, err = u.program.arrive(ctx, u.control, title, flags, settled(ctx, u.control, rev.Number), nil)
	return err
}

// partOf is a service as long as not all that it depends on is ours.
func partOf(svc compose.Service, part compose.Project, aside bool) compose.Service {
	svc.DependsOn = maps.Clone(svc.DependsOn)
	maps.DeleteFunc(svc.DependsOn, func(name string, _ compose.Dependency) bool {
		_, ours := part.Services[name]
		return !ours
	})
	if aside {
		svc.Ports = slices.Clone(svc.Ports)
		for i := range svc.Ports {
			svc.Ports[i].Published = ""
		}
	}
	return svc
}

// idsOf are those of the containers of services.
func (t *taking) idsOf(names []string) []string {
	var ids []string
	for _, name := range names {
		for _, c := range t.theirs[name] {
			ids = append(ids, c.ID)
		}
	}
	return ids
}

// composeGrace is what docker compose gives a service to end where its file says nothing.
const composeGrace = 10 * time.Second

func (t *taking) halt(ctx context.Context, names []string) error {
	for _, name := range names {
		if err := t.docker.Halt(ctx, t.idsOf([]string{name}), t.project.Services[name].StopGracePeriod.Or(composeGrace)); err != nil {
			return err
		}
	}
	return nil
}

// stop stops theirs, and where that fails or is broken off has them run again; those of keep stay ours.
func (t *taking) stop(ctx context.Context, names, keep []string) error {
	err := t.halt(ctx, names)
	if err == nil {
		return nil
	}
	_ = t.halt(context.WithoutCancel(ctx), names) // one that is half stopped would end after it was started again
	return t.back(ctx, names, keep, err)
}

// back stops ours, which did not come up, and starts theirs again; those of keep stay. Both at a time would write to the
// same volumes.
func (t *taking) back(ctx context.Context, names, keep []string, cause error) error {
	ctx = context.WithoutCancel(ctx)
	var err error
	if len(keep) > 0 {
		err = t.apply(ctx, keep, false)
	} else {
		err = t.session.control.Down(ctx, engine.DeleteOptions{Left: t.session.program.left})
	}
	if err == nil {
		err = t.docker.Resume(ctx, t.idsOf(names))
	}
	if err != nil {
		return withHint(fmt.Errorf("%w; and theirs could not be started again: %w", cause, err),
			"'trellis down' and 'docker compose up -d' bring the project back as it was")
	}
	return withHint(cause, "ours was stopped, and the containers of docker compose for %s run again", strings.Join(names, ", "))
}

// discard removes theirs when all is ours.
func (t *taking) discard(ctx context.Context) error {
	defer t.dies()
	if err := t.docker.Discard(ctx, t.idsOf(append(slices.Clone(t.lone), t.data...))); err != nil {
		return err
	}
	t.session.program.progressf("%s is taken over: 'docker compose up -d' after 'trellis down' goes back to the same volumes", t.project.Name)
	return nil
}
