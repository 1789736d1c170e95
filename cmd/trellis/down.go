package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/spf13/cobra"

	"trellis/api"
	"trellis/engine"
	"trellis/errdefs"
	"trellis/server"
)

func (p *program) downCommand() *cobra.Command {
	var volumes, yes, now, quiet bool
	cmd := &cobra.Command{
		Use:   "down",
		Short: "Stop the project and remove everything but its volumes",
		Long: `Down stops every instance within its stop_grace_period, removes what was made
for the project (sockets, namespaces, mounts) and ends its control plane.
Volumes, revisions and events stay; 'trellis up' brings everything back.

With --volumes those go too that only an earlier revision had, as far as they were
made for it; external volumes never do.`,
		Example: `  trellis down             keep the data
  trellis down --volumes   delete the named volumes too (asks first)`,
		Args: arguments(0, 0),
	}
	cmd.Flags().BoolVarP(&volumes, "volumes", "v", false, "delete the named volumes and their data")
	cmd.Flags().BoolVarP(&yes, "yes", "y", false, "agree to what would be asked")
	cmd.Flags().BoolVar(&now, "now", false, "kill without waiting for the grace periods")
	cmd.Flags().BoolVarP(&quiet, "quiet", "q", false, "say nothing but errors")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		ctx := cmd.Context()
		l, err := p.find(ctx)
		if err != nil {
			return err
		}
		control, closer, err := p.backend.Connect(ctx, l)
		if errors.Is(err, errdefs.ErrNotFound) {
			if l.Cluster != nil {
				if err := server.ReleaseImages(ctx, l); err != nil {
					return err
				}
			}
			if l.Cluster != nil || !exists(l.StateDir) {
				if !quiet {
					p.progressf("%s is not running; nothing to do", l.Project)
				}
				return nil
			}
			// Whatever is left of it is found and removed by a control plane.
			control, closer, err = p.backend.Ensure(ctx, l)
		}
		if err != nil {
			return err
		}
		defer closer.Close()
		if l.Cluster != nil {
			where, err := server.ClusterOf(l)
			if err != nil {
				return err
			}
			if err := p.agree(ctx, "down of "+l.Project, []string{"removes it from " + where}, yes); err != nil {
				return err
			}
		}
		if volumes {
			lost, err := lostVolumes(ctx, control)
			if err != nil {
				return err
			}
			if err := p.agree(ctx, "down --volumes of "+l.Project, lost, yes); err != nil {
				return err
			}
		}
		opt := engine.DeleteOptions{Volumes: volumes, Now: now}
		if !quiet {
			opt.Left = p.left
		}
		if err := control.Down(ctx, opt); err != nil {
			if ctx.Err() != nil {
				return withHint(fmt.Errorf("stopping %s goes on in the background", l.Project), "'trellis ls' shows when it has ended")
			}
			return err
		}
		if !quiet {
			p.progressf("%s is down", l.Project)
		}
		return nil
	}
	return p.project(cmd)
}

// left warns of something that a down could not remove.
func (p *program) left(what string) {
	p.progressf("%s %s", p.styleOf(p.stderr).yellow("warning:"), what)
}

// lostVolumes says, one sentence each, which volumes a down --volumes deletes.
func lostVolumes(ctx context.Context, control api.Control) ([]string, error) {
	names, err := control.Volumes(ctx)
	if errors.Is(err, errdefs.ErrUnsupported) { // one that deletes those of the newest revision alone
		names, err = volumesOfLast(ctx, control)
	}
	var lost []string
	for _, name := range names {
		lost = append(lost, "deletes volume "+name+" and all that is in it")
	}
	return lost, err
}

// volumesOfLast returns the full names of the volumes that the newest revision has, without those that are external, in order.
func volumesOfLast(ctx context.Context, control api.Control) ([]string, error) {
	last, err := appliedLast(ctx, control)
	if err != nil || last == nil {
		return nil, err
	}
	var names []string
	for key, v := range last.Volumes {
		if !v.External {
			names = append(names, cmp.Or(v.Name, last.Name+"_"+key))
		}
	}
	slices.Sort(names)
	return names, nil
}
