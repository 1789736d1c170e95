package server

import (
	"context"
	"time"
)

// pace is the pause between two looks at something that hangs on the calendar, as a certificate does. It goes by the wall
// clock, which goes on while the machine sleeps and may be set; a timer knows of neither.
type pace struct {
	every time.Duration
	last  time.Time // without its monotonic reading
}

// beat is how soon pace finds out that the machine has slept.
const beat = time.Second

// due says whether it is time to look again, and begins the next pause then. The first time it is.
func (p *pace) due(now time.Time) bool {
	now = now.Round(0)
	if passed := now.Sub(p.last); passed >= 0 && passed < p.every {
		return false
	}
	p.last = now
	return true
}

// await returns true when it is time to look again or next is closed, false when ctx is done.
func (p *pace) await(ctx context.Context, next <-chan struct{}) bool {
	p.last = time.Now().Round(0)
	tick := time.NewTicker(beat)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return false
		case <-next:
			return true
		case now := <-tick.C:
			if p.due(now) {
				return true
			}
		}
	}
}
