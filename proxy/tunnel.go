package proxy

import (
	"io"
	"sync"
	"sync/atomic"
	"time"
)

// end is one side of a tunnel: a connection, and what was already read from it.
type end struct {
	conn  duplex
	first []byte
}

// closeTime is how long both sides have to answer a WebSocket close before the connections are closed; the instance has
// half of it.
const closeTime = 2 * time.Second

// connect copies between two ends until both directions have ended. A half-close is passed on as one; a broken end
// breaks the other, so that nobody takes a truncated stream for a whole one. When the drain time of inst is over, a
// WebSocket is closed with 1001 between two frames, anything else is cut. Both connections are closed on return.
func (p *Proxy) connect(inst *instance, client, server end, webSocket bool) {
	t := &tunnel{client: client, server: server}
	if webSocket {
		t.down = &frames{}
		t.up = &frames{masked: true}
	}
	p.through(inst, t)
}

// through runs a tunnel to an instance.
func (p *Proxy) through(inst *instance, t *tunnel) {
	st := inst.track(t.end, false)
	p.streams.add(st)
	t.run()
	p.streams.remove(st)
	inst.untrack(st)
}

type tunnel struct {
	client, server end
	linked         bool // the client's end is a link, at whose other end things are ended in order

	down, up *frames // nil unless it is a WebSocket
	ending   atomic.Bool
	mu       sync.Mutex
	timers   []*time.Timer
}

func (t *tunnel) run() {
	done := make(chan struct{})
	go func() {
		defer close(done)
		t.pump(t.server.conn, t.client, t.up)
	}()
	t.pump(t.client.conn, t.server, t.down)
	<-done
	t.client.conn.Close()
	t.server.conn.Close()
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, timer := range t.timers {
		timer.Stop()
	}
}

// pump copies from one end to the other, and passes on how it ended.
func (t *tunnel) pump(to duplex, from end, f *frames) {
	var err error
	if f == nil {
		if len(from.first) > 0 {
			_, err = to.Write(from.first)
		}
		if err == nil {
			_, err = io.Copy(to, from.conn) // spliced in the kernel
		}
	} else {
		err = t.copyFrames(to, from, f)
	}
	if f != nil && f == t.down && t.ending.Load() { // an instance that ends without an answer to the close
		f.sayGoodbye(to)
		err = nil
	}
	if err != nil {
		t.cut()
		return
	}
	to.CloseWrite()
}

// copyFrames is io.Copy that knows where frames end.
func (t *tunnel) copyFrames(to duplex, from end, f *frames) error {
	buf := copyBuffers.Get().(*[]byte)
	defer copyBuffers.Put(buf)
	n := copy(*buf, from.first)
	rest := from.first[n:]
	var err error
	for {
		if n > 0 {
			if werr := t.pass(to, (*buf)[:n], f); werr != nil {
				return werr
			}
		}
		if len(rest) > 0 {
			n = copy(*buf, rest)
			rest = rest[n:]
			continue
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		n, err = from.conn.Read(*buf)
	}
}

// pass writes bytes on. When their direction is to end, it writes up to the end of a frame, a close frame, and drops the
// rest.
func (t *tunnel) pass(to duplex, b []byte, f *frames) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		return nil
	}
	boundary := f.advance(b)
	if f.ending && boundary >= 0 {
		f.closed = true
		_, err := to.Write(append(b[:boundary:boundary], f.closeFrame()...))
		return err
	}
	_, err := to.Write(b)
	return err
}

// end ends the tunnel: a WebSocket in order, within closeTime, anything else at once.
//
// The close goes to the instance, and what the client sends from then on goes nowhere. The instance answers what it got
// before, and then the close, which reaches the client behind these answers: what the client has no answer to by then was
// never begun, and may be sent again. Only where the instance does not answer the close the client gets ours.
func (t *tunnel) end() {
	if t.down == nil && !t.linked {
		t.cut()
		return
	}
	if t.ending.Swap(true) {
		return
	}
	if t.linked {
		t.mu.Lock()
		defer t.mu.Unlock()
		t.timers = []*time.Timer{time.AfterFunc(closeTime*3/2, t.cut)}
		return
	}
	t.mu.Lock()
	t.timers = []*time.Timer{
		time.AfterFunc(closeTime/2, func() { t.down.sayGoodbye(t.client.conn) }),
		time.AfterFunc(closeTime, t.cut),
	}
	t.mu.Unlock()
	t.up.sayGoodbye(t.server.conn)
}

// sayGoodbye writes the close frame now if no frame is under way, else pass does when it has ended.
func (f *frames) sayGoodbye(to duplex) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.ending = true
	if f.between() {
		f.closed = true
		to.Write(f.closeFrame())
	}
}

// cut resets both connections.
func (t *tunnel) cut() {
	t.client.conn.SetLinger(0)
	t.server.conn.SetLinger(0)
	t.client.conn.Close()
	t.server.conn.Close()
}

// frames follows the frames of one direction of a WebSocket (RFC 6455, section 5.2).
type frames struct {
	mu     sync.Mutex
	masked bool // the direction from the client
	ending bool // it is to be closed at the end of the frame that is under way
	closed bool // we wrote the close frame: nothing may follow it
	saw    bool // a close frame went by: its sender writes nothing after it
	head   [14]byte
	have   int    // bytes of the head read
	left   uint64 // bytes of the payload to come
}

func (f *frames) between() bool { return f.have == 0 && f.left == 0 && !f.closed && !f.saw }

// advance reads on over b; it returns the last offset in b at which a frame ends (0: none has begun before b), or -1.
func (f *frames) advance(b []byte) int {
	last := -1
	if f.between() {
		last = 0
	}
	for i := 0; i < len(b); {
		if f.left > 0 {
			n := min(f.left, uint64(len(b)-i))
			f.left -= n
			i += int(n)
		} else {
			f.head[f.have] = b[i]
			f.have++
			i++
			size, ok := f.headSize()
			if !ok || f.have < size {
				continue
			}
			f.left = f.payload()
			f.saw = f.saw || f.head[0]&0x0f == 8
			f.have = 0
		}
		if f.between() {
			last = i
		}
	}
	return last
}

// headSize returns the length of the frame's head, as soon as two bytes of it are there.
func (f *frames) headSize() (int, bool) {
	if f.have < 2 {
		return 0, false
	}
	n := 2
	switch f.head[1] & 0x7f {
	case 126:
		n += 2
	case 127:
		n += 8
	}
	if f.head[1]&0x80 != 0 {
		n += 4
	}
	return n, true
}

func (f *frames) payload() uint64 {
	n := uint64(f.head[1] & 0x7f)
	size := 0
	switch n {
	case 126:
		size = 2
	case 127:
		size = 8
	default:
		return n
	}
	n = 0
	for _, c := range f.head[2 : 2+size] {
		n = n<<8 | uint64(c)
	}
	return n
}

// closeFrame is a close with 1001, "going away". The mask may be zero: it protects intermediaries from the payload of a
// script, and this payload is fixed.
func (f *frames) closeFrame() []byte {
	if f.masked {
		return []byte{0x88, 0x82, 0, 0, 0, 0, 0x03, 0xe9}
	}
	return []byte{0x88, 0x02, 0x03, 0xe9}
}
