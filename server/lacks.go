package server

import (
	"os"

	"trellis/driver/docker"
	"trellis/driver/process"
)

// Machine is what this machine has, as this user, for services that run as processes or containers.
type Machine struct {
	Lacks        []string // what is missing and why, one sentence each
	Unprivileged bool     // no mounts and no other users for processes
}

// Look returns what this machine has for processes, containers, or both. It changes nothing and asks no engine.
func Look(l Location, processes, containers bool) (Machine, error) {
	var m Machine
	if processes {
		d, err := process.New(process.Config{
			Project: l.Project, StateDir: l.StateDir, RuntimeDir: l.RuntimeDir, Shim: []string{ShimVerb},
		})
		if err != nil {
			return m, err
		}
		has := d.Capabilities()
		m.Lacks, m.Unprivileged = append(m.Lacks, has.Lacks...), !has.Users
	}
	if containers {
		d, err := docker.New(docker.Config{
			StateDir: l.StateDir, RuntimeDir: l.RuntimeDir, Shim: []string{ShimVerb}, Published: os.Getenv(publishedEnv) == "1",
		})
		if err != nil {
			return m, err
		}
		m.Lacks = append(m.Lacks, d.Capabilities().Lacks...)
	}
	return m, nil
}
