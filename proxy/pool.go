package proxy

import (
	"context"
	"errors"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/net/http2"
)

// pool is one port of one instance: how it fares, and its connections.
type pool struct {
	inst   *instance
	port   int
	health health
	dials  chan struct{} // one for each connect under way
	plain  conns         // without TLS

	forgotten atomic.Bool // the port was: nobody asks for it any more

	doubted atomic.Int64 // when somebody last found out whether it is still there, in ns since 1970; 0: it is new, or was not

	mu     sync.Mutex
	proven map[proof]*conns // over TLS
}

// conns are connections of a pool that a request may use, as far as they are not in use: the last used on top.
type conns struct {
	pool   *pool
	caller string // who calls over them
	secure bool   // they are over TLS with the instance
	linked bool   // they are over mutual TLS with the data plane of its host

	mu    sync.Mutex
	idle  []*upstream
	gen   int // counted up by drop: connections of an earlier one are not kept
	h2    *http2.Transport
	shown shownIDs // what they show

	freed chan *upstream // to those who wait for a connect to be allowed
}

const (
	maxIdle  = 256              // connections kept per instance and port
	maxDials = 64               // connects under way at once; more wait, for that or for a connection that becomes free
	idleTime = 30 * time.Second // unless the upstream's Keep-Alive says less
)

func newPool(i *instance, port int) *pool {
	p := &pool{inst: i, port: port, dials: make(chan struct{}, maxDials)}
	p.plain = conns{pool: p, freed: make(chan *upstream)}
	return p
}

// proof is what sets connections apart that nobody else may use: who calls, and whether the instance is shown it.
type proof struct {
	caller string
	secure bool
}

// by returns the connections for a caller.
func (p *pool) by(caller string) *conns {
	if p.inst.svc.conf.Load().TLS != nil {
		return p.to("", true) // it does not ask who calls
	}
	return p.to(caller, p.inst.svc.mutual(p.port))
}

// passing returns those for a caller that speaks with the instance itself.
func (p *pool) passing(caller string) *conns { return p.to(caller, false) }

func (p *pool) to(caller string, secure bool) *conns {
	if !secure && !p.inst.remote() {
		return &p.plain
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	k := p.proven[proof{caller, secure}]
	if k == nil {
		if p.proven == nil {
			p.proven = map[proof]*conns{}
		}
		k = &conns{pool: p, caller: caller, secure: secure, linked: p.inst.remote(), freed: make(chan *upstream)}
		p.proven[proof{caller, secure}] = k
	}
	return k
}

// proves says whether both ends of the connections prove who they are.
func (k *conns) proves() bool { return k.secure || k.linked }

// all returns the connections of all callers.
func (p *pool) all() []*conns {
	p.mu.Lock()
	defer p.mu.Unlock()
	list := []*conns{&p.plain}
	for _, k := range p.proven {
		list = append(list, k)
	}
	return list
}

// drop closes every idle connection; those in use are closed when they are done.
func (p *pool) drop() {
	for _, k := range p.all() {
		k.drop()
	}
}

// get returns a connection and whether it was used before. Idle ones that the upstream has closed are passed over.
func (k *conns) get(ctx context.Context, fresh bool) (c *upstream, reused bool, err error) {
	if k.proves() {
		if _, err := k.identities(time.Now()); err != nil {
			return nil, false, err
		}
	}
	freed, dials := k.freed, k.pool.dials
	if fresh {
		freed = nil
	}
	for {
		if !fresh {
			if c = k.pop(); c != nil {
				if c.usable() {
					return c, true, nil
				}
				continue
			}
		}
		select {
		case dials <- struct{}{}:
			c, err = k.open(ctx)
			<-dials
			return c, false, err
		default:
		}
		select { // for whichever comes first
		case dials <- struct{}{}:
			c, err = k.open(ctx)
			<-dials
			return c, false, err
		case c = <-freed:
			if c.usable() {
				return c, true, nil
			}
		case <-ctx.Done():
			k.pool.abandoned()
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
func (k *conns) open(ctx context.Context) (*upstream, error) {
	k.mu.Lock()
	gen := k.gen
	k.mu.Unlock()
	tcp, err := k.pool.dial(ctx)
	if err != nil {
		return nil, err
	}
	c := newUpstream(tcp)
	c.hurry(true)
	if err := k.prove(ctx, c, "http/1.1"); err != nil {
		return nil, err
	}
	c.begin(k)
	c.gen = gen
	return c, nil
}

func (k *conns) pop() *upstream {
	k.mu.Lock()
	defer k.mu.Unlock()
	n := len(k.idle)
	if n == 0 {
		return nil
	}
	c := k.idle[n-1]
	k.idle[n-1] = nil
	k.idle = k.idle[:n-1]
	return c
}

// dial connects, and notes for the instance what came of it. An error is a *connectError or the context's.
func (p *pool) dial(ctx context.Context) (*net.TCPConn, error) {
	d := net.Dialer{Timeout: p.inst.svc.connectTimeout(), KeepAliveConfig: askWhenSilent}
	where := p.inst.address(p.port)
	if p.inst.remote() {
		where = p.inst.plane
	}
	conn, err := d.DialContext(ctx, "tcp", where)
	if err != nil && outOfFiles(err) && p.inst.svc.spare != nil {
		p.inst.svc.spare()
		conn, err = d.DialContext(ctx, "tcp", where)
	}
	switch {
	case err == nil:
		if !p.inst.remote() { // else it is the other data plane that knows
			p.connected()
		}
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

// outOfFiles says whether no file could be opened.
func outOfFiles(err error) bool {
	return errors.Is(err, syscall.EMFILE) || errors.Is(err, syscall.ENFILE)
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
func (k *conns) put(c *upstream, now time.Time) {
	if c.keep <= 0 {
		c.Close()
		return
	}
	c.keepUntil = now.Add(c.keep)
	if k.proves() {
		c.keepUntil = earlier(c.keepUntil, c.proven)
	}
	k.mu.Lock()
	if c.gen == k.gen {
		select {
		case k.freed <- c:
			k.mu.Unlock()
			return
		default:
		}
	}
	if c.gen != k.gen || len(k.idle) >= maxIdle {
		k.mu.Unlock()
		c.Close()
		return
	}
	k.idle = append(k.idle, c)
	k.mu.Unlock()
}

// drop closes every idle connection; those in use are closed when they are done.
func (k *conns) drop() {
	k.mu.Lock()
	idle, h2 := k.idle, k.h2
	k.idle, k.h2 = nil, nil
	k.gen++
	k.mu.Unlock()
	for _, c := range idle {
		c.Close()
	}
	if h2 != nil {
		closeIdle(h2)
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
	if p.health.broke(time.Now(), p.inst.svc.breaks()) {
		p.inst.svc.refresh(p.port)
	}
}

// answered notes a whole response head. Where the service counts failures, one that says that the program failed is as bad
// as none.
func (p *pool) answered(status int) {
	if status >= 500 && p.inst.svc.conf.Load().Failures > 0 {
		p.broke()
		return
	}
	p.health.answered()
}

// doubt has somebody find out at once whether the instance is still there, which may have broken an answer off by dying.
// One that accepts is not asked again for a while, whatever it breaks off.
func (p *pool) doubt() {
	if p.inst.remote() { // its host finds out
		return
	}
	now := time.Now().UnixNano()
	next := p.doubted.Load() + int64(doubtAgain)
	if now < next || !p.doubted.CompareAndSwap(next-int64(doubtAgain), now) {
		return
	}
	if !p.inst.svc.budget.take(time.Now()) { // it is load too
		return
	}
	p.inst.svc.ask(func() {
		conn, err := p.dial(p.inst.life)
		if err != nil { // noted
			p.doubted.Store(0)
			return
		}
		conn.Close()
	})
}

// doubtAgain is how long an instance that accepts connections is not doubted again.
const doubtAgain = time.Second

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
