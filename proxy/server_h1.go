package proxy

import (
	"context"
	"errors"
	"io"
	"net/http"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"trellis/proxy/http1"
)

// requestLimits are those of http1 for requests.
var requestLimits = http1.Limits{Head: maxHeaderBytes, Fields: maxHeaderCount, Target: maxURI}

// turn is one request over HTTP/1.1 and its answer: the peer of it. Turns are used again and again, so that a request
// costs no allocation; a connection that waits for its next one has none.
type turn struct {
	f    *front
	c    *clientConn
	q    request
	head http1.Request
	body http1.Body
	kept replay // q.body
	out  []byte

	last      bool // nothing more over this connection
	continued bool // 100 Continue was written
	mu        sync.Mutex
	answering bool                        // something of the answer was written; guarded by mu where the body may be read meanwhile
	broken    atomic.Pointer[http1.Error] // what the body turned out to be
}

var turns = sync.Pool{New: func() any { return &turn{out: make([]byte, 0, 2<<10)} }}

// serve1 serves an HTTP/1.1 connection until it ends, or rests.
func (f *front) serve1(c *clientConn) {
	c.in.Init(c.tcp, http1.SmallBuffer)
	if len(c.first) > 0 {
		c.in.Prepend(c.first)
		c.first = nil
	}
	c.ctx, c.cancel = context.WithCancel(context.Background())
	f.goOn1(c, false)
}

// goOn1 serves the next requests of an HTTP/1.1 connection. One that rests goes on on a new stack, which is half as large as the least to
// which the one of a goroutine that has served a request shrinks.
func (f *front) goOn1(c *clientConn, rested bool) {
	for {
		after := f.next(c, rested)
		if after == rests {
			f.p.wg.Go(func() { f.goOn1(c, true) })
			return
		}
		if after == ends {
			break
		}
		rested = false
	}
	c.cancel()
	c.in.Close()
	c.Close()
}

// What comes after a request, or after a while without one.
type afterwards int

const (
	ends afterwards = iota
	follows
	rests
)

// restTime is how long a connection waits for a request before it rests.
const restTime = time.Second

// next serves the next request of a connection; it says whether there may be one more. rested says that it waits for it already.
func (f *front) next(c *clientConn, rested bool) afterwards {
	if len(c.in.Buffered()) == 0 {
		if !rested {
			c.readBy.set(f.p.pulse.in(f.idle))
			c.restAt.set(f.p.pulse.in(restTime))
		}
		c.state.Store(connIdle)
		if f.p.parting.Load() {
			c.closeIdle()
		}
		err := c.in.Fill()
		c.restAt.set(0)
		mine := c.state.CompareAndSwap(connIdle, connBusy)
		if !mine && c.awoken() {
			if mine = true; errors.Is(err, os.ErrDeadlineExceeded) && c.readBy.at.Load() != 0 {
				return rests
			}
		}
		if (!mine || err != nil) && !c.cameLast(err) {
			return ends
		}
	}
	c.readBy.set(f.p.pulse.in(f.head))
	t := turns.Get().(*turn)
	t.f, t.c = f, c
	again := t.serve()
	if t.reset() {
		turns.Put(t)
	}
	c.in.Release()
	if !again {
		return ends
	}
	return follows
}

// reset makes t ready for another request; false when something may still be using it.
func (t *turn) reset() bool {
	if t.q.unread || len(t.q.pending) > 0 {
		return false
	}
	if cap(t.out) > 64<<10 {
		t.out = make([]byte, 0, 2<<10)
	}
	fields := t.head.Header
	if t.kept.src != nil {
		t.kept = replay{}
	}
	t.q = request{}
	t.head = http1.Request{Header: fields[:0]}
	t.c, t.last, t.continued, t.answering = nil, false, false, false
	t.broken.Store(nil)
	return true
}

// serve is one request, from its first byte to the last of its answer. It says whether another one may follow.
func (t *turn) serve() (again bool) {
	defer func() {
		if v := recover(); v != nil { // a fault of ours is kept to the one request that ran into it
			t.f.p.fault(v)
			t.c.reset()
			again = false
		}
	}()
	if err := t.readHead(); err != nil {
		return t.noHead(err)
	}
	t.c.readBy.set(0)
	l := t.c.conf()
	fail := t.view(l)
	if t.q.body == nil {
		t.c.lookAt.set(t.f.p.pulse.in(firstLook))
	}
	whole := t.f.handle(t.c.ctx, l, &t.q, t, fail)
	t.c.lookAt.set(0)
	t.q.finish(func() { t.c.tcp.SetReadDeadline(time.Unix(1, 0)) })
	switch {
	case !whole && t.q.failure != kindBadRequest:
		t.c.reset() // a broken answer looks broken, never whole and short
		return false
	case t.q.failure == kindBadRequest, t.q.body != nil && !t.kept.ended.Load():
		if t.answering {
			t.c.linger()
		}
		return false
	}
	return !t.last
}

func (t *turn) readHead() error {
	for seen := 0; ; {
		b := t.c.in.Buffered()
		n, err := t.head.Parse(b, seen, requestLimits)
		if err != nil {
			return err
		}
		if n > 0 {
			t.c.in.Use(n, true)
			return nil
		}
		seen = len(b)
		if err := t.c.in.Fill(); err != nil {
			return err
		}
	}
}

// noHead answers what is no request, or none that came in time. Nothing after it is read.
func (t *turn) noHead(err error) bool {
	t.last = true
	t.head.Minor = 1 // nobody knows
	var fail *failure
	if e, ok := http1.Malformed(err); ok {
		fail = malformed(e)
		t.q.header = t.head.Header
		t.q.setID()
	} else if errors.Is(err, os.ErrDeadlineExceeded) && !t.f.p.draining.Load() {
		fail = &failure{status: http.StatusRequestTimeout, kind: kindBadRequest, detail: "the request did not come in time"}
		t.q.header = nil
		t.q.setID()
	} else {
		return false
	}
	t.refuse(&t.q, fail)
	t.c.linger()
	return false
}

func malformed(e *http1.Error) *failure {
	return &failure{status: e.Status, kind: kindBadRequest, detail: e.Detail}
}

// view makes the data plane's view of the request.
func (t *turn) view(l *Listener) *failure {
	q, h := &t.q, &t.head
	q.method, q.authority, q.header, q.client, q.length = h.Method, h.Host, h.Header, t.c.client, h.Length
	q.sender, q.secured, q.trailers, q.expect = &t.c.presence, t.c.tls.Load(), h.Trailers, h.Expect
	t.last = h.Close || t.c.ending || t.f.p.draining.Load()
	if h.Named {
		q.named = named(q.header)
	}
	if q.length != 0 {
		t.body.Init(&t.c.in, q.length, q.length < 0, requestLimits)
		t.kept.src = t
		q.body = &t.kept
		if q.length < 0 {
			q.trailer = t.body.Trailer
			q.declared = announced(q.header)
		}
	} else if h.Upgrade { // a body and a tunnel exclude each other
		q.upgrade = upgradeTo(q.header)
	}
	target := h.Target
	if target[0] != '/' {
		var fail *failure
		if target, fail = q.absolute(target); fail != nil {
			return fail
		}
	}
	return q.describe(l, target)
}

// absolute returns what a target in absolute form is in origin form. Its authority has to be that of the Host field.
func (q *request) absolute(target string) (string, *failure) {
	if len(target) < 7 || !strings.EqualFold(target[:7], "http://") {
		return target, nil
	}
	authority, rest := target[7:], ""
	if i := strings.IndexAny(authority, "/?#"); i >= 0 {
		authority, rest = authority[:i], authority[i:]
	}
	if authority == "" || q.authority != "" && !sameAuthority(authority, q.authority) {
		return "", badRequest("the target's authority is not that of Host")
	}
	q.authority = authority
	if rest == "" || rest[0] != '/' {
		rest = "/" + rest
	}
	return rest, nil
}

func sameAuthority(a, b string) bool {
	return strings.EqualFold(strings.TrimSuffix(a, ":80"), strings.TrimSuffix(b, ":80"))
}

// readBody reads a body that is small enough to be sent again. A client that is slow with one of known length then keeps
// no instance busy, and one that breaks off in it has sent nothing to any. Of one in chunks what is there already is
// read: what is no chunk among it reaches nobody. The rest of the bodies is streamed.
func (t *turn) readBody(q *request) *failure {
	switch {
	case q.body == nil:
		return nil
	case q.length < 0:
		return t.readChunks(q)
	case q.length > replayLimit:
		if q.expect {
			q.ended = make(chan struct{})
		}
		return nil
	}
	if rest, ok := t.body.Whole(); ok {
		t.kept.have(rest)
		t.c.lookAt.set(t.f.p.pulse.in(firstLook)) // nothing more is read of it, which would
		return nil
	}
	if err := t.kept.fill(q.length); err != nil {
		return t.bodyFailed(err)
	}
	q.expect = false
	return nil
}

// readChunks reads what is there of a body in chunks.
func (t *turn) readChunks(q *request) *failure {
	if q.expect {
		q.ended = make(chan struct{})
		return nil
	}
	if err := t.kept.gather(t.body.Ready); err != nil {
		return t.bodyFailed(err)
	}
	return nil
}

// bodyFailed says what reading the request's body failed with.
func (t *turn) bodyFailed(err error) *failure {
	if e, ok := http1.Malformed(err); ok {
		return malformed(e)
	}
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return &failure{status: http.StatusRequestTimeout, kind: kindBadRequest, detail: "the request's body did not come in time"}
	}
	return &failure{status: 400, kind: kindClient, detail: "request body incomplete"}
}

// Read reads the request's body: each call has to bring something within the stall time. The first one asks for the body
// when the client waits for that.
func (t *turn) Read(p []byte) (int, error) {
	if t.q.expect && !t.continued {
		if err := t.sayContinue(); err != nil {
			return 0, err
		}
	}
	t.c.readBy.set(t.f.p.pulse.in(t.f.stall))
	if t.q.over.Load() { // finish may have set its deadline just before
		return 0, io.ErrUnexpectedEOF
	}
	n, err := t.body.Read(p)
	t.c.readBy.set(0)
	if err == nil && t.body.Ended() {
		err = io.EOF
	}
	switch {
	case err == nil:
	case err == io.EOF:
		t.c.lookAt.set(t.f.p.pulse.in(firstLook))
	default:
		if e, ok := http1.Malformed(err); ok {
			t.broken.Store(e)
		}
	}
	return n, err
}

func (t *turn) sayContinue() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.answering { // the client won't send it
		return io.ErrUnexpectedEOF
	}
	t.continued = true
	return t.write([]byte("HTTP/1.1 100 Continue\r\n\r\n"))
}

// write writes all of b, or fails when the client takes nothing for the stall time. Who takes no more has gone.
func (t *turn) write(b []byte) error {
	t.c.writeBy.set(t.f.p.pulse.in(t.f.stall))
	_, err := t.c.tcp.Write(b)
	t.c.writeBy.set(0)
	if err != nil {
		t.c.cancel()
	}
	return err
}

// linger closes a connection on which the client may still be sending, so that it gets to read the answer: a close with
// something unread makes a reset, which may overtake the answer.
func (c *clientConn) linger() {
	if c.tcp.CloseWrite() != nil {
		return
	}
	c.forget()
	c.tcp.SetReadDeadline(time.Now().Add(lingerTime))
	io.CopyN(io.Discard, c.tcp, lingerBytes)
}

const (
	lingerTime  = 500 * time.Millisecond
	lingerBytes = 1 << 20
)

// reset breaks the connection, visibly.
func (c *clientConn) reset() {
	c.tcp.SetLinger(0)
	c.Close()
}
