package main

import (
	"github.com/spf13/cobra"
)

func (p *program) registryCommand() *cobra.Command {
	var dir string
	cmd := &cobra.Command{
		Use:   "registry --dir DIR",
		Short: "Be the registry of clusters on this machine ('up' starts it)",
		Long: `Registry lets the nodes of clusters that run on this machine (k3s, kubeadm,
microk8s) pull the images that 'trellis up --on kubernetes' has put into a folder.
It listens on the loopback alone, and nobody can push to it over the network. 'up'
starts it, any command about such a project starts it again, and it ends with the
'trellis down' of the last one. Its log goes to standard error.`,
		Example: `  trellis registry --dir /var/lib/trellis/images`,
		Args:    arguments(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if dir == "" {
				return withHint(usageError{"registry needs --dir", cmd.CommandPath()}, "'trellis up --on kubernetes' starts it with the right one")
			}
			return p.backend.ServeImages(cmd.Context(), dir, p.logger())
		},
	}
	cmd.Flags().StringVar(&dir, "dir", "", "the `DIR` that has the images")
	return cmd
}
