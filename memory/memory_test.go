package memory

import (
	"runtime/debug"
	"testing"
	"time"
)

// TestCalm: it is calm after a while in which the process took less than a tenth of a processor.
func TestCalm(t *testing.T) {
	start := time.Now()
	var c calm
	for _, step := range []struct {
		at, spent time.Duration
		want      bool
	}{
		{0, time.Second, false}, // nothing is known of before
		{2 * time.Second, 1100 * time.Millisecond, true},
		{4 * time.Second, 1400 * time.Millisecond, false},
		{6 * time.Second, 1400 * time.Millisecond, true},
		{6 * time.Second, 1400 * time.Millisecond, false}, // no time has passed
	} {
		if got := c.since(start.Add(step.at), step.spent); got != step.want {
			t.Errorf("after %v and %v of CPU: %v", step.at, step.spent, got)
		}
	}
	before := cpu()
	for end := time.Now().Add(30 * time.Second); cpu()-before < 20*time.Millisecond; {
		if time.Now().After(end) {
			t.Fatal("work takes no CPU")
		}
	}
}

// TestIdle: what was allocated and what became free could be given back, and is not counted any more once it was.
func TestIdle(t *testing.T) {
	defer debug.SetGCPercent(debug.SetGCPercent(-1)) // what is held would be no garbage any more
	debug.FreeOSMemory()
	before := idle()
	hold := make([][]byte, 64)
	for i := range hold {
		hold[i] = make([]byte, 1<<20)
		hold[i][0] = 1
	}
	if got := idle(); got < before+16<<20 {
		t.Errorf("%d bytes, and %d after 64 MiB were allocated", before, got)
	}
	clear(hold)
	debug.FreeOSMemory()
	if got := idle(); got > before+16<<20 {
		t.Errorf("%d bytes, and %d after they were given back", before, got)
	}
}
