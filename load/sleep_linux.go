package load

import (
	"runtime"
	"time"

	"golang.org/x/sys/unix"
)

// sleeper waits on a thread of its own in the kernel's timer. The runtime's timers would do, but an idle Go program
// waits for them in epoll with a resolution of 1 ms, and then everything is late by half of that.
type sleeper struct{}

// newSleeper ties the calling goroutine to its thread; the thread ends with the goroutine.
func newSleeper() sleeper {
	runtime.LockOSThread()
	// The default slack of 50 µs is there to save wake-ups. Where it cannot be set, wake-ups are that much later.
	_ = unix.Prctl(unix.PR_SET_TIMERSLACK, 1, 0, 0, 0)
	return sleeper{}
}

// sleep may return early.
func (sleeper) sleep(d time.Duration) {
	ts := unix.NsecToTimespec(int64(d))
	_ = unix.ClockNanosleep(unix.CLOCK_MONOTONIC, 0, &ts, nil)
}
