package proxy

import (
	"errors"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"trellis/proxy/http1"
	"trellis/proxy/http2"
)

const maxStreams = 250 // of a client's connection

// link is a client's connection below HTTP/2.
type link struct {
	f *front
	c *clientConn
}

// Write implements http2.Link: it fails when the client takes nothing for the stall time.
func (l link) Write(b []byte) (int, error) {
	l.c.writeBy.set(l.f.p.pulse.in(l.f.stall))
	n, err := l.c.tcp.Write(b)
	l.c.writeBy.set(0)
	return n, err
}

// Await implements http2.Link.
func (l link) Await(w http2.Wait) {
	var limit int64
	state := int32(connBusy)
	switch w {
	case http2.Request:
		limit, state = l.f.p.pulse.in(l.f.idle), connIdle
	case http2.Head:
		limit = l.f.p.pulse.in(l.f.head)
	case http2.Body:
		limit = l.f.p.pulse.in(l.f.stall)
	}
	l.c.readBy.set(limit)
	if was := l.c.state.Load(); was != connClosing {
		l.c.state.CompareAndSwap(was, state)
	}
}

// Came implements http2.Link.
func (l link) Came() bool {
	return l.c.state.CompareAndSwap(connIdle, connBusy) || l.c.state.Load() == connBusy
}

// Quiet implements http2.Link.
func (l link) Quiet() bool { return l.c.quiet() }

// Cut implements http2.Link.
func (l link) Cut() { l.c.raw.SetReadDeadline(time.Unix(1, 0)) }

// serve2 serves an HTTP/2 connection until it ends.
func (f *front) serve2(c *clientConn) {
	defer c.Close()
	defer c.in.Close()
	conn := f.begin2(c)
	defer f.conns.remove(conn)
	f.ended2(c, conn.Serve())
}

// begin2 makes the connection ready to be served.
func (f *front) begin2(c *clientConn) *http2.Conn {
	c.in.Init(c.tcp, http1.SmallBuffer)
	if len(c.first) > 0 {
		c.in.Prepend(c.first)
		c.first = nil
	}
	conn := http2.New(&http2.Config{
		Serve: func(s *http2.Stream) { f.serveStream(c, s) }, Relief: f.relief, Streams: maxStreams, Head: maxHeaderBytes,
	}, link{f, c}, &c.in)
	f.conns.add(conn)
	if f.p.draining.Load() {
		conn.Shutdown()
	}
	return conn
}

// ended2 lets the client read what there is to be said of the connection's end.
func (f *front) ended2(c *clientConn, err error) {
	wrong := (*http2.Error)(nil)
	if errors.As(err, &wrong) {
		f.p.log.Debug("HTTP/2 connection ended", "client", c.client, "err", err)
	}
	if err == io.EOF || wrong != nil && wrong.Code == http2.EnhanceYourCalm { // no time for who floods
		return
	}
	c.linger()
}

// drainStreams tells HTTP/2 clients to go elsewhere.
func (f *front) drainStreams() {
	for _, c := range f.conns.list() {
		c.Shutdown()
	}
}

// stream2 is the peer of a request over HTTP/2.
type stream2 struct {
	f    *front
	s    *http2.Stream
	q    request
	kept replay // q.body
	body streamBody
	here presence
	gone func() // here.leave; made once
	out  header
}

var streams2 = sync.Pool{New: func() any {
	to := &stream2{out: make(header, 0, 16)}
	to.gone = to.here.leave
	return to
}}

// serveStream is one request.
func (f *front) serveStream(c *clientConn, s *http2.Stream) {
	defer func() {
		if v := recover(); v != nil { // a fault of ours is kept to the one request that ran into it
			f.p.fault(v)
		}
	}()
	s.Stall = f.stall
	to := streams2.Get().(*stream2)
	to.f, to.s = f, s
	q, l := &to.q, c.conf()
	q.client, q.secured, q.sender, q.streamed = c.client, c.tls.Load(), &to.here, true
	s.WhenGone(to.gone)
	f.handle(s.Context(), l, q, to, to.view(l)) // what is not whole the client sees broken off, never short
	q.finish(s.Stop)
	s.Flush()
	s.WhenGone(nil)
	if !q.unread && len(q.pending) == 0 {
		clear(to.out)
		*to = stream2{out: to.out[:0], gone: to.gone}
		streams2.Put(to)
		s.Release()
	}
}

// view makes the data plane's view of a request.
func (to *stream2) view(l *Listener) *failure {
	q, s := &to.q, to.s
	q.method, q.authority, q.header, q.length, q.trailers = s.Method, s.Authority, s.Header, s.Length, s.Trailers
	q.grpc = strings.HasPrefix(q.header.Get("Content-Type"), "application/grpc")
	s.Listens = q.grpc // its server begins the answer with the first message that it has
	if s.TooLarge {
		q.setID()
		return &failure{status: 431, kind: kindBadRequest, detail: "request head too large"}
	}
	if q.length != 0 {
		q.expect = q.header.HasToken("Expect", "100-continue")
		to.body = streamBody{s: s, q: q, ask: q.expect}
		to.kept.src = &to.body
		q.body = &to.kept
		q.trailer = s.Trailer
		q.declared = announced(q.header)
	}
	if fail := q.describe(l, s.Path); fail != nil {
		return fail
	}
	if q.host == "" {
		return badRequest("malformed Host")
	}
	if len(q.header) > maxHeaderCount {
		return &failure{status: 431, kind: kindBadRequest, detail: "more than 100 header fields"}
	}
	return nil
}

// readBody reads a body of known length that is small enough to be sent again. A client that is slow with it then keeps
// no instance busy, and one that breaks off in it has sent nothing to any. The rest of the bodies is streamed.
func (to *stream2) readBody(q *request) *failure {
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
	return nil
}

// streamBody is a request's body, each read of which has to bring something within the stall time while the client owes it.
type streamBody struct {
	s   *http2.Stream
	q   *request
	ask bool // the client waits for 100 Continue
}

func (b *streamBody) Read(p []byte) (int, error) {
	if err := b.begin(); err != nil {
		return 0, err
	}
	return b.s.Read(p)
}

// begin asks for the body when the client waits for that.
func (b *streamBody) begin() error {
	if b.ask {
		b.ask = false
		if err := b.s.Inform(http.StatusContinue, nil); err != nil {
			return io.ErrUnexpectedEOF
		}
	}
	if b.q.over.Load() { // finish may have stopped it just before
		return io.ErrUnexpectedEOF
	}
	return nil
}

func (b *streamBody) ready() bool { return b.s.Ready() }

func (b *streamBody) await(stop <-chan struct{}) error {
	if err := b.begin(); err != nil {
		return err
	}
	return b.s.Await(stop)
}

// inform implements peer.
func (to *stream2) inform(r *response) {
	out := to.out[:0]
	for i := range r.header {
		if f := &r.header[i]; r.passesOn(f) {
			out = append(out, *f)
		}
	}
	to.out = out
	_ = to.s.Inform(r.status, out) // whether the client has gone its context says
}

func (to *stream2) forward(q *request, resp *response, inst *instance) bool {
	whole := to.pass(q, resp, inst)
	q.blamed = whole && q.grpc && blamesServer(resp.grpcStatus())
	resp.close(whole)
	return whole && to.s.Flush() == nil
}

// pass puts the answer on its way. What is at hand goes out in one write, head and all.
func (to *stream2) pass(q *request, resp *response, inst *instance) bool {
	s := to.s
	if resp.length == 0 && resp.body != nil { // its end, with the head or behind it, says what there is of a trailer
		if n, err := resp.body.Read(make([]byte, 1)); n > 0 || err != io.EOF {
			return false
		}
		resp.body = nil
	}
	trailers := resp.body != nil && len(resp.declared) > 0
	if rest, ok := atHand(resp); ok && !trailers {
		q.sent = int64(len(rest))
		if resp.body == nil {
			if trailer := resp.trailer(); len(trailer) > 0 {
				return s.Head(resp.status, to.fields(resp, inst), false) == nil && s.Finish(trailer) == nil
			}
			return s.Head(resp.status, to.fields(resp, inst), true) == nil
		}
		return s.Head(resp.status, to.fields(resp, inst), false) == nil && s.Write(rest, true) == nil
	}
	if s.Head(resp.status, to.fields(resp, inst), false) != nil {
		return false
	}
	ended := to.f.followDrain(q, resp, inst)
	err := to.copyBody(q, resp)
	switch {
	case !ended() || err == nil:
		return err == nil
	case q.grpc:
		s.Finish(fields("Grpc-Status", "14", "Grpc-Message", "the instance is being replaced")) // UNAVAILABLE
	default:
		s.Finish(nil)
	}
	return true
}

// fields makes the head of an answer.
func (to *stream2) fields(resp *response, inst *instance) header {
	q, out := &to.q, to.out[:0]
	dated, measured := false, false
	for i := range resp.header {
		f := &resp.header[i]
		if f.Kind == http1.ContentLength {
			if resp.body == nil && resp.length > 0 && q.method != "HEAD" && resp.status != http.StatusNotModified {
				continue
			}
			measured = true
		} else if !resp.passesBack(f) {
			continue
		}
		dated = dated || len(f.Name) == 4 && f.Is("Date")
		out = append(out, *f)
	}
	if to.f.p.cfg.ExposeInstance {
		out.Add(InstanceHeader, inst.id)
	}
	switch {
	case len(resp.declared) > 0:
		out.Add("Trailer", strings.Join(resp.declared, ", "))
	case resp.body == nil && !measured && !q.grpc && q.method != "HEAD" && resp.status >= 200 && resp.status != http.StatusNoContent &&
		resp.status != http.StatusNotModified:
		out.Add("Content-Length", "0")
	}
	if !dated {
		out.Add("Date", to.f.p.pulse.date())
	}
	to.out = out
	return out
}

// copyBody copies the response's body and its trailer. It flushes whenever reading on would have to wait for the instance.
func (to *stream2) copyBody(q *request, resp *response) error {
	buf := copyBuffers.Get().(*[]byte)
	defer copyBuffers.Put(buf)
	for flushed := false; ; {
		if !flushed && resp.waiting() {
			if err := to.s.Flush(); err != nil {
				return err
			}
			flushed = true
		}
		n, err := resp.body.Read(*buf)
		q.sent += int64(n)
		if n > 0 {
			flushed = false
			if werr := to.s.Write((*buf)[:n], false); werr != nil {
				return werr
			}
		}
		if err == io.EOF {
			return to.s.Finish(resp.trailer())
		}
		if err != nil {
			return err
		}
	}
}

// refuse writes a failure as problem+json, but for the page of a service that is being started.
func (to *stream2) refuse(q *request, fail *failure) {
	if fail.kind == kindClient {
		return
	}
	fail = q.worded(fail)
	contentType, body := fail.content(q.id)
	h := append(to.out[:0], fail.fields(q.id)...)
	h.Add("Date", to.f.p.pulse.date())
	to.out = h
	h.Set("Content-Type", contentType)
	if len(body) > 0 || !q.grpc {
		h.Add("Content-Length", strconv.Itoa(len(body)))
	}
	if q.method == "HEAD" || len(body) == 0 {
		to.s.Head(fail.status, h, true)
	} else if to.s.Head(fail.status, h, false) == nil {
		to.s.Write(body, true)
	}
}

// upgrade can't be: HTTP/2 has none, and none is asked for.
func (to *stream2) upgrade(_ *request, resp *response, _ *instance) { resp.close(false) }
