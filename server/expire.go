package server

import (
	"context"
	"errors"
	"fmt"
	"time"

	"trellis/engine"
	"trellis/errdefs"
	"trellis/state"
)

// expirePause is the longest pause between two looks at the clock. A machine that slept wakes to another time than its
// timers know.
const expirePause = time.Minute

// expire takes the project down, its volumes too, when the time to live of its newest deploy is over. It returns when ctx is
// done.
func (c *control) expire(ctx context.Context) error {
	said := ""
	for {
		next := c.changed.next()
		pause, err := c.expireOnce(ctx, time.Now())
		if err == nil {
			said = ""
		} else if ctx.Err() == nil && err.Error() != said {
			said = err.Error()
			c.log.Error("whose time is over is not taken down", "err", err)
		}
		timer := time.NewTimer(pause)
		select {
		case <-ctx.Done():
			timer.Stop()
			return nil
		case <-timer.C:
			continue
		case <-next:
			timer.Stop()
		}
		select { // changes come in bursts
		case <-ctx.Done():
			return nil
		case <-time.After(min(pause, time.Second)):
		}
	}
}

// expireOnce takes down what is to end at now, or returns how long there is nothing to do unless something changes.
func (c *control) expireOnce(ctx context.Context, now time.Time) (time.Duration, error) {
	c.deploying.Lock() // a deploy that has just begun begins a new time
	defer c.deploying.Unlock()
	ends, err := c.ends(ctx)
	if err != nil || ends == nil {
		return expirePause, err
	}
	if left := ends.Sub(now); left > 0 {
		return min(left, expirePause), nil
	}
	latest, err := c.store.Latest(ctx)
	if err != nil {
		return expirePause, err
	}
	var begun int64
	if err := c.store.Value(ctx, expiringValue, &begun); err != nil && !errors.Is(err, errdefs.ErrNotFound) {
		return expirePause, err
	}
	if begun != latest.Number {
		if s, err := c.observe(ctx); err != nil || s.Desired == nil { // it is down already
			return expirePause, err
		}
		if err := c.beginExpiry(ctx, latest.Number, *ends, now); err != nil {
			return expirePause, fmt.Errorf("write down that the time is over: %w", err)
		}
	}
	if err := c.takeDown(ctx, engine.DeleteOptions{Volumes: true}); err != nil {
		return expirePause, err
	}
	c.stop()
	return expirePause, nil
}

// expiringValue is where the store keeps the revision that is being taken down because its time is over, until all of it is gone: what
// could not be done at once, or before somebody ended the control plane, is done later.
const expiringValue = "expiring revision"

// beginExpiry writes down that the time of a revision is over, once.
func (c *control) beginExpiry(ctx context.Context, number int64, ends, now time.Time) error {
	if err := c.store.SetValue(ctx, expiringValue, number); err != nil {
		return err
	}
	return c.store.Append(ctx, state.Event{
		Time: now, Actor: "trellis", Project: c.location.Project, Kind: "project.expired", Reason: "ttl",
		Message: fmt.Sprintf("its time was over at %s: it is taken down, and its volumes are deleted", ends.Local().Format(time.DateTime)),
	})
}

// ends returns when the newest deploy is over, nil for never.
func (c *control) ends(ctx context.Context) (*time.Time, error) {
	latest, err := c.store.Latest(ctx)
	if errors.Is(err, errdefs.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	ttl := latest.Project.TTL()
	if ttl == 0 {
		return nil, nil
	}
	ends := latest.AppliedAt.Add(ttl)
	return &ends, nil
}
