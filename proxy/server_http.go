package proxy

import (
	"context"
	"io"
	"log/slog"
	"net/http"
	"strconv"
	"strings"
	"time"

	"golang.org/x/net/http2"
)

// This file, upstream_http.go and status_http.go are those that know net/http. It serves clients that speak HTTP/2.

const (
	maxStreams = 250
	maxFrame   = 16 << 10 // bytes; the least that HTTP/2 allows
)

type connKey struct{}

func newFront(p *Proxy) *front {
	f := &front{p: p, head: readHeaderTime, idle: clientIdleTime, stall: stallTime}
	quiet := slog.NewLogLogger(p.log.Handler(), slog.LevelDebug)
	f.h2base = &http.Server{Handler: f, IdleTimeout: clientIdleTime, ErrorLog: quiet, MaxHeaderBytes: maxHeaderBytes}
	f.h2 = &http2.Server{MaxConcurrentStreams: maxStreams, IdleTimeout: clientIdleTime, MaxReadFrameSize: maxFrame}
	if err := http2.ConfigureServer(f.h2base, f.h2); err != nil {
		panic(err) // only for TLS settings, and there are none
	}
	return f
}

// serve2 serves an HTTP/2 connection until it ends.
func (f *front) serve2(c *clientConn) {
	ctx := context.WithValue(context.Background(), connKey{}, c)
	f.h2.ServeConn(newFrameGuard(c), &http2.ServeConnOpts{Context: ctx, BaseConfig: f.h2base, Handler: f})
}

// ServeHTTP is one stream.
func (f *front) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	defer f.survive()
	c := r.Context().Value(connKey{}).(*clientConn)
	if f.p.draining.Load() {
		w.Header().Set("Connection", "close") // makes a GOAWAY
	}
	q := &request{client: c.client, secured: c.tls.Load()}
	l := c.conf()
	to := &stream2{f: f, w: w, rc: http.NewResponseController(w), r: r}
	defer to.finish(q)
	if !f.handle(r.Context(), l, q, to, to.view(q, l)) {
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
		f.p.fault(v)
		panic(http.ErrAbortHandler)
	}
}

// stream2 is the peer of a request over HTTP/2.
type stream2 struct {
	f  *front
	w  http.ResponseWriter
	rc *http.ResponseController
	r  *http.Request
}

// view makes the data plane's view of a request.
func (s *stream2) view(q *request, l *Listener) *failure {
	r := s.r
	q.method, q.authority, q.header, q.length = r.Method, r.Host, ofHTTP(r.Header), r.ContentLength
	q.trailers = q.header.HasToken("Te", "trailers")
	q.grpc = strings.HasPrefix(q.header.Get("Content-Type"), "application/grpc")
	if r.Body == nil || r.Body == http.NoBody || r.ContentLength == 0 {
		q.length = 0
	} else {
		q.expect = q.header.HasToken("Expect", "100-continue")
		q.body = &replay{src: &streamBody{Reader: r.Body, q: q, rc: s.rc, stall: s.f.stall}}
		q.trailer = func() header { return ofHTTP(r.Trailer) }
		for k := range r.Trailer {
			q.declared = append(q.declared, k)
		}
	}
	target := r.RequestURI
	if target == "" {
		target = r.URL.RequestURI()
	}
	if fail := q.describe(l, target); fail != nil {
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
func (s *stream2) readBody(q *request) *failure {
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

// streamBody is a request's body, each read of which has to bring something within the stall time.
type streamBody struct {
	io.Reader
	q     *request
	rc    *http.ResponseController
	stall time.Duration
}

func (b *streamBody) Read(p []byte) (int, error) {
	b.rc.SetReadDeadline(time.Now().Add(b.stall))
	if b.q.over.Load() { // finish may have set its deadline just before
		return 0, io.ErrUnexpectedEOF
	}
	n, err := b.Reader.Read(p)
	b.rc.SetReadDeadline(time.Time{}) // it would end what else is read: news of the client's end
	return n, err
}

// finish waits until nothing reads the request's body any more.
func (s *stream2) finish(q *request) {
	q.finish(func() { s.rc.SetReadDeadline(time.Unix(1, 0)) })
}

func (s *stream2) forward(q *request, resp *response, inst *instance) bool {
	whole := s.pass(q, resp, inst)
	q.blamed = whole && q.grpc && blamesServer(resp.grpcStatus())
	resp.close(whole)
	return whole
}

// pass writes the answer.
func (s *stream2) pass(q *request, resp *response, inst *instance) bool {
	h := s.w.Header()
	for i := range resp.header {
		if f := &resp.header[i]; resp.passesBack(f) { // copies: HPACK's table and frames outlive the answer's memory
			h.Add(strings.Clone(f.Name), strings.Clone(f.Value))
		}
	}
	if h["Content-Type"] == nil {
		h["Content-Type"] = nil // net/http would guess one
	}
	if s.f.p.cfg.ExposeInstance {
		h.Set(InstanceHeader, inst.id)
	}
	for _, k := range resp.declared {
		h.Add("Trailer", strings.Clone(k)) // they are sent when this answer is over
	}
	if resp.body == nil {
		if resp.length > 0 && q.method != "HEAD" && resp.status != http.StatusNotModified {
			h.Del("Content-Length")
		}
		s.w.WriteHeader(resp.status)
		s.setTrailers(resp)
		return true
	}
	s.w.WriteHeader(resp.status)
	ended := s.f.followDrain(q, resp, inst)
	err := s.copyBody(q, resp)
	switch {
	case !ended():
		if err == nil {
			s.setTrailers(resp)
		}
		return err == nil
	case q.grpc:
		h.Set(http.TrailerPrefix+"Grpc-Status", "14") // UNAVAILABLE
		h.Set(http.TrailerPrefix+"Grpc-Message", "the instance is being replaced")
	}
	return true
}

// copyBody copies the response's body. It flushes whenever reading on would have to wait for the instance.
func (s *stream2) copyBody(q *request, resp *response) error {
	buf := copyBuffers.Get().(*[]byte)
	defer copyBuffers.Put(buf)
	left := resp.length
	flushed, first := false, true
	for {
		if !flushed && left != 0 && resp.waiting() {
			if err := s.rc.Flush(); err != nil {
				return err
			}
			flushed = true
		}
		n, err := resp.body.Read(*buf)
		q.sent += int64(n)
		if n > 0 {
			if !first { // the first always finds room somewhere on the way
				s.rc.SetWriteDeadline(time.Now().Add(s.f.stall))
			}
			if _, err := s.w.Write((*buf)[:n]); err != nil {
				return err
			}
			if !first {
				s.rc.SetWriteDeadline(time.Time{})
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

func (s *stream2) setTrailers(resp *response) {
	for _, f := range resp.trailer() {
		name := f.Name
		if !anyIs(resp.declared, &f) {
			name = http.TrailerPrefix + name
		}
		s.w.Header().Add(strings.Clone(name), strings.Clone(f.Value))
	}
}

// refuse writes a failure as problem+json, but for the page of a service that is being started.
func (s *stream2) refuse(q *request, fail *failure) {
	if fail.kind == kindClient {
		return
	}
	contentType, body := fail.content(q.id)
	h := s.w.Header()
	for _, f := range fail.fields(q.id) {
		h.Set(f.Name, f.Value)
	}
	if q.grpc && fail.kind == kindTimeout { // of HTTP's 504 a client of gRPC would make UNAVAILABLE
		h.Set("Content-Type", "application/grpc")
		h.Set("Grpc-Status", "4") // DEADLINE_EXCEEDED
		h.Set("Grpc-Message", fail.detail)
		s.w.WriteHeader(http.StatusOK)
		return
	}
	h.Set("Content-Type", contentType)
	h.Set("Content-Length", strconv.Itoa(len(body)))
	s.w.WriteHeader(fail.status)
	s.w.Write(body)
}

// upgrade can't be: HTTP/2 has none, and none is asked for.
func (s *stream2) upgrade(_ *request, resp *response, _ *instance) {
	resp.close(false)
	panic(http.ErrAbortHandler)
}

// drainStreams tells HTTP/2 clients to go elsewhere.
func (f *front) drainStreams() { f.h2base.Shutdown(context.Background()) }
