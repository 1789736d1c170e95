package proxy

import (
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"trellis/proxy/http1"
)

// upstream is one HTTP/1.1 connection to an instance.
type upstream struct {
	conn duplex
	tcp  *net.TCPConn // below conn
	from *conns
	gen  int
	in   http1.Reader
	out  []byte // what is written next
	x    exchange

	count     atomic.Int64
	written   *atomic.Int64 // bytes that the kernel took: count where conn is tcp
	keep      time.Duration // how long it may be idle
	keepUntil time.Time
	proven    time.Time // over TLS: until when both ends have proven who they are

	hurried bool // the kernel has silence in which to get what was written acknowledged

	mu              sync.Mutex
	aborted         bool // no time limit may be set any more
	readBy, writeBy time.Time

	raw   syscall.RawConn
	peek  func(fd uintptr) // asks the kernel without waiting; made once
	quiet bool             // peek's answer: open, and nothing to read
}

func newUpstream(tcp *net.TCPConn) *upstream {
	c := &upstream{conn: tcp, tcp: tcp}
	c.written = &c.count
	return c
}

// begin makes the connection ready for requests.
func (c *upstream) begin(k *conns) {
	c.from, c.keep = k, idleTime
	c.x.c = c
	c.in.Init(c.conn, http1.LargeBuffer)
	c.raw, _ = c.tcp.SyscallConn()
	c.peek = c.peekFD
}

func (c *upstream) Close() error { return c.conn.Close() }

func (c *upstream) Write(b []byte) (int, error) {
	n, err := c.conn.Write(b)
	c.count.Add(int64(n))
	return n, err
}

// send writes b, which was made in out.
func (c *upstream) send(b []byte) error {
	if c.out = b; cap(b) > http1.LargeBuffer {
		c.out = nil
	}
	_, err := c.Write(b)
	return err
}

// hurry has the kernel break the connection off when the other host acknowledges nothing of what is written for silence, or
// has it wait for as long as that takes, as it does where a program reads nothing for a while and its host has no room.
// Where the other host's data plane is in between, link has said.
func (c *upstream) hurry(on bool) {
	if c.hurried == on || c.from != nil && c.from.linked {
		return
	}
	c.hurried = on
	var d time.Duration
	if on {
		d = silence
	}
	giveUpAfter(c.tcp, d)
}

// unread returns what was read of the connection and not used.
func (c *upstream) unread() []byte { return append([]byte(nil), c.in.Buffered()...) }

// limitRead and limitWrite set how long reading and writing may take from now on; 0 is for ever. They may take an eighth
// longer: a connection that is used again and again has its limit set a few times only.
func (c *upstream) limitRead(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if t, set := nearby(c.readBy, d); set && !c.aborted {
		c.readBy = t
		c.conn.SetReadDeadline(t)
	}
}

func (c *upstream) limitWrite(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if t, set := nearby(c.writeBy, d); set && !c.aborted {
		c.writeBy = t
		c.conn.SetWriteDeadline(t)
	}
}

// nearby returns the deadline to set for something that may take d from now on, or that the one there is will do.
func nearby(is time.Time, d time.Duration) (t time.Time, set bool) {
	if d <= 0 {
		return time.Time{}, !is.IsZero()
	}
	want := time.Now().Add(d)
	if left := is.Sub(want); left >= 0 && left <= d/8 {
		return is, false
	}
	return want.Add(d / 8), true
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
	if c.raw == nil {
		return false
	}
	c.quiet = false
	if err := c.raw.Control(c.peek); err != nil {
		return false
	}
	return c.quiet
}

func (c *upstream) peekFD(fd uintptr) { c.quiet = nothingToRead(int(fd)) }
