package proxy

import (
	"runtime"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestNap: a short pause is kept to a part of a millisecond, and the thread's timers are what they were.
func TestNap(t *testing.T) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	const slack, d = 3 * time.Millisecond, 200 * time.Microsecond
	before, err := unix.PrctlRetInt(unix.PR_GET_TIMERSLACK, 0, 0, 0, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Prctl(unix.PR_SET_TIMERSLACK, uintptr(slack), 0, 0, 0); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Prctl(unix.PR_SET_TIMERSLACK, uintptr(before), 0, 0, 0) }()
	shortest := time.Hour
	for range 100 { // a busy machine wakes late, but not always
		start := time.Now()
		nap(d)
		shortest = min(shortest, time.Since(start))
	}
	if shortest < d || shortest > time.Millisecond {
		t.Errorf("the shortest of many naps of %v took %v", d, shortest)
	}
	if after, err := unix.PrctlRetInt(unix.PR_GET_TIMERSLACK, 0, 0, 0, 0); err != nil || time.Duration(after) != slack {
		t.Errorf("the slack is %v afterwards, %v; it was %v", time.Duration(after), err, slack)
	}
}
