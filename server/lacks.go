package server

import (
	"trellis/driver/process"
)

// Machine is what this machine has, as this user, for services that run as processes.
type Machine struct {
	Lacks        []string // what is missing and why, one sentence each
	Unprivileged bool     // no mounts and no other users
}

// Look returns what this machine has. It changes nothing.
func Look(l Location) (Machine, error) {
	d, err := process.New(process.Config{
		Project: l.Project, StateDir: l.StateDir, RuntimeDir: l.RuntimeDir, Shim: []string{ShimVerb},
	})
	if err != nil {
		return Machine{}, err
	}
	has := d.Capabilities()
	return Machine{Lacks: has.Lacks, Unprivileged: !has.Users}, nil
}
