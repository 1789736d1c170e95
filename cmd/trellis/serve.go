package main

import (
	"github.com/spf13/cobra"
)

func (p *program) serveCommand() *cobra.Command {
	var file, cluster, namespace string
	var metrics bool
	cmd := &cobra.Command{
		Use:   "serve --location FILE | --cluster PROJECT | --metrics-api",
		Short: "Be the control plane of a project ('up' starts it)",
		Long: `Serve keeps the state of one project, carries out what is wanted, and serves the
API that the other commands use. 'trellis up' starts it, and the project's
holder starts it again when it dies; there is one at a time. Its log goes to
standard error.

With --cluster it is the control plane of a project in the cluster that it runs
in, as the account of its pod: it waits for the project's Lease, judges and takes
back rollouts, and keeps telemetry in /state.

With --metrics-api it serves the cluster that it runs in the external metrics of
every project there, by which Kubernetes scales services by their requests
('trellis export kubernetes --metrics-api' installs it).`,
		Example: `  trellis serve --location /run/trellis/1f3a5c/project.json
  trellis serve --cluster shop --namespace shop`,
		Args: arguments(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			asked := 0
			for _, set := range []bool{file != "", cluster != "", metrics} {
				if set {
					asked++
				}
			}
			switch {
			case asked != 1:
				return withHint(usageError{"serve needs one of --location, --cluster and --metrics-api", cmd.CommandPath()}, "'trellis up' starts it with the right one")
			case metrics:
				return p.backend.ServeMetricsAPI(cmd.Context(), namespace, p.logger())
			case cluster != "":
				return p.backend.ServeInCluster(cmd.Context(), cluster, namespace, p.logger())
			}
			return p.backend.Serve(cmd.Context(), file, p.logger())
		},
	}
	cmd.Flags().StringVar(&file, "location", "", "project.json `FILE` in the project's runtime directory")
	cmd.Flags().StringVar(&cluster, "cluster", "", "serve `PROJECT` in the cluster that this runs in")
	cmd.Flags().BoolVar(&metrics, "metrics-api", false, "serve external metrics to the cluster that this runs in")
	cmd.Flags().StringVar(&namespace, "namespace", "", "the `NAMESPACE` of the project (its name where nothing says another), or of the metrics API")
	return cmd
}
