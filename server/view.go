package server

import (
	"context"
	"fmt"

	"trellis/api"
	"trellis/compose"
	"trellis/engine"
	"trellis/errdefs"
	"trellis/state"
)

// Deployments implements api.Viewer.
func (c *control) Deployments(ctx context.Context, limit int) ([]api.Deployment, error) {
	revs, err := c.store.History(ctx, limit)
	if err != nil {
		return nil, err
	}
	all := make([]api.Deployment, 0, len(revs))
	for _, rev := range revs {
		rollouts, err := c.store.Rollouts(ctx, rev.Number)
		if err != nil {
			return nil, err
		}
		all = append(all, deployment(rev, rollouts))
	}
	return all, nil
}

func deployment(rev state.Revision, rollouts []state.Rollout) api.Deployment {
	return api.Deployment{
		Number: rev.Number, Commit: rev.Commit, AppliedAt: rev.AppliedAt, HealthyAt: rev.HealthyAt, Outcome: rev.Outcome,
		Cause: rev.Cause, Actor: rev.Actor, Undoes: rev.Undoes, Services: rev.Project.ServiceNames(),
		Rollouts: append([]state.Rollout{}, rollouts...),
	}
}

// Compare implements api.Viewer.
func (c *control) Compare(ctx context.Context, from, to int64) ([]engine.Change, error) {
	return compare(from, to, func(number int64) (state.Revision, error) { return c.store.Get(ctx, number) })
}

// compare returns what revision to has that revision from has not; get returns one of them.
func compare(from, to int64, get func(int64) (state.Revision, error)) ([]engine.Change, error) {
	have := engine.State{}
	if from != 0 {
		before, err := get(from)
		if err != nil {
			return nil, fmt.Errorf("compare revisions: %w", err)
		}
		have.Desired = &before.Project
	}
	want := compose.Project{}
	if to != 0 {
		after, err := get(to)
		if err != nil {
			return nil, fmt.Errorf("compare revisions: %w", err)
		}
		want = after.Project
	}
	return engine.Diff(want, have), nil
}

// Traffic implements api.Viewer.
func (s *sight) Traffic(ctx context.Context, fn func([]api.TrafficStep) error) error {
	return s.traffic.follow(ctx, fn)
}

// Door implements api.Viewer.
func (c *control) Door(context.Context) (api.Door, error) {
	url := c.console.url()
	if url == "" {
		return api.Door{}, fmt.Errorf("open the console of %s: %w: it does not listen", c.location.Project, errdefs.ErrUnavailable)
	}
	return api.Door{URL: url, Key: c.console.key}, nil
}
