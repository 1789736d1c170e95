package main

import (
	"context"
	"errors"
	"maps"
	"os/exec"
	"slices"
	"sync"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"trellis/artifact"
	"trellis/compose"
)

func (p *program) buildCommand() *cobra.Command {
	var force, quiet bool
	cmd := &cobra.Command{
		Use:   "build [SERVICE...]",
		Short: "Build what services run, without starting them",
		Long: `Build runs x-trellis.process.build of each service, or of those named, and keeps
the artefacts by the hash of their content. What did not change is not built
again. Services with the same directory are built one after the other, all
others at once. Of services that run as containers it builds the images, with
the Docker engine. The end of a build's output is shown when it fails.`,
		Example: `  trellis build              build what changed
  trellis build api --force  build api in any case`,
		Args: arguments(0, -1),
		RunE: func(cmd *cobra.Command, names []string) error {
			l, err := p.read(cmd.Context())
			if err != nil {
				return err
			}
			if err := active(names, l.project); err != nil {
				return err
			}
			if !quiet {
				p.warn(l.warnings)
			}
			built, err := p.buildAll(cmd.Context(), l, names, force, quiet)
			if err != nil {
				return err
			}
			made := imageBuilds(l.project, names)
			if len(made) > 0 {
				_, err = p.pinned(cmd.Context(), l, alone(l.project, made), nil, imageFlags{force: force, quiet: quiet})
			} else if !quiet && len(builds(built, names)) == 0 {
				p.progressf("nothing to build: no service has build, x-trellis.process.build or artifacts")
			}
			return err
		},
		ValidArgsFunction: p.completeServices,
	}
	cmd.Flags().BoolVar(&force, "force", false, "build even where nothing changed")
	cmd.Flags().BoolVarP(&quiet, "quiet", "q", false, "say nothing but errors")
	return p.project(cmd)
}

// builds returns the services that have something to build, by directory, in order of name.
func builds(project compose.Project, names []string) map[string][]string {
	byDir := map[string][]string{}
	for _, name := range project.ServiceNames() {
		process := project.Services[name].Trellis.Process
		if process == nil || process.Build == "" && len(process.Artifacts) == 0 {
			continue
		}
		if len(names) == 0 || slices.Contains(names, name) {
			byDir[process.Dir] = append(byDir[process.Dir], name)
		}
	}
	return byDir
}

// imageBuilds returns the services whose image is built, in order of name.
func imageBuilds(project compose.Project, names []string) []string {
	var all []string
	for _, name := range project.ServiceNames() {
		svc := project.Services[name]
		if svc.Trellis.Process == nil && svc.Build != nil && (len(names) == 0 || slices.Contains(names, name)) {
			all = append(all, name)
		}
	}
	return all
}

// buildAll builds the services that have something to build and returns the project with their artefacts' digests.
func (p *program) buildAll(ctx context.Context, l loaded, names []string, force, quiet bool) (compose.Project, error) {
	project := l.project
	byDir := builds(project, names)
	if len(byDir) == 0 {
		return project, nil
	}
	store, err := artifact.Open(l.location.Artifacts())
	if err != nil {
		return project, err
	}
	project.Services = maps.Clone(project.Services)
	var mu sync.Mutex
	g, ctx := errgroup.WithContext(ctx)
	for _, services := range byDir {
		g.Go(func() error {
			for _, name := range services {
				digest, err := p.buildOne(ctx, store, project.Name, name, l.project.Services[name], force, quiet)
				if err != nil {
					return err
				}
				mu.Lock()
				svc := project.Services[name]
				process := *svc.Trellis.Process
				process.Artifact = digest
				svc.Trellis.Process = &process
				project.Services[name] = svc
				mu.Unlock()
			}
			return nil
		})
	}
	err = g.Wait()
	return project, err
}

// notFound is the exit code of a shell that does not find a program.
const notFound = 127

// buildOne builds one service: one line for what was built, none for what was known.
func (p *program) buildOne(
	ctx context.Context, store *artifact.Store, project, name string, svc compose.Service, force, quiet bool,
) (string, error) {
	start := time.Now()
	if !quiet {
		announce := time.AfterFunc(2*time.Second, func() { p.progressf("building %s ...", name) })
		defer announce.Stop()
	}
	digest, cached, err := store.Build(ctx, artifact.Request{
		Project: project, Service: name, Process: *svc.Trellis.Process, Env: p.environ, Force: force,
	})
	if err != nil {
		var ended *exec.ExitError
		if errors.As(err, &ended) && ended.ExitCode() == notFound {
			return "", withHint(err, "a program that it calls is not installed here, or not in PATH; the command is services.%s.x-trellis.process.build", name)
		}
		return "", withHint(err, "the command is services.%s.x-trellis.process.build, run in %s", name, svc.Trellis.Process.Dir)
	}
	if !quiet && !cached {
		p.progressf("%s %s  %s", p.styleOf(p.stderr).green("built"), name, shortly(time.Since(start)))
	}
	return digest, nil
}
