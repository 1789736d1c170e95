// Package memory gives back to the kernel what a process holds of it for nothing.
package memory

import (
	"context"
	"runtime/debug"
	"runtime/metrics"
	"syscall"
	"time"
)

const (
	look  = 2 * time.Second
	share = 0.1              // of one processor's time: who takes less has hardly anything to do
	gain  = 8 << 20          // bytes that make a collection worth its while
	pause = 30 * time.Second // between two: what was given back is asked for again
)

// GiveBack collects garbage and gives back what is free whenever the process has hardly anything to do and that is worth it, until
// ctx is done. The runtime by itself collects only when as much again was allocated as is in use, and keeps for minutes what became
// free: after a wave of work that may be half of what the process has.
func GiveBack(ctx context.Context) {
	tick := time.NewTicker(look)
	defer tick.Stop()
	var c calm
	var last time.Time
	for {
		select {
		case now := <-tick.C:
			if c.since(now, cpu()) && now.Sub(last) >= pause && idle() >= gain {
				debug.FreeOSMemory()
				last, c.spent = now, cpu() // what this took is nobody's work
			}
		case <-ctx.Done():
			return
		}
	}
}

// calm looks whether the process has hardly anything to do.
type calm struct {
	at    time.Time
	spent time.Duration // of CPU by all of the process
}

// since says whether the process had hardly anything to do since the last time it was asked.
func (c *calm) since(now time.Time, spent time.Duration) bool {
	was := *c
	*c = calm{now, spent}
	return !was.at.IsZero() && float64(spent-was.spent) < share*float64(now.Sub(was.at))
}

// cpu returns the CPU time of all of the process, kernel included; where it cannot be told, ever more.
func cpu() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return time.Duration(time.Now().UnixNano())
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// idle returns the bytes of the heap that could be given back at most: what is free, and what was allocated since the last
// collection, as if all of that were garbage.
func idle() uint64 {
	list := []metrics.Sample{{Name: "/memory/classes/heap/free:bytes"}, {Name: "/memory/classes/heap/objects:bytes"}, {Name: "/gc/heap/live:bytes"}}
	metrics.Read(list)
	free, objects, live := list[0].Value.Uint64(), list[1].Value.Uint64(), list[2].Value.Uint64()
	return free + max(objects, live) - live
}
