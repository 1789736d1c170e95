package proxy

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/net/http2"
)

// This file and status_http.go are those that know net/http's requests. It speaks HTTP/2 to instances.

// newResponse makes ours of net/http's.
func newResponse(res *http.Response, from source) *response {
	r := &response{status: res.StatusCode, header: ofHTTP(res.Header), length: res.ContentLength, body: res.Body, source: from}
	if res.Body == http.NoBody {
		r.body = nil
	}
	if r.header.Has("Connection") {
		r.named = named(r.header)
	}
	for k := range res.Trailer {
		r.declared = append(r.declared, k)
	}
	return r
}

// transport returns the connections' HTTP/2 side.
func (k *conns) transport() *http2.Transport {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.h2 == nil {
		k.h2 = &http2.Transport{
			AllowHTTP:          true,
			DisableCompression: true,
			DialTLSContext: func(ctx context.Context, _, _ string, _ *tls.Config) (net.Conn, error) {
				return k.dial2(ctx)
			},
			MaxHeaderListSize: maxResponseHead,
			IdleConnTimeout:   idleTime,
			ReadIdleTimeout:   30 * time.Second,
			PingTimeout:       15 * time.Second,
		}
	}
	return k.h2
}

// dial2 makes a connection for HTTP/2.
func (k *conns) dial2(ctx context.Context) (net.Conn, error) {
	tcp, err := k.pool.dial(ctx)
	if err != nil {
		return nil, err
	}
	if !k.linked {
		giveUpAfter(tcp, linkSilence) // its windows keep what is written small; a program that is stopped for that long is gone
	}
	c := newUpstream(tcp)
	if err := k.prove(ctx, c, "h2"); err != nil {
		return nil, err
	}
	return c.conn, nil
}

// roundTrip2 is roundTrip over HTTP/2 with prior knowledge.
func (k *conns) roundTrip2(ctx context.Context, q *request, timeout time.Duration) (*response, *callError) {
	if k.proves() {
		if _, err := k.identities(time.Now()); err != nil {
			return nil, connectFailed(err)
		}
	}
	p := k.pool
	ctx, cancel := context.WithCancelCause(ctx)
	var timer *time.Timer
	if timeout > 0 {
		timer = time.AfterFunc(timeout, func() { cancel(context.DeadlineExceeded) })
	}
	req := &http.Request{
		Method: strings.Clone(q.method), Host: strings.Clone(q.authority), URL: k.target2(p.inst.address(p.port), q),
		Header: make(http.Header, len(q.header)+4), ContentLength: q.length, Proto: "HTTP/2.0", ProtoMajor: 2,
	}
	for i := range q.header {
		if f := &q.header[i]; q.passes(f) {
			req.Header.Add(strings.Clone(f.Name), strings.Clone(f.Value)) // HPACK's table outlives the request's memory
		}
	}
	if q.timing != untimed {
		req.Header[timingFields[q.timing]] = []string{q.left(time.Now())}
	}
	req.Header["X-Request-Id"] = []string{strings.Clone(q.id)}
	if parent := q.trace.text(); parent != "" {
		req.Header["Traceparent"] = []string{strings.Clone(parent)}
	}
	if q.outside {
		req.Header["X-Forwarded-For"] = []string{q.client.String()}
		req.Header["X-Forwarded-Host"] = []string{strings.Clone(q.authority)}
		req.Header["X-Forwarded-Proto"] = []string{q.scheme}
		for i := range q.vouched { // in place of these, where it is one of them
			req.Header.Set(strings.Clone(q.vouched[i].Name), strings.Clone(q.vouched[i].Value))
		}
	}
	if q.trailers {
		req.Header["Te"] = []string{"trailers"}
	}
	var body *watchedBody
	if q.body != nil {
		body = &watchedBody{r: *q.body.reader(), q: q, req: req}
		body.r.until = &body.closing
		req.Body, req.GetBody = body, body.again
		if len(q.declared) > 0 {
			req.Trailer = http.Header{}
			for _, k := range q.declared {
				req.Trailer[k] = nil
			}
		}
	} else {
		req.ContentLength = 0
	}
	t := k.transport()
	res, err := t.RoundTrip(req.WithContext(ctx))
	if timeout > 0 && !timer.Stop() && err == nil {
		res.Body.Close()
		err = context.DeadlineExceeded
	}
	if err != nil {
		cerr := failed2(ctx, err, body)
		q.unread = q.unread || body != nil && !body.ended.Load()
		cancel(nil)
		return nil, cerr
	}
	return newResponse(res, &exchange2{from: k, transport: t, q: q, res: res, body: body, cancel: cancel}), nil
}

// exchange2 is the source of a response over HTTP/2.
type exchange2 struct {
	from      *conns
	transport *http2.Transport
	q         *request
	res       *http.Response
	body      *watchedBody
	cancel    context.CancelCauseFunc
}

func (x *exchange2) trailer() header { return ofHTTP(x.res.Trailer) }
func (x *exchange2) waiting() bool   { return true }

func (x *exchange2) abort() {
	x.cancel(nil)
	if x.body != nil { // the transport heeds nothing while it waits for more of it
		x.body.Close()
	}
}

func (x *exchange2) close(bool) {
	x.cancel(nil)
	x.res.Body.Close()
	x.q.unread = x.q.unread || x.body != nil && !x.body.ended.Load()
	if x.from.replaced(x.transport) {
		closeIdle(x.transport)
	}
}

// closeIdle closes the connections of a transport that was dropped, but for those in use. A request that is over is counted as one
// for a moment more, and nobody else would close its connection before idleTime is over.
func closeIdle(t *http2.Transport) {
	t.CloseIdleConnections()
	time.AfterFunc(expirePause, t.CloseIdleConnections)
}

// replaced says whether the transport was dropped.
func (k *conns) replaced(t *http2.Transport) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.h2 != t
}

// target2 returns a URL that the transport writes as q's target, byte for byte.
func (k *conns) target2(address string, q *request) *url.URL {
	scheme := "http"
	if k.secure {
		scheme = "https"
	}
	path, query, has := strings.Cut(strings.Clone(q.target), "?")
	if strings.HasPrefix(path, "//") { // else taken for an authority
		path = "//" + q.authority + path
	}
	return &url.URL{Scheme: scheme, Host: address, Opaque: path, RawQuery: query, ForceQuery: has && query == ""}
}

// headTooLarge is what the transport says of a head that is larger than the instance has said it takes; it sends nothing of it. It has
// no name for that error.
const headTooLarge = "request header list larger than peer's advertised limit"

// failed2 classifies an error of the HTTP/2 transport.
func failed2(ctx context.Context, err error, body *watchedBody) *callError {
	var ce *connectError
	var ie *identityError
	switch {
	case errors.As(err, &ie):
		return &callError{err: err, kind: kindIdentity}
	case disbelieved(err):
		return &callError{err: &identityError{err: err, other: true}, kind: kindIdentity}
	case errors.As(err, &ce):
		return &callError{err: err, kind: kindConnect}
	case strings.Contains(err.Error(), headTooLarge):
		return &callError{err: err, kind: kindBadRequest}
	case errors.Is(context.Cause(ctx), context.DeadlineExceeded):
		return &callError{err: err, kind: kindTimeout, sent: true}
	case ctx.Err() != nil || body != nil && body.failed.Load():
		return &callError{err: err, kind: kindClient, sent: true, gone: true}
	}
	var se http2.StreamError
	if err == errNotProcessed || errors.As(err, &se) && se.Code == http2.ErrCodeRefusedStream {
		return &callError{err: err, kind: kindReset}
	}
	return &callError{err: fmt.Errorf("http/2: %w", err), kind: kindReset, sent: true}
}

// watchedBody is a request body that passes trailers on at its end and tells when its source failed.
type watchedBody struct {
	r replayReader
	closing
	q      *request
	req    *http.Request
	begun  atomic.Bool
	failed atomic.Bool
	ended  atomic.Bool
}

// errNotProcessed says that the instance has not looked at the request (RFC 9113, section 8.7), of whose body something may
// have been read.
var errNotProcessed = errors.New("the instance has not looked at the request")

// again is what the transport asks for the body of a request that the instance has not looked at. It sends again by itself what
// has no body yet; the rest is for who chooses the instance.
func (b *watchedBody) again() (io.ReadCloser, error) {
	if b.begun.Load() {
		return nil, errNotProcessed
	}
	b.open()
	return b, nil
}

func (b *watchedBody) Read(p []byte) (int, error) {
	b.begun.Store(true)
	n, err := b.r.Read(p)
	if err == io.EOF && b.req.Trailer != nil {
		for _, f := range b.q.trailer() {
			if k := http.CanonicalHeaderKey(f.Name); b.req.Trailer[k] != nil || anyIs(b.q.declared, &f) {
				b.req.Trailer.Add(k, strings.Clone(f.Value))
			}
		}
	}
	if err != nil {
		b.failed.Store(err != io.EOF && err != errBodyClosed)
		b.ended.Store(true)
	}
	return n, err
}

// Close lets the transport go, which closes a body that it has no use for and then waits for who reads it. The client may send
// nothing for as long as it likes.
func (b *watchedBody) Close() error {
	b.close()
	return nil
}
