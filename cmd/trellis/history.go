package main

import (
	"time"

	"github.com/spf13/cobra"

	"trellis/api"
	"trellis/state"
)

// revisionView is one revision in the JSON of history: all but the project itself.
type revisionView struct {
	Revision  int64         `json:"revision"`
	AppliedAt time.Time     `json:"applied_at"`
	HealthyAt *time.Time    `json:"healthy_at"`
	Outcome   string        `json:"outcome"`
	Cause     string        `json:"cause"`
	Actor     string        `json:"actor"`
	Commit    *state.Commit `json:"commit"`
	Services  []string      `json:"services"`
}

func (p *program) historyCommand() *cobra.Command {
	var limit atMost
	cmd := &cobra.Command{
		Use:   "history",
		Short: "List the revisions: what was deployed, when, by whom, and what came of it",
		Long: `History lists every applied revision of the project, newest first. Its outcome is
pending, healthy, failed, rolled-back or superseded (replaced before it became
healthy). A * behind the commit: there were uncommitted changes.`,
		Example: `  trellis history
  trellis rollback 7    go back to revision 7`,
		Args: arguments(0, 0),
	}
	cmd.Flags().VarP(&limit, "limit", "n", "at most the newest `N` (0: all)")
	format := formatFlag(cmd.Flags())
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		return p.withControl(cmd.Context(), func(control api.Control, _ location) error {
			revisions, err := control.History(cmd.Context(), int(limit))
			if err != nil {
				return err
			}
			if format.json() {
				return p.writeJSON(revisionViews(revisions))
			}
			t := p.historyTable(revisions)
			return t.write(p.stdout, p.styleOf(p.stdout))
		})
	}
	return p.project(cmd)
}

func revisionViews(revisions []state.Revision) []revisionView {
	views := []revisionView{}
	for _, rev := range revisions {
		views = append(views, revisionView{
			Revision: rev.Number, AppliedAt: rev.AppliedAt, HealthyAt: rev.HealthyAt, Outcome: rev.Outcome, Cause: rev.Cause,
			Actor: rev.Actor, Commit: rev.Commit, Services: rev.Project.ServiceNames(),
		})
	}
	return views
}

func (p *program) historyTable(revisions []state.Revision) table {
	s := p.styleOf(p.stdout)
	paints := map[string]func(string) string{
		state.Healthy: s.green, state.Failed: s.red, state.RolledBack: s.red, state.Pending: s.cyan, state.Superseded: s.dim,
	}
	t := table{head: []string{"REV", "APPLIED", "OUTCOME", "TOOK", "COMMIT", "BY", "CAUSE"}, right: map[int]bool{0: true, 3: true}}
	for _, rev := range revisions {
		took, commit, outcome := "-", "-", rev.Outcome
		if rev.HealthyAt != nil {
			took = shortly(rev.HealthyAt.Sub(rev.AppliedAt))
		}
		if c := rev.Commit; c != nil {
			commit = c.SHA[:min(8, len(c.SHA))]
			if c.Dirty {
				commit += "*"
			}
		}
		if paint := paints[outcome]; paint != nil {
			outcome = paint(outcome)
		}
		t.add(digits(rev.Number), ago(rev.AppliedAt, p.now()), outcome, took, commit, orDash(rev.Actor), rev.Cause)
	}
	return t
}
