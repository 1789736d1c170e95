package proxy

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"trellis/proxy/http1"
)

// response is an instance's answer: the head, and a body to be read. The one who gets it closes it.
type response struct {
	status   int
	reason   string // "" is that of the status
	header   header
	length   int64     // of the body; -1 when unknown
	body     io.Reader // nil for none
	declared []string  // trailers that were announced
	tunnel   *upstream // after 101: the connection, the caller's until close
	named    []string  // fields that Connection names
	source
}

// source is where a response comes from.
type source interface {
	trailer() header  // valid once the body has been read
	waiting() bool    // whether reading on would have to wait for the instance
	abort()           // makes reading the body fail, now and later; safe for concurrent use
	close(whole bool) // to be called once; whole: the body was read to its end
}

// callError says why there is no response.
type callError struct {
	err  error
	kind string
	sent bool // the instance may have seen the request
	gone bool // the client went away
}

func (e *callError) Error() string { return e.err.Error() }
func (e *callError) Unwrap() error { return e.err }

// malformedError says that what an instance sent is not HTTP.
type malformedError struct{ err error }

func (e *malformedError) Error() string { return "malformed response: " + e.err.Error() }

const (
	maxResponseHead = 256 << 10
	maxInformal     = 10          // 1xx responses before the final one
	continueTime    = time.Second // for 100 Continue; then the body is sent without
)

var copyBuffers = sync.Pool{New: func() any { b := make([]byte, 32<<10); return &b }}

// roundTrip sends q and reads the head of its answer, for which the instance has timeout from the end of the request;
// 0 is for ever. fresh says that no connection may be used a second time.
func (p *pool) roundTrip(ctx context.Context, q *request, timeout time.Duration, fresh bool) (*response, *callError) {
	if q.grpc || q.upgrade == "" && p.inst.svc.speaksHTTP2(p.port) {
		return p.by(q.caller).roundTrip2(ctx, q, timeout)
	}
	c, reused, err := p.get(ctx, q, fresh)
	if err != nil {
		return nil, connectFailed(err)
	}
	x := &c.x
	x.start(ctx, q, timeout, reused)
	resp, cerr := x.run()
	if cerr != nil {
		c.Close()
		c.in.Close()
		x.leaveBody()
	}
	return resp, cerr
}

// get returns a connection for q, which waits for one no longer than the caller of q does.
func (p *pool) get(ctx context.Context, q *request, fresh bool) (*upstream, bool, error) {
	if q.timing != untimed {
		var cancel context.CancelFunc
		ctx, cancel = context.WithDeadline(ctx, q.deadline)
		defer cancel()
	}
	return p.by(q.caller).get(ctx, fresh)
}

func connectFailed(err error) *callError {
	var ce *connectError
	var ie *identityError
	switch {
	case errors.As(err, &ie):
		return &callError{err: err, kind: kindIdentity}
	case errors.As(err, &ce):
		return &callError{err: err, kind: kindConnect}
	case errors.Is(err, context.DeadlineExceeded):
		return &callError{err: err, kind: kindTimeout}
	}
	return &callError{err: err, kind: kindClient, gone: true}
}

// exchange is one HTTP/1.1 request and its answer on one connection. It is the source of its response. Each connection has
// one, used again and again.
type exchange struct {
	c       *upstream
	q       *request
	ctx     context.Context // of the request, whose end aborts the exchange
	timeout time.Duration
	reused  bool
	before  int64       // bytes written on the connection before this request
	began   bool        // something of the answer was read
	stop    func() bool // lets go of ctx; false when it is done. nil where the client's connection does that

	goOn     chan struct{} // closed when the instance said 100 Continue; nil unless the body waits for it
	bodyDone chan struct{} // closed when the body's goroutine has let go; nil when there is none
	answered atomic.Bool   // the response's head is there: no time limit any more
	srcErr   atomic.Bool   // reading the client's body failed
	whole    atomic.Bool   // the request was written to its end

	head http1.Response
	body http1.Body
	resp response
}

// start makes x the exchange of a request.
func (x *exchange) start(ctx context.Context, q *request, timeout time.Duration, reused bool) {
	fields := x.head.Header[:0]
	*x = exchange{c: x.c, q: q, ctx: ctx, timeout: timeout, reused: reused, before: x.c.written.Load()}
	x.head.Header = fields
}

// watch has the exchange aborted when the client goes away, until unwatch, which is false when it was.
func (x *exchange) watch() {
	if x.q.sender == nil {
		x.stop = context.AfterFunc(x.ctx, x.c.abort)
	} else if !x.q.sender.awaits(x.c) {
		x.c.abort()
	}
}

func (x *exchange) unwatch() bool {
	if x.q.sender == nil {
		return x.stop()
	}
	return x.q.sender.letGo()
}

func (x *exchange) run() (*response, *callError) {
	x.watch()
	x.c.hurry(x.q.fitsHost())
	x.expectAnswer()
	x.c.limitWrite(x.patience())
	if err := x.write(); err != nil && x.c.written.Load() == x.before {
		return nil, x.failed(err, false)
	} // after any other error there may still be an answer to read: the instance said no early, and closed
	resp, err := x.readHead()
	if err != nil {
		return nil, x.failed(err, x.c.written.Load() > x.before)
	}
	if err := x.gather(); err != nil {
		return nil, x.failed(err, true)
	}
	x.answered.Store(true)
	if resp.body != nil && !x.body.AtHand() {
		x.c.limitRead(0)
	}
	if resp.status != 101 {
		x.c.learnKeepAlive(resp.header)
		return resp, nil
	}
	if x.q.upgrade == "" || !resp.header.HasToken("Upgrade", x.q.upgrade) {
		return nil, x.failed(&malformedError{errors.New("upgraded without being asked")}, true)
	}
	if !x.unwatch() {
		return nil, x.failed(x.ctx.Err(), true)
	}
	x.c.limitRead(0)
	x.c.limitWrite(0)
	x.c.hurry(false)
	resp.tunnel = x.c
	return resp, nil
}

// expectAnswer gives the instance its time for the head of the response from now on, unless that is there.
func (x *exchange) expectAnswer() {
	if x.answered.Load() {
		return
	}
	x.c.limitRead(x.patience())
	if x.answered.Load() { // since just now
		x.c.limitRead(0)
	}
}

// patience is how long the instance may take from now on.
func (x *exchange) patience() time.Duration {
	if x.q.timing == untimed {
		return x.timeout
	}
	return x.q.within(x.timeout, time.Now())
}

// failed classifies an error before the head of a response.
func (x *exchange) failed(err error, sent bool) *callError {
	x.unwatch()
	var ne net.Error
	switch {
	case x.ctx.Err() != nil || x.srcErr.Load():
		return &callError{err: err, kind: kindClient, sent: sent, gone: true}
	case errors.As(err, &ne) && ne.Timeout() && !givenUp(err):
		return &callError{err: err, kind: kindTimeout, sent: sent}
	case sent && x.reused && !x.began && (errors.Is(err, errUnused) || err == io.EOF && neverArrived(x.c.tcp, x.before)):
		return &callError{err: err, kind: kindReset, sent: false}
	case errors.As(err, new(*malformedError)):
		return &callError{err: err, kind: kindProtocol, sent: sent}
	case x.c.from.secure && disbelieved(err):
		return &callError{err: &identityError{err: err, other: true}, kind: kindIdentity}
	}
	return &callError{err: err, kind: kindReset, sent: sent}
}

// responseLimits are those of http1 for responses.
var responseLimits = http1.Limits{Head: maxResponseHead, Fields: 1000}

// readHead reads the final response's head; informational ones go to the client as they come (RFC 9110, section 15.2).
func (x *exchange) readHead() (*response, error) {
	for range maxInformal {
		if err := x.readOne(); err != nil {
			return nil, err
		}
		switch {
		case x.head.Status == http.StatusSwitchingProtocols || x.head.Status >= 200:
			return x.response(), nil
		case x.head.Status == http.StatusContinue: // the client gets its own when its body is asked for
			x.continued()
		case x.q.informs != nil:
			x.inform()
		}
	}
	return nil, &malformedError{errors.New("too many informational responses")}
}

// inform passes on the informational head that was read.
func (x *exchange) inform() {
	h := &x.head
	r := response{status: h.Status, reason: h.Reason, header: h.Header}
	if h.Named {
		r.named = named(h.Header)
	}
	x.q.informs.inform(&r)
}

// readOne reads one head.
func (x *exchange) readOne() error {
	in := &x.c.in
	for seen := 0; ; {
		b := in.Buffered()
		n, err := x.head.Parse(b, seen, x.q.method, responseLimits)
		if err != nil {
			return &malformedError{err}
		}
		if n > 0 {
			in.Use(n, true)
			return nil
		}
		seen = len(b)
		if err := in.Fill(); err != nil {
			return err
		}
		x.began = true
	}
}

// response makes the response of the head that was read.
func (x *exchange) response() *response {
	h := &x.head
	x.resp = response{status: h.Status, reason: h.Reason, header: h.Header, length: h.Length, source: x}
	if h.Named {
		x.resp.named = named(h.Header)
	}
	if !h.HasBody(x.q.method) || h.Length == 0 {
		return &x.resp
	}
	x.body.Init(&x.c.in, h.Length, h.Chunked, responseLimits)
	x.resp.body = &x.body
	if h.Chunked {
		for i := range h.Header {
			if h.Header[i].Kind == http1.Trailer {
				for name := range http1.Tokens(h.Header[i].Value) {
					x.resp.declared = append(x.resp.declared, name)
				}
			}
		}
	}
	return &x.resp
}

func (x *exchange) trailer() header { return x.body.Trailer() }
func (x *exchange) waiting() bool   { return !x.body.Ready() }
func (x *exchange) abort()          { x.c.abort() }

// close gives the connection back, if both messages were whole, nothing else came, and both sides want to go on.
func (x *exchange) close(whole bool) {
	alive := x.unwatch() && !x.c.isAborted()
	if whole && alive && x.whole.Load() && !x.head.Close && (x.resp.body == nil || x.body.Ended()) && len(x.c.in.Buffered()) == 0 {
		if x.bodyDone != nil {
			<-x.bodyDone // it is returning
		}
		x.c.in.Release()
		x.q, x.ctx, x.stop, x.resp = nil, nil, nil, response{}
		x.c.from.put(x.c, time.Now())
		return
	}
	x.c.Close()
	x.c.in.Close()
	x.leaveBody()
}

// learnKeepAlive takes over how long the instance says that it keeps an idle connection, less a second.
func (c *upstream) learnKeepAlive(h header) {
	v := h.Get("Keep-Alive")
	if v == "" {
		return
	}
	for part := range strings.SplitSeq(v, ",") {
		name, value, _ := strings.Cut(strings.TrimSpace(part), "=")
		if s, err := strconv.Atoi(value); err == nil && strings.EqualFold(name, "timeout") {
			c.keep = min(idleTime, time.Duration(max(0, min(s, 3600)-1))*time.Second)
		}
	}
}
