package load

import "time"

// due takes the first start that is due and may still be sent, and counts those before it as missed. It is called with
// r.mu held.
func (r *run) due(now time.Duration) (start, bool) {
	for {
		s, ok := r.take(now)
		if !ok {
			return start{}, false
		}
		first := s.visit == nil || s.visit.next == s.visit.first
		late := now-s.at >= r.cfg.Timeout || first && r.cfg.Duration > 0 && now >= r.cfg.Duration+r.cfg.Drain
		if !late {
			return s, true
		}
		r.missed = s.result()
		r.missed.Done, r.missed.Kind = now, Missed
		r.record(&r.missed)
		if s.visit != nil {
			r.visits.after(s.visit, &r.missed)
		}
	}
}

// take takes the first start that is due, of the schedule or of a visit under way.
func (r *run) take(now time.Duration) (start, bool) {
	for {
		scheduled := r.more && r.next <= now
		if r.visits == nil {
			if !scheduled {
				return start{}, false
			}
			return r.scheduled(), true
		}
		if v := r.visits.first(); v != nil && v.due <= now && !(scheduled && r.next < v.due) {
			r.visits.pop()
			r.seq++
			return start{seq: r.seq - 1, at: v.due, visit: v}, true
		}
		if !scheduled {
			return start{}, false
		}
		at := r.next
		r.next, r.more = r.cfg.Pacer.Next()
		if v := r.visits.open(at); v != nil { // one too many
			r.missed = Result{Seq: r.seq, Request: v.step().index, Visit: v.number, Intended: at, Done: now, Kind: Missed}
			r.seq++
			r.record(&r.missed)
		}
	}
}

// scheduled takes the next start of the schedule.
func (r *run) scheduled() start {
	s := start{seq: r.seq, at: r.next, request: r.mix.of(r.seq)}
	r.seq++
	r.next, r.more = r.cfg.Pacer.Next()
	return s
}

// wait is how long nothing will be due; more is false when nothing ever will. It is called with r.mu held.
func (r *run) wait(now time.Duration) (wait time.Duration, more bool) {
	if r.visits == nil {
		return r.next - now, r.more
	}
	wait = nap // a visit whose request is under way calls the pacer when it is due again: see sooner
	if r.more {
		wait = min(wait, r.next-now)
	}
	if v := r.visits.first(); v != nil {
		wait = min(wait, v.due-now)
	}
	return wait, !r.ended
}

// pace gives due starts to idle workers until the schedule is over.
func (r *run) pace() {
	for {
		w, s, wait := r.dispatch()
		switch {
		case w != nil:
			w.begin(s, r.since())
		case wait > 0:
			r.clock.wait()
		case wait == 0:
			select {
			case <-r.rouse:
			case <-r.over:
				return
			}
		default:
			return
		}
	}
}

// dispatch returns an idle worker and its start, or how long to wait for the next start, for which the clock is armed; 0 is
// until a worker is idle, below 0 for ever.
func (r *run) dispatch() (hand, start, time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	w, s, wait := r.choose()
	r.wakes = 0
	if wait > 0 {
		wait = min(wait, nap)
		r.wakes = r.since() + wait
		r.clock.arm(wait)
	}
	return w, s, wait
}

// sooner wakes the pacer for the visit that is due first, where it would sleep longer. It is called with r.mu held.
func (r *run) sooner(now time.Duration) {
	if v := r.visits.first(); v != nil && v.due < r.wakes {
		r.wakes = v.due
		r.clock.arm(v.due - now)
	}
}

// choose is dispatch without the clock.
func (r *run) choose() (hand, start, time.Duration) {
	now := r.since()
	wait, more := r.wait(now)
	switch {
	case !more:
		return nil, start{}, -1
	case r.idle.n == 0:
		r.blocked = true
		return nil, start{}, 0
	case wait > 0:
		return nil, start{}, wait
	}
	s, ok := r.due(now)
	if !ok {
		r.endIfDone()
		if wait, more = r.wait(now); !more {
			return nil, start{}, -1
		}
		return nil, start{}, max(wait, 1)
	}
	return r.idle.pop(), s, 0
}

// ring is a queue of fixed size: hands are used in turn, so that every connection is.
type ring struct {
	slots   []hand
	head, n int
}

func (q *ring) push(h hand) {
	q.slots[(q.head+q.n)%len(q.slots)] = h
	q.n++
}

func (q *ring) pop() hand {
	h := q.slots[q.head]
	q.head = (q.head + 1) % len(q.slots)
	q.n--
	return h
}
