package main

import (
	"cmp"
	"context"
	"errors"
	"maps"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"trellis/api"
	"trellis/compose"
	"trellis/engine/kubernetes"
	"trellis/errdefs"
	"trellis/server"
)

// registryFlag adds --registry.
func registryFlag(cmd *cobra.Command, to *string) {
	cmd.Flags().StringVar(to, "registry", "", "with a cluster, the `HOST[:PORT][/PREFIX]` that images are pushed to (default: TRELLIS_REGISTRY, or the cluster's own)")
}

// origin says where the image comes from that a service runs in a cluster.
type origin int

const (
	asWritten     origin = iota // the image that the file names
	fromDocker                  // the build of the service, by the Docker engine
	fromArtifacts               // what x-trellis.process builds
	fromNowhere
)

// originOf decides by what a service says: as in Compose, image beside build is the name of what is built, unless
// pull_policy says that it is to be pulled. docker says whether a Docker engine is there; it is asked only where that decides.
func originOf(svc compose.Service, driver string, docker func() bool) origin {
	process := svc.Trellis.Process
	pulled := svc.PullPolicy != "" && svc.PullPolicy != "build"
	switch {
	case svc.Provided(), svc.Image != "" && (svc.Build == nil || pulled):
		return asWritten
	case svc.Build != nil && driver != driverProcess && docker():
		return fromDocker
	case process != nil && len(process.Artifacts) > 0:
		return fromArtifacts
	case svc.Image != "":
		return asWritten
	}
	return fromNowhere
}

// deposited is a project whose images are known by their contents.
type deposited struct {
	project compose.Project
	deposit deposit // nil: there is nothing to put anywhere
	trellis string  // the image of Trellis itself, "" where there is none to be put
}

// origins returns the services of a project by where their images come from, and an error for each that has none.
func (p *program) origins(ctx context.Context, l loaded, driver string, services []string) (map[origin][]string, error) {
	asked, there := false, false
	docker := func() bool {
		if !asked {
			asked = true
			if images, err := p.backend.Images(ctx, l.location); err == nil {
				there = true
				_ = images.Close()
			}
		}
		return there
	}
	by := map[origin][]string{}
	var broken compose.Diagnostics
	for _, name := range l.project.ServiceNames() {
		if len(services) > 0 && !slices.Contains(services, name) {
			continue
		}
		svc := l.project.Services[name]
		from := originOf(svc, driver, docker)
		by[from] = append(by[from], name)
		switch {
		case from == fromNowhere && svc.Build != nil:
			broken = append(broken, about(l.project, compose.JoinPath("services", name)+".build",
				"there is no Docker engine here to build it, and no x-trellis.process that builds it without: start Docker, or push the image yourself and name it in image"))
		case from == fromNowhere:
			broken = append(broken, about(l.project, compose.JoinPath("services", name),
				"runs a program of this machine, which no cluster has: give it an image, a build, or artifacts"))
		case from == fromArtifacts && svc.Trellis.Process.Base == "" && svc.Trellis.Probe == nil && svc.Healthcheck != nil && len(svc.Healthcheck.Test) > 0 && svc.Healthcheck.Test[0] == "CMD-SHELL":
			broken = append(broken, about(l.project, compose.JoinPath("services", name)+".healthcheck.test",
				"needs a shell, and the image that is made of the artifacts has none: write x-trellis.probe, or a test that starts with CMD"))
		}
	}
	if len(broken) > 0 {
		return nil, broken
	}
	return by, nil
}

// about is a diagnostic of one place of a file.
func about(project compose.Project, path, message string) compose.Diagnostic {
	file, line, column := project.Position(path)
	return compose.Diagnostic{File: shortPath(file), Line: line, Column: column, Path: path, Message: message}
}

// pushed builds the images of a project, pushes them to a registry, and returns the project with them.
func (p *program) pushed(ctx context.Context, l loaded, registry string) (compose.Project, error) {
	l.location.Cluster = nil // whichever applies it
	by, err := p.origins(ctx, l, driverAuto, nil)
	if err != nil {
		return l.project, err
	}
	d, err := p.openDeposit(ctx, l, registry)
	if err != nil {
		return l.project, err
	}
	defer d.close()
	if d, err = p.buildFor(ctx, l, d, by, prepareFlags{}); err != nil {
		return l.project, err
	}
	return d.project, p.put(ctx, d, false)
}

// openDeposit opens the deposit of a project and finds out what image of Trellis is put there.
func (p *program) openDeposit(ctx context.Context, l loaded, registry string) (deposited, error) {
	d, err := p.backend.Deposit(l.location, cmp.Or(registry, p.getenv(server.RegistryEnv)))
	if err != nil {
		return deposited{}, err
	}
	out := deposited{project: l.project, deposit: d}
	if p.getenv(kubernetes.ImageEnv) != "" || l.location.Cluster == nil {
		return out, nil
	}
	switch out.trellis, err = d.Trellis(ctx); {
	case errors.Is(err, errdefs.ErrNotFound): // that there is no data plane is said by who looks for one
	case errors.Is(err, errdefs.ErrUnsupported):
		p.progressf("%s no image of trellis is made: %v", p.styleOf(p.stderr).dim("note:"), err)
	case err != nil:
		return deposited{}, errors.Join(err, d.Close())
	}
	return out, nil
}

// close lets go of what was made on the way.
func (d deposited) close() {
	if d.deposit != nil {
		_ = d.deposit.Close()
	}
}

// housed fails where there is no registry for the images of services, before time is spent on building them.
func (d deposited) housed(ctx context.Context, services []string) error {
	var broken compose.Diagnostics
	slices.Sort(services)
	for _, name := range services {
		if d.project.Services[name].Image != "" {
			continue
		}
		_, err := d.deposit.Registry(ctx)
		if err != nil && !errors.Is(err, errdefs.ErrNotFound) {
			return err
		}
		if err != nil {
			broken = append(broken, about(d.project, compose.JoinPath("services", name), plain{err}.Error()))
		}
	}
	if len(broken) > 0 {
		return broken
	}
	return nil
}

// buildFor builds what the services of a project run in a cluster, and finds out by what names the cluster will pull it.
// Nothing is put anywhere yet.
func (p *program) buildFor(ctx context.Context, l loaded, d deposited, by map[origin][]string, f prepareFlags) (deposited, error) {
	project := l.project
	project.Services = maps.Clone(project.Services)
	if names := by[fromArtifacts]; len(names) > 0 {
		of := l
		of.project = alone(l.project, names)
		built, err := p.buildAll(ctx, of, nil, f.force, f.quiet)
		if err != nil {
			return d, err
		}
		maps.Copy(project.Services, built.Services)
	}
	if names := by[fromDocker]; len(names) > 0 {
		of := alone(l.project, names)
		for name, svc := range of.Services {
			svc.Trellis.Process = nil
			of.Services[name] = svc
		}
		built, err := p.pinned(ctx, l, of, nil, imageFlags{force: f.force, quiet: f.quiet})
		if err != nil {
			return d, err
		}
		maps.Copy(project.Services, built.Services)
	}
	d.project = project
	return d, d.name(ctx, slices.Concat(by[fromArtifacts], by[fromDocker]))
}

// name gives the services that were built the names by which the cluster will pull their images.
func (d deposited) name(ctx context.Context, services []string) error {
	var broken compose.Diagnostics
	slices.Sort(services)
	for _, name := range services {
		svc := d.project.Services[name]
		reference, err := d.deposit.Of(ctx, svc)
		if errors.Is(err, errdefs.ErrUnsupported) || errors.Is(err, errdefs.ErrInvalid) {
			broken = append(broken, about(d.project, compose.JoinPath("services", name), plain{err}.Error()))
			continue
		}
		if err != nil {
			return err
		}
		svc.Trellis.ImageID = reference
		d.project.Services[name] = svc
	}
	if len(broken) > 0 {
		return broken
	}
	return nil
}

// plannedImages finds out again what images a plan is about, and fails where one is another by now.
func (p *program) plannedImages(ctx context.Context, l loaded, path, registry string) (deposited, error) {
	project := l.project
	project.Services = maps.Clone(project.Services)
	var built, docker []string
	for _, name := range project.ServiceNames() {
		svc := project.Services[name]
		switch {
		case !strings.Contains(svc.Trellis.ImageID, "@"):
		case svc.Trellis.Process != nil:
			built = append(built, name)
		case svc.Build != nil:
			docker, built = append(docker, name), append(built, name)
		}
	}
	if len(docker) > 0 {
		images, err := p.backend.Images(ctx, l.location)
		if err != nil {
			return deposited{}, noEngine(err, docker)
		}
		defer images.Close()
		for _, name := range docker {
			svc := project.Services[name]
			there := svc
			there.Build, there.PullPolicy = nil, "never" // built when the plan was made
			got, err := images.Get(ctx, l.project.Name, there, false, false, nil)
			if err != nil {
				return deposited{}, err
			}
			svc.Trellis.ImageID = got.ID
			project.Services[name] = svc
		}
	}
	d, err := p.openDeposit(ctx, l, registry)
	if err != nil {
		return d, err
	}
	d.project = project
	if err := d.name(ctx, built); err != nil {
		d.close()
		return deposited{}, err
	}
	for _, name := range built {
		if project.Services[name].Trellis.ImageID != l.project.Services[name].Trellis.ImageID {
			d.close()
			return deposited{}, moved(path, "the image of "+name+" is another one now")
		}
	}
	return d, nil
}

// tidy removes from the registry of this machine what no revision has any more. That it could not is no reason for a deploy
// to fail.
func (p *program) tidy(ctx context.Context, control api.Control, d deposited) {
	if d.deposit == nil {
		return
	}
	revisions, err := control.History(ctx, 0)
	if err == nil {
		err = d.deposit.Keep(ctx, revisions)
	}
	if err != nil {
		p.progressf("%s old images were not removed: %v", p.styleOf(p.stderr).dim("note:"), err)
	}
}

// withTrellis returns a location whose cluster has an image of Trellis.
func withTrellis(l location, image string) location {
	if image != "" {
		there := *l.Cluster
		there.Trellis = image
		l.Cluster = &there
	}
	return l
}

// put puts the images where the cluster pulls them from.
func (p *program) put(ctx context.Context, d deposited, quiet bool) error {
	if d.deposit == nil {
		return nil
	}
	return d.deposit.Put(ctx, func(what string) {
		if !quiet {
			p.progressf("%s the image of %s", p.styleOf(p.stderr).green("put"), what)
		}
	})
}
