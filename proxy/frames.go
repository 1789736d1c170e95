package proxy

import (
	"encoding/binary"
	"errors"
	"sync/atomic"
	"time"
)

// frameGuard watches what a client sends over HTTP/2 and ends a connection that is a flood. golang.org/x/net/http2 bounds
// what a client can make it keep: streams, queued answers, the size of heads. It does not bound frames that cost next to
// nothing each and lead to no request, and a million of them a second keep a processor busy as well as requests do.
//
// It only counts: which bytes come to the server it does not change. Reading is one goroutine's, writing any's.
type frameGuard struct {
	*clientConn
	now func() time.Time

	head  [9]byte
	have  int // bytes of head
	left  int // bytes of the frame's payload still to come
	intro int // bytes of the preface still to come

	idle    allowance // frames that say nothing of a request
	updates allowance // WINDOW_UPDATE beyond those that what we sent is worth
	streams int
	resets  int
	parts   int // CONTINUATION of the last head

	sent    atomic.Int64 // bytes to the client
	granted int64        // of sent, that updates were granted for
}

// Bounds of frames. A client that behaves comes nowhere near: gRPC pings once in ten seconds, a browser updates windows
// once for some 10 KiB.
const (
	idleBurst, idleRate     = 1000, 100  // PING, SETTINGS, PRIORITY, empty DATA, unknown ones, a second
	updateBurst, updateRate = 5000, 1000 // WINDOW_UPDATE, a second
	updateShare             = 256        // bytes sent that are worth one more of them
	maxParts                = 16         // CONTINUATION of one head; 32 KiB is two full ones
	freeResets              = 500        // RST_STREAM; beyond them no more than half of the streams (Envoy's premature_reset)
)

// Kinds of frames (RFC 9113, section 6).
const (
	frameData = iota
	frameHeaders
	framePriority
	frameReset
	frameSettings
	framePush
	framePing
	frameGoAway
	frameWindowUpdate
	frameContinuation
)

const flagEndStream = 0x1

var errFlood = errors.New("too many HTTP/2 frames that lead to nothing")

func newFrameGuard(c *clientConn) *frameGuard {
	return &frameGuard{clientConn: c, now: time.Now, intro: len(preface)}
}

// Read implements net.Conn.
func (g *frameGuard) Read(b []byte) (int, error) {
	n, err := g.clientConn.Read(b)
	if !g.look(b[:n]) {
		return 0, errFlood
	}
	return n, err
}

// Write implements net.Conn.
func (g *frameGuard) Write(b []byte) (int, error) {
	n, err := g.clientConn.Write(b)
	g.sent.Add(int64(n))
	return n, err
}

// look counts what came; false says that it is too much.
func (g *frameGuard) look(b []byte) bool {
	for len(b) > 0 {
		if skip := min(g.intro, len(b)); skip > 0 {
			g.intro -= skip
			b = b[skip:]
			continue
		}
		if skip := min(g.left, len(b)); skip > 0 {
			g.left -= skip
			b = b[skip:]
			continue
		}
		n := copy(g.head[g.have:], b)
		g.have += n
		b = b[n:]
		if g.have < len(g.head) {
			return true
		}
		g.have = 0
		g.left = int(binary.BigEndian.Uint32(g.head[:4]) >> 8)
		if !g.takes(g.head[3], g.head[4], g.left) {
			return false
		}
	}
	return true
}

// takes counts a frame.
func (g *frameGuard) takes(kind, flags byte, length int) bool {
	switch kind {
	case frameData:
		return length > 0 || flags&flagEndStream != 0 || g.idle.take(g.now(), idleBurst, idleRate)
	case frameHeaders:
		g.streams++
		g.parts = 0
		return true
	case frameContinuation:
		g.parts++
		return g.parts <= maxParts
	case frameReset:
		g.resets++
		return g.resets <= freeResets || g.resets <= g.streams/2
	case frameWindowUpdate:
		if sent := g.sent.Load(); sent-g.granted >= updateShare {
			g.granted += updateShare
			return true
		}
		return g.updates.take(g.now(), updateBurst, updateRate)
	}
	return g.idle.take(g.now(), idleBurst, idleRate)
}

// allowance is a token bucket.
type allowance struct {
	used float64
	last time.Time
}

// take says whether one more is within burst at once and rate a second.
func (a *allowance) take(now time.Time, burst, rate float64) bool {
	if !a.last.IsZero() {
		a.used = max(0, a.used-rate*now.Sub(a.last).Seconds())
	}
	a.last = now
	a.used++
	return a.used <= burst
}
