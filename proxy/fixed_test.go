//go:build gateway || conformance

package proxy

import "context"

// fixedFeed gives one update, and nothing after it.
type fixedFeed struct{ u Update }

func (f fixedFeed) Follow(ctx context.Context, update func(Update)) error {
	update(f.u)
	<-ctx.Done()
	return ctx.Err()
}
