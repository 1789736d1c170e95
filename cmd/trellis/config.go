package main

import (
	"fmt"

	"github.com/spf13/cobra"
	"go.yaml.in/yaml/v4"
)

func (p *program) configCommand() *cobra.Command {
	var services, quiet bool
	format := &choice{value: "yaml", allowed: []string{"yaml", "json"}}
	cmd := &cobra.Command{
		Use:   "config",
		Short: "Print the project as it is understood",
		Long: `Config prints the Compose file that results from all files, overrides, includes,
profiles and variables, in its long form. It contacts nothing and changes
nothing. Contents of secrets are never part of it.`,
		Example: `  trellis config
  trellis config -f compose.yaml -f compose.prod.yaml
  trellis config --services`,
		Args: arguments(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			l, err := p.read(cmd.Context())
			if err != nil {
				return err
			}
			p.warn(l.warnings)
			switch {
			case quiet:
				return nil
			case services:
				for _, name := range l.project.ServiceNames() {
					fmt.Fprintln(p.stdout, name)
				}
				return nil
			}
			file, err := composeFile(l.project)
			if err != nil {
				return err
			}
			if format.value == "json" {
				return p.writeJSON(file)
			}
			enc := yaml.NewEncoder(p.stdout)
			enc.SetIndent(2)
			if err := enc.Encode(file); err != nil {
				return fmt.Errorf("print the project: %w", err)
			}
			return enc.Close()
		},
	}
	cmd.Flags().BoolVar(&services, "services", false, "only the services' names, one a line")
	cmd.Flags().BoolVarP(&quiet, "quiet", "q", false, "print nothing: only check that the files can be read")
	cmd.Flags().Var(format, "format", "`FORMAT` of the output: yaml or json")
	return p.project(cmd)
}
