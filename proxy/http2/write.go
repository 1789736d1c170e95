package http2

import "sync"

// outBuffer is what waits to be written.
type outBuffer struct{ b []byte }

var outBuffers = sync.Pool{New: func() any { return &outBuffer{make([]byte, 0, pooledOut)} }}

// buffer returns what is to be appended to. c.mu is held.
func (c *Conn) buffer() *outBuffer {
	if c.out == nil {
		c.out = outBuffers.Get().(*outBuffer)
	}
	return c.out
}

// full says whether enough waits to be written. c.mu is held.
func (c *Conn) full() bool { return c.out != nil && len(c.out.b) >= outEnough }

// flush writes what waits, unless somebody is at it, who will. c.mu is held, but for the writing.
func (c *Conn) flush() {
	if c.flushing || c.out == nil || c.dead != nil {
		return
	}
	c.flushing = true
	for c.out != nil && c.dead == nil {
		b := c.out
		c.out = nil
		c.mu.Unlock()
		n, err := c.link.Write(b.b)
		c.mu.Lock()
		c.sent.Add(int64(n))
		if cap(b.b) <= 2*outEnough {
			b.b = b.b[:0]
			outBuffers.Put(b)
		}
		if err != nil {
			c.kill(err)
		}
		c.wakeWriters()
	}
	c.flushing = false
	c.quiet.Broadcast()
}

// kill ends everything. c.mu is held.
func (c *Conn) kill(err error) {
	if c.dead != nil {
		return
	}
	c.dead = err
	c.out = nil
	for _, s := range c.streams {
		s.fail(err)
		c.closeStream(s, true)
	}
	c.link.Cut()
}

// wakeWriters has everybody look again who waits for room or for a window. c.mu is held.
func (c *Conn) wakeWriters() {
	for _, s := range c.streams {
		wake(s.writable)
	}
}

// wake has one who waits on ch look again.
func wake(ch chan struct{}) {
	select {
	case ch <- struct{}{}:
	default: // nobody waits, or somebody has woken it
	}
}
