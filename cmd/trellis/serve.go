package main

import (
	"github.com/spf13/cobra"
)

func (p *program) serveCommand() *cobra.Command {
	var file string
	cmd := &cobra.Command{
		Use:   "serve --location FILE",
		Short: "Be the control plane of a project ('up' starts it)",
		Long: `Serve keeps the state of one project, carries out what is wanted, and serves the
API that the other commands use. 'trellis up' starts it, and the project's
holder starts it again when it dies; there is one at a time. Its log goes to
standard error.`,
		Example: `  trellis serve --location /run/trellis/1f3a5c/project.json`,
		Args:    arguments(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if file == "" {
				return withHint(usageError{"serve needs --location", cmd.CommandPath()}, "'trellis up' starts it with the right one")
			}
			return p.backend.Serve(cmd.Context(), file, p.logger())
		},
	}
	cmd.Flags().StringVar(&file, "location", "", "project.json `FILE` in the project's runtime directory")
	return cmd
}
