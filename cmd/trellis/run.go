package main

import (
	"github.com/spf13/cobra"

	"trellis/api"
)

func (p *program) runCommand() *cobra.Command {
	var f commandFlags
	cmd := &cobra.Command{
		Use:   "run SERVICE COMMAND [ARG...]",
		Short: "Run a command in an instance of its own",
		Long: `Run starts one more instance of a service for a single command: with the
service's environment, files, network and user, but without traffic and without
its published ports. It is removed when the command has ended; the command's
exit code becomes trellis'. The project has to be up.`,
		Example: `  trellis run api ./bin/migrate        a task beside the service
  trellis run -e DEBUG=1 api sh        a shell to look around`,
		Args:              arguments(2, -1),
		ValidArgsFunction: p.completeServices,
		RunE: func(cmd *cobra.Command, args []string) error {
			return p.withControl(cmd.Context(), func(control api.Control, _ location) error {
				status, err := control.Status(cmd.Context())
				if err != nil {
					return err
				}
				if err := known(args[:1], serviceNames(status.State)); err != nil {
					return err
				}
				return p.inside(cmd.Context(), control, api.ExecRequest{Service: args[0], OneOff: true}, f, args[1:])
			})
		},
	}
	f.add(cmd)
	return p.project(cmd)
}
