package proxy

import (
	"runtime"
	"time"

	"golang.org/x/sys/unix"
)

// nap sleeps in the kernel, without the slack that the process's timers have (docs/decisions/170).
func nap(d time.Duration) {
	runtime.LockOSThread() // the slack is a thread's
	defer runtime.UnlockOSThread()
	if slack, err := unix.PrctlRetInt(unix.PR_GET_TIMERSLACK, 0, 0, 0, 0); err == nil && unix.Prctl(unix.PR_SET_TIMERSLACK, 1, 0, 0, 0) == nil {
		defer func() { _ = unix.Prctl(unix.PR_SET_TIMERSLACK, uintptr(slack), 0, 0, 0) }()
	}
	t := unix.NsecToTimespec(int64(d))
	_ = unix.Nanosleep(&t, nil) // a signal that ends it early makes one look more
}
