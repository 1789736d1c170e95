package proxy

import (
	"bufio"
	"context"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"runtime/debug"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/net/http2"

	"trellis/proxy/http1"
)

// This file, upstream_http.go and status_http.go are those that know net/http. It reads requests from clients and writes responses.

// front is the HTTP side towards clients.
type front struct {
	p  *Proxy
	h1 *http.Server
	h2 *http2.Server
	// h2base gives h2 its settings and its graceful end; it serves nothing itself.
	h2base *http.Server
	conns  *handover
	// stall is how long a client may neither send more of a body that it owes nor take more of one that it gets.
	stall time.Duration
}

const (
	readHeaderTime = 10 * time.Second
	clientIdleTime = 60 * time.Second
	stallTime      = 60 * time.Second
	maxStreams     = 250
)

type connKey struct{}

func newFront(p *Proxy) *front {
	f := &front{p: p, conns: newHandover(), stall: stallTime}
	quiet := slog.NewLogLogger(p.log.Handler(), slog.LevelDebug)
	f.h1 = &http.Server{
		Handler: f, ReadHeaderTimeout: readHeaderTime, IdleTimeout: clientIdleTime, ErrorLog: quiet,
		MaxHeaderBytes: maxHeaderBytes, DisableGeneralOptionsHandler: true,
		ConnContext: func(ctx context.Context, c net.Conn) context.Context { return context.WithValue(ctx, connKey{}, c) },
	}
	f.h2base = &http.Server{Handler: f, IdleTimeout: clientIdleTime, ErrorLog: quiet, MaxHeaderBytes: maxHeaderBytes}
	f.h2 = &http2.Server{MaxConcurrentStreams: maxStreams, IdleTimeout: clientIdleTime}
	if err := http2.ConfigureServer(f.h2base, f.h2); err != nil {
		panic(err) // only for TLS settings, and there are none
	}
	return f
}

// run serves the HTTP/1.1 connections that come over conns; it returns when stop is done.
func (f *front) run() {
	f.h1.Serve(f.conns)
}

// serve2 serves an HTTP/2 connection until it ends.
func (f *front) serve2(c *clientConn) {
	ctx := context.WithValue(context.Background(), connKey{}, net.Conn(c))
	f.h2.ServeConn(c, &http2.ServeConnOpts{Context: ctx, BaseConfig: f.h2base, Handler: f})
}

// drain tells HTTP/2 clients to go elsewhere. HTTP/1.1 clients are told with their next response.
func (f *front) drain() { f.h2base.Shutdown(context.Background()) }

// stop closes idle connections, waits for the others until ctx is done, then cuts them.
func (f *front) stop(ctx context.Context) {
	f.conns.Close()
	if f.h1.Shutdown(ctx) != nil {
		f.h1.Close()
	}
}

// ServeHTTP is one request, from the first byte to the last.
func (f *front) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	f.p.handlers.Add(1)
	defer f.p.handlers.Add(-1)
	defer f.survive()
	c := r.Context().Value(connKey{}).(*clientConn)
	if f.p.draining.Load() {
		w.Header().Set("Connection", "close") // HTTP/2 makes a GOAWAY of it
	}
	q := &request{}
	l := c.conf()
	fail := f.view(q, r, l)
	if q.body != nil {
		q.body.src = &clientBody{Reader: r.Body, q: q, rc: http.NewResponseController(w), stall: f.stall}
	}
	defer q.finish(w)
	if fail != nil {
		f.answer(w, q, fail)
		return
	}
	s, port, timeout, fail := f.p.route(l, q)
	if fail == nil {
		fail = f.readSmallBody(w, r, q)
	}
	if fail != nil {
		f.answer(w, q, fail)
		return
	}
	resp, inst, fail := f.p.call(r.Context(), s, port, q, timeout)
	if fail != nil {
		f.answer(w, q, fail)
		return
	}
	defer inst.release()
	if f.p.cfg.ExposeInstance {
		w.Header().Set(InstanceHeader, inst.id)
	}
	if resp.tunnel != nil {
		f.upgrade(w, q, resp, inst)
		return
	}
	whole := f.forward(w, q, resp, inst)
	if resp.status < 500 && (whole && q.grpc && blamesServer(resp.grpcStatus()) || !whole && r.Context().Err() == nil) {
		inst.tally.failed.Add(1)
	}
	resp.close(whole)
	if !whole {
		s.count.failed.Add(1)
		panic(http.ErrAbortHandler) // the client sees a broken response, never a short one that looks whole
	}
}

// survive keeps a fault of ours to the one request that ran into it: that is broken off, and the fault logged.
func (f *front) survive() {
	switch v := recover(); v {
	case nil:
	case http.ErrAbortHandler:
		panic(v)
	default:
		f.p.log.Error("request broken off by a fault", "err", v, "stack", string(debug.Stack()))
		panic(http.ErrAbortHandler)
	}
}

// view makes the data plane's view of a request.
func (f *front) view(q *request, r *http.Request, l *Listener) *failure {
	q.method, q.authority, q.header = r.Method, r.Host, ofHTTP(r.Header)
	q.setID()
	if l == nil {
		return &failure{status: 404, kind: kindNoRoute, detail: "this address is not served any more"}
	}
	q.outside = l.Caller == ""
	q.scheme = "http"
	if addr, err := netip.ParseAddrPort(r.RemoteAddr); err == nil {
		q.client = addr.Addr().Unmap()
	}
	if r.Method == http.MethodConnect {
		return &failure{status: 501, kind: kindBadRequest, detail: "CONNECT is not supported"}
	}
	if n := len(q.header); n > maxHeaderCount {
		return &failure{status: 431, kind: kindBadRequest, detail: "more than 100 header fields"}
	}
	var ok bool
	if q.host, ok = normalHost(r.Host); !ok && (r.Host != "" || r.ProtoAtLeast(1, 1)) {
		return badRequest("malformed Host")
	}
	target := r.RequestURI
	if target == "" {
		target = r.URL.RequestURI()
	}
	if fail := q.setTarget(target, l.Service == ""); fail != nil {
		return fail
	}
	if q.header.Has("Connection") {
		q.named = named(q.header)
		if r.ProtoMajor == 1 && q.header.HasToken("Connection", "upgrade") {
			q.upgrade = upgradeTo(q.header)
		}
	}
	q.trailers = q.header.HasToken("Te", "trailers")
	q.grpc = strings.HasPrefix(q.header.Get("Content-Type"), "application/grpc") && r.ProtoMajor == 2
	q.safe = repeatable(q.method, q.header)
	q.length = r.ContentLength
	if r.Body == nil || r.Body == http.NoBody || r.ContentLength == 0 {
		q.length = 0
		return nil
	}
	q.upgrade = "" // a body and a tunnel exclude each other
	q.expect = q.header.HasToken("Expect", "100-continue")
	q.body = &replay{}
	q.trailer = func() header { return ofHTTP(r.Trailer) }
	for k := range r.Trailer {
		q.declared = append(q.declared, k)
	}
	return nil
}

// readSmallBody reads a body of known length that is small enough to be sent again. A client that is slow with it then
// keeps no instance busy, and one that breaks off in it has sent nothing to any. The rest of the bodies is streamed.
func (f *front) readSmallBody(w http.ResponseWriter, r *http.Request, q *request) *failure {
	if q.body == nil {
		return nil
	}
	if q.length > 0 && q.length <= replayLimit && !q.grpc {
		q.expect = false // reading it says 100 Continue
		if err := q.body.fill(q.length); err != nil {
			return &failure{status: 400, kind: kindClient, detail: "request body incomplete"}
		}
		return nil
	}
	if q.expect {
		q.ended = make(chan struct{})
	}
	if r.ProtoMajor == 1 { // a response may begin before the request has ended
		http.NewResponseController(w).EnableFullDuplex()
	}
	return nil
}

// clientBody is a request's body, each read of which has to bring something within the stall time.
type clientBody struct {
	io.Reader
	q     *request
	rc    *http.ResponseController
	stall time.Duration
}

func (b *clientBody) Read(p []byte) (int, error) {
	b.rc.SetReadDeadline(time.Now().Add(b.stall))
	if b.q.over.Load() { // finish may have set its deadline just before
		return 0, io.ErrUnexpectedEOF
	}
	n, err := b.Reader.Read(p)
	b.rc.SetReadDeadline(time.Time{}) // it would end what else is read: the next request, or news of the client's end
	return n, err
}

// finish waits until nothing reads the request's body any more.
func (q *request) finish(w http.ResponseWriter) {
	if q.ended != nil {
		close(q.ended)
	}
	if len(q.pending) == 0 && !q.unread {
		return
	}
	// Nobody needs the rest of the body: what waits for it wakes up, and the connection is not used again.
	q.over.Store(true)
	http.NewResponseController(w).SetReadDeadline(time.Unix(1, 0))
	for _, done := range q.pending {
		<-done
	}
}

// forward writes the response; it returns whether it is whole.
func (f *front) forward(w http.ResponseWriter, q *request, resp *response, inst *instance) bool {
	copyHeader(w.Header(), resp.header)
	for _, k := range resp.declared {
		w.Header().Add("Trailer", k)
	}
	if resp.body == nil {
		if resp.length > 0 && q.method != "HEAD" && resp.status != http.StatusNotModified {
			w.Header().Del("Content-Length")
		}
		w.WriteHeader(resp.status)
		setTrailers(w, resp)
		return true
	}
	w.WriteHeader(resp.status)
	ended := f.followDrain(q, resp, inst)
	err := f.copyBody(w, resp)
	switch {
	case !ended():
		if err == nil {
			setTrailers(w, resp)
		}
		return err == nil
	case q.grpc:
		w.Header().Set(http.TrailerPrefix+"Grpc-Status", "14") // UNAVAILABLE
		w.Header().Set(http.TrailerPrefix+"Grpc-Message", "the instance is being replaced")
	}
	return true
}

// followDrain ends a response that would go on for ever when its instance's drain time is over: events and gRPC
// streams. ended, to be called once, says whether it did; such a response has no length that it could fall short of.
func (f *front) followDrain(q *request, resp *response, inst *instance) (ended func() bool) {
	if !q.grpc && !strings.HasPrefix(resp.header.Get("Content-Type"), "text/event-stream") {
		return func() bool { return false }
	}
	var done atomic.Bool
	st := inst.track(func() { done.Store(true); resp.abort() }, false)
	f.p.streams.add(st)
	return func() bool {
		f.p.streams.remove(st)
		inst.untrack(st)
		return done.Load()
	}
}

// copyBody copies the response's body. It flushes whenever reading on would have to wait for the instance.
func (f *front) copyBody(w http.ResponseWriter, resp *response) error {
	buf := copyBuffers.Get().(*[]byte)
	defer copyBuffers.Put(buf)
	rc := http.NewResponseController(w)
	left := resp.length
	flushed, first := false, true
	for {
		if !flushed && left != 0 && resp.waiting() {
			if err := rc.Flush(); err != nil {
				return err
			}
			flushed = true
		}
		n, err := resp.body.Read(*buf)
		if n > 0 {
			if !first { // the first always finds room somewhere on the way
				rc.SetWriteDeadline(time.Now().Add(f.stall))
			}
			if _, err := w.Write((*buf)[:n]); err != nil {
				return err
			}
			if !first {
				rc.SetWriteDeadline(time.Time{})
			}
			flushed, first = false, false
			if left > 0 {
				left -= int64(n)
			}
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

func copyHeader(to http.Header, from header) {
	named := named(from)
	for i := range from {
		if f := &from[i]; !f.Kind.HopByHop() && !anyIs(named, f) {
			to.Add(f.Name, f.Value)
		}
	}
	if !from.Has("Content-Type") {
		to["Content-Type"] = nil // net/http would guess one
	}
}

func setTrailers(w http.ResponseWriter, resp *response) {
	for _, f := range resp.trailer() {
		name := f.Name
		if !anyIs(resp.declared, &f) {
			name = http.TrailerPrefix + name
		}
		w.Header().Add(name, f.Value)
	}
}

// answer writes a failure as problem+json, but for the page of a service that is being started.
func (f *front) answer(w http.ResponseWriter, q *request, fail *failure) {
	if fail.kind == kindClient {
		panic(http.ErrAbortHandler)
	}
	h := w.Header()
	h.Set(ErrorHeader, fail.kind)
	h.Set("Content-Type", "application/problem+json")
	h.Set("Cache-Control", "no-store")
	h.Set("X-Request-Id", q.id)
	if fail.retryAfter > 0 {
		h.Set("Retry-After", strconv.Itoa(fail.retryAfter))
	}
	if len(fail.allow) > 0 {
		h.Set("Allow", strings.Join(fail.allow, ", "))
	}
	body := fail.body(http.StatusText(fail.status), q.id)
	if fail.kind == kindWaking {
		h.Set("Content-Type", "text/html; charset=utf-8")
		body = []byte(waitingPage)
	}
	h.Set("Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(fail.status)
	w.Write(body)
}

// upgrade passes a 101 on and connects both ends until one of them closes.
func (f *front) upgrade(w http.ResponseWriter, q *request, resp *response, inst *instance) {
	conn, rw, err := http.NewResponseController(w).Hijack()
	if err != nil {
		resp.close(false)
		panic(http.ErrAbortHandler)
	}
	conn.SetDeadline(time.Time{})
	out := bufio.NewWriter(conn)
	out.WriteString("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\n")
	for _, f := range resp.header {
		if !f.Kind.HopByHop() || f.Kind == http1.Upgrade {
			writeField(out, f.Name, f.Value)
		}
	}
	if f.p.cfg.ExposeInstance {
		writeField(out, InstanceHeader, inst.id)
	}
	out.WriteString("\r\n")
	if err := out.Flush(); err != nil {
		conn.Close()
		resp.close(false)
		return
	}
	c := conn.(*clientConn)
	client := end{conn: c.tcp, first: append(buffered(rw.Reader), c.first...)}
	server := end{conn: resp.tunnel.conn, first: buffered(resp.tunnel.br)}
	f.p.connect(inst, client, server, strings.EqualFold(resp.header.Get("Upgrade"), "websocket"))
	conn.Close()
}

func buffered(r *bufio.Reader) []byte {
	b, _ := r.Peek(r.Buffered())
	return append([]byte(nil), b...)
}
