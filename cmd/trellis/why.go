package main

import (
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"trellis/api"
)

func (p *program) whyCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "why SERVICE",
		Short: "Explain a service's last restart, scaling, rollback, failures or slowness",
		Long: `Why says what is behind the last restart, scaling and rollback of a service, and
behind requests that fail or are slow now: the first cause, and the chain of events,
measures and log lines from it. Where what is known does not tell, it says so.`,
		Example:           `  trellis why api`,
		Args:              arguments(1, 1),
		ValidArgsFunction: p.completeServices,
	}
	format := formatFlag(cmd.Flags())
	cmd.RunE = func(cmd *cobra.Command, names []string) error {
		return p.withControl(cmd.Context(), func(control api.Control, _ location) error {
			why, err := control.Why(cmd.Context(), names[0])
			if err != nil {
				return err
			}
			if format.json() {
				return p.writeJSON(why)
			}
			s := p.styleOf(p.stdout)
			head := s.bold(why.Service) + " is " + paintState(s, why.State)
			if why.Reason != "" {
				head += ": " + s.fit(oneLine(why.Reason), 160)
			}
			fmt.Fprintln(p.stdout, head)
			if len(why.Findings) == 0 {
				fmt.Fprintln(p.stdout, "nothing happened in the last day that needs explaining")
			}
			for _, f := range why.Findings {
				fmt.Fprintf(p.stdout, "\n%s  %s\n", s.dim(f.Time.Local().Format(time.DateTime)), s.bold(oneLine(f.Title)))
				if f.Cause != "" {
					fmt.Fprintf(p.stdout, "  because: %s\n", oneLine(f.Cause))
				}
				for _, e := range f.Chain {
					text := oneLine(e.Text)
					if e.Kind == "trace" {
						text += " (trellis traces " + e.Ref + ")"
					}
					fmt.Fprintf(p.stdout, "  %s %-8s %s\n", s.dim(clock(e.Time, p.now())), e.Kind, s.fit(text, 160))
				}
			}
			return nil
		})
	}
	return p.project(cmd)
}
