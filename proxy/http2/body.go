package http2

import (
	"io"
	"os"
	"time"
)

// data takes a part of a body.
func (c *Conn) data(f frame, p []byte) error {
	if f.stream == 0 {
		return protocol("a body of no stream")
	}
	p, err := unpad(f, p)
	if err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.recv -= f.length; c.recv < 0 {
		return &Error{FlowControlError, "more than the connection's window"}
	}
	s := c.streams[f.stream]
	if s == nil {
		c.giveBack(f.length)
		if c.idle(f.stream) {
			return protocol("a body of a stream that was not begun")
		}
		if _, reset := c.recall(f.stream); !reset {
			return &streamError{f.stream, StreamClosed}
		}
		if !c.guard.wasted() {
			return errFlood
		}
		return nil
	}
	s.recv -= f.length
	s.came += int64(len(p))
	code := NoError
	switch {
	case s.ended:
		code = StreamClosed
	case s.recv < 0:
		code = FlowControlError
	case s.Length >= 0 && s.came > s.Length && !s.TooLarge:
		code = ProtocolError
	}
	if code != NoError {
		c.giveBack(f.length)
		return &streamError{s.id, code}
	}
	if s.stopped {
		c.giveBack(f.length)
	} else {
		s.body = append(s.body, p...)
		s.giveBack(f.length - len(p))
		if len(p) > 0 {
			wake(s.readable)
		}
	}
	if f.has(flagEndStream) {
		return s.end()
	}
	return nil
}

// giveBack lets the client send so much more over the connection. c.mu is held.
func (c *Conn) giveBack(n int) {
	if c.unacked += n; c.unacked >= connWindow/4 && c.dead == nil {
		b := c.buffer()
		b.b = appendUpdate(b.b, 0, c.unacked)
		c.recv += c.unacked
		c.unacked = 0
	}
}

// giveBack lets the client send so much more of the body. c.mu is held.
func (s *Stream) giveBack(n int) {
	s.c.giveBack(n)
	if s.unacked += n; s.unacked >= streamWindow/4 && !s.ended && !s.closed {
		b := s.c.buffer()
		b.b = appendUpdate(b.b, s.id, s.unacked)
		s.recv += s.unacked
		s.unacked = 0
	}
}

// Read reads the body. It waits no longer than Stall for some of it; the error is os.ErrDeadlineExceeded then.
func (s *Stream) Read(p []byte) (int, error) {
	c := s.c
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := s.await(nil); err != nil {
		return 0, err
	}
	if s.off == len(s.body) {
		switch {
		case s.err != nil:
			return 0, s.err
		case s.stopped:
			return 0, io.ErrUnexpectedEOF
		}
		return 0, io.EOF
	}
	n := copy(p, s.body[s.off:])
	if s.off += n; s.off == len(s.body) {
		s.off = 0
		if s.body = s.body[:0]; cap(s.body) > keptBody {
			s.body = nil
		}
	}
	s.giveBack(n)
	if s.off == len(s.body) && s.ended && s.err == nil {
		return n, io.EOF
	}
	return n, nil
}

// Await waits until Read would return without waiting, with its error where that takes too long, or until stop is closed.
func (s *Stream) Await(stop <-chan struct{}) error {
	s.c.mu.Lock()
	defer s.c.mu.Unlock()
	return s.await(stop)
}

// await is Await. c.mu is held.
func (s *Stream) await(stop <-chan struct{}) error {
	var until time.Time
	for !s.ready() {
		if s.c.flush(); s.ready() { // c.mu was free while it wrote
			break
		}
		if !s.wait(&s.readable, s.patience(), &until, stop) && s.patience() > 0 { // else the answer has begun meanwhile
			return os.ErrDeadlineExceeded
		}
		select {
		case <-stop:
			return nil
		default:
		}
	}
	return nil
}

// patience is how long more of the body is waited for; 0 is for ever. c.mu is held.
func (s *Stream) patience() time.Duration {
	if s.Listens || s.headed && s.Length < 0 {
		return 0
	}
	return s.Stall
}

// Ready says whether Read would return without waiting.
func (s *Stream) Ready() bool {
	s.c.mu.Lock()
	defer s.c.mu.Unlock()
	return s.ready()
}

// ready is Ready. c.mu is held.
func (s *Stream) ready() bool {
	return s.off < len(s.body) || s.err != nil || s.stopped || s.ended
}

// Stop has Read fail: nobody needs the rest of the body.
func (s *Stream) Stop() {
	s.c.mu.Lock()
	defer s.c.mu.Unlock()
	s.stop()
}

func (s *Stream) stop() {
	if s.stopped {
		return
	}
	s.stopped = true
	s.c.giveBack(len(s.body) - s.off)
	s.body, s.off = nil, 0
	wake(s.readable)
}
