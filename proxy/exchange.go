package proxy

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
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
		return p.roundTrip2(ctx, q, timeout)
	}
	c, reused, err := p.get(ctx, fresh)
	if err != nil {
		return nil, connectFailed(ctx, err)
	}
	x := &exchange{c: c, q: q, ctx: ctx, timeout: timeout, reused: reused, before: c.written.Load()}
	resp, cerr := x.run()
	if cerr != nil {
		c.Close()
		x.leaveBody()
	}
	return resp, cerr
}

func connectFailed(ctx context.Context, err error) *callError {
	var ce *connectError
	switch {
	case errors.As(err, &ce):
		return &callError{err: err, kind: kindConnect}
	case errors.Is(context.Cause(ctx), context.DeadlineExceeded):
		return &callError{err: err, kind: kindTimeout}
	}
	return &callError{err: err, kind: kindClient, gone: true}
}

// exchange is one HTTP/1.1 request and its answer on one connection. It is the source of its response.
type exchange struct {
	c       *upstream
	q       *request
	ctx     context.Context // of the request, whose end aborts the exchange
	timeout time.Duration
	reused  bool
	before  int64       // bytes written on the connection before this request
	began   bool        // something of the answer was read
	stop    func() bool // lets go of ctx; false when it is done

	goOn     chan struct{} // closed when the instance said 100 Continue; nil unless the body waits for it
	bodyDone chan struct{} // closed when the body's goroutine has let go; nil when there is none
	answered atomic.Bool   // the response's head is there: no time limit any more
	srcErr   atomic.Bool   // reading the client's body failed
	whole    atomic.Bool   // the request was written to its end

	final finalHead // as the HTTP parser has it
}

func (x *exchange) run() (*response, *callError) {
	x.stop = context.AfterFunc(x.ctx, x.c.abort)
	x.expectAnswer()
	x.c.limitWrite(x.until())
	if err := x.write(); err != nil && x.c.written.Load() == x.before {
		return nil, x.failed(err, false)
	} // after any other error there may still be an answer to read: the instance said no early, and closed
	resp, err := x.readHead()
	if err != nil {
		return nil, x.failed(err, x.c.written.Load() > x.before)
	}
	x.answered.Store(true)
	x.c.limitRead(time.Time{})
	if resp.status != 101 {
		x.c.learnKeepAlive(resp.header)
		return resp, nil
	}
	if !resp.header.HasToken("Upgrade", x.q.upgrade) || x.q.upgrade == "" {
		return nil, x.failed(&malformedError{errors.New("upgraded without being asked")}, true)
	}
	if !x.stop() {
		return nil, x.failed(x.ctx.Err(), true)
	}
	x.c.limitWrite(time.Time{})
	resp.body, resp.tunnel = nil, x.c
	return resp, nil
}

// until returns when a wait that begins now is over; the zero time is never.
func (x *exchange) until() time.Time {
	if x.timeout <= 0 {
		return time.Time{}
	}
	return time.Now().Add(x.timeout)
}

// expectAnswer gives the instance its time for the head of the response from now on, unless that is there.
func (x *exchange) expectAnswer() {
	if x.answered.Load() {
		return
	}
	x.c.limitRead(x.until())
	if x.answered.Load() { // since just now
		x.c.limitRead(time.Time{})
	}
}

// failed classifies an error before the head of a response.
func (x *exchange) failed(err error, sent bool) *callError {
	x.stop()
	var ne net.Error
	switch {
	case x.ctx.Err() != nil || x.srcErr.Load():
		return &callError{err: err, kind: kindClient, sent: sent, gone: true}
	case errors.As(err, &ne) && ne.Timeout():
		return &callError{err: err, kind: kindTimeout, sent: sent}
	case sent && x.reused && err == io.EOF && !x.began && neverArrived(x.c.conn, x.before):
		return &callError{err: err, kind: kindReset, sent: false}
	case errors.Is(err, errHeadTooLarge), errors.As(err, new(*malformedError)):
		return &callError{err: err, kind: kindProtocol, sent: sent}
	}
	return &callError{err: err, kind: kindReset, sent: sent}
}

// write sends the head and as much of the body as is at hand; the rest follows from another goroutine.
func (x *exchange) write() error {
	q, w := x.q, x.c.bw
	q.writeHead(w)
	switch {
	case q.body == nil:
		if q.length == 0 && (q.method == "POST" || q.method == "PUT" || q.method == "PATCH") {
			w.WriteString("Content-Length: 0\r\n")
		}
		w.WriteString("\r\n")
		x.whole.Store(true)
		return w.Flush()
	case q.length < 0:
		w.WriteString("Transfer-Encoding: chunked\r\n")
		if len(q.declared) > 0 {
			writeField(w, "Trailer", strings.Join(q.declared, ", "))
		}
	default:
		w.WriteString("Content-Length: ")
		w.Write(strconv.AppendInt(w.AvailableBuffer(), q.length, 10))
		w.WriteString("\r\n")
		if q.body.complete() {
			w.WriteString("\r\n")
			w.Write(q.body.buf)
			x.whole.Store(true)
			return w.Flush()
		}
	}
	if q.expect {
		w.WriteString("Expect: 100-continue\r\n")
		x.goOn = make(chan struct{})
	}
	w.WriteString("\r\n")
	if err := w.Flush(); err != nil {
		return err
	}
	x.bodyDone = make(chan struct{})
	go x.writeBody()
	return nil
}

// writeHead writes the request line and the fields that have nothing to do with the body.
func (q *request) writeHead(w *bufio.Writer) {
	w.WriteString(q.method)
	w.WriteByte(' ')
	w.WriteString(q.target)
	w.WriteString(" HTTP/1.1\r\nHost: ")
	w.WriteString(q.authority)
	w.WriteString("\r\n")
	for i := range q.header {
		if f := &q.header[i]; q.passes(f) {
			writeField(w, f.Name, f.Value)
		}
	}
	writeField(w, "X-Request-Id", q.id)
	if q.outside {
		w.WriteString("X-Forwarded-For: ")
		w.Write(q.client.AppendTo(w.AvailableBuffer()))
		w.WriteString("\r\n")
		writeField(w, "X-Forwarded-Host", q.authority)
		writeField(w, "X-Forwarded-Proto", q.scheme)
	}
	switch {
	case q.upgrade != "":
		w.WriteString("Connection: Upgrade\r\n")
		writeField(w, "Upgrade", q.upgrade)
	case q.trailers:
		w.WriteString("Connection: TE\r\nTe: trailers\r\n")
	}
}

func writeField(w *bufio.Writer, k, v string) {
	w.WriteString(k)
	w.WriteString(": ")
	w.WriteString(v)
	w.WriteString("\r\n")
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
	buf := copyBuffers.Get().(*[]byte)
	defer copyBuffers.Put(buf)
	src, w, chunked := x.q.body.reader(), x.c.bw, x.q.length < 0
	for {
		n, err := src.Read(*buf)
		if n > 0 {
			x.c.limitWrite(x.until())
			x.expectAnswer()
			if chunked {
				w.Write(strconv.AppendInt(w.AvailableBuffer(), int64(n), 16))
				w.WriteString("\r\n")
			}
			w.Write((*buf)[:n])
			if chunked {
				w.WriteString("\r\n")
			}
			if err := w.Flush(); err != nil {
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
	w.WriteString("0\r\n")
	if len(x.q.declared) > 0 {
		for _, f := range x.q.trailer() {
			writeField(w, f.Name, f.Value)
		}
	}
	w.WriteString("\r\n")
	return w.Flush()
}

// leaveBody has the end of the request wait until the body's goroutine has let go of the body.
func (x *exchange) leaveBody() {
	if x.bodyDone != nil {
		x.q.pending = append(x.q.pending, x.bodyDone)
	}
}

func (x *exchange) waiting() bool { return x.c.br.Buffered() == 0 }
func (x *exchange) abort()        { x.c.abort() }

// close gives the connection back, if both messages were whole and both sides want to go on.
func (x *exchange) close(whole bool) {
	alive := x.stop() && !x.c.isAborted()
	if whole && alive && x.whole.Load() && x.final.reusable() {
		if x.bodyDone != nil {
			<-x.bodyDone // it is returning
		}
		x.c.pool.put(x.c, time.Now())
		return
	}
	x.c.Close()
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
