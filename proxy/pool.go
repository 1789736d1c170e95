package proxy

import (
	"context"
	"errors"
	"net"
	"sync"
	"syscall"
	"time"

	"golang.org/x/net/http2"
)

// pool is one port of one instance: how it fares, and its idle connections, the last used on top.
type pool struct {
	inst   *instance
	port   int
	health health

	mu   sync.Mutex
	idle []*upstream
	gen  int // counted up by drop: connections of an earlier one are not kept
	h2   *http2.Transport

	dials chan struct{}  // one for each connect under way
	freed chan *upstream // to those who wait for a connect to be allowed
}

const (
	maxIdle  = 256              // connections kept per instance and port
	maxDials = 64               // connects under way at once; more wait, for that or for a connection that becomes free
	idleTime = 30 * time.Second // unless the upstream's Keep-Alive says less
)

func newPool(i *instance, port int) *pool {
	return &pool{inst: i, port: port, dials: make(chan struct{}, maxDials), freed: make(chan *upstream)}
}

// get returns a connection and whether it was used before. Idle ones that the upstream has closed are passed over.
func (p *pool) get(ctx context.Context, fresh bool) (c *upstream, reused bool, err error) {
	freed := p.freed
	if fresh {
		freed = nil
	}
	for {
		if !fresh {
			if c = p.pop(); c != nil {
				if c.usable() {
					return c, true, nil
				}
				continue
			}
		}
		select {
		case p.dials <- struct{}{}:
			c, err = p.open(ctx)
			<-p.dials
			return c, false, err
		default:
		}
		select { // for whichever comes first
		case p.dials <- struct{}{}:
			c, err = p.open(ctx)
			<-p.dials
			return c, false, err
		case c = <-freed:
			if c.usable() {
				return c, true, nil
			}
		case <-ctx.Done():
			p.abandoned()
			return nil, false, ctx.Err()
		}
	}
}

// usable says whether an idle connection can be used; one that can't is closed.
func (c *upstream) usable() bool {
	if time.Now().Before(c.keepUntil) && c.alive() {
		return true
	}
	c.Close()
	return false
}

// open makes a connection.
func (p *pool) open(ctx context.Context) (*upstream, error) {
	p.mu.Lock()
	gen := p.gen
	p.mu.Unlock()
	conn, err := p.dial(ctx)
	if err != nil {
		return nil, err
	}
	c := newUpstream(conn, p)
	c.gen = gen
	return c, nil
}

func (p *pool) pop() *upstream {
	p.mu.Lock()
	defer p.mu.Unlock()
	n := len(p.idle)
	if n == 0 {
		return nil
	}
	c := p.idle[n-1]
	p.idle[n-1] = nil
	p.idle = p.idle[:n-1]
	return c
}

// dial connects, and notes for the instance what came of it. An error is a *connectError or the context's.
func (p *pool) dial(ctx context.Context) (*net.TCPConn, error) {
	d := net.Dialer{Timeout: p.inst.svc.connectTimeout()}
	conn, err := d.DialContext(ctx, "tcp", p.inst.address(p.port))
	switch {
	case err == nil:
		p.connected()
		return conn.(*net.TCPConn), nil
	case ctx.Err() != nil:
		p.abandoned()
		return nil, ctx.Err()
	case errors.Is(err, syscall.ECONNREFUSED), errors.Is(err, syscall.EHOSTUNREACH), errors.Is(err, syscall.ENETUNREACH):
		p.unreachable()
	case ownFault(err):
		p.abandoned()
	default: // time-out: the instance's fault only if it happens again and again
		p.unanswered()
	}
	return nil, &connectError{err}
}

// ownFault says whether a connect failed for want of something on this side, which says nothing about the other.
func ownFault(err error) bool {
	for _, e := range []error{syscall.EMFILE, syscall.ENFILE, syscall.EADDRNOTAVAIL, syscall.ENOBUFS, syscall.ENOMEM} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// connectError says that no connection could be made: nothing was sent.
type connectError struct{ err error }

func (e *connectError) Error() string { return e.err.Error() }
func (e *connectError) Unwrap() error { return e.err }

// put keeps an idle connection for the next request, or closes it.
func (p *pool) put(c *upstream, now time.Time) {
	if c.keep <= 0 {
		c.Close()
		return
	}
	c.keepUntil = now.Add(c.keep)
	p.mu.Lock()
	if c.gen == p.gen {
		select {
		case p.freed <- c:
			p.mu.Unlock()
			return
		default:
		}
	}
	if c.gen != p.gen || len(p.idle) >= maxIdle {
		p.mu.Unlock()
		c.Close()
		return
	}
	p.idle = append(p.idle, c)
	p.mu.Unlock()
}

// drop closes every idle connection; those in use are closed when they are done.
func (p *pool) drop() {
	p.mu.Lock()
	idle, h2 := p.idle, p.h2
	p.idle, p.h2 = nil, nil
	p.gen++
	p.mu.Unlock()
	for _, c := range idle {
		c.Close()
	}
	if h2 != nil {
		h2.CloseIdleConnections()
	}
}

// expire closes the connections that were idle for too long.
func (p *pool) expire(now time.Time) {
	p.mu.Lock()
	var old []*upstream
	kept := p.idle[:0]
	for _, c := range p.idle {
		if c.keepUntil.After(now) {
			kept = append(kept, c)
		} else {
			old = append(old, c)
		}
	}
	clear(p.idle[len(kept):])
	p.idle = kept
	p.mu.Unlock()
	for _, c := range old {
		c.Close()
	}
}

// admit claims the trial of a pool that is on trial.
func (p *pool) admit() bool {
	return p.health.trial.Load() == trialNone || p.health.trial.CompareAndSwap(trialOpen, trialBusy)
}

// unreachable takes the pool out after a connect that was refused: nobody is there, not for idle connections either.
func (p *pool) unreachable() { p.away(true) }

// unanswered notes a connect that timed out.
func (p *pool) unanswered() {
	if p.health.unanswered() {
		p.away(false)
	}
}

// broke notes an answer that broke off.
func (p *pool) broke() {
	if p.health.broke(time.Now()) {
		p.inst.svc.refresh(p.port)
	}
}

// connected notes a connection that was made.
func (p *pool) connected() {
	if p.health.connected() {
		p.inst.svc.lane(p.port).wake()
	}
}

// abandoned notes that a request gave up on the pool without a result.
func (p *pool) abandoned() {
	if p.health.abandon() {
		p.inst.svc.lane(p.port).wake()
	}
}
