package main

import (
	"context"

	"github.com/spf13/cobra"

	"trellis/server"
)

type upFlags struct {
	deployFlags
	detach bool
	build  bool
	strict bool
	watch  bool
	// registry is where images are pushed for a cluster.
	registry string
	mute     bool // the output of the services is not shown, and the end stops nothing
	driver   *choice
}

func (p *program) upCommand() *cobra.Command {
	var f upFlags
	cmd := &cobra.Command{
		Use:   "up [SERVICE...]",
		Short: "Start or update the project and follow it until it is healthy",
		Long: `Up makes the project run as its file says: it builds what changed, compares the
file with what runs, carries out the difference without losing a request, and
follows it until every service is healthy. Nothing changed: nothing is touched.

With -d it returns then. Without, it goes on to show the services' output:
Ctrl-C stops what this up has started (a second one: at once), and only lets go
of a project that ran before. A closed terminal never stops anything.

It asks only where the plan lets go of a volume, removes a service or opens a
route without auth; where there is no terminal to ask, exactly these need --yes.

A second checkout of the project, or a --copy, runs beside the first: a port that
the other one has is replaced by one that is free, once, and printed. A checkout
whose services are containers needs --copy, because Docker's names are the machine's.

With --on kubernetes it runs in the cluster of the kubeconfig's current context, or
where x-trellis.environments says, as objects that the cluster itself runs; it asks
before it changes a cluster, and returns when the project is healthy there. What has a
build is built here, by the Docker engine, or without one as x-trellis.process says, and
pushed by its digest: as image says beside build, or to --registry, or to the registry
that the cluster announces; a cluster whose nodes are this machine pulls from a registry
that Trellis keeps here. Trellis itself goes along, so that the project has a data plane,
a gateway and a control plane there, which measures and judges as on one machine;
TRELLIS_IMAGE names another image for them, which the cluster keeps for whoever deploys
next, and 'none' ends them.

With --watch it goes on to do what develop.watch says of each file that is saved:
sync copies it to where the instances of the service work, rebuild builds and
rolls the service out without losing a request, restart replaces its instances.
A service that has no develop section is rebuilt when its sources change. A build
that fails changes nothing; the next save tries again.`,
		Example: `  trellis up -d                  start, wait for health, return
  trellis up -d web              only web and what it depends on
  trellis up -d --environment staging
                                 with compose.staging.yaml, as NAME-staging
  trellis up --on kubernetes     in a cluster instead of here
  trellis up --watch             and follow the files while you write them
  trellis up -d --copy fix       beside what runs of it already, as NAME-fix`,
		Args: arguments(0, -1),
		RunE: func(cmd *cobra.Command, names []string) error {
			return p.up(cmd.Context(), names, f)
		},
		ValidArgsFunction: p.completeServices,
	}
	cmd.Flags().BoolVarP(&f.detach, "detach", "d", false, "return when the project is healthy")
	cmd.Flags().BoolVar(&f.build, "build", false, "build even where nothing changed")
	cmd.Flags().BoolVar(&f.strict, "strict", false, "take warnings for errors")
	cmd.Flags().BoolVarP(&f.watch, "watch", "w", false, "carry out develop.watch: sync, rebuild and restart as files are saved")
	f.driver = driverFlag(cmd)
	registryFlag(cmd, &f.registry)
	f.add(cmd)
	return p.project(cmd)
}

func (p *program) up(ctx context.Context, names []string, f upFlags) error {
	if f.watch && f.detach {
		return usageError{"--watch stays in the foreground, --detach does not: leave out one", "trellis up"}
	}
	l, err := p.read(ctx)
	if err != nil {
		return err
	}
	if err := active(names, l.project); err != nil {
		return err
	}
	on := onLocal
	if l.location.Cluster != nil {
		on, f.detach = onKubernetes, true // it needs nobody who follows it, and a Ctrl-C here is no reason to end it there
		if f.watch {
			return usageError{"--watch follows files on this machine, and a cluster does not see them: leave out one of --watch and --on", "trellis up"}
		}
		if f.remote, err = server.ClusterOf(l.location); err != nil {
			return err
		}
	}
	ready, err := p.prepare(ctx, l, on, prepareFlags{
		strict: f.strict, force: f.build, quiet: f.quiet, services: withDependencies(l.project, names), driver: f.driver.value,
		registry: f.registry,
	})
	if err != nil {
		return err
	}
	f.images = ready.images
	defer f.images.close()
	u := &session{program: p, ready: ready, flags: f.deployFlags, begin: p.now()}
	var w *watching
	if f.watch {
		if l.project, err = driven(l.project, f.driver.value); err != nil {
			return err
		}
		if w, err = p.watch(u, l, names); err != nil {
			return err
		}
		if u.ready.project, err = w.writable(ready.project); err != nil {
			return err
		}
	}
	closer, err := u.open(ctx, true)
	if err != nil {
		return err
	}
	defer closer.Close()
	if err := u.finish(ctx, u.deploy(ctx, names), f.detach); err != nil || f.detach {
		return err
	}
	show := func(ctx context.Context) error { return u.attach(ctx, names) }
	if f.mute {
		show = u.wait
	}
	if w != nil {
		return w.beside(ctx, show)
	}
	return show(ctx)
}
