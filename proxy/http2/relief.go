package http2

import (
	"context"
	"sync"
	"time"
)

// Relief lets who reads a connection serve a request itself, where that came alone: a goroutine for it costs more than the
// rest of what HTTP/2 does. Frames that come meanwhile must not wait for it: Relief looks at those connections every beat,
// and where something has come another goroutine reads on.
type Relief struct {
	wake chan struct{} // capacity 1: there is a first one

	mu   sync.Mutex
	lent []*Conn // whose reader serves, or did at the last beat
}

const (
	reliefBeat  = 2 * time.Millisecond
	reliefBeats = 8 // after so many another goroutine reads on in any case

	// So many requests have goroutines of their own after one that took so long, or that came while another was open: there
	// will be more of the kind.
	apartFor = 32
)

// NewRelief returns one that works while Run does.
func NewRelief() *Relief { return &Relief{wake: make(chan struct{}, 1)} }

// Run works until ctx is done; without anything to look at it rests.
func (r *Relief) Run(ctx context.Context) {
	tick := time.NewTicker(reliefBeat)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			if r.beat() == 0 {
				tick.Stop()
			}
		case <-r.wake:
			tick.Reset(reliefBeat)
		case <-ctx.Done():
			return
		}
	}
}

func (r *Relief) add(c *Conn) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.lent = append(r.lent, c)
	if len(r.lent) == 1 {
		select {
		case r.wake <- struct{}{}:
		default:
		}
	}
}

// beat looks at all and returns how many are left.
func (r *Relief) beat() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	left := r.lent[:0]
	for _, c := range r.lent {
		if c.relieve() {
			left = append(left, c)
		}
	}
	clear(r.lent[len(left):])
	r.lent = left
	return len(left)
}

// relieve hands the reading on where it has to be; it says whether to look again.
func (c *Conn) relieve() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.lent {
		c.beats++
		if c.beats < reliefBeats && c.link.Quiet() {
			return true
		}
		c.handOn()
	}
	c.watched = false
	return false
}

// handOn has another goroutine read on while the one that did serves a request. c.mu is held.
func (c *Conn) handOn() {
	if !c.lent {
		return
	}
	c.lent = false
	if c.beats >= reliefBeats {
		c.apart = apartFor
	}
	c.reader++
	if c.ended == nil {
		c.ended = make(chan error, 1)
	}
	go func() {
		if mine, err := c.run(); mine {
			c.ended <- c.end(err)
		}
	}()
}

// serveBegun has the requests served that came with what was read last, but one that came alone: that is for who reads.
// Those that were broken off in the same breath cost next to nothing so.
func (c *Conn) serveBegun() (alone *Stream) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for i, s := range c.begun {
		c.begun[i] = nil
		switch {
		case s.err != nil:
			c.running--
			s.stop() // what came of its body counts in the connection's window
		case c.cfg.Relief != nil && !c.leaving && c.dead == nil && c.apart == 0 && c.running == 1 && s.ended && !c.in.Pending():
			alone = s
		default:
			go c.serve(s)
		}
	}
	c.begun = c.begun[:0]
	return alone
}

// serveAlone serves the only request there is, and says whether its goroutine is still the one that reads.
func (c *Conn) serveAlone(s *Stream) bool {
	reader := c.lend()
	c.cfg.Serve(s)
	c.over(s)
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.reader != reader {
		return false
	}
	c.lent = false
	return true
}

// lend notes that who reads is about to serve, and returns which one that is.
func (c *Conn) lend() (reader int) {
	c.in.Release()
	c.link.Await(Frame)
	c.mu.Lock()
	c.lent, c.beats = true, 0
	reader, watched := c.reader, c.watched
	c.watched = true
	c.mu.Unlock()
	if !watched {
		c.cfg.Relief.add(c)
	}
	return reader
}
