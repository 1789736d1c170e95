package main

import (
	"cmp"
	"errors"
	"maps"
	"slices"

	"trellis/compose"
	"trellis/telemetry/metrics"
)

// checkRules returns what is wrong with the project's files of alert rules.
func (p *program) checkRules(project compose.Project) ([]compose.Diagnostic, error) {
	files, err := compose.RuleFiles(project, p.environ)
	var unread compose.Diagnostics
	if errors.As(err, &unread) {
		return unread, nil
	}
	if err != nil {
		return nil, err
	}
	var all []compose.Diagnostic
	for _, name := range slices.Sorted(maps.Keys(files)) {
		_, err := metrics.ParseRules(files[name])
		var wrong compose.Diagnostics
		if !errors.As(err, &wrong) {
			continue
		}
		for _, d := range wrong {
			d.File = cmp.Or(shortPath(project.Configs[name].File), "config "+name)
			all = append(all, d)
		}
	}
	return all, nil
}
