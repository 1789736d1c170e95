package proxy

import (
	"context"
	"runtime/debug"
	"runtime/metrics"
	"syscall"
	"time"
)

// A data plane that has hardly anything to do gives back what it holds of memory for nothing. The runtime collects only when
// as much again was allocated as is in use, and keeps for minutes what became free: after a wave of connections, above all
// of TLS handshakes, that is half of what the process has (docs/decisions/047).
const (
	calmLook  = 2 * time.Second
	calmShare = 0.1      // of one processor's time: less than that is hardly anything
	calmGain  = 16 << 20 // bytes that make a collection worth its while
)

// calm looks whether the process has hardly anything to do.
type calm struct {
	at    time.Time
	spent time.Duration // of CPU by all of the process
}

// giveBack gives memory back whenever that is worth it and nobody is kept waiting, until ctx is done.
func giveBack(ctx context.Context) {
	tick := time.NewTicker(calmLook)
	defer tick.Stop()
	var c calm
	for {
		select {
		case now := <-tick.C:
			if c.since(now, cpuSpent()) && idleMemory() >= calmGain {
				debug.FreeOSMemory()
				c.spent = cpuSpent() // what this took is nobody's work
			}
		case <-ctx.Done():
			return
		}
	}
}

// since says whether the process had hardly anything to do since the last time it was asked.
func (c *calm) since(now time.Time, spent time.Duration) bool {
	was := *c
	*c = calm{now, spent}
	return !was.at.IsZero() && float64(spent-was.spent) < calmShare*float64(now.Sub(was.at))
}

// cpuSpent returns the CPU time of all of the process, kernel included; where it cannot be told, ever more.
func cpuSpent() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return time.Duration(time.Now().UnixNano())
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// idleMemory returns the bytes of the heap that could be given back at most: what is free, and what was allocated since the
// last collection, as if all of that were garbage.
func idleMemory() uint64 {
	list := []metrics.Sample{{Name: "/memory/classes/heap/free:bytes"}, {Name: "/memory/classes/heap/objects:bytes"}, {Name: "/gc/heap/live:bytes"}}
	metrics.Read(list)
	free, objects, live := list[0].Value.Uint64(), list[1].Value.Uint64(), list[2].Value.Uint64()
	return free + max(objects, live) - live
}
