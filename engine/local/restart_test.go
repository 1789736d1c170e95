package local

import (
	"testing"
	"time"

	"trellis/driver"
)

// TestTheClockIsSet: a clock that is set by hours or a year when an instance ends neither keeps it down nor lets it be
// started without its pause for longer than that.
func TestTheClockIsSet(t *testing.T) {
	seenAt := time.Now()
	policy := restartPolicy{condition: restartAlways, delay: 4 * time.Second}
	for by, want := range map[time.Duration]time.Duration{
		0:                     4 * time.Second,
		-time.Second:          3 * time.Second, // it ended a second before it was seen
		-time.Hour:            0,
		time.Hour:             4 * time.Second,
		365 * 24 * time.Hour:  4 * time.Second,
		-365 * 24 * time.Hour: 0,
	} {
		// What drivers read from a file knows the wall clock alone.
		exit := driver.Exit{Code: 1, Time: seenAt.Add(by).Round(0)}
		inst := seen{id: "shop/web-1-0000000a", state: driver.Exited, exit: &exit, failures: 1, over: seenAt}
		got := policy.at(inst).Sub(seenAt)
		if latest := want + want/4 + time.Second; got < want || got > latest {
			t.Errorf("an end that the clock puts %v after it was seen: started again after %v, want %v", by, got, want)
		}
	}
}
