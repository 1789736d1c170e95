package load

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/http"
	"os"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"
)

// small is the longest request that the pacer writes itself: it fits the send buffer of an idle connection, so that the
// write cannot block the schedule.
const small = 4 << 10

// worker is the hand for HTTP/1.1. It owns one connection at a time and sees each of its starts through. While it is idle it waits in Read, so that it
// notices a server that closes the connection, and the pacer may write a request meanwhile.
type worker struct {
	run    *run
	reader reader
	wake   chan struct{}    // for an idle worker without a connection
	look   func(fd uintptr) // peek, kept to save an allocation per use
	alive  bool             // what peek found
	result Result           // of the last start
	cause  error            // how the last Read of an idle worker failed

	instance string // the last one that answered

	// All below belongs to the worker; while it is idle, to whoever holds mu.
	mu       sync.Mutex
	conn     net.Conn        // set under mu even by the worker: abort looks at it at any time
	raw      syscall.RawConn // nil for TLS
	start    start
	deadline time.Duration // of its answer
	assigned bool          // start is to be done
	sent     bool          // and its request is written
	sentAt   time.Duration // when that began
	out      []byte        // the request
	aborted  bool          // no connection may be kept; under mu always
}

func newWorker(r *run) *worker {
	w := &worker{run: r, wake: make(chan struct{}, 1), reader: reader{instanceHeader: strings.ToLower(r.cfg.InstanceHeader)}}
	w.look = w.peek
	return w
}

func (w *worker) rest() { w.sent, w.assigned = false, false }

// loop sees starts through until the run is over.
func (w *worker) loop(flight context.Context) {
	defer w.drop()
	for w.await() {
		for {
			w.perform(flight)
			next, ok := w.run.settle(w, w.start.visit, &w.result)
			if !ok {
				break
			}
			w.start, w.sent, w.deadline = next, false, w.result.Done+w.run.cfg.Timeout
		}
	}
}

// await waits, idle, until w has a start; false says that the run is over.
func (w *worker) await() bool {
	for {
		w.mu.Lock()
		assigned, conn := w.assigned, w.conn
		w.mu.Unlock()
		if assigned {
			return true
		}
		if conn == nil {
			select {
			case <-w.wake:
				continue
			case <-w.run.over:
				return false
			}
		}
		n, err := conn.Read(w.reader.space())
		w.mu.Lock()
		switch {
		case w.assigned && w.sent:
			w.reader.w += n
			if n == 0 && !isTimeout(err) {
				w.cause = err
			}
		case n == 0 && isTimeout(err):
			if !w.assigned {
				w.arm(w.run.since() + w.run.cfg.Timeout)
			}
		default: // closed by the server, or it says something that nobody asked for: of no more use
			w.dropLocked()
		}
		w.mu.Unlock()
	}
}

// begin gives an idle worker its start, and writes the request where that is possible at once. The pacer calls it.
func (w *worker) begin(s start, now time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.start, w.assigned, w.deadline = s, true, now+w.run.cfg.Timeout
	if w.conn != nil && !w.usable() {
		w.dropLocked() // which ends the Read as well
		return
	}
	if w.conn == nil {
		select {
		case w.wake <- struct{}{}:
		default: // an older signal is still there
		}
		return
	}
	var err error
	if w.out, err = s.append(w.out[:0]); err != nil || len(w.out) > small {
		w.arm(0) // in the past: the Read ends, and the worker writes
		return
	}
	w.sent, w.sentAt = true, now
	_, _ = w.conn.Write(w.out) // a failure comes back from Read
}

// perform does the start and leaves what became of it in w.result.
func (w *worker) perform(flight context.Context) {
	s, r := w.start, &w.result
	*r = s.result()
	if !w.sent {
		r.Kind = w.send(flight)
		// In a busy run others have something to send meanwhile, and by the next turn the answer is often there: a Read
		// that finds nothing costs a system call and a trip through the poller.
		runtime.Gosched()
	}
	if w.sent {
		r.Sent = w.sentAt
	}
	if r.Kind == "" {
		w.receive(r)
	}
	if r.Status == 0 {
		w.drop()
	}
	r.Done = w.run.since()
}

// send writes the request, on a new connection where there is none that can be used.
func (w *worker) send(flight context.Context) Kind {
	if w.conn != nil && !w.usable() {
		w.drop()
	}
	if w.conn == nil {
		var slow net.Error
		if err := w.connect(flight); errors.As(err, &slow) && slow.Timeout() {
			return Timeout
		} else if err != nil {
			return Connect
		}
	}
	var err error
	if w.out, err = w.start.append(w.out[:0]); err != nil {
		return Unsendable
	}
	if len(w.out) > small {
		_ = w.conn.SetWriteDeadline(w.run.epoch.Add(w.deadline))
	}
	w.sent, w.sentAt = true, w.run.since()
	_, err = w.conn.Write(w.out)
	if len(w.out) > small {
		_ = w.conn.SetWriteDeadline(time.Time{}) // what follows on the connection is written without one, also by the pacer
	}
	if isTimeout(err) {
		return Timeout
	}
	return "" // a server may answer before it has read all, and close: then the answer counts and not the failed write
}

func (w *worker) connect(flight context.Context) error {
	dialer := net.Dialer{Deadline: w.run.epoch.Add(w.deadline), KeepAlive: -1}
	conn, err := dialer.DialContext(flight, "tcp", w.run.address)
	if err != nil {
		return err
	}
	var raw syscall.RawConn
	_ = conn.SetDeadline(dialer.Deadline)
	if w.run.tls != nil {
		secure := tls.Client(conn, w.run.tls)
		if err := secure.HandshakeContext(flight); err != nil {
			conn.Close()
			return err
		}
		conn = secure
	} else if raw, err = conn.(*net.TCPConn).SyscallConn(); err != nil {
		conn.Close()
		return err
	}
	_ = conn.SetWriteDeadline(time.Time{})
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.aborted {
		conn.Close()
		return net.ErrClosed
	}
	w.conn, w.raw = conn, raw
	w.reader.reset(w)
	return nil
}

// receive reads the answer and judges it.
func (w *worker) receive(r *Result) {
	v := w.start.visit
	w.reader.tap = nil
	if v != nil {
		w.reader.tap = v.listen()
	}
	a, err := w.reader.read(w.start.method())
	switch {
	case err == nil:
	case isTimeout(err):
		r.Kind = Timeout
		return
	case errors.Is(err, errMalformed):
		r.Kind = BadResponse
		return
	case w.reader.broken():
		r.Kind = Truncated
		return
	default:
		r.Kind = Reset
		return
	}
	r.Status, r.Bytes, r.Kind = a.status, a.bytes, a.kind()
	if v != nil {
		r.Kind = v.judge(a.status, r.Kind)
	}
	if len(a.instance) > 0 {
		r.Instance = w.intern(a.instance)
	}
	if a.closes {
		w.drop()
	}
}

// kind is why an answer counts as failed.
func (a answer) kind() Kind {
	switch {
	case a.status == http.StatusTooManyRequests:
		return Limited
	case a.status < 500 || a.status > 599:
		return ""
	case !a.marked:
		return Server5xx
	case a.status == http.StatusServiceUnavailable && a.queue:
		return Queue503
	}
	return Proxy5xx
}

// Read is the reader's source: the connection, until the start's deadline. The connection's own deadline is an earlier
// one, left from an earlier start: setting it for each request would cost more than an early wake-up now and then.
func (w *worker) Read(p []byte) (int, error) {
	if err := w.cause; err != nil {
		w.cause = nil
		return 0, err
	}
	for {
		n, err := w.conn.Read(p)
		if n > 0 || !isTimeout(err) || w.run.since() >= w.deadline {
			return n, err
		}
		w.arm(w.deadline)
	}
}

func (w *worker) arm(at time.Duration) {
	_ = w.conn.SetReadDeadline(w.run.epoch.Add(at))
}

// usable looks whether the server has closed the connection, as every careful client does before it sends on one that
// was idle: what is sent into a closed connection is lost, and an unsafe request could not be repeated.
func (w *worker) usable() bool {
	if w.raw == nil {
		return true
	}
	w.alive = false
	err := w.raw.Control(w.look)
	return err == nil && w.alive
}

func (w *worker) peek(fd uintptr) {
	var one [1]byte
	_, _, err := syscall.Recvfrom(int(fd), one[:], syscall.MSG_PEEK|syscall.MSG_DONTWAIT)
	w.alive = err == syscall.EAGAIN || err == syscall.EINTR
}

func (w *worker) drop() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.dropLocked()
}

func (w *worker) dropLocked() {
	if w.conn != nil {
		w.conn.Close()
		w.conn, w.raw = nil, nil
	}
}

// abort ends whatever w does with a connection, now and later.
func (w *worker) abort() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.aborted = true
	if w.conn != nil {
		w.conn.Close()
	}
}

// intern makes a string of name without an allocation while one instance answers, which is the usual case.
func (w *worker) intern(name []byte) string {
	if w.instance != string(name) {
		w.instance = string(name)
	}
	return w.instance
}

func isTimeout(err error) bool { return err != nil && errors.Is(err, os.ErrDeadlineExceeded) }
