package proxy

import (
	"io"
	"net"

	"trellis/proxy/http1"
)

// records is what a connection over TLS reads from. It passes on one record at a time, so that TLS holds nothing of the next
// one, and waits without a buffer: a connection that waits for a request costs no memory for that, here nor above.
type records struct {
	*net.TCPConn
	in   http1.Reader
	head [recordHead]byte
	have int // bytes of head
	left int // bytes of the record that were not passed on
}

const recordHead = 5 // a type, two bytes of version, two of length (RFC 8446, section 5.1)

func newRecords(tcp *net.TCPConn) *records {
	r := &records{TCPConn: tcp}
	r.in.Init(tcp, http1.SmallBuffer)
	return r
}

// wait returns when there is something to read.
func (r *records) wait() error {
	if r.holds() {
		return nil
	}
	return r.in.Fill()
}

// holds says whether something was read that was not passed on.
func (r *records) holds() bool { return len(r.in.Buffered()) > 0 }

// Read reads, but not beyond the end of a record.
func (r *records) Read(p []byte) (int, error) {
	if r.left > 0 && !r.holds() { // the rest of a large one needs no buffer in between
		n, err := r.TCPConn.Read(p[:min(len(p), r.left)])
		r.passed(n)
		return n, err
	}
	if err := r.wait(); err != nil {
		return 0, err
	}
	n := 0
	if r.have < recordHead {
		n = copy(r.head[r.have:], r.in.Buffered())
		n = copy(p, r.head[r.have:r.have+n])
		r.have += n
		r.in.Use(n, false)
		if r.have == recordHead {
			r.left = int(r.head[3])<<8 | int(r.head[4])
		}
	}
	if r.have == recordHead {
		m := copy(p[n:], r.in.Buffered()[:min(r.left, len(r.in.Buffered()))])
		r.in.Use(m, false)
		r.passed(m)
		n += m
	}
	r.in.Release()
	return n, nil
}

// passed notes that so much of a record was passed on.
func (r *records) passed(n int) {
	if r.left -= n; r.left == 0 {
		r.have = 0
	}
}

// Read implements net.Conn.
func (s *secured) Read(p []byte) (int, error) {
	n, err := s.Conn.Read(p)
	s.full = n == len(p)
	return n, err
}

// Wait implements http1.Waiter.
func (s *secured) Wait() error {
	if s.full || s.records == nil {
		return nil
	}
	if err := s.records.wait(); err != io.EOF { // TLS has a word for an end that comes without one
		return err
	}
	return nil
}

// Holds implements http1.Waiter.
func (s *secured) Holds() bool { return s.full || s.records == nil || s.records.holds() }
