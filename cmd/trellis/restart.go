package main

import (
	"github.com/spf13/cobra"

	"trellis/api"
	"trellis/engine"
)

func (p *program) restartCommand() *cobra.Command {
	var f waitFlags
	cmd := &cobra.Command{
		Use:   "restart [SERVICE...]",
		Short: "Replace the instances of services, without losing a request",
		Long: `Restart replaces every instance of services, all where none is named, in the
order and with the care of a deploy: the new one is ready before the old one is
drained and stopped, unless the file says stop-first.`,
		Example:           `  trellis restart api`,
		Args:              arguments(0, -1),
		ValidArgsFunction: p.completeServices,
		RunE: func(cmd *cobra.Command, names []string) error {
			return p.override(cmd.Context(), names, f, "restarting",
				func(string) api.OverrideRequest { return api.OverrideRequest{Restart: true} }, replaced)
		},
	}
	f.add(cmd)
	return p.project(cmd)
}

// replaced says that nothing runs any more of what ran.
func replaced(was, is engine.Service) bool {
	now := runs(is)
	for run := range runs(was) {
		if now[run] {
			return false
		}
	}
	return settledWell(is)
}
