package http2

import "encoding/binary"

// take does what a frame says.
func (c *Conn) take(f frame, p []byte) error {
	if !c.guard.takes(f, c.sent.Load()) {
		return errFlood
	}
	switch {
	case !c.settled && (f.kind != frameSettings || f.has(flagAck)):
		return protocol("no settings first")
	case c.block.stream != 0 && (f.kind != frameContinuation || f.stream != c.block.stream):
		return protocol("a head that is broken off")
	}
	switch f.kind {
	case frameData:
		return c.data(f, p)
	case frameHeaders:
		return c.headers(f, p)
	case frameContinuation:
		if c.block.stream == 0 {
			return protocol("the continuation of nothing")
		}
		return c.fragment(f, p)
	case framePriority:
		return priority(f, p)
	case frameReset:
		return c.reset(f)
	case frameSettings:
		return c.settings(f, p)
	case framePush:
		return protocol("a push by a client")
	case framePing:
		return c.ping(f, p)
	case frameGoAway:
		if f.stream != 0 {
			return protocol("GOAWAY of a stream")
		}
	case frameWindowUpdate:
		return c.update(f, p)
	}
	return nil
}

func priority(f frame, p []byte) error {
	switch {
	case f.stream == 0:
		return protocol("a priority of no stream")
	case len(p) != 5:
		return &streamError{f.stream, FrameSizeError}
	case binary.BigEndian.Uint32(p)&maxWindow == f.stream:
		return &streamError{f.stream, ProtocolError}
	}
	return nil
}

func (c *Conn) settings(f frame, p []byte) error {
	switch {
	case f.stream != 0:
		return protocol("settings of a stream")
	case f.has(flagAck):
		if len(p) > 0 {
			return &Error{FrameSizeError, "an acknowledgement with settings"}
		}
		return nil
	case len(p)%6 != 0:
		return &Error{FrameSizeError, "settings in part"}
	}
	c.settled = true
	c.mu.Lock()
	defer c.mu.Unlock()
	for ; len(p) > 0; p = p[6:] {
		if err := c.set(binary.BigEndian.Uint16(p), binary.BigEndian.Uint32(p[2:])); err != nil {
			return err
		}
	}
	b := c.buffer()
	b.b = appendFrame(b.b, 0, frameSettings, flagAck, 0)
	return nil
}

// set is one setting. c.mu is held.
func (c *Conn) set(id uint16, value uint32) error {
	switch id {
	case settingTable:
		c.resize = true
	case settingPush:
		if value > 1 {
			return protocol("ENABLE_PUSH is neither 0 nor 1")
		}
	case settingFrame:
		if value < maxFrame || value > 1<<24-1 {
			return protocol("MAX_FRAME_SIZE out of bounds")
		}
	case settingWindow:
		if value > maxWindow {
			return &Error{FlowControlError, "INITIAL_WINDOW_SIZE out of bounds"}
		}
		by := int(value) - c.window
		c.window = int(value)
		for _, s := range c.streams {
			if s.send += by; s.send > maxWindow {
				return &Error{FlowControlError, "a window out of bounds"}
			}
		}
		c.wakeWriters()
	}
	return nil
}

func (c *Conn) ping(f frame, p []byte) error {
	switch {
	case f.stream != 0:
		return protocol("PING of a stream")
	case len(p) != 8:
		return &Error{FrameSizeError, "PING of a wrong size"}
	case f.has(flagAck):
		if string(p) == leavingPing {
			c.mu.Lock()
			leaving := c.leaving
			c.mu.Unlock()
			if leaving {
				c.close()
			}
		}
		return nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	b := c.buffer()
	b.b = append(appendFrame(b.b, 8, framePing, flagAck, 0), p...)
	return nil
}

func (c *Conn) update(f frame, p []byte) error {
	if len(p) != 4 {
		return &Error{FrameSizeError, "WINDOW_UPDATE of a wrong size"}
	}
	by := int(binary.BigEndian.Uint32(p) & maxWindow)
	c.mu.Lock()
	defer c.mu.Unlock()
	if f.stream == 0 {
		if c.send += by; by == 0 {
			return protocol("WINDOW_UPDATE by nothing")
		} else if c.send > maxWindow {
			return &Error{FlowControlError, "a window out of bounds"}
		}
		c.wakeWriters()
		return nil
	}
	s := c.streams[f.stream]
	switch {
	case s == nil && c.idle(f.stream):
		return protocol("WINDOW_UPDATE of a stream that was not begun")
	case by == 0:
		return &streamError{f.stream, ProtocolError}
	case s == nil:
		return nil
	}
	if s.send += by; s.send > maxWindow {
		return &streamError{f.stream, FlowControlError}
	}
	wake(s.writable)
	return nil
}

// idle says whether a stream was never begun. c.mu is held.
func (c *Conn) idle(stream uint32) bool { return stream > c.last || stream%2 == 0 }

func (c *Conn) reset(f frame) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case f.stream == 0:
		return protocol("RST_STREAM of no stream")
	case f.length != 4:
		return &Error{FrameSizeError, "RST_STREAM of a wrong size"}
	case c.idle(f.stream):
		return protocol("RST_STREAM of a stream that was not begun")
	}
	if s := c.streams[f.stream]; s != nil {
		s.fail(ErrReset)
		c.closeStream(s, false)
	}
	return nil
}
