package main

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"trellis/api"
	"trellis/errdefs"
	"trellis/server"
	"trellis/state"
)

func (p *program) rollbackCommand() *cobra.Command {
	var f deployFlags
	cmd := &cobra.Command{
		Use:   "rollback [REV]",
		Short: "Go back to an earlier revision, as a new one",
		Long: `Rollback applies an earlier revision again, with its configuration, its secrets
and its artefacts, and follows it until it is healthy. Without a number it takes
the last healthy revision before the present one.`,
		Example: `  trellis history       find the number
  trellis rollback      the last one that was healthy
  trellis rollback 7    revision 7`,
		Args: arguments(0, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			var number int64
			if len(args) == 1 {
				n, err := strconv.ParseInt(strings.TrimPrefix(args[0], "r"), 10, 64)
				if err != nil || n < 1 {
					return usageError{fmt.Sprintf("rollback %q: want the number of a revision, as in 'trellis history'", args[0]), cmd.CommandPath()}
				}
				number = n
			}
			return p.rollback(cmd.Context(), number, f)
		},
	}
	f.add(cmd)
	return p.project(cmd)
}

func (p *program) rollback(ctx context.Context, number int64, f deployFlags) error {
	return p.withControl(ctx, func(control api.Control, l location) error {
		revisions, err := control.History(ctx, 0)
		if err != nil {
			return err
		}
		goal, err := rollbackGoal(revisions, number)
		if err != nil {
			return err
		}
		u := &session{program: p, control: control, ready: prepared{project: goal.Project, location: l}, flags: f, begin: p.now()}
		if u.before, err = control.Status(ctx); err != nil {
			return err
		}
		plan, err := control.Plan(ctx, api.ApplyRequest{Project: goal.Project})
		if err != nil {
			return err
		}
		goes := risks(plan.Changes, &revisions[0].Project, goal.Project)
		if l.Cluster != nil {
			where, err := server.ClusterOf(l)
			if err != nil {
				return err
			}
			goes = append(goes, "changes "+where)
		}
		what := fmt.Sprintf("going back to revision %d of %s", goal.Number, l.Project)
		if err := p.agree(ctx, what, goes, f.yes); err != nil {
			return err
		}
		if err := p.turn(ctx, control, f); err != nil {
			return err
		}
		rev, err := control.Rollback(ctx, goal.Number, p.actor())
		if err != nil {
			return err
		}
		if !f.quiet {
			p.progressf("revision %d is revision %d again", rev.Number, goal.Number)
		}
		u.applied = true
		return u.finish(ctx, u.follow(ctx, rev.Number, goal.Project, len(plan.Changes)), true)
	})
}

// rollbackGoal returns the revision that a rollback to number means; 0 is the last healthy one before the newest.
func rollbackGoal(revisions []state.Revision, number int64) (state.Revision, error) {
	for i, rev := range revisions {
		if number == 0 && i > 0 && rev.Outcome == state.Healthy || number != 0 && rev.Number == number {
			return rev, nil
		}
	}
	err := fmt.Errorf("revision %d: %w", number, errdefs.ErrNotFound)
	if number == 0 {
		err = plain{fmt.Errorf("there is no healthy revision before the present one: %w", errdefs.ErrNotFound)}
	}
	return state.Revision{}, withHint(err, "'trellis history' lists the revisions")
}
