package proxy

import (
	"bufio"
	"errors"
	"math"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// upstream is one HTTP/1.1 connection to an instance.
type upstream struct {
	conn *net.TCPConn
	pool *pool
	gen  int
	br   *bufio.Reader
	bw   *bufio.Writer

	written   atomic.Int64  // bytes that the kernel took
	mayRead   int64         // bytes that may still be read: bounds a response head
	readErr   error         // what reading ended with
	keep      time.Duration // how long it may be idle
	keepUntil time.Time

	mu      sync.Mutex
	aborted bool // no time limit may be set any more

	raw   syscall.RawConn
	peek  func(fd uintptr) bool // asks the kernel without waiting; made once
	quiet bool                  // peek's answer: open, and nothing to read
}

var errHeadTooLarge = errors.New("response head too large")

func newUpstream(conn *net.TCPConn, p *pool) *upstream {
	c := &upstream{conn: conn, pool: p, keep: idleTime, mayRead: math.MaxInt64}
	c.br = bufio.NewReaderSize(c, 4<<10)
	c.bw = bufio.NewWriterSize(c, 4<<10)
	c.raw, _ = conn.SyscallConn()
	c.peek = c.peekFD
	return c
}

func (c *upstream) Close() error { return c.conn.Close() }

func (c *upstream) Read(b []byte) (int, error) {
	if c.mayRead < int64(len(b)) {
		if c.mayRead <= 0 {
			c.readErr = errHeadTooLarge
			return 0, c.readErr
		}
		b = b[:c.mayRead]
	}
	n, err := c.conn.Read(b)
	c.mayRead -= int64(n)
	c.readErr = err
	return n, err
}

func (c *upstream) Write(b []byte) (int, error) {
	n, err := c.conn.Write(b)
	c.written.Add(int64(n))
	return n, err
}

// unread returns what was read of the connection and not used.
func (c *upstream) unread() []byte {
	b, _ := c.br.Peek(c.br.Buffered())
	return append([]byte(nil), b...)
}

// limitRead and limitWrite set until when reading and writing may take; the zero time is for ever.
func (c *upstream) limitRead(t time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.aborted {
		c.conn.SetReadDeadline(t)
	}
}

func (c *upstream) limitWrite(t time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.aborted {
		c.conn.SetWriteDeadline(t)
	}
}

// abort makes everything that waits on the connection, now or later, fail.
func (c *upstream) abort() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.aborted = true
	c.conn.SetDeadline(time.Unix(1, 0))
}

func (c *upstream) isAborted() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.aborted
}

// alive says whether the other end has neither closed nor written anything since the last response. It costs one
// system call, and asks the kernel rather than a goroutine that may not have run yet.
func (c *upstream) alive() bool {
	if c.br.Buffered() > 0 || c.raw == nil {
		return false
	}
	c.quiet = false
	if err := c.raw.Read(c.peek); err != nil {
		return false
	}
	return c.quiet
}

func (c *upstream) peekFD(fd uintptr) bool {
	c.quiet = nothingToRead(int(fd))
	return true
}
