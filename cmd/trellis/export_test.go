package main

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"trellis/compose"
	"trellis/engine"
)

// TestExportedFilesSayTheSame exports every good file of package compose, loads what was written, and compares the two
// projects: nothing but x-trellis and the profiles that were chosen may be another.
func TestExportedFilesSayTheSame(t *testing.T) {
	files, err := filepath.Glob("../../compose/testdata/*.good.yaml")
	if err != nil || len(files) < 5 {
		t.Fatalf("files: %v, %v", files, err)
	}
	environ := []string{"HOME=/home/kim", "TOKEN=t", "TAG=1", "USER=kim"}
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			given := []string{file}
			if over := strings.TrimSuffix(file, ".good.yaml") + ".override.yaml"; exists(over) {
				given = append(given, over)
			}
			p, _, err := compose.Load(context.Background(), compose.Options{Files: given, Environ: environ, EnvFiles: []string{os.DevNull}})
			if err != nil {
				t.Skipf("it wants other variables: %v", err)
			}
			want := plainProject(p)
			if len(want.Services) == 0 {
				t.Skip("all of it runs as processes")
			}
			text, err := plainCompose(want, p.WorkingDir)
			if err != nil {
				t.Fatal(err)
			}
			if strings.Contains(string(text), "x-trellis") {
				t.Errorf("x-trellis is left:\n%s", text)
			}
			out := filepath.Join(t.TempDir(), "compose.yaml")
			if err := os.WriteFile(out, text, 0o600); err != nil {
				t.Fatal(err)
			}
			again, _, err := compose.Load(context.Background(), compose.Options{
				Files: []string{out}, ProjectDirectory: p.WorkingDir, Environ: environ, EnvFiles: []string{os.DevNull},
			})
			if err != nil {
				t.Fatalf("%v\n%s", err, text)
			}
			for _, c := range engine.Diff(again, engine.State{Desired: &want}) {
				t.Errorf("%s %s: %v, then %v", c.Action, c.Path, c.From, c.To)
			}
		})
	}
}

// plainProject is what Docker can run of a project, without anything of Trellis.
func plainProject(p compose.Project) compose.Project {
	services := map[string]compose.Service{}
	for name, svc := range p.Services {
		if svc.Image == "" && svc.Build == nil {
			continue
		}
		svc.Trellis, svc.Deploy.Trellis, svc.Profiles = compose.ServiceExtension{}, compose.DeployExtension{}, nil
		svc.Ports = slices.Clone(svc.Ports)
		for i := range svc.Ports {
			svc.Ports[i].Trellis = compose.PortExtension{}
		}
		services[name] = svc
	}
	for name, svc := range services {
		needs := map[string]compose.Dependency{}
		for on, d := range svc.DependsOn {
			if _, ok := services[on]; ok {
				needs[on] = d
			}
		}
		svc.DependsOn = needs
		services[name] = svc
	}
	p.Services, p.Trellis = services, compose.ProjectExtension{}
	return p
}
