package proxy

import (
	"context"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

// pulse is the one clock for everything that a client may take too long for: twenty times a second it looks at every
// connection. A request sets no timer so, and a time-out is up to two beats late.
type pulse struct {
	start time.Time
	now   atomic.Int64 // nanoseconds since start, at the last beat
	day   atomic.Pointer[string]

	mu    sync.Mutex
	conns []*clientConn
	wake  chan struct{} // capacity 1: there is a first one
}

const beat = 50 * time.Millisecond

func newPulse() *pulse {
	p := &pulse{start: time.Now(), wake: make(chan struct{}, 1)}
	p.now.Store(1)
	p.setDate()
	return p
}

// in returns the moment that is d from now, never 0.
func (p *pulse) in(d time.Duration) int64 { return p.now.Load() + int64(d) }

// date returns the time as a Date field has it.
func (p *pulse) date() string { return *p.day.Load() }

func (p *pulse) setDate() {
	if s := time.Now().UTC().Format(http.TimeFormat); p.day.Load() == nil || s != *p.day.Load() {
		p.day.Store(&s)
	}
}

// run beats until ctx is done; without any connection it rests.
func (p *pulse) run(ctx context.Context) {
	tick := time.NewTicker(beat)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			if p.beat() == 0 {
				tick.Stop()
			}
		case <-p.wake:
			p.beat()
			tick.Reset(beat)
		case <-ctx.Done():
			return
		}
	}
}

// beat looks at every connection and returns how many there are.
func (p *pulse) beat() int {
	now := max(1, int64(time.Since(p.start)))
	p.now.Store(now)
	p.setDate()
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range p.conns {
		c.beat(now)
	}
	return len(p.conns)
}

func (p *pulse) add(c *clientConn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.conns) == 0 {
		p.now.Store(max(1, int64(time.Since(p.start))))
		p.setDate()
		select {
		case p.wake <- struct{}{}:
		default:
		}
	}
	c.place = len(p.conns)
	p.conns = append(p.conns, c)
}

func (p *pulse) remove(c *clientConn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	last := len(p.conns) - 1
	p.conns[c.place] = p.conns[last]
	p.conns[c.place].place = c.place
	p.conns[last] = nil
	p.conns = p.conns[:last]
}

func (p *pulse) list() []*clientConn {
	p.mu.Lock()
	defer p.mu.Unlock()
	return append([]*clientConn(nil), p.conns...)
}

// closeIdlest closes the connection that has waited longest for its next request, if one waits.
func (p *pulse) closeIdlest() {
	var idlest *clientConn
	for _, c := range p.list() {
		if c.state.Load() == connIdle && (idlest == nil || c.readBy.at.Load() < idlest.readBy.at.Load()) {
			idlest = c
		}
	}
	if idlest != nil {
		idlest.closeIdle()
	}
}

func (p *pulse) len() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.conns)
}

// limit is the moment, in the pulse's time, by which something has to have happened; 0 is never.
type limit struct{ at atomic.Int64 }

func (l *limit) set(at int64) { l.at.Store(at) }

// passed says whether the moment has passed; it does so once.
func (l *limit) passed(now int64) bool {
	at := l.at.Load()
	return at != 0 && now > at && l.at.CompareAndSwap(at, 0)
}

// A client that waits for its answer is looked at after a tenth of a second and then every half: whether it is still
// there.
const (
	firstLook = 100 * time.Millisecond
	nextLook  = 500 * time.Millisecond
)

// beat ends what the client takes too long for, and finds out whether one that waits for an answer has gone.
func (c *clientConn) beat(now int64) {
	past := time.Unix(1, 0)
	if c.readBy.passed(now) {
		c.raw.SetReadDeadline(past)
	}
	if c.restAt.passed(now) {
		c.rest()
	}
	if c.writeBy.passed(now) {
		c.raw.SetWriteDeadline(past)
	}
	if at := c.lookAt.at.Load(); at != 0 && now > at && c.lookAt.at.CompareAndSwap(at, now+int64(nextLook)) && c.hungUp() {
		c.lookAt.set(0)
		c.gone()
	}
}
