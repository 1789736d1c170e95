package proxy

import (
	"errors"
	"io"
	"sync"
)

// awaited is the source of a body that can be waited for without reading from it.
type awaited interface {
	ready() bool                      // whether reading would not wait
	await(stop <-chan struct{}) error // waits until it would not, or until stop is closed
}

// closing has a reader of a body let go of it, though it waits for a client that may send nothing for as long as it likes.
// What the client sends then is for other readers.
type closing struct {
	mu     sync.Mutex
	closed bool
	stop   chan struct{} // closed with it; nil while nobody has waited
}

var errBodyClosed = errors.New("the body is not read any more")

// close has await return, now and later.
func (c *closing) close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.closed && c.stop != nil {
		close(c.stop)
	}
	c.closed = true
}

// open undoes close, where nothing was read meanwhile.
func (c *closing) open() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed, c.stop = false, nil
}

func (c *closing) isClosed() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.closed
}

// stopped returns a channel that is closed when c is.
func (c *closing) stopped() <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.stop == nil {
		c.stop = make(chan struct{})
		if c.closed {
			close(c.stop)
		}
	}
	return c.stop
}

// await waits until src has something, where that can be waited for, or until c is closed, which is errBodyClosed.
func (c *closing) await(src io.Reader) error {
	if c == nil {
		return nil
	}
	var err error
	if src, ok := src.(awaited); ok && !src.ready() {
		err = src.await(c.stopped())
	}
	if c.isClosed() {
		return errBodyClosed
	}
	return err
}
