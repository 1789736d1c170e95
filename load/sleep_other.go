//go:build !linux

package load

import "time"

// sleeper waits with the runtime's timers, whose resolution bounds the precision of the schedule.
type sleeper struct{ timer *time.Timer }

func newSleeper() sleeper { return sleeper{time.NewTimer(0)} }

// arm has wait return after d. It may be called while wait waits.
func (s sleeper) arm(d time.Duration) { s.timer.Reset(d) }

// wait may return early.
func (s sleeper) wait() { <-s.timer.C }

func (sleeper) close() {}
