package holder

import (
	"runtime"
	"time"

	"golang.org/x/sys/unix"
)

// slack is how late the timers of control plane and data plane may be. Go's runtime looks after its threads every 20 µs
// while there is work; with the kernel's slack of 50 µs that is a fifth of what a request costs, with this one a twentieth.
// A thread that waits for another one's work sleeps as long, so it stays well below a millisecond.
const slack = 250 * time.Microsecond

// loosely calls start, which starts a process, on a thread with slack: a process has that of the thread that started it.
func loosely(start func() error) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if before, err := unix.PrctlRetInt(unix.PR_GET_TIMERSLACK, 0, 0, 0, 0); err == nil && unix.Prctl(unix.PR_SET_TIMERSLACK, uintptr(slack), 0, 0, 0) == nil {
		defer func() { _ = unix.Prctl(unix.PR_SET_TIMERSLACK, uintptr(before), 0, 0, 0) }()
	}
	return start()
}
