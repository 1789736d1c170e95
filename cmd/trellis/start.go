package main

import (
	"github.com/spf13/cobra"

	"trellis/api"
	"trellis/engine"
)

func (p *program) startCommand() *cobra.Command {
	var f waitFlags
	cmd := &cobra.Command{
		Use:   "start [SERVICE...]",
		Short: "Start services that were stopped",
		Long: `Start runs services again that 'trellis stop' has stopped, and waits until they
are healthy. To start a project, or to carry out a changed file: 'trellis up'.`,
		Example:           `  trellis start worker`,
		Args:              arguments(0, -1),
		ValidArgsFunction: p.completeServices,
		RunE: func(cmd *cobra.Command, names []string) error {
			stopped := false
			return p.override(cmd.Context(), names, f, "starting",
				func(string) api.OverrideRequest { return api.OverrideRequest{Stopped: &stopped} },
				func(_, is engine.Service) bool {
					// Where none is wanted, none is what there is of one that was started.
					return (is.State != engine.ServiceStopped || is.Want == 0) && settledWell(is)
				})
		},
	}
	f.add(cmd)
	return p.project(cmd)
}
