package main

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"trellis/api"
	"trellis/engine"
)

func (p *program) scaleCommand() *cobra.Command {
	var f waitFlags
	cmd := &cobra.Command{
		Use:   "scale SERVICE=N [SERVICE=N...]",
		Short: "Run another number of instances",
		Long: `Scale runs N instances of a service in place of what the file says, and waits
until they are ready. It holds until another scale, or a deploy whose file
changes deploy.replicas.`,
		Example:           `  trellis scale web=3 worker=0`,
		Args:              arguments(1, -1),
		ValidArgsFunction: p.completeServices,
		RunE: func(cmd *cobra.Command, args []string) error {
			replicas := map[string]int{}
			var names []string
			for _, arg := range args {
				name, n, err := scaleOf(arg)
				if err != nil {
					return usageError{err.Error(), cmd.CommandPath()}
				}
				if _, twice := replicas[name]; !twice {
					names = append(names, name)
				}
				replicas[name] = n
			}
			return p.override(cmd.Context(), names, f, "scaling",
				func(name string) api.OverrideRequest {
					n := replicas[name]
					return api.OverrideRequest{Replicas: &n}
				},
				func(_, is engine.Service) bool {
					n := replicas[is.Name]
					return is.Want == n && is.Ready == n && len(runs(is)) == n
				})
		},
	}
	f.add(cmd)
	return p.project(cmd)
}

// scaleOf reads "web=3".
func scaleOf(arg string) (name string, replicas int, err error) {
	name, number, ok := strings.Cut(arg, "=")
	n, nerr := strconv.Atoi(number)
	if !ok || name == "" || nerr != nil || n < 0 || n > 10000 {
		return "", 0, fmt.Errorf("%q: want SERVICE=N, such as web=3, with N from 0 to 10000", arg)
	}
	return name, n, nil
}
