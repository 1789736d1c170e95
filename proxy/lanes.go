package proxy

import (
	"iter"
	"maps"
	"sync/atomic"
	"time"
)

// lanes are those of a service by port. A part of them is copied for each new one, so that finding one takes no lock.
type lanes [64]atomic.Pointer[map[int]*lane]

func (ls *lanes) part(port int) *atomic.Pointer[map[int]*lane] { return &ls[uint(port)%uint(len(ls))] }

// at returns the lane of a port, nil for none.
func (ls *lanes) at(port int) *lane {
	if part := ls.part(port).Load(); part != nil {
		return (*part)[port]
	}
	return nil
}

// change has f change a copy of the part that a port is in. One at a time may.
func (ls *lanes) change(port int, f func(part map[int]*lane)) {
	at := ls.part(port)
	part := map[int]*lane{}
	if old := at.Load(); old != nil {
		part = maps.Clone(*old)
	}
	f(part)
	at.Store(&part)
}

func (ls *lanes) all() iter.Seq[*lane] {
	return func(yield func(*lane) bool) {
		for i := range ls {
			part := ls[i].Load()
			if part == nil {
				continue
			}
			for _, l := range *part {
				if !yield(l) {
					return
				}
			}
		}
	}
}

func (ls *lanes) len() (n int) {
	for range ls.all() {
		n++
	}
	return n
}

const (
	keptLanes = 64          // of a service; no program is known that is called at more ports for long
	laneTime  = time.Minute // for which nobody asks for one of the others; longer than idleTime: no connection is lost with it
)

// States of a lane.
const (
	laneUsed = iota // somebody asked for it since it was last looked at
	laneIdle
	laneGone // forgotten: the port gets another one
)

// use notes that somebody asks for the lane; false says that it is gone.
func (l *lane) use() bool {
	for {
		switch l.state.Load() {
		case laneUsed:
			return true
		case laneGone:
			return false
		}
		if l.state.CompareAndSwap(laneIdle, laneUsed) {
			return true
		}
	}
}

// forgetLanes lets go of lanes for which nobody has asked for some time: somebody may just have tried every port that there
// is. s.mu is held.
func (s *service) forgetLanes(now time.Time) {
	if s.lanes.len() <= keptLanes {
		return
	}
	for l := range s.lanes.all() {
		switch {
		case l.state.CompareAndSwap(laneUsed, laneIdle):
			l.idle = now
		case now.Sub(l.idle) < laneTime || !l.queue.empty():
		case l.state.CompareAndSwap(laneIdle, laneGone):
			s.forget(l)
		}
	}
}

// forget takes a lane out that is gone, with what instances have for its port. s.mu is held.
func (s *service) forget(l *lane) {
	s.lanes.change(l.port, func(part map[int]*lane) { delete(part, l.port) })
	s.hints.Delete(l.port)
	if l.timer != nil {
		l.timer.Stop()
	}
	for _, inst := range s.instances {
		inst.forgetPool(l.port)
	}
	for inst := range s.leaving {
		inst.forgetPool(l.port)
	}
}

// forgetPool lets go of a target port: what is in use is closed when it is done.
func (i *instance) forgetPool(port int) {
	i.mu.Lock()
	p := i.pools[port]
	delete(i.pools, port)
	i.mu.Unlock()
	if p != nil {
		p.forgotten.Store(true)
		p.drop()
	}
}
