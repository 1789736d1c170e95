package local

import "time"

// The pause between two looks at what is in flight while instances drain: short at first, then longer.
const (
	drainPoll    = 10 * time.Millisecond
	drainPollMax = 250 * time.Millisecond
)

// stampDrains notes from which snapshot on an instance gets nothing new.
func (l *loop) stampDrains(version uint64) {
	for _, m := range l.memory.instances {
		if !m.drainSince.IsZero() && m.drainedBy == 0 {
			m.drainedBy = version
		}
	}
}

// idleAtOnce is for engines without a data plane: nothing is ever in flight.
func (l *loop) idleAtOnce() {
	for _, m := range l.memory.instances {
		m.idle = !m.drainSince.IsZero()
	}
}

// pollInUse asks the data plane, a little later, what is in flight at draining instances.
func (l *loop) pollInUse(now time.Time) {
	var first time.Time
	for _, m := range l.memory.instances {
		if !m.drainSince.IsZero() && !m.idle && (first.IsZero() || m.drainSince.After(first)) {
			first = m.drainSince
		}
	}
	if first.IsZero() || l.polling {
		return
	}
	l.polling = true
	l.tasks.Go(func() {
		l.sleep(min(drainPoll+now.Sub(first)/4, drainPollMax))
		inUse, version, err := l.cfg.Plane.InUse(l.ctx)
		l.mu.Lock()
		l.polling = false
		if err == nil {
			for id, m := range l.memory.instances {
				if m.drainedBy > 0 && version >= m.drainedBy {
					m.idle = inUse[string(short(l.cfg.Project, id))] == 0
				}
			}
		}
		l.mu.Unlock()
		l.poke()
	})
}
