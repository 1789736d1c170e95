package main

import (
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"trellis/api"
)

func (p *program) alertsCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "alerts",
		Short: "Show what fires, and what is left of the error budgets",
		Long: `Alerts shows the alerts that are pending or firing and the error budget of each
objective. An x-trellis.objective of a service becomes alerts on how fast its budget
is spent; every project has rules for crash loops, services without a ready
instance, failing requests, retries, saturation and the disk. They are sent to
x-trellis.alerts.webhook.`,
		Example: `  trellis alerts
  trellis alerts silence service=api --for 2h --comment 'migration'`,
		Args: arguments(0, 0),
	}
	format := formatFlag(cmd.Flags())
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		return p.withControl(cmd.Context(), func(control api.Control, _ location) error {
			a, err := control.Alerts(cmd.Context())
			if err != nil {
				return err
			}
			if format.json() {
				return p.writeJSON(a)
			}
			return p.writeAlerts(a)
		})
	}
	cmd.AddCommand(p.silenceCommand(), p.unsilenceCommand())
	return p.project(cmd)
}

func (p *program) writeAlerts(a api.Alerts) error {
	s := p.styleOf(p.stdout)
	if len(a.Alerts) == 0 {
		fmt.Fprintln(p.stdout, s.green("nothing fires"))
	} else {
		t := table{head: []string{"STATE", "SEVERITY", "ALERT", "SINCE", "SUMMARY"}}
		for _, one := range a.Alerts {
			state := s.yellow(one.State)
			if one.State == api.AlertFiring {
				state = s.red(one.State)
			}
			if one.Silenced {
				state += s.dim(" (silenced)")
			}
			t.add(state, orDash(one.Severity), one.Name, clock(one.Since, p.now()), oneLine(one.Summary))
		}
		if terminal(p.stdout) {
			width, _ := sizeOf(p.stdout)
			t.crop(width, s)
		}
		if err := t.write(p.stdout, s); err != nil {
			return err
		}
	}
	if len(a.Budgets) > 0 {
		fmt.Fprintln(p.stdout)
		t := table{head: []string{"SERVICE", "OBJECTIVE", "GOOD", "BUDGET LEFT", "BURN/1H", "WINDOW"}, right: map[int]bool{2: true, 3: true, 4: true}}
		for _, b := range a.Budgets {
			t.add(b.Service, b.Objective, share(b.Good, 100, "%"), budgetLeft(b.Left), share(b.Burn, 1, "x"), b.Window)
		}
		if err := t.write(p.stdout, s); err != nil {
			return err
		}
	}
	for _, one := range a.Silences {
		fmt.Fprintf(p.stdout, "silence %s until %s: %s %s\n", one.ID, one.Ends.Local().Format(time.DateTime), labelText(one.Labels), oneLine(one.Comment))
	}
	if a.Failing != "" {
		fmt.Fprintf(p.stdout, "%s alerts are not delivered %s; %d wait\n", s.red("!"), a.Failing, a.Waiting)
	}
	return nil
}

// budgetLeft writes the share of an error budget that is left, and how often one was spent that is overdrawn.
func budgetLeft(left *float64) string {
	if left != nil && *left < 0 {
		return fmt.Sprintf("spent %.1fx", 1-*left)
	}
	return share(left, 100, "%")
}

// share writes a number that may not exist.
func share(v *float64, times float64, unit string) string {
	if v == nil {
		return "-"
	}
	return fmt.Sprintf("%.2f%s", *v*times, unit)
}

func labelText(labels map[string]string) string {
	return seriesName(labels)
}

func (p *program) silenceCommand() *cobra.Command {
	long := span(time.Hour)
	var comment string
	cmd := &cobra.Command{
		Use:   "silence LABEL=VALUE...",
		Short: "Keep alerts with these labels from being sent for a while",
		Long: `Silence keeps alerts that have all of these labels from being sent. They are still
shown. It prints the silence's ID, by which 'unsilence' ends it.`,
		Example: `  trellis alerts silence service=api --for 2h --comment 'migration'`,
		Args:    arguments(1, -1),
	}
	cmd.Flags().Var(&long, "for", "`DURATION` of the silence")
	cmd.Flags().StringVar(&comment, "comment", "", "why, for whoever looks")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		s := api.Silence{Labels: map[string]string{}, Comment: comment, Actor: p.actor(), Ends: p.now().Add(time.Duration(long))}
		for _, a := range args {
			name, value, ok := strings.Cut(a, "=")
			if !ok || name == "" {
				return usageError{fmt.Sprintf("%q: want LABEL=VALUE", a), cmd.CommandPath()}
			}
			s.Labels[name] = value
		}
		return p.withControl(cmd.Context(), func(control api.Control, _ location) error {
			id, err := control.Silence(cmd.Context(), s)
			if err == nil {
				fmt.Fprintln(p.stdout, id)
			}
			return err
		})
	}
	return p.project(cmd)
}

func (p *program) unsilenceCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "unsilence ID",
		Short:   "End a silence before its time",
		Long:    `Unsilence ends a silence, so that alerts are sent again.`,
		Example: `  trellis alerts unsilence 8f14e45f-ceea-467f-a83c-0e9f1c2d3b4a`,
		Args:    arguments(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return p.withControl(cmd.Context(), func(control api.Control, _ location) error {
				return control.Unsilence(cmd.Context(), args[0])
			})
		},
	}
	return p.project(cmd)
}
