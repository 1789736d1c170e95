package main

import (
	"github.com/spf13/cobra"
)

func (p *program) watchCommand() *cobra.Command {
	var f upFlags
	cmd := &cobra.Command{
		Use:   "watch [SERVICE...]",
		Short: "Carry out develop.watch as files are saved",
		Long: `Watch starts or updates the project as 'up' does, and then does what develop.watch
says of each file that is saved: sync copies it to where the instances of the
service work, rebuild builds and rolls the service out without losing a request,
restart replaces its instances. A service that has no develop section is rebuilt
when its sources change. A build that fails changes nothing; the next save tries
again.

Ctrl-C ends the watching; the project goes on. 'trellis up --watch' does the same
and shows the services' output.`,
		Example: `  trellis watch
  trellis watch web      only the files of web`,
		Args:              arguments(0, -1),
		ValidArgsFunction: p.completeServices,
		RunE: func(cmd *cobra.Command, names []string) error {
			f.watch, f.mute = true, true
			return p.up(cmd.Context(), names, f)
		},
	}
	cmd.Flags().BoolVar(&f.strict, "strict", false, "take warnings for errors")
	f.driver = driverFlag(cmd)
	f.add(cmd)
	return p.project(cmd)
}
