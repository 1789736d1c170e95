package main

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"trellis/api"
	"trellis/engine"
	"trellis/errdefs"
)

type driftFlags struct {
	deployFlags
	revert, adopt, detailed bool
	tell                    string
	format                  *choice
}

func (p *program) driftCommand() *cobra.Command {
	var f driftFlags
	cmd := &cobra.Command{
		Use:   "drift [SERVICE...]",
		Short: "Show where what runs is not what was deployed, and bring it back or adopt it",
		Long: `Drift compares what runs with the last applied revision, in Compose paths, processes
and containers alike: another number of instances than the file says, a stopped
service, limits, mounts, secrets, configs, names, networks and environments that
somebody changed in running instances, and ports that somebody else has. A file that
was edited and not deployed is no drift: that is what 'trellis plan' shows.

--revert brings everything back: overrides end, and changed instances are replaced with
the care of a deploy. --adopt writes what is there into the Compose file, one value at
a time and with all else left as it is, where a file can say it; 'trellis up' then makes
it a revision. What was found is an event too ('trellis events'), within five minutes also
when nobody asks; so it is in a cluster with an image of Trellis (TRELLIS_IMAGE).`,
		Example: `  trellis drift
  trellis drift --detailed-exitcode   0: none, 2: some, 1: failed
  trellis drift --revert web
  trellis drift --adopt && trellis up -d`,
		Args:              arguments(0, -1),
		ValidArgsFunction: p.completeServices,
	}
	cmd.Flags().BoolVar(&f.revert, "revert", false, "bring back what the revision says, and wait for it")
	cmd.Flags().BoolVar(&f.adopt, "adopt", false, "write what is there into the Compose file")
	cmd.Flags().BoolVar(&f.detailed, "detailed-exitcode", false, "exit 2 where there is drift")
	f.timeout = span(defaultWait)
	cmd.Flags().Var(&f.timeout, "timeout", "with --revert, give up waiting after this `DURATION` (90s, 5m; 0: never)")
	cmd.Flags().BoolVarP(&f.quiet, "quiet", "q", false, "say nothing but errors")
	f.format = formatFlag(cmd.Flags())
	cmd.Flags().StringVar(&f.tell, "tell", "", "in a cluster, tell once of what is new of `PROJECT`; a CronJob runs it")
	_ = cmd.Flags().MarkHidden("tell") // it is there
	cmd.RunE = func(cmd *cobra.Command, names []string) error {
		if f.tell != "" {
			return p.backend.TellDriftInCluster(cmd.Context(), f.tell, p.flags.namespace, p.logger())
		}
		if f.revert && f.adopt {
			return usageError{"--revert brings back what --adopt keeps: leave out one", cmd.CommandPath()}
		}
		return p.drift(cmd.Context(), names, f)
	}
	return p.project(cmd)
}

func (p *program) drift(ctx context.Context, names []string, f driftFlags) error {
	return p.withControl(ctx, func(control api.Control, _ location) error {
		found, err := control.Drift(ctx)
		if err != nil {
			return err
		}
		status, err := control.Status(ctx)
		if err != nil {
			return err
		}
		if err := known(names, serviceNames(status.State)); err != nil {
			return err
		}
		if len(names) > 0 {
			found.Changes = slices.DeleteFunc(found.Changes, func(d engine.Drift) bool { return !slices.Contains(names, d.Service) })
		}
		switch {
		case f.format.json():
			err = p.writeJSON(found)
		case !f.quiet:
			err = writeDrift(p.stdout, p.styleOf(p.stdout), found)
		}
		switch {
		case err != nil || len(found.Changes) == 0:
			return err
		case f.revert:
			return p.revert(ctx, control, status, names, f)
		case f.adopt:
			return p.adopt(ctx, found.Changes, f.quiet)
		case f.detailed:
			return exitError(errdefs.ExitObjective)
		}
		return nil
	})
}

// writeDrift prints what was found, service by service.
func writeDrift(w io.Writer, s style, found api.Drift) error {
	if len(found.Changes) == 0 {
		_, err := fmt.Fprintf(w, "%s is as revision %d says\n", found.Project, found.Revision)
		return err
	}
	var b strings.Builder
	group := ""
	adoptable := map[string]bool{}
	for _, d := range found.Changes {
		if g, _ := groupOf(d.Path); g != group {
			group = g
			b.WriteString(s.bold(g) + "\n")
		}
		reason := d.Reason
		if d.Instance != "" {
			reason = string(d.Instance) + ": " + reason
		}
		if d.Heals {
			reason += "; it is being brought back already"
		}
		if d.Adoptable {
			adoptable[d.Path] = true
		}
		fmt.Fprintf(&b, "%s\n      %s\n", changeLine(s, d.Change), s.dim(oneLine(reason)))
	}
	fmt.Fprintf(&b, "\n%s between %s and its revision %d", plural(len(found.Changes), "difference"), found.Project, found.Revision)
	if n := len(adoptable); n > 0 {
		fmt.Fprintf(&b, "; a file can say %d", n)
	}
	_, err := io.WriteString(w, b.String()+"\n")
	return err
}

// revert brings back what drifted and follows the project until it is so.
func (p *program) revert(ctx context.Context, control api.Control, before api.Status, names []string, f driftFlags) error {
	asked, err := control.Revert(ctx, api.RevertRequest{Services: names, Actor: p.actor()})
	if err != nil {
		return err
	}
	if len(asked.Changes) == 0 {
		p.progressf("nothing to bring back: what is left heals by itself")
		return nil
	}
	replaced := map[string]map[instanceRun]bool{} // by service: what must be gone
	var services []string
	for _, d := range asked.Changes {
		if !slices.Contains(services, d.Service) {
			services = append(services, d.Service)
		}
		if d.Kind == engine.DriftChanged && d.Instance != "" {
			replaced[d.Service] = map[instanceRun]bool{}
		}
	}
	for _, svc := range before.Services {
		if replaced[svc.Name] != nil {
			replaced[svc.Name] = runs(svc)
		}
	}
	done := func(s api.Status) (bool, error) {
		for _, svc := range s.Services {
			if !slices.Contains(services, svc.Name) {
				continue
			}
			now := runs(svc)
			for run := range replaced[svc.Name] {
				if now[run] {
					return false, nil
				}
			}
			if !settledWell(svc) || len(now) > svc.Want { // more than wanted are still on their way out
				return false, nil
			}
		}
		left, err := control.Drift(ctx)
		return err != nil || !slices.ContainsFunc(left.Changes, func(d engine.Drift) bool { return slices.Contains(services, d.Service) }), err
	}
	after, took, err := p.arrive(ctx, control, "bringing back "+asked.Project, f.deployFlags, done, services)
	if err != nil {
		return err
	}
	if !f.quiet {
		for _, svc := range after.Services {
			if slices.Contains(services, svc.Name) {
				p.progressf("%s  %d/%d %s  %s", svc.Name, svc.Ready, svc.Want, svc.State, shortly(took[svc.Name]))
			}
		}
	}
	return nil
}
