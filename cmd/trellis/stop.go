package main

import (
	"github.com/spf13/cobra"

	"trellis/api"
	"trellis/engine"
)

func (p *program) stopCommand() *cobra.Command {
	var f waitFlags
	cmd := &cobra.Command{
		Use:   "stop [SERVICE...]",
		Short: "Stop services and keep them stopped",
		Long: `Stop ends the instances of services, all where none is named, each within its
stop_grace_period. They stay stopped until 'trellis start' or 'trellis up', also
across a restart of the machine.`,
		Example:           `  trellis stop worker`,
		Args:              arguments(0, -1),
		ValidArgsFunction: p.completeServices,
		RunE: func(cmd *cobra.Command, names []string) error {
			stopped := true
			return p.override(cmd.Context(), names, f, "stopping",
				func(string) api.OverrideRequest { return api.OverrideRequest{Stopped: &stopped} },
				func(_, is engine.Service) bool {
					return is.State == engine.ServiceStopped && len(runs(is)) == 0
				})
		},
	}
	f.add(cmd)
	return p.project(cmd)
}
