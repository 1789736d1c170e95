package http1

import (
	"io"
	"sync"
	"syscall"
)

// Reader reads from a connection into a buffer that it has only while there is something in it: waiting for the next
// message costs no memory. It is not safe for concurrent use.
type Reader struct {
	src  io.Reader
	raw  syscall.RawConn       // of src, if it has one
	read func(fd uintptr) bool // one attempt; made once
	wait Waiter                // src, if it is one
	size int                   // of a first buffer

	own    *[]byte // from a pool
	buf    []byte  // of own
	r, w   int     // buf[r:w] is read and not used yet
	pinned []*[]byte
	kept   bool // buf[:r] is pinned too

	n   int // what the last attempt read
	err error
}

// Waiter is a source that can wait without a buffer.
type Waiter interface {
	// Wait returns when there may be something to read.
	Wait() error
	// Holds says whether something may have been read already that Read has not returned.
	Holds() bool
}

// The sizes of buffers. A response's are larger, so that what is usual comes with one read.
const (
	SmallBuffer = 4 << 10
	LargeBuffer = 16 << 10
	hugeBuffer  = 64 << 10
)

var (
	small = sync.Pool{New: func() any { b := make([]byte, SmallBuffer); return &b }}
	large = sync.Pool{New: func() any { b := make([]byte, LargeBuffer); return &b }}
	huge  = sync.Pool{New: func() any { b := make([]byte, hugeBuffer); return &b }}
)

func take(size int) *[]byte {
	switch {
	case size <= SmallBuffer:
		return small.Get().(*[]byte)
	case size <= LargeBuffer:
		return large.Get().(*[]byte)
	case size <= hugeBuffer:
		return huge.Get().(*[]byte)
	}
	b := make([]byte, size)
	return &b
}

func give(b *[]byte) {
	poison(*b)
	switch len(*b) {
	case SmallBuffer:
		small.Put(b)
	case LargeBuffer:
		large.Put(b)
	case hugeBuffer:
		huge.Put(b)
	}
}

// Init makes r read from src. While r has no buffer and src is a syscall.Conn or
// a Waiter, it waits without one. size is that of its
// first buffer.
func (r *Reader) Init(src io.Reader, size int) {
	*r = Reader{src: src, size: size}
	if sc, ok := src.(syscall.Conn); ok {
		if raw, err := sc.SyscallConn(); err == nil {
			r.raw = raw
			r.read = r.attempt
		}
	} else if w, ok := src.(Waiter); ok {
		r.wait = w
	}
}

// Prepend puts b before everything else that will be read. Nothing may have been read before.
func (r *Reader) Prepend(b []byte) {
	r.hold(take(max(len(b), r.size)))
	r.w = copy(r.buf, b)
}

func (r *Reader) hold(own *[]byte) { r.own, r.buf, r.r, r.w, r.kept = own, *own, 0, 0, false }

// Buffered returns what was read and not used yet. It is valid until the next Fill or Release.
func (r *Reader) Buffered() []byte { return r.buf[r.r:r.w] }

// Pending says whether something came that was not used, or may have.
func (r *Reader) Pending() bool { return r.r < r.w || r.wait != nil && r.wait.Holds() }

// Before returns the part of the buffer that ends where Buffered begins: what was used of it, or n bytes of that.
func (r *Reader) Before(n int) []byte { return r.buf[max(0, r.r-n):r.r] }

// Room returns how many bytes of the buffer come before what Buffered returns.
func (r *Reader) Room() int { return r.r }

// Use takes n of the buffered bytes for used. They stay where they are until Release, when pin is set; else until Fill.
func (r *Reader) Use(n int, pin bool) {
	r.r += n
	r.kept = r.kept || pin
}

// Fill reads more, at least a byte unless it returns an error.
func (r *Reader) Fill() error {
	if r.own == nil && r.raw != nil {
		if err := r.raw.Read(r.read); err != nil {
			return err
		}
	} else {
		if r.own == nil && r.wait != nil {
			if err := r.wait.Wait(); err != nil {
				return err
			}
		}
		r.makeRoom()
		r.n, r.err = r.src.Read(r.buf[r.w:])
	}
	r.w += r.n
	if r.n > 0 {
		return nil
	}
	r.drop()
	if r.err == nil {
		return io.ErrNoProgress
	}
	return r.err
}

// attempt reads what is there, or has the caller wait without a buffer.
func (r *Reader) attempt(fd uintptr) bool {
	r.hold(take(r.size))
	for {
		n, err := syscall.Read(int(fd), r.buf)
		switch {
		case err == syscall.EINTR:
			continue
		case err == syscall.EAGAIN:
			r.drop()
			return false
		case err != nil:
			r.n, r.err = 0, err
		case n == 0:
			r.n, r.err = 0, io.EOF
		default:
			r.n, r.err = n, nil
		}
		return true
	}
}

// makeRoom sees to it that something can be read behind what is buffered.
func (r *Reader) makeRoom() {
	unused := r.w - r.r
	switch {
	case r.own == nil:
		r.hold(take(r.size))
	case r.w < len(r.buf) && (!r.kept || len(r.buf)-r.w >= 512):
	case !r.kept && r.r > 0:
		copy(r.buf, r.buf[r.r:r.w])
		r.r, r.w = 0, unused
	default: // all full, or what is pinned leaves too little
		old, from := r.own, r.buf[r.r:r.w]
		kept := r.kept
		r.hold(take(max(2*unused, r.size)))
		r.w = copy(r.buf, from)
		if kept {
			r.pinned = append(r.pinned, old)
		} else {
			give(old)
		}
	}
}

// drop gives the buffer back if nothing is in it.
func (r *Reader) drop() {
	if r.own != nil && r.r == r.w && !r.kept {
		give(r.own)
		r.own, r.buf, r.r, r.w = nil, nil, 0, 0
	}
}

// Release lets go of everything that was used: its bytes may be overwritten from now on.
func (r *Reader) Release() {
	for i, b := range r.pinned {
		give(b)
		r.pinned[i] = nil
	}
	r.pinned = r.pinned[:0]
	r.kept = false
	r.drop()
}

// Close lets go of the buffers, whatever is in them.
func (r *Reader) Close() {
	r.r = r.w
	r.Release()
}
