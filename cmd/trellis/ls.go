package main

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"trellis/api"
	"trellis/engine"
)

// projectView is one project in the JSON of ls.
type projectView struct {
	Project  string   `json:"project"`
	State    string   `json:"state"`
	Revision *int64   `json:"revision"`
	Services *int     `json:"services"` // null: its control plane does not answer
	Well     *int     `json:"healthy"`
	Dir      string   `json:"dir"`
	Files    []string `json:"files"`
	StateDir string   `json:"state_dir"`
}

func (p *program) lsCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "ls",
		Short: "List every project that runs on this machine",
		Long:  `Ls lists the projects that you run on this machine, from whatever directory.`,
		Example: `  trellis ls
  trellis -p shop ps     any command for one of them, from anywhere`,
		Args: arguments(0, 0),
	}
	format := formatFlag(cmd.Flags())
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		all, err := p.backend.Projects(cmd.Context())
		if err != nil {
			return err
		}
		views := []projectView{}
		for _, r := range all {
			v := projectView{Project: r.Project, State: "unavailable", Dir: r.WorkingDir, Files: r.Files, StateDir: r.StateDir}
			if v.Files == nil {
				v.Files = []string{}
			}
			if r.Status != nil {
				services, well := len(r.Status.Services), wellCount(*r.Status)
				v.State, v.Revision, v.Services, v.Well = overall(*r.Status), orNull(r.Status.Revision), &services, &well
			}
			views = append(views, v)
		}
		if format.json() {
			return p.writeJSON(views)
		}
		s := p.styleOf(p.stdout)
		t := table{head: []string{"PROJECT", "STATE", "HEALTHY", "REV", "DIRECTORY", "FILES"}, right: map[int]bool{2: true, 3: true}}
		for _, v := range views {
			healthy, revision := "-", "-"
			if v.Services != nil {
				healthy = fmt.Sprintf("%d/%d", *v.Well, *v.Services)
			}
			if v.Revision != nil {
				revision = digits(*v.Revision)
			}
			t.add(v.Project, paintState(s, v.State), healthy, revision, v.Dir, strings.Join(relative(v.Files, v.Dir), ", "))
		}
		return t.write(p.stdout, s)
	}
	return cmd
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

// overall is the state of a project as a whole: that of its worst service.
func overall(s api.Status) string {
	if len(s.Services) == 0 {
		return "empty"
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
