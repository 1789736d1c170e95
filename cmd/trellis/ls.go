package main

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"trellis/api"
	"trellis/compose"
	"trellis/engine"
)

// projectView is one project in the JSON of ls.
type projectView struct {
	Project   string   `json:"project"`
	Copy      *string  `json:"copy"` // the name after --copy, null for what is none
	State     string   `json:"state"`
	Revision  *int64   `json:"revision"`
	Services  *int     `json:"services"` // null: it does not run, or its control plane does not answer
	Well      *int     `json:"healthy"`
	Addresses []string `json:"addresses"`
	Dir       string   `json:"dir"`
	Files     []string `json:"files"`
	StateDir  string   `json:"state_dir"`
}

func (p *program) lsCommand() *cobra.Command {
	var all bool
	cmd := &cobra.Command{
		Use:   "ls",
		Short: "List every project that runs on this machine",
		Long: `Ls lists the projects that you run on this machine, from whatever directory, each
copy of a project with its folder and the addresses it was given.`,
		Example: `  trellis ls
  trellis ls --all       those that are down too, as long as their state exists
  trellis -p shop ps     any command for one of them, from anywhere`,
		Args: arguments(0, 0),
	}
	cmd.Flags().BoolVarP(&all, "all", "a", false, "show those that are down too")
	format := formatFlag(cmd.Flags())
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		found, err := p.backend.Projects(cmd.Context(), all)
		if err != nil {
			return err
		}
		views := []projectView{}
		for _, r := range found {
			views = append(views, viewOf(r))
		}
		if format.json() {
			return p.writeJSON(views)
		}
		s := p.styleOf(p.stdout)
		t := table{head: []string{"PROJECT", "STATE", "HEALTHY", "REV", "ADDRESSES", "DIRECTORY", "FILES"}, right: map[int]bool{2: true, 3: true}}
		for _, v := range views {
			healthy, revision := "-", "-"
			if v.Services != nil {
				healthy = fmt.Sprintf("%d/%d", *v.Well, *v.Services)
			}
			if v.Revision != nil {
				revision = digits(*v.Revision)
			}
			t.add(v.Project, paintState(s, v.State), healthy, revision, cmp.Or(strings.Join(v.Addresses, ", "), "-"), v.Dir,
				strings.Join(relative(v.Files, v.Dir), ", "))
		}
		return t.write(p.stdout, s)
	}
	return cmd
}

func viewOf(r running) projectView {
	v := projectView{
		Project: r.Project, Copy: orNull(r.Copy), State: "unavailable", Addresses: []string{}, Dir: r.WorkingDir, Files: r.Files,
		StateDir: r.StateDir,
	}
	if v.Files == nil {
		v.Files = []string{}
	}
	if r.Down {
		v.State = "down"
	}
	if r.Status != nil {
		services, well := len(r.Status.Services), wellCount(*r.Status)
		v.State, v.Revision, v.Services, v.Well = overall(*r.Status), orNull(r.Status.Revision), &services, &well
		v.Addresses = addressesOf(*r.Status)
	}
	return v
}

// addressesOf returns where a project is reached from this machine.
func addressesOf(s api.Status) []string {
	all := []string{}
	for _, url := range []*string{s.Gateway.HTTP, s.Gateway.HTTPS} {
		if url != nil && *url != "" {
			all = append(all, *url)
		}
	}
	for _, svc := range s.Services {
		for _, port := range svc.Ports {
			if address := reached(port, compose.Service{}); address != "" {
				all = append(all, address)
			}
		}
	}
	return all
}

func wellCount(s api.Status) int {
	n := 0
	for _, svc := range s.Services {
		if settledWell(svc) {
			n++
		}
	}
	return n
}

// overall is the state of a project as a whole: that of its worst service, and stopped where all of it is.
func overall(s api.Status) string {
	if len(s.Services) == 0 {
		return "empty"
	}
	if !slices.ContainsFunc(s.Services, func(svc engine.Service) bool { return svc.State != engine.ServiceStopped }) {
		return engine.ServiceStopped
	}
	worst := engine.ServiceHealthy
	for _, state := range []string{
		engine.ServiceStarting, engine.ServiceDegraded, engine.ServiceCrashLooping, engine.ServiceFailed,
	} {
		for _, svc := range s.Services {
			if svc.State == state {
				worst = state
			}
		}
	}
	return worst
}

// relative shortens paths that lie in dir.
func relative(paths []string, dir string) []string {
	short := make([]string, len(paths))
	for i, path := range paths {
		short[i] = strings.TrimPrefix(path, dir+"/")
	}
	return short
}
