package http2

import (
	"bytes"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/net/http2/hpack"

	"trellis/proxy/http1"
)

// Conn is a client's connection.
type Conn struct {
	cfg  *Config
	link Link
	in   *http1.Reader

	// Of the goroutine that reads.
	dec     *hpack.Decoder
	block   block
	guard   guard
	settled bool      // the client's settings came
	awaited Wait      // what the link was told last; -1 after a whole frame
	begun   []*Stream // came with what was read last, and are not served yet

	sent atomic.Int64 // bytes

	mu       sync.Mutex
	out      *outBuffer // nil when nothing waits to be written
	flushing bool       // somebody writes
	quiet    sync.Cond  // nobody writes any more
	streams  map[uint32]*Stream
	last     uint32 // the highest stream that was begun
	open     int    // streams that the client may not have seen the end of
	running  int    // Serve
	window   int    // of a new stream: the client's setting
	send     int    // what may be sent
	recv     int    // what the client may send
	unacked  int    // of recv: was read, and the client does not know it yet
	resize   bool   // the next head says that no dynamic table is used
	parked   bool   // the reader waits for a frame
	leaving  bool   // the client was told to open no more streams
	closing  bool   // it opens none: the rest is refused
	dead     error
	past     []pastStream // the last ones that were closed
	passed   int          // so many were

	reader  int        // counted up when the reading is handed on
	lent    bool       // who reads serves a request
	beats   int        // of the relief, that it has done so
	watched bool       // the relief knows
	apart   int        // so many requests are not served by who reads
	ended   chan error // what Serve returns, where another goroutine has read on
}

// pastStream is one that is closed.
type pastStream struct {
	id    uint32
	reset bool // by us: what the client sent before it knew is on its way
}

var (
	errClosed = errors.New("the connection was closed")
	errFlood  = &Error{EnhanceYourCalm, "too much that leads to nothing"}
)

// New returns a connection whose client's bytes, the preface first, come from in. Serve serves it.
func New(cfg *Config, link Link, in *http1.Reader) *Conn {
	c := &Conn{cfg: cfg, link: link, in: in, window: firstWindow, send: firstWindow, recv: connWindow, awaited: -1}
	c.quiet.L = &c.mu
	c.guard.now = time.Now
	c.dec = hpack.NewDecoder(hpackTable, c.block.add)
	c.dec.SetMaxStringLength(2 * cfg.Head)
	c.block.most = cfg.Head
	return c
}

// Serve serves the connection until it ends, and returns why: an *Error if the client did what it may not. What Serve of
// the Config still does for it is broken off.
func (c *Conn) Serve() error {
	mine, err := true, c.begin()
	if err == nil {
		mine, err = c.run()
	}
	if !mine {
		return <-c.ended
	}
	return c.end(err)
}

// end says why the connection ends, and ends it.
func (c *Conn) end(err error) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	code := NoError
	if e := (*Error)(nil); errors.As(err, &e) {
		code = e.Code
	}
	if c.dead == nil {
		if code != NoError || !c.closing {
			b := c.buffer()
			b.b = appendGoAway(b.b, c.last, code)
		}
		c.flush()
		for c.flushing {
			c.quiet.Wait()
		}
	}
	c.kill(err)
	return err
}

// Shutdown has the client open no more streams. The connection ends when it has no more.
func (c *Conn) Shutdown() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.leaving || c.dead != nil {
		return
	}
	c.leaving = true
	b := c.buffer()
	b.b = appendGoAway(b.b, maxWindow, NoError)
	b.b = append(appendFrame(b.b, len(leavingPing), framePing, 0, 0), leavingPing...)
	c.flush()
	time.AfterFunc(leavingTime, c.close)
}

// A ping's answer says that the client has read the GOAWAY before it.
const (
	leavingPing = "goaway!\x00"
	leavingTime = time.Second
)

// close refuses further streams.
func (c *Conn) close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closing || c.dead != nil {
		return
	}
	c.closing = true
	b := c.buffer()
	b.b = appendGoAway(b.b, c.last, NoError)
	c.flush()
	c.rest()
}

// rest says what to wait for when nothing is open. c.mu is held.
func (c *Conn) rest() {
	switch {
	case c.open > 0 || c.running > 0 || c.dead != nil:
	case c.closing:
		c.link.Cut()
	case c.parked:
		c.link.Await(Request)
	}
}

// run reads, and does what it reads, until the connection ends; mine is false when another goroutine reads on.
func (c *Conn) run() (mine bool, err error) {
	for {
		f, p, wait, err := c.next()
		switch {
		case err != nil:
		case p != nil:
			if err = c.take(f, p); c.block.stream == 0 {
				c.awaited = -1
			}
		case len(c.begun) > 0:
			if s := c.serveBegun(); s != nil && !c.serveAlone(s) {
				return false, nil
			}
		default:
			err = c.fill(wait)
		}
		if err != nil {
			if err = c.refuse(err); err != nil {
				return true, err
			}
		}
	}
}

// begin reads the preface and sends the settings.
func (c *Conn) begin() error {
	for {
		b := c.in.Buffered()
		n := min(len(b), len(Preface))
		if !bytes.Equal(b[:n], []byte(Preface)[:n]) {
			return protocol("no preface of HTTP/2")
		}
		if n == len(Preface) {
			c.in.Use(n, false)
			break
		}
		if err := c.fill(Head); err != nil {
			return err
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	b := c.buffer()
	b.b = appendFrame(b.b, 3*6, frameSettings, 0, 0)
	b.b = appendSetting(b.b, settingStreams, uint32(c.cfg.Streams))
	b.b = appendSetting(b.b, settingWindow, streamWindow)
	b.b = appendSetting(b.b, settingHead, uint32(c.cfg.Head))
	b.b = appendUpdate(b.b, 0, connWindow-firstWindow)
	return nil
}

// next returns the next frame of what was read, with its payload, which is valid until the next call and not nil; or what
// there is to be waited for.
func (c *Conn) next() (f frame, p []byte, wait Wait, err error) {
	b := c.in.Buffered()
	switch {
	case len(b) >= headLen:
		if f = parseFrame(b); f.length > maxFrame {
			return f, nil, 0, &Error{FrameSizeError, "a frame larger than 16 KiB"}
		}
		if all := headLen + f.length; len(b) >= all {
			c.in.Use(all, false)
			return f, b[headLen:all], 0, nil
		}
		if f.kind == frameData {
			return f, nil, Body, nil
		}
		return f, nil, Head, nil
	case len(b) > 0 || c.block.stream != 0 || !c.settled:
		return f, nil, Head, nil
	}
	return f, nil, Frame, nil
}

// fill reads more.
func (c *Conn) fill(wait Wait) error {
	if len(c.in.Buffered()) == 0 {
		c.in.Release()
	}
	c.mu.Lock()
	c.flush()
	for c.flushing && c.full() { // no more answers for one who takes none
		c.quiet.Wait()
	}
	if wait == Frame {
		c.parked = true
		if c.open == 0 && c.running == 0 {
			wait = Request
			if c.closing {
				c.mu.Unlock()
				return errClosed
			}
		}
	}
	if wait != c.awaited || wait < Head {
		c.link.Await(wait)
		c.awaited = wait
	}
	c.mu.Unlock()
	err := c.in.Fill()
	c.mu.Lock()
	c.parked = false
	c.mu.Unlock()
	if err == nil && !c.link.Came() {
		return errClosed
	}
	return err
}

// refuse breaks a stream off for what the client did on it; other errors it returns.
func (c *Conn) refuse(err error) error {
	e := (*streamError)(nil)
	if !errors.As(err, &e) {
		return err
	}
	if !c.guard.reset() {
		return errFlood
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if s := c.streams[e.stream]; s != nil {
		s.fail(e)
		c.closeStream(s, true)
	} else {
		c.remember(e.stream, true)
	}
	b := c.buffer()
	b.b = appendReset(b.b, e.stream, e.code)
	return nil
}

// closeStream forgets a stream that both sides have ended, or one of them broke off. c.mu is held.
func (c *Conn) closeStream(s *Stream, reset bool) {
	if s.closed {
		return
	}
	s.closed = true
	delete(c.streams, s.id)
	c.open--
	c.remember(s.id, reset)
}

func (c *Conn) remember(stream uint32, reset bool) {
	if one := (pastStream{stream, reset}); len(c.past) < rememberedIDs {
		c.past = append(c.past, one)
	} else {
		c.past[c.passed%rememberedIDs] = one
	}
	c.passed++
}

// recall returns what is known of a closed stream. c.mu is held.
func (c *Conn) recall(stream uint32) (known, reset bool) {
	for _, p := range c.past {
		if p.id == stream {
			known, reset = true, reset || p.reset
		}
	}
	return known, reset
}
