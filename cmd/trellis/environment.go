package main

import (
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"

	"trellis/compose"
)

// ownFile returns the file that makes an environment what it is, "" where it has none.
func ownFile(project compose.Project) string {
	if len(project.Files) < 2 {
		return ""
	}
	last := project.Files[len(project.Files)-1]
	base := filepath.Base(last)
	if strings.HasSuffix(strings.TrimSuffix(base, filepath.Ext(base)), "."+project.Environment) {
		return last
	}
	return ""
}

// borrowed returns the secrets that an environment would take over from the file that it is made from: production's, in
// all likelihood. It gets them only where its own file says so. A secret from a variable is its own where the variable was
// given with the command, and not found in the .env that all environments share.
func (p *program) borrowed(project compose.Project) []compose.Diagnostic {
	if project.Environment == "" {
		return nil
	}
	own := ownFile(project)
	to := "compose." + project.Environment + ".yaml"
	if own != "" {
		to = filepath.Base(own)
	}
	used := map[string]bool{}
	for _, svc := range project.Services {
		for _, use := range svc.Secrets {
			used[use.Source] = true
		}
	}
	var all []compose.Diagnostic
	for _, name := range slices.Sorted(maps.Keys(project.Secrets)) {
		secret := project.Secrets[name]
		source := "file"
		if secret.Environment != "" {
			source = "environment"
		}
		path := "secrets." + name
		file, line, column := project.Position(path + "." + source)
		given := secret.Environment != "" && (len(p.flags.envFiles) > 0 || p.getenv(secret.Environment) != "")
		if !used[name] || secret.External || file == own && own != "" || given {
			continue
		}
		all = append(all, compose.Diagnostic{
			File: shortPath(file), Line: line, Column: column, Path: path,
			Message: fmt.Sprintf("is not the secret of %s: give it a source of its own in %s, or say there that it is the same", project.Environment, to),
		})
	}
	return all
}
