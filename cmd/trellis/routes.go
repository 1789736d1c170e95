package main

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"trellis/api"
)

func (p *program) routesCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "routes",
		Short: "List the gateway's routes as they are in force",
		Long: `Routes lists what the gateway sends where, most specific first, with the decision
who may use it, what else is asked of requests or done to them, and the place in the
file that says so. A route whose decision can't be carried out is closed, and says why.`,
		Example: `  trellis routes`,
		Args:    arguments(0, 0),
	}
	format := formatFlag(cmd.Flags())
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		return p.withControl(cmd.Context(), func(control api.Control, l location) error {
			routes, err := control.Routes(cmd.Context())
			if err != nil {
				return err
			}
			if format.json() {
				for i := range routes {
					if routes[i].Methods == nil {
						routes[i].Methods = []string{}
					}
				}
				return p.writeJSON(append([]api.Route{}, routes...))
			}
			if len(routes) == 0 {
				p.progressf("%s has no routes: its published ports are its doors ('trellis ps')", l.Project)
				return nil
			}
			s := p.styleOf(p.stdout)
			t := table{head: []string{"HOST", "PATH", "METHODS", "TO", "AUTH", "RULES", "ADDRESS", "SOURCE"}}
			for _, r := range routes {
				host, methods, auth := r.Host, strings.Join(r.Methods, ","), r.Auth
				if host == "" {
					host = "*"
				}
				if methods == "" {
					methods = "*"
				}
				switch {
				case r.Closed != "":
					auth = s.red(auth + " (closed: " + r.Closed + ")")
				case auth == "none":
					auth = s.yellow(auth)
				}
				t.add(host, r.Path, methods, fmt.Sprintf("%s:%d", r.Service, r.Port), orDash(auth), orDash(strings.Join(r.Rules, ", ")), orDash(r.Address), orDash(r.Source))
			}
			return t.write(p.stdout, s)
		})
	}
	return p.project(cmd)
}
