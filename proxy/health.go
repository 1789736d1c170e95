package proxy

import (
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// health is what the data plane itself found out about one port of an instance. Two things count: connections that fail, which say
// at once that nobody is there, and answers that break off, which say so only in a row.
type health struct {
	mu      sync.Mutex
	until   time.Time // out of the choice until then
	hard    bool      // because it could not be connected to
	since   time.Time // when the first of the connects failed that did so in a row
	asked   bool      // a probe finds out when it is back, in place of a trial
	breaks  int       // broken answers in a row
	ejected int       // ejections in a row

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

// silence is how long an instance's host may acknowledge nothing of what it was sent, or of what it is asked where nothing is to
// be sent, until it counts as gone. Programs have no part in that: a host acknowledges for one that is busy or stopped too.
const silence = 3 * time.Second

// askWhenSilent has the kernel ask the other host whether it is still there, on connections over which nothing comes.
var askWhenSilent = net.KeepAliveConfig{Enable: true, Idle: silence / 3, Interval: silence / 3, Count: 3}

const (
	silentToEject = 3 // connects that time out, where none succeeds in between
	breaksToEject = 5 // Envoy's consecutive_gateway_failure
	firstEjection = time.Second
	longestOut    = 30 * time.Second
	// The pause between two looks whether an instance is back that refused a connection: a part of the time since, so that
	// one that is started again at once is taken again at once, and one that stays away costs next to nothing.
	shortestPause = 250 * time.Microsecond
	pauseShare    = 32
	longestPause  = time.Second
)

// awayPause returns the pause before the next look at an instance that has been away for so long.
func awayPause(away time.Duration) time.Duration {
	return min(max(away/pauseShare, shortestPause), longestPause)
}

// out returns until when the instance is out of the choice (zero: it is not), and whether it can't be connected to.
func (h *health) out(now time.Time) (until time.Time, hard bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.until.IsZero() {
		return time.Time{}, false
	}
	if h.asked {
		return time.Time{}, true
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

// unreachable notes a failed connect, and says whether that was news. asked: somebody finds out when the instance is
// back, and calls returned; otherwise it is out for awayPause.
func (h *health) unreachable(now time.Time, asked bool) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.hard && (h.asked || h.until.After(now)) {
		return false // others tried at the same moment
	}
	if h.since.IsZero() {
		h.since = now
	}
	h.hard, h.asked = true, asked
	h.until = now.Add(awayPause(now.Sub(h.since)))
	h.trial.Store(trialNone)
	return true
}

// away returns for how long connects have failed.
func (h *health) away(now time.Time) time.Duration {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.since.IsZero() {
		return 0
	}
	return now.Sub(h.since)
}

// waiting says whether somebody still has to find out when the instance is back.
func (h *health) waiting() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.asked
}

// returned notes that the instance answers again, or that nobody asks any more. The first request goes alone: it may
// have been another port that answered.
func (h *health) returned() {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.asked {
		h.asked, h.hard, h.until = false, false, time.Time{}
		h.trial.CompareAndSwap(trialNone, trialOpen)
	}
}

// unanswered notes a connect that timed out; it says whether that makes the instance unreachable. One that times out
// while others succeed is the load's fault, and taking the instance out would move that load to the next.
func (h *health) unanswered() bool {
	return h.silent.Add(1) >= silentToEject || h.busy()
}

// broke notes an answer that broke off or never came; it says whether that ejects the instance, as it does after most in
// a row.
func (h *health) broke(now time.Time, most int) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.breaks++
	h.broken.Store(int32(h.breaks))
	if h.breaks < most || h.hard {
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
	h.since = time.Time{}
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
	h.until, h.hard, h.asked, h.since, h.breaks, h.ejected = time.Time{}, false, false, time.Time{}, 0, 0
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
	return h.until.After(now) || h.asked || h.trial.Load() != trialNone
}
