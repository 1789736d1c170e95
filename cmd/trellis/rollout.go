package main

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"trellis/api"
	"trellis/engine"
	"trellis/state"
)

func (p *program) rolloutCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "rollout",
		Short: "Look at a rollout, go on with it, or take it back",
		Long: `A rollout is the passage of a service to another revision: new instances are
started beside the old ones, watched, and promoted or taken back by what they do.`,
		Example: `  trellis rollout status     how the present ones stand, and why the last one failed
  trellis rollout promote    stop watching and replace the rest, also where it is paused
  trellis rollout abort      go back to the revision before`,
		Args: noSuchCommand,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(p.rolloutStatusCommand(),
		p.instructCommand(engine.Promote, "Stop watching the new instances and replace the rest",
			`Promote ends the watch, the judging and the canary of the rollouts that are under
way or paused, and replaces the rest of the instances.`),
		p.instructCommand(engine.Abort, "Go back to the revision before",
			`Abort takes back the revision that is being rolled out: the last healthy one
before it comes back, as a new revision, with its configuration, its secrets and
its artefacts.`))
	return cmd
}

func (p *program) rolloutStatusCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:               "status [SERVICE...]",
		Short:             "Say how rollouts stand, and why one failed",
		Long:              "Status lists the rollouts of the present revision, and of the one that it undoes.",
		Example:           "  trellis rollout status\n  trellis rollout status web --format json",
		ValidArgsFunction: p.completeServices,
	}
	format := formatFlag(cmd.Flags())
	cmd.RunE = func(cmd *cobra.Command, names []string) error {
		return p.withControl(cmd.Context(), func(control api.Control, _ location) error {
			s, err := control.Status(cmd.Context())
			if err != nil {
				return err
			}
			if err := known(names, serviceNames(s.State)); err != nil {
				return err
			}
			rollouts := []state.Rollout{}
			for _, r := range s.Rollouts {
				if len(names) == 0 || slices.Contains(names, r.Service) {
					rollouts = append(rollouts, r)
				}
			}
			if format.json() {
				return p.writeJSON(rollouts)
			}
			return p.showRollouts(s, rollouts)
		})
	}
	return p.project(cmd)
}

func (p *program) showRollouts(s api.Status, rollouts []state.Rollout) error {
	if len(rollouts) == 0 {
		p.progressf("revision %d replaces no instances", s.Revision)
		return nil
	}
	style := p.styleOf(p.stdout)
	paints := map[string]func(string) string{
		state.Promoted: style.green, state.TakenBack: style.red, state.Incomplete: style.red, state.Paused: style.yellow,
		state.Rolling: style.cyan, state.Overtaken: style.dim,
	}
	t := table{head: []string{"SERVICE", "REV", "PHASE", "SHARE", "TOOK", "REQUESTS", "FAILED", "P99 MS", "REASON"},
		right: map[int]bool{3: true, 4: true, 5: true, 6: true, 7: true}}
	for _, r := range rollouts {
		phase := r.Phase
		if paint := paints[phase]; paint != nil {
			phase = paint(phase)
		}
		requests, failed := "-", "-"
		if l := r.Ledger; l.Requests > 0 {
			requests, failed = number(l.Requests), number(l.Failed)
		}
		t.add(r.Service, fmt.Sprintf("%d→%d", r.From, r.Revision), phase, shareWords(r), shortly(p.lasted(r)), requests, failed,
			p99Words(r.Ledger), oneLine(r.Reason))
	}
	if err := t.write(p.stdout, style); err != nil {
		return err
	}
	for _, r := range rollouts {
		if r.Failure != nil {
			p.explainRollout(r)
		}
	}
	return nil
}

// lasted returns how long a rollout took, or has been going on.
func (p *program) lasted(r state.Rollout) time.Duration {
	if r.Ended != nil {
		return r.Ended.Sub(r.Began)
	}
	return p.now().Sub(r.Began)
}

func shareWords(r state.Rollout) string {
	if r.Share == nil || r.Over() {
		return "-"
	}
	return fmt.Sprintf("%g%% (%d/%d)", *r.Share*100, r.Step+1, r.Steps)
}

func p99Words(l state.Ledger) string {
	if l.Old.P99 == nil && l.New.P99 == nil {
		return "-"
	}
	words := func(ms *float64) string {
		if ms == nil {
			return "-"
		}
		return milliseconds(*ms)
	}
	return words(l.Old.P99) + "→" + words(l.New.P99)
}

// explainRollout writes why a rollout failed, and what is kept of the instance that made it fail.
func (p *program) explainRollout(r state.Rollout) {
	s := p.styleOf(p.stderr)
	words := map[string]string{
		state.TakenBack: "was taken back", state.Paused: "is paused", state.Incomplete: "failed", state.Promoted: "was promoted all the same",
	}
	p.progressf("%s %s r%d→r%d %s", s.red(s.glyph("✘", "x")), s.bold(r.Service), r.From, r.Revision, cmp.Or(words[r.Phase], "fails"))
	say := func(what, text string) { p.progressf("  %s %s", s.dim(pad(what, 12)), text) }
	say("cause", s.fit(oneLine(r.Reason), 500))
	if f := r.Failure; f != nil {
		if f.Probe != "" {
			say("last answer", s.fit(f.Instance+"  "+oneLine(f.Probe), 500))
		}
		for i, line := range folded(f.Log) {
			what := ""
			if i == 0 {
				what = "last output"
			}
			say(what, printable(p.stderr, strings.TrimRight(line, "\r\n")))
		}
		say("kept in", "trellis rollout status "+r.Service)
	}
}

func (p *program) instructCommand(action, short, long string) *cobra.Command {
	var f waitFlags
	cmd := &cobra.Command{
		Use:               action + " [SERVICE]",
		Short:             short,
		Long:              long,
		Example:           "  trellis rollout " + action + "        every rollout under way\n  trellis rollout " + action + " web    only that of web",
		Args:              arguments(0, 1),
		ValidArgsFunction: p.completeServices,
		RunE: func(cmd *cobra.Command, args []string) error {
			return p.instruct(cmd.Context(), action, args, f)
		},
	}
	f.add(cmd)
	return p.project(cmd)
}

// instruct has rollouts promoted or aborted, and follows what comes of it.
func (p *program) instruct(ctx context.Context, action string, names []string, f waitFlags) error {
	return p.withControl(ctx, func(control api.Control, l location) error {
		before, err := control.Status(ctx)
		if err != nil {
			return err
		}
		if err := known(names, serviceNames(before.State)); err != nil {
			return err
		}
		req := api.RolloutRequest{Action: action, Actor: p.actor()}
		if len(names) > 0 {
			req.Service = names[0]
		}
		if err := control.Rollout(ctx, req); err != nil {
			return withHint(err, "'trellis rollout status' says how it stands")
		}
		if f.detach {
			return nil
		}
		done := settled(ctx, control, before.Revision)
		if action == engine.Abort {
			done = func(s api.Status) (bool, error) {
				if s.Revision <= before.Revision {
					return false, nil
				}
				return settled(ctx, control, s.Revision)(s) // the one that undoes it
			}
		}
		flags := deployFlags{quiet: f.quiet, timeout: f.timeout}
		after, took, err := p.arrive(ctx, control, fmt.Sprintf("%s r%d", l.Project, before.Revision), flags, done, nil)
		if err != nil {
			return err
		}
		if !f.quiet {
			p.summary(before, after, 1, passageTimes{services: took})
		}
		return nil
	})
}
