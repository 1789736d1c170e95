package proxy

import (
	"context"
	"slices"
	"time"
)

// call sends a request to an instance of s and returns its answer, with the instance it is from. It waits while none is
// ready, and tries again what may be repeated and what provably did not arrive. Whoever called has q leave its seat when
// the answer has ended.
func (p *Proxy) call(ctx context.Context, to destination, q *request) (*response, *instance, *failure) {
	s, timeout := to.svc, to.timeout
	began := time.Now()
	s.count.requests.Add(1)
	s.budget.deposit(began)
	q.setDeadline(began)
	if timeout <= 0 && !q.grpc { // a gRPC server sends its head with its first message, which may take any time
		timeout = defaultTimeout
	}
	c := caller{s: s, lane: s.lane(to.port), q: q, timeout: timeout, try: to.try, wait: waiter{q: q, by: way{caller: q.from, route: q.route}}}
	if !s.internal() {
		p.spans.begin(q, began)
	}
	resp, inst, f := c.run(ctx)
	if f != nil && f.kind == kindIdentity {
		p.unproven(s, f.cause)
	}
	if f != nil && f.status >= 500 {
		s.count.failed.Add(1)
	}
	if !s.internal() {
		status := 0
		switch {
		case f == nil:
			status = resp.status
		case f.kind != kindClient:
			status, q.unmet = f.status, f.detail
		}
		p.account(s, inst, q, status, began)
	}
	return resp, inst, f
}

const defaultTimeout = 30 * time.Second // of a route

type caller struct {
	s       *service
	lane    *lane
	q       *request
	timeout time.Duration
	try     time.Duration // of each attempt; 0: timeout
	first   time.Time     // when the first attempt began; set where try is
	hasty   bool          // the last attempt had next to no time, because somebody from outside said so
	tried   tried
	repeats int // of what may have arrived
	again   int // of what did not arrive
	wait    waiter
}

func (c *caller) run(ctx context.Context) (*response, *instance, *failure) {
	for {
		c.backOff(ctx)
		p, f := c.wait.acquire(ctx, c.lane, &c.tried)
		if f != nil {
			return nil, nil, f
		}
		c.q.seat = p.inst.seat(c.wait.by)
		began := time.Now()
		if c.q.late(began) {
			p.abandoned()
			c.q.leave()
			return nil, nil, c.q.tooLate()
		}
		resp, err := p.roundTrip(ctx, c.q, c.timeFor(began), c.again+c.repeats > 0)
		if err == nil {
			p.inst.tally.answered(resp.status, time.Since(began))
			p.answered(resp.status)
			p.connected()
			return resp, p.inst, nil
		}
		if err.sent && !err.gone {
			p.inst.tally.broke(time.Since(began))
		}
		if f := c.after(p, err); f != nil {
			return nil, nil, f
		}
		c.lane = c.s.lane(c.lane.port)
	}
}

// after decides what an error means: nil to try again.
func (c *caller) after(p *pool, err *callError) *failure {
	defer c.q.leave()
	switch {
	case err.gone:
		if err.sent {
			p.connected()
		} else {
			p.abandoned()
		}
		return &failure{status: 499, kind: kindClient, detail: "the client went away"}
	case err.kind == kindIdentity:
		return c.unproven(p, err)
	case err.kind == kindBadRequest:
		p.connected()
		return &failure{status: 431, kind: kindBadRequest, detail: c.s.name + " takes no request with a head that large"}
	case err.kind == kindConnect:
		if c.s.retries() < 0 {
			return &failure{status: 502, kind: kindConnect, detail: "no connection to an instance of " + c.s.name}
		}
		c.tried.add(p)
		c.s.again(c.q.from, c.q.route, p.inst)
		return c.wait.failedConnect(c.lane, &c.tried)
	case !err.sent:
		if err.kind == kindTimeout { // there may never have been a connection
			p.abandoned()
		} else {
			p.connected()
		}
		if c.q.late(time.Now()) {
			return c.q.tooLate()
		}
		if c.again++; c.s.retries() < 0 || c.again > 3 || !c.q.body.rewind() {
			return c.failed(err)
		}
		c.s.again(c.q.from, c.q.route, p.inst)
		return nil
	}
	if err.kind == kindReset && givenUp(err.err) && !p.inst.remote() {
		p.unreachable() // its host is gone, or the way there
	} else if p.connected(); err.kind != kindTimeout || !c.hasty {
		p.broke()
		if err.kind == kindReset {
			p.doubt()
		}
	}
	c.tried.add(p)
	now := time.Now()
	if c.q.late(now) {
		return c.q.tooLate()
	}
	if !c.mayRepeat(err, now) || !c.s.budget.take(now) {
		return c.failed(err)
	}
	c.repeats++
	c.s.again(c.q.from, c.q.route, p.inst)
	return nil
}

// mayRepeat says whether a request that may have arrived may be sent again, as far as its service's budget goes.
func (c *caller) mayRepeat(err *callError, now time.Time) bool {
	switch {
	case err.kind == kindTimeout:
		if c.try <= 0 || c.timeout > 0 && now.Sub(c.first) >= c.timeout {
			return false
		}
	case err.kind != kindReset:
		return false
	}
	return c.q.safe && c.q.upgrade == "" && c.repeats < c.s.retries() && c.q.body.rewind()
}

// timeFor returns how long an attempt that begins now may take to the head of its answer; 0 is for ever.
func (c *caller) timeFor(now time.Time) time.Duration {
	timeout := c.timeout
	if c.try > 0 {
		if c.first.IsZero() {
			c.first = now
		}
		if timeout > 0 {
			timeout = max(timeout-now.Sub(c.first), time.Millisecond)
		}
		if timeout <= 0 || c.try < timeout {
			timeout = c.try
		}
	}
	given := c.q.within(timeout, now)
	c.hasty = c.q.outside && given < leastPatience && (given < timeout || timeout <= 0)
	return given
}

// leastPatience is how long a caller from outside who says how long it waits has to wait, so that an instance that has not answered by
// then is taken for one that does not: else anybody could have it left out.
const leastPatience = time.Second

// backOff waits before a request is repeated that every instance has had already: one that just died takes its
// connections with it one by one, and the listener last or first. 5 ms, then five times as long each; no longer than until
// there are others to choose from, or fewer.
func (c *caller) backOff(ctx context.Context) {
	had := c.lane.available.Load().list
	if c.repeats == 0 || c.tried.n < len(had) {
		return
	}
	wait := 5 * time.Millisecond
	for range min(c.repeats-1, 4) {
		wait *= 5
	}
	t := time.NewTimer(wait)
	defer t.Stop()
	for {
		changed := *c.lane.changed.Load() // before looking, so that no change in between is missed
		if !slices.Equal(had, c.lane.available.Load().list) {
			return
		}
		select {
		case <-changed:
		case <-t.C:
			return
		case <-ctx.Done():
			return
		}
	}
}

func sleep(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}

func (c *caller) failed(err *callError) *failure {
	switch err.kind {
	case kindTimeout:
		return &failure{status: 504, kind: kindTimeout, detail: c.s.name + " did not answer in time"}
	case kindProtocol:
		return &failure{status: 502, kind: kindProtocol, detail: c.s.name + " answered with something that is not HTTP"}
	}
	return &failure{status: 502, kind: kindReset, detail: c.s.name + " broke the connection off"}
}

// waiter waits for an instance that takes something new, for the service's hold in all.
type waiter struct {
	s      *service
	failed int      // connects that failed
	held   bool     // it has waited
	full   bool     // for a place at an instance, when last seen
	cold   bool     // for the start of a service that was scaled to nothing
	q      *request // who waits; nil for a connection that is passed through
	by     way
	began  time.Time
	until  time.Time
}

// begin starts the hold, if it has not begun; it says whether there is time left.
func (w *waiter) begin(s *service) bool {
	w.s = s
	if w.until.IsZero() {
		hold := s.hold()
		if hold < 0 {
			return false
		}
		w.began = time.Now()
		w.until = w.began.Add(hold)
		if w.q != nil && !w.q.deadline.IsZero() {
			w.until = earlier(w.until, w.q.deadline)
		}
		return w.began.Before(w.until)
	}
	return time.Now().Before(w.until)
}

// failedConnect notes that an instance did not accept a connection; nil says to go on. An instance that refuses is out
// of the choice then, so this ends: with another, or with the hold.
func (w *waiter) failedConnect(l *lane, t *tried) *failure {
	w.failed++
	if w.begin(l.s) || l.s.hold() < 0 && t.n < len(l.available.Load().list) {
		return nil
	}
	return w.none()
}

// pause keeps connects that fail at once, for want of something on this side, from being tried in a hot loop.
func (w *waiter) pause(ctx context.Context) {
	if w.failed < 2 {
		return
	}
	sleep(ctx, min(time.Millisecond<<min(w.failed, 10), 100*time.Millisecond))
}

// acquire returns an instance, counted as in use, or why there is none.
func (w *waiter) acquire(ctx context.Context, l *lane, t *tried) (*pool, *failure) {
	s := l.s
	w.pause(ctx)
	if !s.limited() || l.queue.empty() { // nobody is overtaken
		if p := l.acquire(t); p != nil {
			return p, nil
		}
	}
	return w.await(ctx, l, t)
}

// await is acquire where nobody may be had at once.
func (w *waiter) await(ctx context.Context, l *lane, t *tried) (*pool, *failure) {
	s := l.s
	if !w.begin(s) {
		return nil, w.none()
	}
	if !w.held {
		w.held = true
		s.count.held.Add(1)
		w.cold = s.conf.Load().Wakes && len(l.available.Load().list) == 0
	}
	defer s.holding.Add(-1)
	if s.holding.Add(1) > s.pending() {
		return nil, &failure{status: 503, kind: kindOverload, detail: "too many requests wait for " + s.name, retryAfter: 1}
	}
	s.waiting()
	queued := &s.calls.of(w.by).inFlight
	queued.Add(1)
	defer queued.Add(-1)
	place := l.queue.enter()
	defer l.queue.leave(place)
	timer := time.NewTimer(time.Until(w.until))
	defer timer.Stop()
	page := w.pageTimer()
	for {
		changed := *l.changed.Load() // before looking, so that no change in between is missed
		if !s.limited() || l.queue.first(place) {
			if p := l.acquire(t); p != nil {
				w.served()
				return p, nil
			}
		}
		select {
		case <-changed:
		case <-place.turn:
		case <-page:
			return nil, &failure{status: 503, kind: kindWaking, detail: s.name + " is being started", retryAfter: 1}
		case <-timer.C:
			w.full = s.limited() && len(l.available.Load().list) > 0
			return nil, w.none()
		case <-ctx.Done():
			return nil, &failure{status: 499, kind: kindClient, detail: "the client went away"}
		}
	}
}

// served notes how long the start of the service took for who waits.
func (w *waiter) served() {
	if w.cold {
		w.cold = false
		w.s.count.cold[bucketOf(time.Since(w.began))].Add(1)
	}
}

// pageAfter is how long a browser is left waiting for a page of a service that is being started, before it is told.
const pageAfter = 2 * time.Second

// pageTimer fires when a browser is to be told; for everybody else never.
func (w *waiter) pageTimer() <-chan time.Time {
	if w.q == nil || !w.s.conf.Load().Wakes || !w.q.opensPage() {
		return nil
	}
	return time.After(pageAfter)
}

func (w *waiter) none() *failure {
	if w.q != nil && w.q.late(time.Now()) {
		return w.q.tooLate()
	}
	if w.full {
		return &failure{status: 503, kind: kindOverload, detail: "every instance of " + w.s.name + " works on as much as it may", retryAfter: 1}
	}
	if w.failed > 0 {
		return &failure{status: 503, kind: kindConnect, detail: "no instance of " + w.s.name + " accepts connections", retryAfter: 1}
	}
	return &failure{status: 503, kind: kindNoInstance, detail: "no instance of " + w.s.name + " is ready", retryAfter: 1}
}
