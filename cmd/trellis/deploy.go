package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"trellis/api"
	"trellis/compose"
	"trellis/engine"
	"trellis/errdefs"
	"trellis/server"
	"trellis/state"
)

// deployFlags are the flags of the commands that deploy and follow.
type deployFlags struct {
	yes     bool
	noWait  bool
	quiet   bool
	timeout span
	// remote says where a deploy goes that does not go to this machine: that is agreed to.
	remote string
	// images are put where the cluster pulls them from before anything is applied.
	images deposited
}

func (f *deployFlags) add(cmd *cobra.Command) {
	f.timeout = span(defaultWait)
	cmd.Flags().BoolVarP(&f.yes, "yes", "y", false, "agree to what would be asked")
	cmd.Flags().BoolVar(&f.noWait, "no-wait", false, "fail where somebody else deploys, instead of waiting for them")
	cmd.Flags().BoolVarP(&f.quiet, "quiet", "q", false, "say nothing but errors")
	cmd.Flags().Var(&f.timeout, "timeout", "give up waiting for health after this `DURATION` (90s, 5m; 0: never)")
}

// prepared is a project ready to be applied: checked, built, its contents read.
type prepared struct {
	project  compose.Project
	contents map[string][]byte
	warnings []compose.Diagnostic
	location location
	images   deposited
}

type prepareFlags struct {
	strict, force, quiet bool
	driver               string
	registry             string
	look                 bool     // nothing is going to be started from it
	silent               bool     // warnings are told elsewhere
	services             []string // to build; none: all
}

// prepare checks and builds what was read for an engine.
func (p *program) prepare(ctx context.Context, l loaded, on string, f prepareFlags) (prepared, error) {
	var err error
	if l.project, err = driven(l.project, f.driver); err != nil {
		return prepared{}, err
	}
	if broken := p.borrowed(l.project); len(broken) > 0 {
		return prepared{}, compose.Diagnostics(broken)
	}
	warnings := diagnose(l, on)
	if l.location.Cluster != nil {
		return p.prepareForCluster(ctx, l, f)
	}
	if err := p.told(warnings, f); err != nil {
		return prepared{}, err
	}
	has, err := p.backend.Look(l.location, len(contained(l.project, nil)) < len(l.project.Services), false)
	if err != nil {
		return prepared{}, err
	}
	if broken := unprivileged(l.project, has); len(broken) > 0 {
		return prepared{}, compose.Diagnostics(broken)
	}
	contents, err := compose.Contents(l.project, p.environ)
	if err != nil {
		return prepared{}, err
	}
	if broken := brokenRules(l.project, contents); len(broken) > 0 {
		return prepared{}, compose.Diagnostics(broken)
	}
	project, err := p.buildAll(ctx, l, f.services, f.force, f.quiet)
	if err == nil {
		project, err = p.pinned(ctx, l, project, f.services, imageFlags{force: f.force, quiet: f.quiet, look: f.look})
	}
	if err != nil {
		return prepared{}, err
	}
	return prepared{project: project, contents: contents, warnings: warnings, location: l.location}, nil
}

// prepareForCluster is prepare for a cluster: images are made and named, and not yet put anywhere.
func (p *program) prepareForCluster(ctx context.Context, l loaded, f prepareFlags) (ready prepared, err error) {
	by, err := p.origins(ctx, l, f.driver, f.services)
	if err != nil {
		return prepared{}, err
	}
	d, err := p.openDeposit(ctx, l, f.registry)
	if err != nil {
		return prepared{}, err
	}
	defer func() {
		if err != nil {
			d.close()
		}
	}()
	if err := d.housed(ctx, slices.Concat(by[fromDocker], by[fromArtifacts])); err != nil {
		return prepared{}, err
	}
	contents, warnings, err := p.toCluster(l, slices.Concat(by[fromDocker], by[fromArtifacts]), d.trellis)
	if err != nil {
		return prepared{}, err
	}
	if err := p.told(warnings, f); err != nil {
		return prepared{}, err
	}
	if d, err = p.buildFor(ctx, l, d, by, f); err != nil {
		return prepared{}, err
	}
	return prepared{d.project, contents, warnings, withTrellis(l.location, d.trellis), d}, nil
}

// told writes warnings, or takes them for errors.
func (p *program) told(warnings []compose.Diagnostic, f prepareFlags) error {
	if f.strict && len(warnings) > 0 {
		return compose.Diagnostics(warnings)
	}
	if !f.quiet && !f.silent {
		p.warn(warnings)
	}
	return nil
}

// The engines.
const (
	onLocal      = "local"
	onKubernetes = "kubernetes"
)

// target returns the engine that a project runs on, and for one that is not of this machine which cluster.
func target(project compose.Project, f projectFlags, environment string) (string, *server.Cluster, error) {
	there := project.Trellis.Environments[environment]
	on := cmp.Or(f.on, there.On)
	if on != onKubernetes && f.context+f.namespace != "" {
		return "", nil, usageError{"--context and --namespace say where in a cluster, and the project runs on this machine: add --on kubernetes", "trellis up"}
	}
	switch on {
	case "", onLocal:
		return onLocal, nil, nil
	case onKubernetes:
		return onKubernetes, &server.Cluster{Context: cmp.Or(f.context, there.Context), Namespace: cmp.Or(f.namespace, there.Namespace)}, nil
	}
	return "", nil, plain{fmt.Errorf("--on %q: want local or kubernetes: %w", on, errdefs.ErrInvalid)}
}

// present returns the revision that is in force, if applying it once more would do nothing: it is healthy or on its way
// there, and no service of it was stopped.
func present(ctx context.Context, control api.Control) (state.Revision, bool, error) {
	s, err := control.Status(ctx)
	if err != nil || s.Revision == 0 {
		return state.Revision{}, false, err
	}
	revisions, err := control.History(ctx, 1)
	if err != nil || len(revisions) == 0 || revisions[0].Number != s.Revision {
		return state.Revision{}, false, err
	}
	rev := revisions[0]
	for _, svc := range s.Services {
		replicas := rev.Project.Services[svc.Name].Deploy.Replicas
		if svc.State == engine.ServiceStopped && (replicas == nil || *replicas != 0) {
			return state.Revision{}, false, nil
		}
	}
	return rev, rev.Outcome == state.Healthy || rev.Outcome == state.Pending, nil
}

// deploy plans, asks where it has to, and applies. changes is what it applied; where there is nothing to change, rev is
// the revision in force. A control plane that goes away is waited for, and asked anew: what the one before it has carried out is
// in force then.
func (p *program) deploy(
	ctx context.Context, control api.Control, req api.ApplyRequest, f deployFlags,
) (rev state.Revision, changes []engine.Change, err error) {
	agreed := map[string]bool{}
	for try := 0; ; try++ {
		changes = nil
		err := patiently(ctx, func() error {
			planned, now, err := p.attempt(ctx, control, req, f, agreed)
			if rev = planned; len(now) > 0 {
				changes = now
			}
			return err
		})
		if errors.Is(err, errdefs.ErrConflict) && !f.noWait && try < 5 {
			// Either somebody else deploys, or the world has moved since the plan: wait for the one, plan again for both.
			if err := p.turn(ctx, control, f); err != nil {
				return rev, nil, err
			}
			continue
		}
		return rev, changes, err
	}
}

// attempt is one try of deploy. agreed are the risks that were asked about, and it is added to them.
func (p *program) attempt(
	ctx context.Context, control api.Control, req api.ApplyRequest, f deployFlags, agreed map[string]bool,
) (rev state.Revision, changes []engine.Change, err error) {
	before, err := appliedLast(ctx, control)
	if err != nil {
		return rev, nil, err
	}
	plan, err := control.Plan(ctx, req)
	if err != nil {
		return rev, nil, err
	}
	if len(plan.Changes) == 0 && plan.Again == "" {
		if rev, ok, err := present(ctx, control); err != nil || ok {
			return rev, nil, err
		}
	}
	all := risks(plan.Changes, before, req.Project)
	if f.remote != "" {
		all = append(all, "changes "+f.remote)
	}
	var ask []string
	for _, risk := range all {
		if !agreed[risk] {
			ask = append(ask, risk)
			agreed[risk] = true
		}
	}
	if err := p.agree(ctx, "this deploy of "+req.Project.Name, ask, f.yes); err != nil {
		return rev, nil, err
	}
	if err := p.put(ctx, f.images, f.quiet); err != nil {
		return rev, nil, err
	}
	req.Base, req.NoWait = plan.Base, true
	rev, err = control.Apply(ctx, req)
	return rev, plan.Changes, err
}

// turn blocks while a deploy of somebody else is under way, and says whose; with --no-wait it fails instead. A deploy that visibly
// fails is not waited for: the next one is most likely its repair. It watches, and does not only ask: in a cluster without a control
// plane of its own nobody else may carry on what was cut short, or is to be carried out again.
func (p *program) turn(ctx context.Context, control api.Control, f deployFlags) error {
	s, err := control.Status(ctx)
	if err != nil || !holdsTurn(s) {
		return err
	}
	whose, err := p.deployer(ctx, control)
	if err != nil {
		return err
	}
	if f.noWait {
		return plain{fmt.Errorf("%s; wait for it, or leave out --no-wait: %w", whose, errdefs.ErrConflict)}
	}
	if !f.quiet {
		p.progressf("waiting: %s (--no-wait fails instead)", whose)
	}
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	if f.timeout > 0 {
		ctx, stop = context.WithTimeoutCause(ctx, time.Duration(f.timeout), errTimeout)
		defer stop()
	}
	statuses, ended := statuses(ctx, control)
	for {
		select {
		case s := <-statuses:
			if !holdsTurn(s) {
				stop()
				<-ended // nobody carries it on any more
				return nil
			}
		case err := <-ended:
			switch {
			case errors.Is(context.Cause(ctx), errTimeout):
				return withHint(fmt.Errorf("another deploy of %s is still under way after %s", s.Project, time.Duration(f.timeout)),
					"'trellis ps' shows what it waits for, 'trellis history' who began it")
			case ctx.Err() != nil:
				return context.Cause(ctx)
			}
			return err
		}
	}
}

// holdsTurn says whether a deploy is under way that has to be waited for.
func holdsTurn(s api.Status) bool {
	if s.Settled || s.Outcome != state.Pending {
		return false
	}
	if paused, _ := pausedIn(s, s.Revision); paused {
		return false
	}
	return !slices.ContainsFunc(s.Services, func(svc engine.Service) bool {
		return svc.State == engine.ServiceCrashLooping || svc.State == engine.ServiceFailed
	})
}

// deployer says who deploys what since when.
func (p *program) deployer(ctx context.Context, control api.Control) (string, error) {
	revisions, err := control.History(ctx, 1)
	if err != nil || len(revisions) == 0 {
		return "somebody else deploys", err
	}
	rev := revisions[0]
	return fmt.Sprintf("%s deploys revision %d (%s) since %s", rev.Actor, rev.Number, rev.Cause, clock(rev.AppliedAt, p.now())), nil
}

// withDependencies returns names and what they depend on, sorted; none where there are no names, which stands for all.
func withDependencies(project compose.Project, names []string) []string {
	chosen := map[string]bool{}
	var choose func(string)
	choose = func(name string) {
		svc, ok := project.Services[name]
		if !ok || chosen[name] {
			return
		}
		chosen[name] = true
		for dependency := range svc.DependsOn {
			choose(dependency)
		}
	}
	for _, name := range names {
		choose(name)
	}
	return slices.Sorted(maps.Keys(chosen))
}

// only returns running with the named services of want, and what they depend on, in place of its own: what
// `up SERVICE` makes of the project. Services that run already stay as they are.
func only(want compose.Project, running *compose.Project, there []string, names []string) compose.Project {
	services := map[string]compose.Service{}
	if running != nil {
		for _, name := range there {
			if svc, ok := running.Services[name]; ok {
				services[name] = svc
			}
		}
		want.Networks = merged(running.Networks, want.Networks)
		want.Volumes = merged(running.Volumes, want.Volumes)
		want.Secrets = merged(running.Secrets, want.Secrets)
		want.Configs = merged(running.Configs, want.Configs)
	}
	for _, name := range withDependencies(want, names) {
		services[name] = want.Services[name]
	}
	want.Services = services
	return want
}

func merged[V any](under, over map[string]V) map[string]V {
	all := maps.Clone(under)
	if all == nil {
		return over
	}
	maps.Copy(all, over)
	return all
}
