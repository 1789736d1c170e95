package server

import (
	"context"
	"log/slog"
	"os"

	"trellis/driver"
	"trellis/driver/docker"
	"trellis/driver/process"
)

// drivers run the instances of one project.
type drivers struct {
	process *process.Driver
	docker  *docker.Driver
}

// newDrivers returns the drivers over what a project has. They start nothing until they are run.
func newDrivers(l Location, log *slog.Logger) (drivers, error) {
	shim, err := shimCommand(l)
	if err != nil {
		return drivers{}, err
	}
	processes, err := process.New(process.Config{
		Project: l.Project, StateDir: l.StateDir, RuntimeDir: l.RuntimeDir, Shim: shim, Log: log,
	})
	if err != nil {
		return drivers{}, err
	}
	containers, err := docker.New(docker.Config{
		Project: l.Project, StateDir: l.StateDir, RuntimeDir: l.RuntimeDir, Shim: shim, WorkingDir: l.WorkingDir, Log: log,
		Published: os.Getenv(publishedEnv) == "1",
	})
	if err != nil {
		return drivers{}, err
	}
	return drivers{processes, containers}, nil
}

func (d drivers) byName() map[string]driver.Driver {
	return map[string]driver.Driver{"process": d.process, "docker": d.docker}
}

// instances returns what runs of a project that has no control plane.
func instances(ctx context.Context, l Location) ([]driver.Instance, error) {
	d, err := newDrivers(l, slog.New(slog.DiscardHandler))
	if err != nil {
		return nil, err
	}
	var running []driver.Instance
	for _, drv := range d.byName() {
		list, err := drv.List(ctx, l.Project)
		if err != nil {
			return nil, err
		}
		for _, inst := range list {
			if inst.State != driver.Exited {
				running = append(running, inst)
			}
		}
	}
	return running, nil
}
