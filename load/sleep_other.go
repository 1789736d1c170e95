//go:build !linux

package load

import "time"

// sleeper waits with the runtime's timers, whose resolution bounds the precision of the schedule.
type sleeper struct{}

func newSleeper() sleeper { return sleeper{} }

func (sleeper) sleep(d time.Duration) { time.Sleep(d) }
