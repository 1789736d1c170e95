package proxy

import (
	"sync"
	"sync/atomic"
	"time"
)

// health is what the data plane itself found out about one port of an instance. Two things count: connections that fail, which say
// at once that nobody is there, and answers that break off, which say so only in a row.
type health struct {
	mu       sync.Mutex
	until    time.Time // out of the choice until then
	hard     bool      // because it could not be connected to
	connects int       // failed connects in a row
	breaks   int       // broken answers in a row
	ejected  int       // ejections in a row

	broken atomic.Int32 // breaks, readable without the lock
	silent atomic.Int32 // connects in a row that timed out
	trial  atomic.Int32
}

// States of a trial: after a failed connect one request alone may try whether the instance is back.
const (
	trialNone = iota
	trialOpen
	trialBusy
)

const (
	silentToEject  = 3 // connects that time out, where none succeeds in between
	breaksToEject  = 5 // Envoy's consecutive_gateway_failure
	firstEjection  = time.Second
	longestOut     = 30 * time.Second
	firstReconnect = 5 * time.Millisecond
	longestBackoff = time.Second
)

// out returns until when the instance is out of the choice (zero: it is not), and whether it can't be connected to.
func (h *health) out(now time.Time) (until time.Time, hard bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.until.IsZero() {
		return time.Time{}, false
	}
	if h.until.After(now) {
		return h.until, h.hard
	}
	h.until = time.Time{}
	if h.hard {
		h.hard = false
		h.trial.CompareAndSwap(trialNone, trialOpen)
	}
	return time.Time{}, false
}

// unreachable notes a failed connect: out for 5 ms, doubled each time up to 1 s. It says whether that was news.
func (h *health) unreachable(now time.Time) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.hard && h.until.After(now) {
		return false // others tried at the same moment
	}
	h.hard = true
	h.until = now.Add(min(firstReconnect<<min(h.connects, 10), longestBackoff))
	h.connects++
	h.trial.Store(trialNone)
	return true
}

// unanswered notes a connect that timed out; it says whether that makes the instance unreachable. One that times out
// while others succeed is the load's fault, and taking the instance out would move that load to the next.
func (h *health) unanswered() bool {
	return h.silent.Add(1) >= silentToEject || h.busy()
}

// broke notes an answer that broke off or never came; it says whether that ejects the instance.
func (h *health) broke(now time.Time) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.breaks++
	h.broken.Store(int32(h.breaks))
	if h.breaks < breaksToEject || h.hard {
		return false
	}
	h.until = now.Add(min(firstEjection<<min(h.ejected, 10), longestOut))
	h.ejected++
	h.breaks = 0
	return true
}

// connected notes a connection that was made; it says whether that ended a trial.
func (h *health) connected() bool {
	if h.silent.Load() != 0 {
		h.silent.Store(0)
	}
	if h.trial.Load() == trialNone {
		return false
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.connects = 0
	return h.trial.Swap(trialNone) == trialBusy
}

// answered notes a whole response head.
func (h *health) answered() {
	if h.broken.Load() == 0 {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.breaks, h.ejected = 0, 0
	h.broken.Store(0)
}

// reset forgets everything: the instance was seen to become ready anew.
func (h *health) reset() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.until, h.hard, h.connects, h.breaks, h.ejected = time.Time{}, false, 0, 0, 0
	h.broken.Store(0)
	h.silent.Store(0)
	h.trial.Store(trialNone)
}

func (h *health) busy() bool { return h.trial.Load() == trialBusy }

// abandon gives a trial back that came to no result.
func (h *health) abandon() bool { return h.trial.CompareAndSwap(trialBusy, trialOpen) }

// ejectedAt says whether the instance is out of the choice, or back on trial only.
func (h *health) ejectedAt(now time.Time) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.until.After(now) || h.trial.Load() != trialNone
}
