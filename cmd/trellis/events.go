package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"trellis/api"
	"trellis/errdefs"
	"trellis/state"
)

// eventView is one event in JSON; numbers that do not exist are null.
type eventView struct {
	state.Event
	Revision *int64 `json:"revision"`
}

func (p *program) eventsCommand() *cobra.Command {
	var follow bool
	var from string
	var limit atMost
	cmd := &cobra.Command{
		Use:   "events [SERVICE]",
		Short: "Tell what happened, and who asked for it",
		Long: `Events prints what happened to the project, oldest first: deploys, starts, exits
with their code, changes of health, scaling. They are kept when the project is
down. With --format json, each is one object on a line of its own.`,
		Example: `  trellis events --since 1h
  trellis events --follow api`,
		Args:              arguments(0, 1),
		ValidArgsFunction: p.completeServices,
	}
	cmd.Flags().BoolVar(&follow, "follow", false, "go on as more happens")
	cmd.Flags().StringVar(&from, "since", "", "only what is newer than `TIME`: 10m (ago) or 2026-11-23T15:04:05Z")
	cmd.Flags().VarP(&limit, "tail", "n", "at most the newest `N` (0: all)")
	format := formatFlag(cmd.Flags())
	cmd.RunE = func(cmd *cobra.Command, names []string) error {
		filter := state.EventFilter{Limit: int(limit)}
		var err error
		if filter.Since, err = moment(from, p.now()); err != nil {
			return usageError{err.Error(), cmd.CommandPath()}
		}
		if len(names) == 1 {
			filter.Service = names[0]
		}
		return p.withControl(cmd.Context(), func(control api.Control, l location) error {
			return p.showEvents(cmd.Context(), control, p.gone(l), filter, follow, format.json())
		})
	}
	return p.project(cmd)
}

// showEvents prints events; those that are followed past the end of a control plane, as the next one has them.
func (p *program) showEvents(ctx context.Context, control api.Control, gone func(context.Context) bool, filter state.EventFilter, follow, asJSON bool) error {
	var away absence
	for {
		asked := time.Now()
		err := control.Events(ctx, filter, follow, func(e state.Event) error {
			away.back()
			filter.Since, filter.Limit = e.Time.Add(time.Nanosecond), 0 // from where the next one goes on
			if asJSON {
				return p.writeJSONLine(eventView{e, orNull(e.Revision)})
			}
			_, err := fmt.Fprintln(p.stdout, eventLine(p.styleOf(p.stdout), e))
			return err
		})
		away.heard(asked)
		switch {
		case follow && ctx.Err() != nil:
			return nil
		case !follow || !errors.Is(err, errdefs.ErrUnavailable):
			return err
		case gone(ctx):
			return nil
		case away.over(ctx):
			return err
		}
	}
}

// eventLine writes an event for people.
func eventLine(s style, e state.Event) string {
	who := e.Instance
	if who == "" {
		who = e.Service
	}
	if who == "" {
		who = e.Project
	}
	line := s.dim(e.Time.Local().Format(time.DateTime)) + "  " + pad(e.Kind, 20) + "  " + s.bold(who)
	what := e.Message
	if what == "" {
		what = e.Reason
	}
	if what != "" {
		line += "  " + s.fit(oneLine(what), 120)
	}
	if e.Actor != "" && e.Actor != "trellis" {
		line += s.dim("  by " + e.Actor)
	}
	return line
}
