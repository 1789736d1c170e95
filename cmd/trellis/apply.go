package main

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"trellis/api"
	"trellis/compose"
	"trellis/errdefs"
	"trellis/server"
)

func (p *program) applyCommand() *cobra.Command {
	var f deployFlags
	var registry string
	cmd := &cobra.Command{
		Use:   "apply PLAN",
		Short: "Carry out a plan that 'plan -o' has written, and nothing else",
		Long: `Apply carries out exactly what a plan file says and follows it until the project
is healthy. Where anything has moved since the plan was made (what runs, a
secret, a config) it refuses: plan again, look again.`,
		Example: `  trellis plan -o change.plan && trellis apply change.plan`,
		Args:    arguments(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			var given []string
			cmd.Root().Flags().Visit(func(flag *pflag.Flag) {
				if isProjectFlag(flag.Name) {
					given = append(given, "--"+flag.Name)
				}
			})
			if len(given) > 0 {
				return usageError{"the plan says which project is meant, and where it runs: leave out " + strings.Join(given, " and "), cmd.CommandPath()}
			}
			return p.apply(cmd.Context(), args[0], registry, f)
		},
	}
	registryFlag(cmd, &registry)
	f.add(cmd)
	return cmd
}

func (p *program) apply(ctx context.Context, path, registry string, f deployFlags) error {
	file, err := readPlan(path)
	if err != nil {
		return err
	}
	l, err := locate(file.Project.Name, file.Project.WorkingDir, file.StateDir)
	if err != nil {
		return err
	}
	l.Files, l.Cluster = file.Project.Files, file.Cluster
	contents, err := p.plannedContents(loaded{project: file.Project, location: l})
	if err != nil {
		return err
	}
	if same, err := file.Contents.matches(contents); err != nil {
		return err
	} else if !same {
		return moved(path, "a secret or config has another content now")
	}
	if !f.quiet {
		p.warn(file.Warnings)
	}
	remote := ""
	if l.Cluster != nil {
		if remote, err = server.ClusterOf(l); err != nil {
			return err
		}
	}
	if l.Cluster != nil {
		if f.images, err = p.plannedImages(ctx, loaded{project: file.Project, location: l}, path, registry); err != nil {
			return err
		}
		defer f.images.close()
		l = withTrellis(l, f.images.trellis)
	}
	u := &session{program: p, ready: prepared{project: file.Project, contents: contents, location: l}, flags: f, begin: p.now()}
	closer, err := u.openPlanned(ctx, path, file)
	if err != nil {
		return err
	}
	defer closer.Close()
	before, err := appliedLast(ctx, u.control)
	if err == nil {
		all := risks(file.Changes, before, file.Project)
		if remote != "" {
			all = append(all, "changes "+remote)
		}
		err = p.agree(ctx, "this plan for "+file.Project.Name, all, f.yes)
	}
	if err == nil {
		err = u.applyPlan(ctx, path, file)
	}
	return u.finish(ctx, err, true)
}

// plannedContents returns what goes along with a project, as it is now.
func (p *program) plannedContents(l loaded) (map[string][]byte, error) {
	if l.location.Cluster == nil {
		return compose.Contents(l.project, p.environ)
	}
	contents, _, err := p.toCluster(l, nil, "")
	return contents, err
}

// moved says that a plan is not about the present any more.
func moved(path, what string) error {
	return withHint(plain{fmt.Errorf("apply %s: %s: %w", path, what, errdefs.ErrConflict)},
		"make the plan again with 'trellis plan -o %s', and look at it", path)
}

// openPlanned reaches the control plane that the plan was made with, or starts one where the plan was made without.
func (u *session) openPlanned(ctx context.Context, path string, file planFile) (closer interface{ Close() error }, err error) {
	closer, err = u.open(ctx, !file.Live)
	switch {
	case file.Live && errors.Is(err, errdefs.ErrNotFound):
		return nil, moved(path, file.Project.Name+" does not run any more")
	case err == nil && !file.Live && !u.started:
		_ = closer.Close()
		return nil, moved(path, file.Project.Name+" runs now, and did not then")
	}
	return closer, err
}

func (u *session) applyPlan(ctx context.Context, path string, file planFile) error {
	p := u.program
	req := api.ApplyRequest{
		Project: file.Project, Contents: u.ready.contents, Base: file.Base, Commit: file.Commit, Cause: "apply", Actor: p.actor(),
		NoWait: u.flags.noWait,
	}
	if !req.NoWait {
		if err := p.turn(ctx, u.control, u.flags); err != nil {
			return err
		}
	}
	if err := p.put(ctx, u.flags.images, u.flags.quiet); err != nil {
		return err
	}
	rev, err := u.control.Apply(ctx, req)
	if errors.Is(err, errdefs.ErrConflict) {
		return moved(path, plain{err}.Error())
	}
	if err != nil {
		return err
	}
	u.applied = true
	if len(file.Changes) > 0 {
		p.tidy(ctx, u.control, u.flags.images)
	}
	return u.follow(ctx, rev.Number, file.Project, len(file.Changes))
}
