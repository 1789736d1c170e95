package proxy

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
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
	c, reused, err := p.get(ctx, q, timeout, fresh)
	if err != nil {
		return nil, connectFailed(ctx, err)
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
func (p *pool) get(ctx context.Context, q *request, timeout time.Duration, fresh bool) (*upstream, bool, error) {
	if q.timing != untimed && timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, timeout, errTooLate)
		defer cancel()
	}
	return p.by(q.caller).get(ctx, fresh)
}

func connectFailed(ctx context.Context, err error) *callError {
	var ce *connectError
	var ie *identityError
	switch {
	case errors.As(err, &ie):
		return &callError{err: err, kind: kindIdentity}
	case errors.As(err, &ce):
		return &callError{err: err, kind: kindConnect}
	case errors.Is(context.Cause(ctx), context.DeadlineExceeded):
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

// An answer of at most gatherSize bytes is waited for gatherTime before any of it is passed on.
const (
	gatherSize = 64 << 10
	gatherTime = time.Second
)

// gather reads all of a short answer to a request that may be repeated, so that it can be: of an instance that is killed while it
// answers, the client would get a part, which nobody can take back. One that takes its time is passed on as it comes.
func (x *exchange) gather() error {
	if x.resp.body == nil || !x.q.safe || x.head.Length < 0 || x.head.Length > gatherSize || x.body.AtHand() {
		return nil
	}
	patience := gatherTime
	if p := x.patience(); p > 0 {
		patience = min(patience, p)
	}
	x.c.limitRead(patience)
	err := x.body.Gather()
	if errors.Is(err, os.ErrDeadlineExceeded) && !x.c.isAborted() {
		return nil
	}
	return err
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

// write sends the head and as much of the body as is at hand; the rest follows from another goroutine.
func (x *exchange) write() error {
	q := x.q
	b := q.appendHead(x.c.out[:0])
	switch {
	case q.body == nil:
		if q.length == 0 && (q.method == "POST" || q.method == "PUT" || q.method == "PATCH") {
			b = append(b, "Content-Length: 0\r\n"...)
		}
		return x.writeWhole(append(b, "\r\n"...))
	case q.length < 0:
		b = append(b, "Transfer-Encoding: chunked\r\n"...)
		if len(q.declared) > 0 {
			b = http1.AppendField(b, "Trailer", strings.Join(q.declared, ", "))
		}
	default:
		b = append(b, "Content-Length: "...)
		b = strconv.AppendInt(b, q.length, 10)
		b = append(b, "\r\n"...)
	}
	if q.body.complete() {
		b = append(b, "\r\n"...)
		if q.length >= 0 {
			return x.writeWhole(append(b, q.body.buf...))
		}
		if len(q.body.buf) > 0 {
			b = http1.AppendChunk(b, q.body.buf)
		}
		return x.writeWhole(x.appendEnd(b))
	}
	if q.expect {
		b = append(b, "Expect: 100-continue\r\n"...)
		x.goOn = make(chan struct{})
	}
	if err := x.c.send(append(b, "\r\n"...)); err != nil {
		return err
	}
	x.bodyDone = make(chan struct{})
	go x.writeBody()
	return nil
}

// writeWhole writes the last of the request.
func (x *exchange) writeWhole(b []byte) error {
	if err := x.c.send(b); err != nil {
		return err
	}
	x.whole.Store(true)
	return nil
}

// appendEnd appends the end of a chunked body.
func (x *exchange) appendEnd(b []byte) []byte {
	b = append(b, "0\r\n"...)
	for _, f := range x.q.trailer() {
		if anyIs(x.q.declared, &f) {
			b = http1.AppendField(b, f.Name, f.Value)
		}
	}
	return append(b, "\r\n"...)
}

// appendHead appends the request line and the fields that have nothing to do with the body.
func (q *request) appendHead(b []byte) []byte {
	b = append(b, q.method...)
	b = append(b, ' ')
	b = append(b, q.target...)
	b = append(b, " HTTP/1.1\r\nHost: "...)
	b = append(b, q.authority...)
	b = append(b, "\r\n"...)
	for i := range q.header {
		if f := &q.header[i]; q.passes(f) {
			b = http1.AppendField(b, f.Name, f.Value)
		}
	}
	b = http1.AppendField(b, "X-Request-Id", q.id)
	if q.timing != untimed {
		b = http1.AppendField(b, timingFields[q.timing], q.left(time.Now()))
	}
	if parent := q.trace.text(); parent != "" {
		b = http1.AppendField(b, "traceparent", parent)
	}
	if q.outside {
		b = append(b, "X-Forwarded-For: "...)
		b = q.client.AppendTo(b)
		b = append(b, "\r\n"...)
		b = http1.AppendField(b, "X-Forwarded-Host", q.authority)
		b = http1.AppendField(b, "X-Forwarded-Proto", q.scheme)
	}
	switch {
	case q.upgrade != "":
		b = append(b, "Connection: Upgrade\r\n"...)
		b = http1.AppendField(b, "Upgrade", q.upgrade)
	case q.trailers:
		b = append(b, "Connection: TE\r\nTe: trailers\r\n"...)
	}
	return b
}

// writeBody sends the body while the response is already being waited for.
func (x *exchange) writeBody() {
	defer close(x.bodyDone)
	if x.goOn != nil {
		t := time.NewTimer(continueTime)
		defer t.Stop()
		select {
		case <-x.goOn:
		case <-t.C:
		case <-x.q.ended:
			return
		}
	}
	if err := x.copyBody(); err != nil {
		if x.srcErr.Load() {
			x.c.abort() // nobody will send the rest: the instance must not wait for it
		}
		return
	}
	x.whole.Store(true)
	x.expectAnswer()
}

// continued notes that the instance wants the body.
func (x *exchange) continued() {
	if x.goOn == nil {
		return
	}
	select {
	case <-x.goOn:
	default:
		close(x.goOn)
	}
}

// copyBody writes the body, each piece as soon as it is there.
func (x *exchange) copyBody() error {
	own := copyBuffers.Get().(*[]byte)
	defer copyBuffers.Put(own)
	const room, tail = http1.ChunkRoom, 2
	buf := (*own)[room : len(*own)-tail]
	src, chunked := x.q.body.reader(), x.q.length < 0
	for {
		n, err := src.Read(buf)
		if n > 0 {
			x.c.limitWrite(x.patience())
			x.expectAnswer()
			from, to := room, room+n
			if chunked {
				from = http1.PutChunkHead((*own)[:room], n)
				to += copy((*own)[to:], "\r\n")
			}
			if _, err := x.c.Write((*own)[from:to]); err != nil {
				return err
			}
		}
		if err == io.EOF {
			break
		}
		if err != nil {
			x.srcErr.Store(true)
			return err
		}
	}
	if !chunked {
		return nil
	}
	_, err := x.c.Write(x.appendEnd((*own)[:0]))
	return err
}

// leaveBody has the end of the request wait until the body's goroutine has let go of the body.
func (x *exchange) leaveBody() {
	if x.bodyDone != nil {
		x.q.pending = append(x.q.pending, x.bodyDone)
	}
}

// responseLimits are those of http1 for responses.
var responseLimits = http1.Limits{Head: maxResponseHead, Fields: 1000}

// readHead reads the final response's head; informational ones are dropped.
func (x *exchange) readHead() (*response, error) {
	for range maxInformal {
		if err := x.readOne(); err != nil {
			return nil, err
		}
		if x.head.Status == http.StatusSwitchingProtocols || x.head.Status >= 200 {
			return x.response(), nil
		}
		if x.head.Status == http.StatusContinue {
			x.continued()
		}
	}
	return nil, &malformedError{errors.New("too many informational responses")}
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
