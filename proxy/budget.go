package proxy

import (
	"sync/atomic"
	"time"
)

// budget bounds the retries of a service to 20 % of its requests plus 10 a second, over any time and on top of a burst
// of 100 (both are Linkerd's published defaults; it looks back 10 s). It is a token bucket in thousandths of a retry.
type budget struct {
	tokens atomic.Int64
	last   atomic.Int64 // unix nanoseconds of the last refill
}

const (
	budgetPerRequest = 200 // thousandths
	budgetPerSecond  = 10_000
	budgetBurst      = 100_000
)

func newBudget(now time.Time) *budget {
	b := &budget{}
	b.tokens.Store(budgetBurst)
	b.last.Store(now.UnixNano())
	return b
}

// deposit adds a request's share.
func (b *budget) deposit() {
	if b.tokens.Load() < budgetBurst {
		b.tokens.Add(budgetPerRequest)
	}
}

// take says whether one more retry is within the budget, and books it.
func (b *budget) take(now time.Time) bool {
	last := b.last.Load()
	elapsed := min(now.UnixNano()-last, int64(10*time.Second))
	if gained := elapsed * budgetPerSecond / int64(time.Second); gained > 0 && b.last.CompareAndSwap(last, now.UnixNano()) {
		b.tokens.Add(min(gained, max(0, budgetBurst-b.tokens.Load())))
	}
	if b.tokens.Add(-1000) >= 0 {
		return true
	}
	b.tokens.Add(1000)
	return false
}
