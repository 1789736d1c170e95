package main

import (
	"context"
	"errors"
	"time"

	"trellis/api"
	"trellis/errdefs"
)

const (
	// reconnect is how long a control plane may be away while it is followed: the holder starts it again.
	reconnect = 15 * time.Second
	// askAgain is how long it is not asked anew.
	askAgain = 200 * time.Millisecond
)

// absence is how long a control plane has been away.
type absence struct{ since time.Time }

// over waits until it is to be asked again, and says whether that is worth it no more: it has been away for too long, or ctx is done.
func (a *absence) over(ctx context.Context) bool {
	if a.since.IsZero() {
		a.since = time.Now()
	}
	if time.Since(a.since) > reconnect {
		return true
	}
	select {
	case <-ctx.Done():
		return true
	case <-time.After(askAgain):
		return false
	}
}

// gone says of a project whose control plane is away whether it does not run any more, as after a 'down': nobody starts another then.
func (p *program) gone(l location) func(context.Context) bool {
	return func(ctx context.Context) bool {
		_, closer, err := p.backend.Connect(ctx, l)
		if err == nil {
			_ = closer.Close()
		}
		return errors.Is(err, errdefs.ErrNotFound)
	}
}

// back says that it has answered.
func (a *absence) back() { a.since = time.Time{} }

// heard says that it was listened to since a moment: for longer than a refusal takes, so that it was there.
func (a *absence) heard(since time.Time) {
	if time.Since(since) > time.Second {
		a.back()
	}
}

// statuses sends the newest Status whenever there is a newer one, and at the end why it ended. A control plane that goes
// away is waited for, however long ago it told something new.
func statuses(ctx context.Context, control api.Control) (<-chan api.Status, <-chan error) {
	statuses, ended := make(chan api.Status), make(chan error, 1)
	go func() {
		var away absence
		for {
			err := control.Watch(ctx, func(s api.Status) error {
				away.back()
				select {
				case statuses <- s:
					return nil
				case <-ctx.Done():
					return ctx.Err()
				}
			})
			if err == nil {
				err = api.ErrUnreachable // it never has enough of it
			}
			if ctx.Err() != nil || !errors.Is(err, errdefs.ErrUnavailable) || away.over(ctx) {
				ended <- err
				return
			}
		}
	}()
	return statuses, ended
}

// patiently calls ask again while no control plane answers, for as long as the holder may take to start another.
func patiently(ctx context.Context, ask func() error) error {
	var away absence
	for {
		err := ask()
		if !errors.Is(err, api.ErrUnreachable) || ctx.Err() != nil || away.over(ctx) {
			return err
		}
	}
}
