package local

import (
	"context"
	"errors"
	"fmt"
	"io"

	"trellis/driver"
	"trellis/engine"
	"trellis/errdefs"
)

// Logs implements engine.Engine.
func (e *Engine) Logs(ctx context.Context, project string, id engine.InstanceID, opt driver.LogOptions) (io.ReadCloser, error) {
	drv, err := e.find(ctx, project, id)
	if err != nil {
		return nil, fmt.Errorf("logs of %s: %w", id, err)
	}
	return drv.Logs(ctx, full(project, id), opt)
}

// Exec implements engine.Engine.
func (e *Engine) Exec(ctx context.Context, project string, id engine.InstanceID, cmd driver.Command) (int, error) {
	drv, err := e.find(ctx, project, id)
	if err != nil {
		return 0, fmt.Errorf("exec in %s: %w", id, err)
	}
	return drv.Exec(ctx, full(project, id), cmd)
}

// find returns the driver of an instance.
func (e *Engine) find(ctx context.Context, project string, id engine.InstanceID) (driver.Driver, error) {
	if err := e.checkProject(project); err != nil {
		return nil, err
	}
	e.mu.Lock()
	m := e.memory.instances[full(project, id)]
	e.mu.Unlock()
	if m != nil {
		return e.cfg.Drivers[m.driver], nil
	}
	c, err := e.list(ctx)
	if err != nil {
		return nil, err
	}
	if name, ok := c.drivers[full(project, id)]; ok {
		return e.cfg.Drivers[name], nil
	}
	for _, name := range sortedKeys(c.away) {
		return nil, fmt.Errorf("%w: it may be one of those that are not known: %s", errdefs.ErrUnavailable, c.away[name].unknown())
	}
	return nil, fmt.Errorf("%w: no such instance", errdefs.ErrNotFound)
}

// Stats implements engine.Engine. Instances that do not run are left out, and those whose driver does not answer.
func (e *Engine) Stats(ctx context.Context, project string) ([]engine.Usage, error) {
	if err := e.checkProject(project); err != nil {
		return nil, fmt.Errorf("stats: %w", err)
	}
	c, err := e.list(ctx)
	if err != nil {
		return nil, fmt.Errorf("stats of %s: %w", project, err)
	}
	all := []engine.Usage{}
	for _, inst := range c.list {
		if inst.State != driver.Running || c.isAway(inst.ID) {
			continue
		}
		u, err := e.cfg.Drivers[c.drivers[inst.ID]].Stats(ctx, inst.ID)
		if errors.Is(err, errdefs.ErrNotFound) {
			continue // it ended meanwhile
		}
		if err != nil {
			return nil, fmt.Errorf("stats of %s: %w", project, err)
		}
		all = append(all, engine.Usage{Service: inst.Service, Instance: short(project, inst.ID), Usage: u})
	}
	return all, nil
}
