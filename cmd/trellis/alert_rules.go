package main

import (
	"cmp"
	"errors"
	"slices"

	"trellis/compose"
	"trellis/telemetry/metrics"
)

// brokenRules returns what is wrong with the project's files of alert rules. contents is as compose.Contents has it.
func brokenRules(project compose.Project, contents map[string][]byte) []compose.Diagnostic {
	if project.Trellis.Alerts == nil {
		return nil
	}
	var all []compose.Diagnostic
	for _, name := range slices.Sorted(slices.Values(project.Trellis.Alerts.Rules)) {
		_, err := metrics.ParseRules(contents["configs/"+name])
		var wrong compose.Diagnostics
		if !errors.As(err, &wrong) {
			continue
		}
		for _, d := range wrong {
			d.File = cmp.Or(shortPath(project.Configs[name].File), "config "+name)
			all = append(all, d)
		}
	}
	return all
}

// checkRules is brokenRules of files that nobody has read yet; one that cannot be read is wrong too.
func (p *program) checkRules(project compose.Project) ([]compose.Diagnostic, error) {
	contents, err := compose.RuleFiles(project, p.environ)
	var unread compose.Diagnostics
	if errors.As(err, &unread) {
		return unread, nil
	}
	if err != nil {
		return nil, err
	}
	return brokenRules(project, contents), nil
}
