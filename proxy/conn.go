package proxy

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"trellis/proxy/http1"
)

// clientConn is a connection of a client, with the bytes that were read to see what it is. Reading gives them first.
type clientConn struct {
	net.Conn
	tcp      duplex                  // what is read and written; who serves the connection alone touches it
	raw      *net.TCPConn            // below it
	tls      atomic.Pointer[secured] // what tcp is after a handshake
	listener *listener
	to       *Listener // where a redirected connection goes; nil: what the listener says at the time
	first    []byte
	ending   bool        // the next request is its last
	waiting  atomic.Bool // nothing came yet, nor did a server speak first
	once     sync.Once
	closed   func()

	client netip.Addr
	in     http1.Reader
	state  atomic.Int32 // of an HTTP/1.1 connection
	place  int          // in the pulse's list

	readBy, writeBy, lookAt limit // 0 while there is nothing to wait for
	restAt                  limit // when a connection that waits for a request rests

	ctx    context.Context // of an HTTP/1.1 connection: it ends with the client
	cancel context.CancelFunc
	presence
}

// presence says whether who sent a request is still there: the client of a connection over HTTP/1.1, of a stream over
// HTTP/2.
type presence struct {
	mu   sync.Mutex
	left bool      // it has gone
	up   *upstream // what is aborted when it goes
}

// States of an HTTP/1.1 connection.
const (
	connBusy    = iota
	connIdle    // it waits for a request
	connResting // it has waited for one for a while, and goes on waiting with less memory
	connClosing // it waited for one when the data plane ended
)

func newClientConn(tcp *net.TCPConn, l *listener) *clientConn {
	c := &clientConn{Conn: tcp, tcp: tcp, raw: tcp, listener: l}
	if a, ok := tcp.RemoteAddr().(*net.TCPAddr); ok {
		c.client = a.AddrPort().Addr().Unmap()
	}
	c.waiting.Store(true)
	return c
}

// closeIdle closes the connection if it waits for a request.
func (c *clientConn) closeIdle() {
	c.mu.Lock() // cameLast sees the whole of it
	defer c.mu.Unlock()
	if c.state.CompareAndSwap(connIdle, connClosing) || c.state.CompareAndSwap(connResting, connClosing) {
		c.raw.SetReadDeadline(time.Unix(1, 0))
	}
}

// rest wakes who waits for a request on the connection, so that somebody else can who needs less memory for it.
func (c *clientConn) rest() {
	c.mu.Lock() // awoken sees the whole of it
	defer c.mu.Unlock()
	if c.state.CompareAndSwap(connIdle, connResting) {
		c.raw.SetReadDeadline(time.Unix(1, 0))
	}
}

// awoken says whether who waits was woken by rest, which it undoes; the connection is busy then.
func (c *clientConn) awoken() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.state.CompareAndSwap(connResting, connBusy) && c.raw.SetReadDeadline(time.Time{}) == nil
}

// cameLast says whether a request has come after all on a connection that is closed because it waited: in the moment in
// which that was decided. It is the last one then. err is what waiting ended with, nil when something was read.
func (c *clientConn) cameLast(err error) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err != nil && (!errors.Is(err, os.ErrDeadlineExceeded) || !c.pending()) || c.raw.SetReadDeadline(time.Time{}) != nil {
		return false
	}
	c.ending = true
	c.state.Store(connBusy)
	return true
}

// pending says whether there is something to read.
func (c *clientConn) pending() (yes bool) {
	raw, err := c.raw.SyscallConn()
	if err != nil {
		return false
	}
	return raw.Control(func(fd uintptr) { yes = !nothingToRead(int(fd)) && !nothingWillCome(int(fd)) }) == nil && yes
}

// quiet says that the client has neither sent anything that was not read nor gone.
func (c *clientConn) quiet() (yes bool) {
	raw, err := c.raw.SyscallConn()
	if err != nil {
		return false
	}
	return raw.Control(func(fd uintptr) { yes = nothingToRead(int(fd)) }) == nil && yes
}

// forget ends every time limit.
func (c *clientConn) forget() {
	c.readBy.set(0)
	c.writeBy.set(0)
	c.lookAt.set(0)
}

// awaits has the exchange over u aborted when the client goes away; false says that it has gone already.
func (p *presence) awaits(u *upstream) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.left {
		return false
	}
	p.up = u
	return true
}

// letGo undoes awaits; false says that the exchange was aborted.
func (p *presence) letGo() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.up = nil
	return !p.left
}

// leave notes that the client has gone away.
func (p *presence) leave() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.left = true
	if p.up != nil {
		p.up.abort()
	}
}

// gone notes that the client of an HTTP/1.1 connection has gone away.
func (c *clientConn) gone() {
	c.cancel()
	c.leave()
}

// hungUp says whether the client has closed its end, of a connection from which nobody else reads.
func (c *clientConn) hungUp() (yes bool) {
	raw, err := c.raw.SyscallConn()
	if err != nil {
		return true
	}
	return raw.Control(func(fd uintptr) { yes = nothingWillCome(int(fd)) }) != nil || yes
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

// declared is the protocol that the connection's listener has; "" where it serves no more.
func (c *clientConn) declared() string {
	if l := c.conf(); l != nil {
		return l.Protocol
	}
	return ""
}

func (c *clientConn) Close() error {
	var err error
	if s := c.tls.Load(); s != nil {
		err = s.Close()
	} else {
		err = c.raw.Close()
	}
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
