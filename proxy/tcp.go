package proxy

import (
	"context"
	"errors"
	"sync/atomic"
	"time"
)

const (
	// speakFirst is how long a client has to speak before the instance is connected to, because it may be the one that
	// speaks first. Clients that do speak send with the handshake's last packet or right after it.
	speakFirst = 5 * time.Millisecond
	// speakHTTP is the same where HTTP was seen before, and how long the instance has then: an idle connection made in
	// advance costs it nothing but that, and a server that has begun to speak first is still found.
	speakHTTP = 3 * time.Second
)

// serveConn serves one accepted connection until it ends, or finds out which HTTP it speaks. That is served when it has
// returned: a connection that waits for requests keeps no more of the stack than it needs.
func (p *Proxy) serveConn(ctx context.Context, c *clientConn) kind {
	l := c.conf()
	if l != nil && l.Names != nil {
		c.to = redirected(l, c.raw)
		l = c.to
	}
	if l == nil {
		c.Close()
		return undecided
	}
	if l.Protocol == Link {
		p.serveLink(ctx, c)
		return undecided
	}
	if p.table.Load().behind(l, c.client) {
		if err := c.readProxied(p.front.proxied); err != nil {
			p.log.Debug("connection from a balancer refused", "listener", l.Name, "err", err)
			c.Close()
			return undecided
		}
	}
	if l.TLS && !p.secure(c, l) {
		c.Close()
		return undecided
	}
	t := p.table.Load()
	if t.refuses(l) {
		p.refuse(c, l)
		return undecided
	}
	s := t.services[l.Service]
	if l.Service == "" || l.Protocol == HTTP1 {
		return p.speaks(c)
	}
	if s == nil { // gone with a newer snapshot
		c.Close()
		return undecided
	}
	if l.Protocol == TCP {
		p.serveTCP(ctx, c, s, l.Port)
		return undecided
	}
	p.detect(ctx, c, s, l.Port)
	return undecided
}

// serveHTTP gives the connection to the HTTP side.
func (p *Proxy) serveHTTP(c *clientConn) { p.serveKnown(c, p.speaks(c)) }

// serveKnown serves a connection that speaks one of both HTTP; of all others there is nothing left to be served.
func (p *Proxy) serveKnown(c *clientConn, k kind) {
	switch k {
	case http2Preface:
		p.front.serve2(c)
	case plainHTTP:
		p.front.serve1(c)
	}
}

// speaks says which HTTP a connection speaks on the HTTP side; undecided when it has ended.
func (p *Proxy) speaks(c *clientConn) kind {
	k, err := c.peek(clientIdleTime)
	if err == nil && k == opaque && p.endToEnd(c) {
		return undecided
	}
	switch {
	case err != nil || len(c.first) == 0:
		c.Close()
		return undecided
	case k == http2Preface || c.agreedOn("h2"):
		return http2Preface
	}
	return plainHTTP
}

// serveTCP passes a connection through. Nobody looks at it, unless it matters whether the client speaks TLS itself.
func (p *Proxy) serveTCP(ctx context.Context, c *clientConn, s *service, port int) {
	if s.mutual(port) {
		k, err := c.peek(speakFirst)
		if err != nil {
			c.Close()
			return
		}
		if k == undecided {
			p.race(ctx, c, s, port)
			return
		}
	}
	p.passThrough(ctx, c, s, port)
}

// endToEnd passes a connection through to a service whose clients may speak its TLS themselves; false where it is no such
// service, or the client does not.
func (p *Proxy) endToEnd(c *clientConn) bool {
	l := c.conf()
	if l == nil || l.Service == "" || l.TLS || !helloTLS(c.first) {
		return false
	}
	t := p.table.Load()
	s := t.services[l.Service]
	if s == nil || !s.mutual(l.Port) || t.refuses(l) {
		return false
	}
	p.passThrough(p.life, c, s, l.Port)
	return true
}

// detect finds out what is spoken and serves it.
func (p *Proxy) detect(ctx context.Context, c *clientConn, s *service, port int) {
	wait := speakFirst
	switch s.hint(port) {
	case plainHTTP:
		wait = speakHTTP
	case serverFirst:
		wait = time.Nanosecond
	}
	k, err := c.peek(wait)
	if err != nil {
		c.Close()
		return
	}
	switch {
	case k != undecided:
		p.serveKind(ctx, c, s, port, k)
	case s.hint(port) == plainHTTP && len(s.lane(port).available.Load().list) == 0: // none is started for who says nothing
		p.awaitRequest(ctx, c, s, port)
	default:
		p.race(ctx, c, s, port)
	}
}

func (p *Proxy) serveKind(ctx context.Context, c *clientConn, s *service, port int, k kind) {
	if k == opaque {
		s.setHint(port, opaque)
		p.passThrough(ctx, c, s, port)
		return
	}
	s.setHint(port, plainHTTP)
	if k == http2Preface {
		p.front.serve2(c)
		return
	}
	p.front.serve1(c)
}

// race connects to an instance and serves by who speaks first.
func (p *Proxy) race(ctx context.Context, c *clientConn, s *service, port int) {
	for {
		at, up := p.dialTCP(ctx, c, s, port, false)
		if up == nil { // who has said meanwhile that they speak HTTP are told so in words
			if k, err := c.peek(speakFirst); err == nil && (k == plainHTTP || k == http2Preface) {
				p.serveKind(ctx, c, s, port, k)
				return
			}
			c.Close()
			return
		}
		inst := at.inst
		ended := false // by the beginning of a drain, or with a link: nothing was said, so another instance will do
		st := inst.track(func() { up.SetReadDeadline(time.Unix(1, 0)) }, true)
		p.streams.add(st)
		first, k, lost, silent := c.raceWith(up, func() bool { return s.hint(port) == plainHTTP && c.declared() != TCP })
		p.streams.remove(st)
		inst.untrack(st)
		up.SetReadDeadline(time.Time{})
		if len(first) == 0 && k == undecided && lost && (!inst.takes.Load() || broken(up)) && !p.draining.Load() {
			ended = true
		}
		switch {
		case ended:
			up.Close()
			at.leave()
			continue
		case len(first) == 0 && s.mutual(port) && helloTLS(c.first): // the client speaks TLS itself
			up.Close()
			at.leave()
			p.passThrough(ctx, c, s, port)
		case len(first) > 0 || k == opaque || k != undecided && c.declared() == TCP:
			if len(first) > 0 {
				s.setHint(port, serverFirst)
			} else {
				s.setHint(port, opaque)
			}
			s.count.connections.Add(1)
			c.waiting.Store(false)
			p.connect(inst, end{c.tcp, c.first}, end{up, first}, false)
			c.Close()
			at.leave()
		case silent:
			up.Close()
			at.leave()
			p.awaitRequest(ctx, c, s, port)
		case k == undecided: // one of the two has closed
			up.Close()
			c.Close()
			at.leave()
		default:
			up.Close()
			at.leave()
			p.serveKind(ctx, c, s, port, k)
		}
		return
	}
}

// awaitRequest waits for a client that made its connection in advance, as long as for the next request of one, and serves
// it. Nothing is in flight until it has spoken.
func (p *Proxy) awaitRequest(ctx context.Context, c *clientConn, s *service, port int) {
	k, err := c.peek(clientIdleTime)
	if err != nil || k == undecided {
		c.Close()
		return
	}
	p.serveKind(ctx, c, s, port, k)
}

// raceWith reads from both ends until one has spoken or closed. lost says that it was the instance that closed. After
// each time of speakHTTP it asks enough whether it is to end though neither has, which is silent. up's read deadline is
// over then.
func (c *clientConn) raceWith(up duplex, enough func() bool) (first []byte, k kind, lost, silent bool) {
	spoke := make(chan []byte)
	var over atomic.Bool
	go func() {
		buf := make([]byte, 4096)
		n, _ := up.Read(buf)
		over.Store(true)
		c.tcp.SetReadDeadline(time.Unix(1, 0)) // look returns
		spoke <- buf[:n]
	}()
	for {
		c.tcp.SetReadDeadline(time.Now().Add(speakHTTP))
		if over.Load() { // it may have set its deadline just before
			c.tcp.SetReadDeadline(time.Unix(1, 0))
		}
		var err error
		k, err = c.look()
		lost = err == nil && k == undecided
		if !lost || over.Load() {
			break
		}
		if silent = enough(); silent {
			break
		}
	}
	up.SetReadDeadline(time.Unix(1, 0))
	first = <-spoke
	c.tcp.SetReadDeadline(time.Time{})
	return first, k, lost && !silent, silent && len(first) == 0
}

// dialTCP connects to an instance of s, where it takes a seat; nil when there is none in time. raw leaves TLS to the client.
func (p *Proxy) dialTCP(ctx context.Context, c *clientConn, s *service, port int, raw bool) (seat, duplex) {
	caller, from := "", ""
	if l := c.conf(); l != nil {
		caller, from = l.Caller, p.table.Load().from(l, c.client)
	}
	w := waiter{by: way{caller: from}}
	var t tried
	l := s.lane(port)
	for {
		to, f := w.acquire(ctx, l, &t)
		if f != nil {
			s.count.failed.Add(1)
			return seat{}, nil
		}
		at := to.inst.seat(w.by)
		up, err := to.connect(ctx, caller, raw)
		if err == nil {
			return at, up
		}
		if ie := (*identityError)(nil); errors.As(err, &ie) {
			p.unproven(s, err)
			if !ie.other {
				to.abandoned()
				at.leave()
				s.count.failed.Add(1)
				return seat{}, nil
			}
		}
		at.leave()
		if s.retries() < 0 {
			s.count.failed.Add(1)
			return seat{}, nil
		}
		t.add(to)
		s.again(from, "", to.inst)
		if w.failedConnect(l, &t) != nil {
			s.count.failed.Add(1)
			return seat{}, nil
		}
		l = s.lane(port)
	}
}

// passThrough connects the client to an instance, unread.
func (p *Proxy) passThrough(ctx context.Context, c *clientConn, s *service, port int) {
	defer c.Close()
	s.count.connections.Add(1)
	c.waiting.Store(false)
	at, up := p.dialTCP(ctx, c, s, port, helloTLS(c.first))
	if up == nil {
		c.tcp.SetLinger(0)
		return
	}
	defer at.leave()
	p.connect(at.inst, end{c.tcp, c.first}, end{up, nil}, false)
}

// hint is what was last seen on a port; undecided at first.
func (s *service) hint(port int) kind {
	if k, ok := s.hints.Load(port); ok {
		return k.(kind)
	}
	return undecided
}

func (s *service) setHint(port int, k kind) {
	if s.hint(port) != k {
		s.hints.Store(port, k)
	}
}
