package main

import (
	"log/slog"

	"github.com/spf13/cobra"
)

func (p *program) proxyCommand() *cobra.Command {
	var file, cluster, namespace string
	cmd := &cobra.Command{
		Use:   "proxy --location FILE | --cluster PROJECT",
		Short: "Be the data plane of a project ('up' starts it)",
		Long: `Proxy carries the traffic of one project: gateway, published ports and calls
between services. 'trellis up' starts it, and the project's holder starts it
again when it dies. Its log goes to standard error.

With --cluster it is one pod of the data plane in a cluster: it learns what to do
from the API server, as the account of its pod, and goes on with what it knows
while that does not answer. The access log goes to standard output.`,
		Example: `  trellis proxy --location /run/trellis/1f3a5c/project.json
  trellis proxy --cluster shop --namespace shop`,
		Args: arguments(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			switch {
			case (file == "") == (cluster == ""):
				return withHint(usageError{"proxy needs one of --location and --cluster", cmd.CommandPath()}, "'trellis up' starts it with the right one")
			case cluster != "":
				return p.backend.ProxyInCluster(cmd.Context(), cluster, namespace, p.stdout, p.logger())
			}
			return p.backend.Proxy(cmd.Context(), file, p.logger())
		},
	}
	cmd.Flags().StringVar(&file, "location", "", "project.json `FILE` in the project's runtime directory")
	cmd.Flags().StringVar(&cluster, "cluster", "", "serve `PROJECT` in the cluster that this runs in")
	cmd.Flags().StringVar(&namespace, "namespace", "", "the `NAMESPACE` of the project; its name where nothing says another")
	return cmd
}

// logger is the log of control plane and data plane.
func (p *program) logger() *slog.Logger {
	return slog.New(slog.NewJSONHandler(p.stderr, nil))
}
