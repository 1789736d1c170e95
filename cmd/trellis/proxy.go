package main

import (
	"log/slog"

	"github.com/spf13/cobra"
)

func (p *program) proxyCommand() *cobra.Command {
	var file string
	cmd := &cobra.Command{
		Use:   "proxy --location FILE",
		Short: "Be the data plane of a project ('up' starts it)",
		Long: `Proxy carries the traffic of one project: gateway, published ports and calls
between services. 'trellis up' starts it, and the project's holder starts it
again when it dies. Its log goes to standard error.`,
		Example: `  trellis proxy --location /run/trellis/1f3a5c/project.json`,
		Args:    arguments(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if file == "" {
				return withHint(usageError{"proxy needs --location", cmd.CommandPath()}, "'trellis up' starts it with the right one")
			}
			return p.backend.Proxy(cmd.Context(), file, p.logger())
		},
	}
	cmd.Flags().StringVar(&file, "location", "", "project.json `FILE` in the project's runtime directory")
	return cmd
}

// logger is the log of control plane and data plane.
func (p *program) logger() *slog.Logger {
	return slog.New(slog.NewJSONHandler(p.stderr, nil))
}
