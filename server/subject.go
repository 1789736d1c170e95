package server

import (
	"context"
	"iter"

	"trellis/compose"
	"trellis/engine"
	"trellis/state"
)

// subject is the project that a sight looks at, on this machine or in a cluster.
type subject interface {
	// observe returns the project as it is, the empty State for one that was never applied.
	observe(ctx context.Context) (engine.State, error)
	// usage returns what the instances use.
	usage(ctx context.Context) ([]engine.Usage, error)
	// latest returns the newest revision, and revision the one of a number. None: ErrNotFound.
	latest(ctx context.Context) (state.Revision, error)
	revision(ctx context.Context, number int64) (state.Revision, error)
	// happened returns events, oldest first, each with its Seq.
	happened(ctx context.Context, f state.EventFilter) iter.Seq2[state.Event, error]
	// content returns what a secret or config held in a revision. None: ErrNotFound.
	content(ref string) ([]byte, error)
	// drifts returns in how many places each service differs from its revision, nil where that is not known here.
	drifts() map[string]int
	// certificates returns those that the gateway shows.
	certificates(p compose.Project) []certificate
}

var _ subject = (*control)(nil)

func (c *control) usage(ctx context.Context) ([]engine.Usage, error) {
	return c.engine.Stats(ctx, c.location.Project)
}

func (c *control) latest(ctx context.Context) (state.Revision, error) { return c.store.Latest(ctx) }

func (c *control) revision(ctx context.Context, number int64) (state.Revision, error) {
	return c.store.Get(ctx, number)
}

func (c *control) happened(ctx context.Context, f state.EventFilter) iter.Seq2[state.Event, error] {
	return c.store.Events(ctx, f)
}

func (c *control) content(ref string) ([]byte, error) { return c.contents.Get(ref) }

func (c *control) drifts() map[string]int { return c.drifted() }
