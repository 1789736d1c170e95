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
	early, kept := 0, 0
	for range 100 { // a busy machine wakes late, and a signal wakes early, but not always
		start := time.Now()
		nap(d)
		switch took := time.Since(start); {
		case took < d:
			early++
		case took <= time.Millisecond:
			kept++
		}
	}
	if kept == 0 || early > 10 {
		t.Errorf("of 100 naps of %v %d took up to a millisecond, and %d less than they should", d, kept, early)
	}
	if after, err := unix.PrctlRetInt(unix.PR_GET_TIMERSLACK, 0, 0, 0, 0); err != nil || time.Duration(after) != slack {
		t.Errorf("the slack is %v afterwards, %v; it was %v", time.Duration(after), err, slack)
	}
}
