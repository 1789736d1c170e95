package http2

import "time"

// guard counts what a client sends, and finds what is a flood: frames that cost next to nothing each and lead to no
// request. A million of them a second keep a processor busy as well as requests do.
type guard struct {
	now func() time.Time

	idle    allowance // frames that say nothing of a request
	updates allowance // WINDOW_UPDATE beyond those that what was sent is worth
	streams int
	resets  int // of streams, by the client or for what it did
	parts   int // CONTINUATION of the last head
	granted int64
}

// Bounds of frames. A client that behaves comes nowhere near: gRPC pings once in ten seconds, a browser updates windows
// once for some 10 KiB.
const (
	idleBurst, idleRate     = 1000, 100  // PING, SETTINGS, PRIORITY, empty DATA, unknown ones, a second
	updateBurst, updateRate = 5000, 1000 // WINDOW_UPDATE, a second
	updateShare             = 256        // bytes sent that are worth one more of them
	maxParts                = 16         // CONTINUATION of one head; 32 KiB is two full ones
	freeResets              = 500        // beyond them no more than half of the streams (Envoy's premature_reset)
)

// takes counts a frame, of a connection over which so many bytes were sent; false says that it is too much.
func (g *guard) takes(f frame, sent int64) bool {
	switch f.kind {
	case frameData:
		return f.length > 0 || f.has(flagEndStream) || g.wasted()
	case frameHeaders:
		g.streams++
		g.parts = 0
		return true
	case frameContinuation:
		g.parts++
		return g.parts <= maxParts
	case frameReset:
		return g.reset()
	case frameWindowUpdate:
		if sent-g.granted >= updateShare {
			g.granted += updateShare
			return true
		}
		return g.updates.take(g.now(), updateBurst, updateRate)
	}
	return g.wasted()
}

// wasted counts a frame that says nothing of a request.
func (g *guard) wasted() bool { return g.idle.take(g.now(), idleBurst, idleRate) }

// reset counts a stream that came to nothing. One that is broken off for what the client did on it costs as much as one
// that it breaks off itself.
func (g *guard) reset() bool {
	g.resets++
	return g.resets <= freeResets || g.resets <= g.streams/2
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
