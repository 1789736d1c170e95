package local

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"sync"
	"time"

	"trellis/errdefs"
	"trellis/proxy"
)

// publisher hands the newest snapshot to the data plane, one at a time, until it is taken.
type publisher struct {
	due chan struct{} // capacity 1: next is newer than tried

	mu    sync.Mutex
	epoch uint64
	next  proxy.Snapshot
	tried uint64        // version of the last one handed over, whatever became of it
	moved chan struct{} // closed and replaced when tried grows
	err   error         // of the last one
}

// offer makes s the snapshot to be published if it differs from the last one, and returns its version.
func (p *publisher) offer(s proxy.Snapshot) uint64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	s.Epoch, s.Version = p.epoch, p.next.Version
	if p.next.Version > 0 && reflect.DeepEqual(s, p.next) {
		return p.next.Version
	}
	s.Version++
	p.next = s
	select {
	case p.due <- struct{}{}:
	default:
	}
	return s.Version
}

// problem returns what was wrong with the last snapshot that was handed over.
func (p *publisher) problem() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.err
}

// await blocks until version or a later one was handed over, but no longer than limit.
func (p *publisher) await(ctx context.Context, version uint64, limit time.Duration) {
	timer := time.NewTimer(limit)
	defer timer.Stop()
	for {
		p.mu.Lock()
		tried, moved := p.tried, p.moved
		p.mu.Unlock()
		if tried >= version {
			return
		}
		select {
		case <-moved:
		case <-timer.C:
			return
		case <-ctx.Done():
			return
		}
	}
}

// The pause after a snapshot that could not be published, doubling.
const (
	publishRetry    = 100 * time.Millisecond
	publishRetryMax = 5 * time.Second
)

// publish runs the publisher.
func (e *Engine) publish(ctx context.Context) {
	p, pause := &e.pub, publishRetry
	var retry <-chan time.Time
	for {
		select {
		case <-ctx.Done():
			return
		case <-p.due:
		case <-retry:
		}
		p.mu.Lock()
		s, done := p.next, p.err == nil && p.tried == p.next.Version
		p.mu.Unlock()
		if done {
			continue // offered while the one before was read: it was read already
		}
		err := e.cfg.Plane.Publish(ctx, s)
		if ctx.Err() != nil {
			return
		}
		e.published(s.Version, err)
		if err == nil {
			pause, retry = publishRetry, nil
			continue
		}
		retry = time.After(pause)
		pause = min(2*pause, publishRetryMax)
	}
}

func (e *Engine) published(version uint64, err error) {
	p := &e.pub
	p.mu.Lock()
	if err != nil && (p.err == nil || p.err.Error() != err.Error()) {
		e.log.Error("snapshot could not be published whole", "err", err)
		e.record(event{kind: "proxy.failed", reason: "publish", message: err.Error()})
	}
	if err == nil && p.err != nil {
		e.record(event{kind: "proxy.recovered", reason: "publish", message: "everything is published"})
	}
	p.err, p.tried = err, max(p.tried, version)
	close(p.moved)
	p.moved = make(chan struct{})
	p.mu.Unlock()
	e.poke()
}

// taken returns why an address of the project cannot be had, "" where none is refused.
func (p *publisher) taken() string {
	if err := p.problem(); errors.Is(err, errdefs.ErrConflict) {
		return err.Error()
	}
	return ""
}

// nextEpoch counts the epoch of this control plane up, durably. A store that is older than what was published, because
// somebody went back to its copy, must not make every snapshot one of the past.
func (e *Engine) nextEpoch(ctx context.Context) error {
	var n uint64
	if err := e.value(ctx, valueEpoch, &n); err != nil {
		return err
	}
	published, err := e.cfg.Plane.Epoch(ctx)
	if err != nil {
		return fmt.Errorf("ask for the epoch: %w", err)
	}
	n = max(n, published)
	if err := e.cfg.Store.SetValue(ctx, valueEpoch, n+1); err != nil {
		return fmt.Errorf("keep the epoch: %w", err)
	}
	e.pub.mu.Lock()
	e.pub.epoch = n + 1
	e.pub.mu.Unlock()
	return nil
}
