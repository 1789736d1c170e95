package server

import (
	"trellis/driver/process"
)

// Lacks returns what running services as processes lacks on this machine, as this user: one sentence each, none where
// nothing lacks. It changes nothing.
func Lacks(l Location) ([]string, error) {
	d, err := process.New(process.Config{
		Project: l.Project, StateDir: l.StateDir, RuntimeDir: l.RuntimeDir, Shim: []string{ShimVerb},
	})
	if err != nil {
		return nil, err
	}
	return d.Capabilities().Lacks, nil
}
