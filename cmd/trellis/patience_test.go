package main

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"trellis/api"
	"trellis/engine"
	"trellis/errdefs"
)

// restarted is a control plane that is away now and then. It tells a status each time it is watched.
type restarted struct {
	api.Control
	quiet, away time.Duration // how long it has nothing new to tell, and how long it is away after that
	seen        int64
	gone        time.Time
}

func (r *restarted) Watch(ctx context.Context, fn func(api.Status) error) error {
	if !r.gone.IsZero() && time.Since(r.gone) < r.away {
		return fmt.Errorf("watch: %w", errdefs.ErrUnavailable)
	}
	r.seen++
	if err := fn(api.Status{State: engine.State{Revision: r.seen}}); err != nil {
		return err
	}
	select {
	case <-time.After(r.quiet):
	case <-ctx.Done():
		return ctx.Err()
	}
	r.gone = time.Now()
	return fmt.Errorf("watch: %w", errdefs.ErrUnavailable)
}

// TestAControlPlaneIsWaitedFor: what counts is how long it is away, and not how long ago it had something new to tell.
func TestAControlPlaneIsWaitedFor(t *testing.T) {
	for name, c := range map[string]struct {
		quiet, away time.Duration
		back        bool
	}{
		"at once":              {time.Second, time.Second, true},
		"after a long silence": {time.Hour, time.Second, true},
		"not for ever":         {time.Second, time.Minute, false},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				told, ended := statuses(ctx, &restarted{quiet: c.quiet, away: c.away})
				<-told
				select {
				case s := <-told:
					if !c.back || s.Revision != 2 {
						t.Errorf("it tells of %d", s.Revision)
					}
				case err := <-ended:
					if c.back {
						t.Errorf("it is given up: %v", err)
					}
				}
			})
		})
	}
}
