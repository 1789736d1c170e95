package main

import (
	"context"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"trellis/api"
	"trellis/engine"
)

// waitFlags are the flags of the commands that change services which run already.
type waitFlags struct {
	detach  bool
	quiet   bool
	timeout span
}

func (f *waitFlags) add(cmd *cobra.Command) {
	f.timeout = span(defaultWait)
	cmd.Flags().BoolVarP(&f.detach, "detach", "d", false, "return at once, without waiting for the effect")
	cmd.Flags().BoolVarP(&f.quiet, "quiet", "q", false, "say nothing but errors")
	cmd.Flags().Var(&f.timeout, "timeout", "give up waiting after this `DURATION` (90s, 5m; 0: never)")
}

// override writes the same wish for the named services, all where none is named, and follows them until reached says so
// of each.
func (p *program) override(
	ctx context.Context, names []string, f waitFlags, title string, wish func(name string) api.OverrideRequest,
	reached func(was, is engine.Service) bool,
) error {
	return p.withControl(ctx, func(control api.Control, l location) error {
		before, err := control.Status(ctx)
		if err != nil {
			return err
		}
		if err := known(names, serviceNames(before.State)); err != nil {
			return err
		}
		if len(names) == 0 {
			names = serviceNames(before.State)
		}
		names = slices.Compact(slices.Sorted(slices.Values(names)))
		was := map[string]engine.Service{}
		for _, svc := range before.Services {
			was[svc.Name] = svc
		}
		for _, name := range names {
			req := wish(name)
			req.Service, req.Actor = name, p.actor()
			if err := control.Override(ctx, req); err != nil {
				return err
			}
		}
		if f.detach || len(names) == 0 {
			return nil
		}
		done := func(s api.Status) (bool, error) {
			arrived := 0
			for _, svc := range s.Services {
				if reached(was[svc.Name], svc) {
					arrived++
				}
			}
			return arrived == len(names), nil
		}
		flags := deployFlags{quiet: f.quiet, timeout: f.timeout}
		after, took, err := p.arrive(ctx, control, title+" "+l.Project, flags, done, names)
		if err != nil {
			return err
		}
		if !f.quiet {
			for _, svc := range after.Services {
				p.progressf("%s  %d/%d %s  %s", svc.Name, svc.Ready, svc.Want, svc.State, shortly(took[svc.Name]))
			}
		}
		return nil
	})
}

// instanceRun identifies one run of an instance.
type instanceRun struct {
	id      engine.InstanceID
	started time.Time
}

func runs(svc engine.Service) map[instanceRun]bool {
	all := map[instanceRun]bool{}
	for _, in := range svc.Instances {
		if in.State != engine.InstanceExited {
			all[instanceRun{in.ID, in.StartedAt}] = true
		}
	}
	return all
}
