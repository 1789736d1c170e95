package proxy

import (
	"errors"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

// clientConn is a connection of a client, with the bytes that were read to see what it is. Reading gives them first.
type clientConn struct {
	net.Conn
	tcp      *net.TCPConn
	listener *listener
	to       *Listener // where a redirected connection goes; nil: what the listener says at the time
	first    []byte
	waiting  atomic.Bool // nothing came yet
	once     sync.Once
	closed   func()
}

func (c *clientConn) Read(b []byte) (int, error) {
	if len(c.first) > 0 {
		n := copy(b, c.first)
		if c.first = c.first[n:]; len(c.first) == 0 {
			c.first = nil
		}
		return n, nil
	}
	return c.tcp.Read(b)
}

// conf says where the connection goes, nil when its listener serves no more.
func (c *clientConn) conf() *Listener {
	if c.to != nil {
		return c.to
	}
	return c.listener.conf.Load()
}

func (c *clientConn) Close() error {
	err := c.tcp.Close()
	c.once.Do(c.closed)
	return err
}

// partTime is how long the rest of a first line may take before it counts as what it looks like.
const partTime = time.Second

// peek reads until it is clear what the client speaks. It waits for the first byte for wait, 0 for as long as it takes,
// and answers undecided when none has come. An error is the connection's end.
func (c *clientConn) peek(wait time.Duration) (kind, error) {
	if len(c.first) == 0 {
		var until time.Time
		if wait > 0 {
			until = time.Now().Add(wait)
		}
		if err := c.tcp.SetReadDeadline(until); err != nil {
			return undecided, err
		}
	}
	return c.look()
}

// look is peek with the read deadline that is set already.
func (c *clientConn) look() (kind, error) {
	defer c.tcp.SetReadDeadline(time.Time{})
	buf := make([]byte, 512)
	for {
		k := sniff(c.first)
		if k != undecided {
			return k, nil
		}
		n, err := c.tcp.Read(buf)
		if n > 0 && len(c.first) == 0 {
			c.waiting.Store(false)
			c.tcp.SetReadDeadline(time.Now().Add(partTime))
		}
		c.first = append(c.first, buf[:n]...)
		if err == nil {
			continue
		}
		if len(c.first) == 0 {
			if errors.Is(err, os.ErrDeadlineExceeded) {
				err = nil
			}
			return undecided, err
		}
		if k = sniff(c.first); k != undecided {
			return k, nil
		}
		if len(c.first) > maxMethod { // a request line that takes its time
			return plainHTTP, nil
		}
		return opaque, nil
	}
}

// handover is a net.Listener whose connections are given to it.
type handover struct {
	conns chan net.Conn
	done  chan struct{}
	once  sync.Once
}

func newHandover() *handover {
	return &handover{conns: make(chan net.Conn), done: make(chan struct{})}
}

func (h *handover) Accept() (net.Conn, error) {
	select {
	case c := <-h.conns:
		return c, nil
	case <-h.done:
		return nil, net.ErrClosed
	}
}

// give hands a connection over; without anyone to take it any more it is closed.
func (h *handover) give(c net.Conn) {
	select {
	case h.conns <- c:
	case <-h.done:
		c.Close()
	}
}

func (h *handover) Close() error   { h.once.Do(func() { close(h.done) }); return nil }
func (h *handover) Addr() net.Addr { return &net.TCPAddr{} }

// set is a set of things to be closed together.
type set[T comparable] struct {
	mu  sync.Mutex
	all map[T]struct{}
}

func (s *set[T]) add(c T) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.all == nil {
		s.all = map[T]struct{}{}
	}
	s.all[c] = struct{}{}
}

func (s *set[T]) remove(c T) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.all, c)
}

func (s *set[T]) list() []T {
	s.mu.Lock()
	defer s.mu.Unlock()
	list := make([]T, 0, len(s.all))
	for c := range s.all {
		list = append(list, c)
	}
	return list
}

func (s *set[T]) len() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.all)
}
