package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"trellis/compose"
	"trellis/errdefs"
)

// The drivers that --driver may name.
const (
	driverAuto    = "auto"
	driverProcess = "process"
	driverDocker  = "docker"
)

// driverFlag adds --driver and returns where its value will be.
func driverFlag(cmd *cobra.Command) *choice {
	c := &choice{value: driverAuto, allowed: []string{driverAuto, driverProcess, driverDocker}}
	cmd.Flags().Var(c, "driver", "run services as `DRIVER`: process, docker, or auto: as their file says (default auto)")
	cmd.Flags().Lookup("driver").DefValue = ""
	return c
}

// driven returns the project with every service to be run by one driver. With auto a service is a process where it has
// x-trellis.process, and a container otherwise.
func driven(project compose.Project, driver string) (compose.Project, error) {
	if driver == driverAuto {
		return project, nil
	}
	project.Services = maps.Clone(project.Services)
	var cannot []string
	for _, name := range project.ServiceNames() {
		svc := project.Services[name]
		switch {
		case driver == driverProcess && svc.Trellis.Process == nil, driver == driverDocker && svc.Image == "" && svc.Build == nil:
			cannot = append(cannot, name)
		case driver == driverDocker:
			svc.Trellis.Process = nil
			project.Services[name] = svc
		}
	}
	if len(cannot) == 0 {
		return project, nil
	}
	lacks := "x-trellis.process, with the command that runs it"
	if driver == driverDocker {
		lacks = "image or build"
	}
	return project, withHint(plain{fmt.Errorf("--driver %s: %s: %w", driver, strings.Join(cannot, ", "), errdefs.ErrUnsupported)},
		"each of these services needs %s; --driver auto runs every service as its file says", lacks)
}

// contained returns the services that run as containers, in order of name: those named and what they depend on; none
// named: all.
func contained(project compose.Project, names []string) []string {
	chosen := project
	if len(names) > 0 {
		chosen = only(project, nil, nil, names)
	}
	var all []string
	for _, name := range chosen.ServiceNames() {
		if chosen.Services[name].Trellis.Process == nil {
			all = append(all, name)
		}
	}
	return all
}

// imagesAtOnce bounds how many images are built or pulled at a time.
const imagesAtOnce = 4

type imageFlags struct {
	pull, force, quiet bool
	look               bool // pull nothing, and do without an engine: nothing is going to be started
}

// pinned builds or pulls the images of the services that run as containers, and returns the project with each image by
// its content. Without a Docker engine it fails before anything is started.
func (p *program) pinned(ctx context.Context, l loaded, project compose.Project, names []string, f imageFlags) (compose.Project, error) {
	services := contained(project, names)
	if len(services) == 0 {
		return project, nil
	}
	images, err := p.backend.Images(ctx, l.location)
	if err != nil && f.look {
		p.progressf("%s images were not looked at: %v", p.styleOf(p.stderr).dim("note:"), err)
		return project, nil
	}
	if err != nil {
		return project, noEngine(err, services)
	}
	defer images.Close()
	before := project.Services
	project.Services = maps.Clone(project.Services)
	got := make([]image, len(services))
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(imagesAtOnce)
	for i, name := range services {
		g.Go(func() (err error) {
			got[i], err = p.oneImage(gctx, images, project.Name, before[name], f)
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return project, err
	}
	for i, name := range services {
		svc := project.Services[name]
		svc.Trellis.ImageID = got[i].ID
		if svc.Healthcheck == nil || len(svc.Healthcheck.Test) == 0 && !svc.Healthcheck.Disable {
			svc.Healthcheck = completed(svc.Healthcheck, got[i].Healthcheck)
		}
		project.Services[name] = svc
	}
	return project, nil
}

// completed returns the health check of an image with what the file says of its timings.
func completed(file, image *compose.Healthcheck) *compose.Healthcheck {
	if file == nil || image == nil {
		if image != nil {
			return image
		}
		return file
	}
	both := *file
	both.Test = image.Test
	for _, span := range []struct{ to, from **compose.Duration }{
		{&both.Interval, &image.Interval}, {&both.Timeout, &image.Timeout}, {&both.StartPeriod, &image.StartPeriod},
		{&both.StartInterval, &image.StartInterval},
	} {
		if *span.to == nil {
			*span.to = *span.from
		}
	}
	if both.Retries == nil {
		both.Retries = image.Retries
	}
	return &both
}

// oneImage gets one image: one line for what was built or pulled, none for what was here.
func (p *program) oneImage(ctx context.Context, images images, project string, svc compose.Service, f imageFlags) (image, error) {
	start := p.now()
	verb := "pulling"
	if svc.Build != nil {
		verb = "building"
	}
	if !f.quiet {
		announce := time.AfterFunc(2*time.Second, func() { p.progressf("%s %s ...", verb, svc.Name) })
		defer announce.Stop()
	}
	if f.look && svc.Build == nil {
		svc.PullPolicy = "never"
	}
	got, err := images.Get(ctx, project, svc, f.pull, f.force, nil)
	switch {
	case err == nil:
	case f.look && errors.Is(err, errdefs.ErrNotFound):
		return image{}, nil // up is going to pull it
	case svc.Build != nil:
		return got, withHint(err, "the build is services.%s.build, in %s", svc.Name, svc.Build.Context)
	case errors.Is(err, errdefs.ErrUnsupported), errors.Is(err, errdefs.ErrInvalid):
	default:
		return got, withHint(err, "is the name right, and is there a way to its registry? 'docker login' stores credentials, which are used here too")
	}
	if err == nil && !f.quiet && got.Done != "" {
		p.progressf("%s %s  %s", p.styleOf(p.stderr).green(got.Done), svc.Name, shortly(p.now().Sub(start)))
	}
	return got, err
}

// noEngine says what to do where there is no Docker engine for services that need one.
func noEngine(err error, services []string) error {
	shown := services
	if len(shown) > 5 {
		shown = append(slices.Clone(shown[:5]), fmt.Sprintf("%d more", len(services)-5))
	}
	return withHint(plain{fmt.Errorf("%s to run as containers: %w", strings.Join(shown, ", "), err)},
		"start Docker (systemctl start docker, or Docker Desktop), or set DOCKER_HOST; a service with x-trellis.process needs no Docker")
}

func (p *program) pullCommand() *cobra.Command {
	var quiet bool
	cmd := &cobra.Command{
		Use:   "pull [SERVICE...]",
		Short: "Pull the images of services, without starting them",
		Long: `Pull asks the registries for the images of the services, or of those named, that
run as containers and have no build. Credentials are those of 'docker login'.
The next 'up' starts new instances of what has changed.`,
		Example: `  trellis pull
  trellis pull db && trellis up -d`,
		Args: arguments(0, -1),
		RunE: func(cmd *cobra.Command, names []string) error {
			l, err := p.read(cmd.Context())
			if err != nil {
				return err
			}
			if err := active(names, l.project); err != nil {
				return err
			}
			var pulled []string
			for _, name := range l.project.ServiceNames() {
				svc := l.project.Services[name]
				if svc.Trellis.Process == nil && svc.Build == nil && (len(names) == 0 || slices.Contains(names, name)) {
					pulled = append(pulled, name)
				}
			}
			if len(pulled) == 0 {
				p.progressf("nothing to pull: no service runs an image that it does not build")
				return nil
			}
			_, err = p.pinned(cmd.Context(), l, alone(l.project, pulled), nil, imageFlags{pull: true, quiet: quiet})
			return err
		},
		ValidArgsFunction: p.completeServices,
	}
	cmd.Flags().BoolVarP(&quiet, "quiet", "q", false, "say nothing but errors")
	return p.project(cmd)
}

// alone returns project with the named services and no others.
func alone(project compose.Project, names []string) compose.Project {
	services := map[string]compose.Service{}
	for _, name := range names {
		services[name] = project.Services[name]
	}
	project.Services = services
	return project
}
