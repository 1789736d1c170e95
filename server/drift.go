package server

import (
	"context"
	"errors"

	"trellis/api"
	"trellis/engine"
	"trellis/errdefs"
)

// Drift implements api.Observer.
func (c *control) Drift(ctx context.Context) (api.Drift, error) {
	all, err := c.engine.Drift(ctx, c.location.Project)
	if errors.Is(err, errdefs.ErrNotFound) {
		return api.Drift{Project: c.location.Project, Changes: []engine.Drift{}}, nil
	}
	return c.drift(ctx, all, err)
}

// Revert implements api.Deployer.
func (c *control) Revert(ctx context.Context, req api.RevertRequest) (api.Drift, error) {
	c.deploying.Lock()
	defer c.deploying.Unlock()
	all, err := c.engine.Revert(ctx, c.location.Project, req.Services, req.Actor)
	return c.drift(ctx, all, err)
}

func (c *control) drift(ctx context.Context, all []engine.Drift, err error) (api.Drift, error) {
	if err != nil {
		return api.Drift{}, err
	}
	latest, err := c.store.Latest(ctx)
	return api.Drift{Project: c.location.Project, Revision: latest.Number, Changes: all}, err
}
