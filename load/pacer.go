package load

import (
	"math"
	"time"
)

// Pacer is a schedule: the intended starts of a run, in order. It is used by one run and by one goroutine at a time.
type Pacer interface {
	// Next returns the next intended start, counted from the beginning of the run and never before the previous one; ok
	// is false when the schedule is over, and stays so. It must not block: a run calls it under its lock.
	Next() (at time.Duration, ok bool)
}

type constant struct {
	rate   float64
	length time.Duration
	n      float64
}

// Constant is rate starts per second, evenly spaced, the first at once, for as long as length. Each start is computed
// from its number, so that rounding does not add up, and to the nearest nanosecond: one less would bring the start at the end of length
// into it.
func Constant(rate float64, length time.Duration) Pacer { return &constant{rate: rate, length: length} }

func (c *constant) Next() (time.Duration, bool) {
	at := time.Duration(math.Round(c.n / c.rate * float64(time.Second)))
	if at >= c.length {
		return 0, false
	}
	c.n++
	return at, true
}
