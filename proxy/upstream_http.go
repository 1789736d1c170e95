package proxy

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/net/http2"
)

// This file and server_http.go are the two that know net/http. It writes requests to instances and reads their answers:
// HTTP/1.1 over the pool's own connections with net/http's response parser, HTTP/2 by its transport.

// response is an instance's answer: the head, and a body to be read. The one who gets it closes it.
type response struct {
	status   int
	header   header
	length   int64         // of the body; -1 when unknown
	body     io.Reader     // nil for none
	declared []string      // trailers that were announced
	trailer  func() header // valid once the body has been read
	waiting  func() bool   // whether reading on would have to wait for the instance
	abort    func()        // makes reading the body fail
	tunnel   *upstream     // after 101: the connection, now the caller's
	close    func(whole bool)
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

const maxResponseHead = 256 << 10

// roundTrip sends q and reads the head of its answer. fresh says that no connection may be used a second time.
func (p *pool) roundTrip(ctx context.Context, q *request, timeout time.Duration, fresh bool) (*response, *callError) {
	if q.grpc || p.inst.svc.speaksHTTP2(p.port) && q.upgrade == "" {
		return p.roundTrip2(ctx, q, timeout)
	}
	c, reused, err := p.get(ctx, fresh)
	if err != nil {
		return nil, connectFailed(ctx, err)
	}
	x := &exchange{c: c, q: q, reused: reused, before: c.written.Load()}
	resp, cerr := x.run(ctx, timeout)
	if cerr != nil {
		c.Close()
		x.waitBody()
	}
	return resp, cerr
}

func connectFailed(ctx context.Context, err error) *callError {
	var ce *connectError
	if errors.As(err, &ce) {
		return &callError{err: err, kind: kindConnect}
	}
	if errors.Is(context.Cause(ctx), context.DeadlineExceeded) {
		return &callError{err: err, kind: kindTimeout}
	}
	return &callError{err: err, kind: kindClient, gone: true}
}

// exchange is one request and its answer on one connection.
type exchange struct {
	c      *upstream
	q      *request
	reused bool
	before int64 // bytes written on the connection before this request

	timeout time.Duration
	began   bool // something of the answer was read

	goOn     chan struct{} // closed when the body may be sent: the instance said 100, or said nothing for a second
	bodyDone chan struct{} // nil when the body was written before the response was read
	answered atomic.Bool   // the response's head is there: no time limit any more
	srcErr   atomic.Bool   // reading the client's body failed
	whole    atomic.Bool   // the body was written to its end
}

const continueTime = time.Second

// run sends the request and reads the head of its answer, for which the instance has from the end of the request until
// timeout is over. timeout bounds each wait while a long body is sent, too.
func (x *exchange) run(ctx context.Context, timeout time.Duration) (*response, *callError) {
	c := x.c
	stop := context.AfterFunc(ctx, c.abort)
	x.timeout = timeout
	c.limitWrite(time.Now().Add(timeout))
	c.limitRead(time.Now().Add(timeout))
	if err := x.write(); err != nil && c.written.Load() == x.before {
		stop()
		return nil, x.failed(ctx, err, false)
	} // after any other error there may still be an answer to read: the instance said no early, and closed
	res, err := x.readHead()
	if err != nil {
		stop()
		return nil, x.failed(ctx, err, c.written.Load() > x.before)
	}
	return x.response(ctx, res, stop)
}

// failed classifies an error before the head of a response.
func (x *exchange) failed(ctx context.Context, err error, sent bool) *callError {
	var ne net.Error
	switch {
	case ctx.Err() != nil || x.srcErr.Load():
		return &callError{err: err, kind: kindClient, sent: sent, gone: true}
	case errors.As(err, &ne) && ne.Timeout():
		return &callError{err: err, kind: kindTimeout, sent: sent}
	case sent && x.reused && err == io.EOF && !x.began &&
		neverArrived(x.c.conn, x.before):
		return &callError{err: err, kind: kindReset, sent: false}
	case errors.Is(err, errHeadTooLarge), errors.As(err, new(*malformedError)):
		return &callError{err: err, kind: kindProtocol, sent: sent}
	}
	return &callError{err: err, kind: kindReset, sent: sent}
}

type malformedError struct{ err error }

func (e *malformedError) Error() string { return "malformed response: " + e.err.Error() }

// write sends the head and as much of the body as is at hand; the rest follows from another goroutine.
func (x *exchange) write() error {
	q, w := x.q, x.c.bw
	w.WriteString(q.method)
	w.WriteByte(' ')
	w.WriteString(q.target)
	w.WriteString(" HTTP/1.1\r\nHost: ")
	w.WriteString(q.authority)
	w.WriteString("\r\n")
	for k, values := range q.header {
		if !q.passes(k) {
			continue
		}
		for _, v := range values {
			writeField(w, k, v)
		}
	}
	q.own(func(k, v string) { writeField(w, k, v) })
	if q.trailers {
		w.WriteString("Te: trailers\r\n")
	}
	if q.upgrade != "" {
		w.WriteString("Connection: Upgrade\r\n")
		writeField(w, "Upgrade", q.upgrade)
	}
	if q.body == nil {
		if q.length == 0 && (q.method == "POST" || q.method == "PUT" || q.method == "PATCH") {
			w.WriteString("Content-Length: 0\r\n")
		}
		w.WriteString("\r\n")
		x.whole.Store(true)
		return w.Flush()
	}
	chunked := q.length < 0
	if chunked {
		w.WriteString("Transfer-Encoding: chunked\r\n")
		if len(q.declared) > 0 {
			writeField(w, "Trailer", strings.Join(q.declared, ", "))
		}
	} else {
		writeField(w, "Content-Length", strconv.FormatInt(q.length, 10))
	}
	if q.body.complete() && !chunked {
		w.WriteString("\r\n")
		w.Write(q.body.buf)
		x.whole.Store(true)
		return w.Flush()
	}
	if q.expect {
		w.WriteString("Expect: 100-continue\r\n")
	}
	w.WriteString("\r\n")
	if err := w.Flush(); err != nil {
		return err
	}
	x.goOn, x.bodyDone = make(chan struct{}), make(chan struct{})
	if !q.expect {
		close(x.goOn)
	}
	go x.writeBody(chunked)
	return nil
}

func writeField(w *bufio.Writer, k, v string) {
	w.WriteString(k)
	w.WriteString(": ")
	w.WriteString(v)
	w.WriteString("\r\n")
}

// own calls field with what the data plane says about the request.
func (q *request) own(field func(k, v string)) {
	field("X-Request-Id", q.id)
	if q.outside {
		field("X-Forwarded-For", q.client.String())
		field("X-Forwarded-Host", q.authority)
		field("X-Forwarded-Proto", q.scheme)
	}
}

// writeBody sends the body while the response is already being waited for.
func (x *exchange) writeBody(chunked bool) {
	defer close(x.bodyDone)
	if x.q.expect {
		t := time.NewTimer(continueTime)
		defer t.Stop()
		select {
		case <-x.goOn:
		case <-t.C:
		case <-x.q.ended:
			return
		}
	}
	if err := x.copyBody(chunked); err != nil {
		if x.srcErr.Load() {
			x.c.abort() // nobody will send the rest: the instance must not wait for it
		}
		return
	}
	x.whole.Store(true)
	if !x.answered.Load() {
		x.c.limitRead(time.Now().Add(x.timeout))
		if x.answered.Load() {
			x.c.limitRead(time.Time{})
		}
	}
}

// copyBody writes the body, each piece as soon as it is there.
func (x *exchange) copyBody(chunked bool) error {
	buf := copyBuffers.Get().(*[]byte)
	defer copyBuffers.Put(buf)
	src, w := x.q.body.reader(), x.c.bw
	for {
		n, err := src.Read(*buf)
		if n > 0 {
			now := time.Now()
			x.c.limitWrite(now.Add(x.timeout))
			if !x.answered.Load() {
				x.c.limitRead(now.Add(x.timeout))
			}
			if chunked {
				w.WriteString(strconv.FormatInt(int64(n), 16))
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
		for k, values := range x.q.trailer() {
			for _, v := range values {
				writeField(w, k, v)
			}
		}
	}
	w.WriteString("\r\n")
	return w.Flush()
}

// waitBody waits until the goroutine that sends the body has let go of the connection.
func (x *exchange) waitBody() {
	if x.bodyDone != nil {
		x.q.pending = append(x.q.pending, x.bodyDone)
	}
}

var copyBuffers = sync.Pool{New: func() any { b := make([]byte, 32<<10); return &b }}

var (
	forHEAD  = &http.Request{Method: "HEAD"}
	forOther = &http.Request{Method: "GET"}
)

// readHead reads the final response's head; informational ones are dropped, at most ten.
func (x *exchange) readHead() (*http.Response, error) {
	req := forOther
	if x.q.method == "HEAD" {
		req = forHEAD
	}
	for range 10 {
		x.c.mayRead = maxResponseHead
		if _, err := x.c.br.Peek(1); err != nil {
			return nil, err
		}
		x.began = true
		res, err := http.ReadResponse(x.c.br, req)
		if err != nil {
			if x.c.readErr != nil { // not what was read is wrong, there was too little of it
				return nil, x.c.readErr
			}
			return nil, &malformedError{err}
		}
		x.c.mayRead = math.MaxInt64
		if res.StatusCode == http.StatusSwitchingProtocols || res.StatusCode >= 200 {
			return res, nil
		}
		if res.StatusCode == http.StatusContinue && x.q.expect && x.goOn != nil {
			select {
			case <-x.goOn:
			default:
				close(x.goOn)
			}
		}
	}
	return nil, &malformedError{errors.New("more than ten informational responses")}
}

// response makes ours of net/http's.
func (x *exchange) response(ctx context.Context, res *http.Response, stop func() bool) (*response, *callError) {
	c := x.c
	r := &response{status: res.StatusCode, header: header(res.Header), length: res.ContentLength, body: res.Body}
	if res.StatusCode == http.StatusSwitchingProtocols {
		if x.q.upgrade == "" || !r.header.hasToken("Upgrade", lower(x.q.upgrade)) {
			stop()
			return nil, &callError{err: errors.New("upgraded without being asked"), kind: kindProtocol, sent: true}
		}
		if !stop() {
			return nil, &callError{err: ctx.Err(), kind: kindClient, sent: true, gone: true}
		}
		c.limitRead(time.Time{})
		c.limitWrite(time.Time{})
		r.body, r.tunnel = nil, c
		r.close = func(bool) { c.Close() }
		return r, nil
	}
	x.answered.Store(true)
	c.limitRead(time.Time{})
	c.learnKeepAlive(r.header)
	if res.Body == http.NoBody {
		r.body = nil
	}
	for k := range res.Trailer {
		r.declared = append(r.declared, k)
	}
	r.trailer = func() header { return header(res.Trailer) }
	r.waiting = func() bool { return c.br.Buffered() == 0 }
	r.abort = c.abort
	r.close = func(whole bool) {
		alive := stop() && !c.isAborted()
		if whole && alive && !res.Close && x.whole.Load() {
			if x.bodyDone != nil {
				<-x.bodyDone // it is returning
			}
			c.limitRead(time.Time{})
			c.pool.put(c, time.Now())
			return
		}
		c.Close()
		x.waitBody()
	}
	return r, nil
}

// learnKeepAlive takes over how long the instance says that it keeps an idle connection, less a second.
func (c *upstream) learnKeepAlive(h header) {
	v := h.get("Keep-Alive")
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

// transport returns the pool's HTTP/2 side.
func (p *pool) transport() *http2.Transport {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.h2 == nil {
		p.h2 = &http2.Transport{
			AllowHTTP:          true,
			DisableCompression: true,
			DialTLSContext: func(ctx context.Context, _, _ string, _ *tls.Config) (net.Conn, error) {
				return p.dial(ctx)
			},
			MaxHeaderListSize: maxResponseHead,
			IdleConnTimeout:   idleTime,
			ReadIdleTimeout:   30 * time.Second,
			PingTimeout:       15 * time.Second,
		}
	}
	return p.h2
}

// roundTrip2 is roundTrip over HTTP/2 with prior knowledge.
func (p *pool) roundTrip2(ctx context.Context, q *request, timeout time.Duration) (*response, *callError) {
	ctx, cancel := context.WithCancelCause(ctx)
	timer := time.AfterFunc(timeout, func() { cancel(context.DeadlineExceeded) })
	req := &http.Request{
		Method: q.method, Host: q.authority, URL: target2(p.inst.address(p.port), q),
		Header: make(http.Header, len(q.header)+4), ContentLength: q.length, Proto: "HTTP/2.0", ProtoMajor: 2,
	}
	for k, v := range q.header {
		if q.passes(k) {
			req.Header[k] = v
		}
	}
	q.own(func(k, v string) { req.Header[k] = []string{v} })
	if q.trailers {
		req.Header["Te"] = []string{"trailers"}
	}
	var body *watchedBody
	if q.body != nil {
		body = &watchedBody{r: q.body.reader(), q: q, req: req}
		req.Body = body
		if len(q.declared) > 0 {
			req.Trailer = http.Header{}
			for _, k := range q.declared {
				req.Trailer[k] = nil
			}
		}
	} else {
		req.ContentLength = 0
	}
	t := p.transport()
	res, err := t.RoundTrip(req.WithContext(ctx))
	if !timer.Stop() || err != nil {
		if err == nil {
			res.Body.Close()
			err = context.DeadlineExceeded
		}
		cerr := failed2(ctx, err, body)
		q.unread = body != nil && !body.ended.Load()
		cancel(nil)
		return nil, cerr
	}
	r := &response{status: res.StatusCode, header: header(res.Header), length: res.ContentLength, body: res.Body}
	if res.Body == http.NoBody {
		r.body = nil
	}
	for k := range res.Trailer {
		r.declared = append(r.declared, k)
	}
	r.trailer = func() header { return header(res.Trailer) }
	r.waiting = func() bool { return true }
	r.abort = func() { cancel(nil) }
	r.close = func(bool) {
		cancel(nil)
		q.unread = body != nil && !body.ended.Load()
		res.Body.Close()
		if p.replaced(t) {
			t.CloseIdleConnections()
		}
	}
	return r, nil
}

// replaced says whether the pool has dropped the transport.
func (p *pool) replaced(t *http2.Transport) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.h2 != t
}

// target2 returns a URL that the transport writes as q's target, byte for byte.
func target2(address string, q *request) *url.URL {
	path, query, has := strings.Cut(q.target, "?")
	if strings.HasPrefix(path, "//") { // else taken for an authority
		path = "//" + q.authority + path
	}
	return &url.URL{Scheme: "http", Host: address, Opaque: path, RawQuery: query, ForceQuery: has && query == ""}
}

// failed2 classifies an error of the HTTP/2 transport.
func failed2(ctx context.Context, err error, body *watchedBody) *callError {
	var ce *connectError
	switch {
	case errors.As(err, &ce):
		return &callError{err: err, kind: kindConnect}
	case errors.Is(context.Cause(ctx), context.DeadlineExceeded):
		return &callError{err: err, kind: kindTimeout, sent: true}
	case ctx.Err() != nil || body != nil && body.failed.Load():
		return &callError{err: err, kind: kindClient, sent: true, gone: true}
	}
	var se http2.StreamError
	if errors.As(err, &se) && se.Code == http2.ErrCodeRefusedStream { // RFC 9113, section 8.7: not processed
		return &callError{err: err, kind: kindReset}
	}
	return &callError{err: fmt.Errorf("http/2: %w", err), kind: kindReset, sent: true}
}

// watchedBody is a request body that passes trailers on at its end and tells when its source failed.
type watchedBody struct {
	r      io.Reader
	q      *request
	req    *http.Request
	failed atomic.Bool
	ended  atomic.Bool
}

func (b *watchedBody) Read(p []byte) (int, error) {
	n, err := b.r.Read(p)
	if err == io.EOF && b.req.Trailer != nil {
		for k, v := range b.q.trailer() {
			if _, ok := b.req.Trailer[k]; ok {
				b.req.Trailer[k] = v
			}
		}
	}
	if err != nil {
		b.failed.Store(err != io.EOF)
		b.ended.Store(true)
	}
	return n, err
}

func (b *watchedBody) Close() error { return nil }
