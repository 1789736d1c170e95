package http2

import (
	"context"
	"errors"
	"os"
	"slices"
	"sync"
	"time"

	"trellis/proxy/http1"
)

// Stream is one request, and the way for its answer. Reading and writing may be two goroutines'.
type Stream struct {
	Method    string
	Authority string // or the Host field where there is none
	Path      string // with the query, as it was sent; "" for CONNECT
	Header    http1.Header
	Length    int64 // of the body; 0 there is none, -1 it is not known
	Trailers  bool  // the client takes trailers
	TooLarge  bool  // the head was: nothing but the answer to that can be made of it

	// Stall is how long Read, Await and Write wait for the client; 0 is for ever. Once the answer has begun, a body of unknown
	// length is waited for without a limit: each side may listen then, for as long as the other has nothing to say.
	Stall time.Duration
	// Listens says that they do from the beginning.
	Listens bool

	c      *Conn
	id     uint32
	ctx    context.Context
	cancel context.CancelFunc

	// Guarded by c.mu.
	send, recv         int
	unacked            int    // of recv: was read, and the client does not know it yet
	body               []byte // came and was not read: from off on
	off                int
	came               int64 // bytes of the body
	trailer            http1.Header
	ended              bool // the request is whole
	stopped            bool // nobody reads the rest
	headed             bool // the answer has begun
	answered           bool // the answer is whole
	closed             bool // the connection has forgotten it
	err                error
	gone               func()
	released           bool
	readable, writable chan struct{} // nil while nobody has waited
}

// ErrReset is the error of a stream that the client has broken off.
var ErrReset = errors.New("the client has broken the stream off")

var errBegun = errors.New("the answer has come too far for that")

// streams are those that were released: what a stream is made of is used again.
var streams = sync.Pool{New: func() any { return &Stream{Header: make(http1.Header, 0, 16)} }}

// begin makes s a stream that nothing is known of, but for its fields.
func (s *Stream) begin(h http1.Header) {
	*s = Stream{Header: h, ctx: s.ctx, cancel: s.cancel}
	if s.ctx == nil {
		s.ctx, s.cancel = context.WithCancel(context.Background())
	}
}

// Release says that when Serve returns nobody uses the stream any more, nor anything of it: it may become another one.
func (s *Stream) Release() {
	s.c.mu.Lock()
	defer s.c.mu.Unlock()
	s.released = s.err == nil && s.gone == nil
}

// recycle lets another request have s.
func (s *Stream) recycle() {
	h := s.Header
	clear(h)
	if cap(h) > mostFields {
		h = nil
	}
	s.begin(h[:0])
	streams.Put(s)
}

// mostFields bounds the fields for which a stream has room that is not used.
const mostFields = 128

// Context ends when the client breaks the stream off, or with its connection, and when the stream is over unless it was
// released.
func (s *Stream) Context() context.Context { return s.ctx }

// WhenGone has f called when the client breaks the stream off, or with its connection; at once if it has. f may call no
// method of the stream. nil undoes that.
func (s *Stream) WhenGone(f func()) {
	s.c.mu.Lock()
	defer s.c.mu.Unlock()
	s.gone = f
	if f != nil && s.err != nil {
		f()
	}
}

// Trailer returns the fields after the body, once Read has returned io.EOF.
func (s *Stream) Trailer() http1.Header {
	s.c.mu.Lock()
	defer s.c.mu.Unlock()
	return s.trailer
}

// serve serves one stream.
func (c *Conn) serve(s *Stream) {
	defer c.over(s)
	c.cfg.Serve(s)
}

// over ends a stream that Serve has returned from.
func (c *Conn) over(s *Stream) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.running--
	s.stop()
	if !s.closed {
		code := NoError // the rest of the request is not needed
		if !s.answered {
			code = InternalError
		}
		b := c.buffer()
		b.b = appendReset(b.b, s.id, code)
		c.closeStream(s, true)
	}
	if s.released && s.err == nil {
		s.recycle()
	} else {
		s.cancel()
	}
	c.flush()
	c.rest()
}

// fail has everything fail that is done with a stream from now on. c.mu is held.
func (s *Stream) fail(err error) {
	if s.err != nil {
		return
	}
	s.err = err
	s.cancel()
	if s.gone != nil {
		s.gone()
	}
	wake(s.readable)
	wake(s.writable)
}

// end notes that the request is whole. c.mu is held.
func (s *Stream) end() error {
	if s.Length >= 0 && s.came != s.Length && !s.TooLarge {
		return &streamError{s.id, ProtocolError}
	}
	s.ended = true
	wake(s.readable)
	if s.answered {
		s.c.closeStream(s, false)
	}
	return nil
}

// wait waits until ch is woken or stop is closed, without c.mu; false says that stall is over, which begins where until is
// zero; 0 is for ever. What it waited for has to be looked at again.
func (s *Stream) wait(ch *chan struct{}, stall time.Duration, until *time.Time, stop <-chan struct{}) bool {
	if *ch == nil {
		*ch = make(chan struct{}, 1)
	}
	woken := *ch
	s.c.handOn()
	s.c.mu.Unlock()
	defer s.c.mu.Lock()
	var late <-chan time.Time
	if stall > 0 {
		now := time.Now()
		if until.IsZero() {
			*until = now.Add(stall)
		}
		t := time.NewTimer(until.Sub(now))
		defer t.Stop()
		late = t.C
	}
	select {
	case <-woken:
		return true
	case <-stop:
		return true
	case <-late:
		return false
	}
}

// room waits until the connection has room for more to write. c.mu is held.
func (s *Stream) room(until *time.Time) error {
	if s.answered {
		return errBegun
	}
	for s.err == nil && s.c.full() {
		if s.c.flush(); s.c.full() && s.err == nil && !s.wait(&s.writable, s.Stall, until, nil) {
			return os.ErrDeadlineExceeded
		}
	}
	return s.err
}

// Inform writes the head of an informational answer; it fails when the answer itself has begun.
func (s *Stream) Inform(status int, h http1.Header) error {
	s.c.mu.Lock()
	defer s.c.mu.Unlock()
	if s.headed {
		return errBegun
	}
	if err := s.head(status, h, false); err != nil {
		return err
	}
	s.c.flush()
	return s.err
}

// Head puts the head of the answer, which is all of it with end.
func (s *Stream) Head(status int, h http1.Header, end bool) error {
	s.c.mu.Lock()
	defer s.c.mu.Unlock()
	s.headed = true
	return s.head(status, h, end)
}

// Finish puts the fields after the body, none if there are none, and ends the answer.
func (s *Stream) Finish(trailer http1.Header) error {
	if len(trailer) == 0 {
		return s.Write(nil, true)
	}
	return s.Head(0, trailer, true)
}

// head appends a head; a trailer has the status 0. c.mu is held.
func (s *Stream) head(status int, h http1.Header, end bool) error {
	var until time.Time
	if err := s.room(&until); err != nil {
		return err
	}
	c := s.c
	buf := c.buffer()
	at := len(buf.b)
	flags := uint8(flagEndHeaders)
	if end {
		flags |= flagEndStream
	}
	b := appendFrame(buf.b, 0, frameHeaders, flags, s.id)
	if c.resize {
		b, c.resize = append(b, 0x20), false
	}
	if status > 0 {
		b = appendStatus(b, status)
	}
	for i := range h {
		b = appendField(b, &h[i])
	}
	buf.b = fit(b, at, s.id)
	if end {
		s.whole()
	}
	return nil
}

// fit writes the length of the head that begins at, and cuts one into frames that is too large for one.
func fit(b []byte, at int, stream uint32) []byte {
	block := b[at+headLen:]
	if len(block) <= maxFrame {
		b[at], b[at+1], b[at+2] = byte(len(block)>>16), byte(len(block)>>8), byte(len(block))
		return b
	}
	b[at+4] &^= flagEndHeaders
	b[at], b[at+1], b[at+2] = byte(maxFrame>>16), byte(maxFrame>>8&0xff), byte(maxFrame&0xff)
	rest := slices.Clone(block[maxFrame:])
	b = b[:at+headLen+maxFrame]
	for len(rest) > 0 {
		n := min(len(rest), maxFrame)
		flags := uint8(0)
		if n == len(rest) {
			flags = flagEndHeaders
		}
		b = append(appendFrame(b, n, frameContinuation, flags, stream), rest[:n]...)
		rest = rest[n:]
	}
	return b
}

// whole notes that the answer is whole. c.mu is held.
func (s *Stream) whole() {
	s.answered = true
	if s.ended {
		s.c.closeStream(s, false)
	}
}

// Write puts a part of the answer's body, and its end if it is the last. It waits while the client takes no more, no longer
// than Stall in all.
func (s *Stream) Write(p []byte, end bool) error {
	c := s.c
	c.mu.Lock()
	defer c.mu.Unlock()
	var until time.Time
	for {
		if err := s.room(&until); err != nil {
			return err
		}
		n := min(len(p), s.send, c.send, maxFrame)
		if n <= 0 && len(p) > 0 {
			c.flush()
			if s.err == nil && min(s.send, c.send) <= 0 && !s.wait(&s.writable, s.Stall, &until, nil) {
				return os.ErrDeadlineExceeded
			}
			continue
		}
		n = max(n, 0)
		flags := uint8(0)
		if end && n == len(p) {
			flags = flagEndStream
		}
		if n > 0 || flags != 0 {
			buf := c.buffer()
			buf.b = append(appendFrame(buf.b, n, frameData, flags, s.id), p[:n]...)
		}
		s.send -= n
		c.send -= n
		if p = p[n:]; len(p) == 0 {
			break
		}
	}
	if end {
		s.whole()
	}
	return s.err
}

// Flush writes what was put. Whoever writes for another stream meanwhile does it, and then it may not be done yet.
func (s *Stream) Flush() error {
	s.c.mu.Lock()
	defer s.c.mu.Unlock()
	s.c.flush()
	if s.c.dead != nil {
		return s.c.dead
	}
	return s.err
}
