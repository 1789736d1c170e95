package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"trellis/api"
	"trellis/compose"
	"trellis/errdefs"
	"trellis/load"
)

// loadProfile fills cfg as the profile of that name says, and returns the path of its scenario, "" for none.
func (p *program) loadProfile(ctx context.Context, f *loadFlags, name string, cfg *load.Config, arrivals bool) (string, error) {
	l, err := p.load(ctx)
	if err != nil {
		return "", err
	}
	profile, ok := l.project.Trellis.Load[name]
	if !ok {
		return "", noProfile(name, l.project)
	}
	for _, s := range profile.Stages {
		cfg.Stages = append(cfg.Stages, load.Stage{Rate: float64(s.Rate), For: time.Duration(s.For), Ramp: s.Ramp.Or(0)})
	}
	if !arrivals {
		cfg.Poisson = profile.Arrivals == "poisson"
	}
	if cfg.URL = f.url; cfg.URL == "" {
		if cfg.URL, err = p.gatewayOf(ctx); err != nil {
			return "", err
		}
	}
	return scenarioPath(l.project, profile), nil
}

// scenarioPath is where a profile's scenario is, "" where it has none.
func scenarioPath(project compose.Project, profile compose.LoadProfile) string {
	if profile.Scenario == "" || filepath.IsAbs(profile.Scenario) {
		return profile.Scenario
	}
	return filepath.Join(project.WorkingDir, profile.Scenario)
}

func noProfile(name string, project compose.Project) error {
	names := slices.Sorted(maps.Keys(project.Trellis.Load))
	err := plain{fmt.Errorf("no load profile %q%s: %w", name, didYouMean(name, names), errdefs.ErrInvalid)}
	if len(names) == 0 {
		return withHint(err, "%s has no x-trellis.load; for a run without a profile name a URL, such as http://localhost:8080/", project.Name)
	}
	return withHint(err, "the profiles of %s are %s; anything else has to be a URL, such as http://localhost:8080/", project.Name, strings.Join(names, ", "))
}

// completeProfiles offers the load profiles of the file.
func (p *program) completeProfiles(_ *cobra.Command, given []string, _ string) ([]string, cobra.ShellCompDirective) {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	l, err := p.load(ctx)
	if err != nil || len(given) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	return slices.Sorted(maps.Keys(l.project.Trellis.Load)), cobra.ShellCompDirectiveNoFileComp
}

// gatewayOf is where the gateway of the running project listens.
func (p *program) gatewayOf(ctx context.Context) (string, error) {
	var status api.Status
	err := p.withControl(ctx, func(control api.Control, _ location) (err error) {
		status, err = control.Status(ctx)
		return err
	})
	if err != nil {
		return "", err
	}
	for _, address := range []*string{status.Gateway.HTTP, status.Gateway.HTTPS} {
		if address != nil {
			return *address, nil
		}
	}
	return "", withHint(errors.New(status.Project+" has no gateway"), "say with --url where the requests go; 'trellis ps' shows the published ports")
}

// checkProfiles returns what is wrong with the scenarios of the project's load profiles.
func checkProfiles(project compose.Project) ([]compose.Diagnostic, error) {
	var all []compose.Diagnostic
	read := map[string]bool{}
	for _, profile := range project.Trellis.Load {
		path := scenarioPath(project, profile)
		if path == "" || read[path] {
			continue
		}
		read[path] = true
		var wrong compose.Diagnostics
		if _, err := load.ReadScenario(path); errors.As(err, &wrong) {
			all = append(all, wrong...)
		} else if err != nil {
			return nil, err
		}
	}
	slices.SortStableFunc(all, func(a, b compose.Diagnostic) int { return strings.Compare(a.File, b.File) })
	return all, nil
}
