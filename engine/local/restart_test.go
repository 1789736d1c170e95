package local

import (
	"testing"
	"time"

	"trellis/driver"
	"trellis/state"
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

// TestADayAsleepRestartsNothing: between two looks of the loop a day passes, of which no instance has noticed anything.
func TestADayAsleepRestartsNothing(t *testing.T) {
	bubble(t, func(b *bench) {
		b.apply(project(server("web", 3), server("api", 2)))
		b.settled(state.Healthy)
		b.world.Crash(full(projectName, b.service("api").Instances[0].ID), 1, "")
		time.Sleep(10 * time.Second) // its failures are not forgotten yet
		starts, unready := b.world.Starts(), len(b.events("instance.unready"))
		b.kill()
		time.Sleep(24 * time.Hour)
		b.run()
		time.Sleep(time.Minute)
		if n := b.world.Starts() - starts; n != 0 {
			t.Errorf("%d instances were started", n)
		}
		if n := len(b.events("instance.unready")) - unready; n != 0 {
			t.Errorf("%d were taken out of rotation", n)
		}
		for name, want := range map[string]int{"web": 3, "api": 2} {
			if n := b.plane.serving(name); n != want {
				t.Errorf("%d of %s serve, %d have to", n, name, want)
			}
		}
	})
}
