package proxy

import (
	"sync"
	"sync/atomic"
	"time"
)

// budget bounds the retries of a service to 20 % of its requests plus 10 a second, both over the last ten seconds: the
// defaults and the window that Linkerd publishes. What happened longer ago neither allows nor forbids anything, so an
// instance that takes hundreds of requests with it when it dies is ridden out where there are thousands, and a service
// that fails for good never sees more than a fifth on top.
type budget struct {
	mu    sync.Mutex // one retry is decided at a time
	slots [budgetSlots]budgetSlot
}

// budgetSlot counts one second.
type budgetSlot struct {
	second            atomic.Int64 // since 1970
	requests, retries atomic.Int64
}

const (
	budgetWindow    = 10 // seconds, with the one that runs
	budgetSlots     = 16
	budgetShare     = 5 // one retry for so many requests
	budgetPerSecond = 10
)

// at returns the slot of a second. One that was another second's begins anew; what others count in that moment may be lost.
func (b *budget) at(second int64) *budgetSlot {
	s := &b.slots[second%budgetSlots]
	if was := s.second.Load(); was != second && s.second.CompareAndSwap(was, second) {
		s.requests.Store(0)
		s.retries.Store(0)
	}
	return s
}

// deposit counts a request.
func (b *budget) deposit(now time.Time) { b.at(now.Unix()).requests.Add(1) }

// take says whether one more retry is within the budget, and books it.
func (b *budget) take(now time.Time) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	second := now.Unix()
	this := b.at(second)
	requests, retries := int64(0), int64(0)
	for i := range b.slots {
		if s := &b.slots[i]; s.second.Load() > second-budgetWindow && s.second.Load() <= second {
			requests += s.requests.Load()
			retries += s.retries.Load()
		}
	}
	if retries >= requests/budgetShare+budgetPerSecond*budgetWindow {
		return false
	}
	this.retries.Add(1)
	return true
}
