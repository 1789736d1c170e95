package proxy

import (
	"slices"
	"sync"
	"sync/atomic"
)

// queue is the line of those that wait for a place at an instance, first come, first served. Whoever waits in it acts
// only as the first; whoever leaves it lets the next one try.
type queue struct {
	mu   sync.Mutex
	line []*place
	n    atomic.Int32 // of line, readable without the lock
}

// place is one in a queue.
type place struct {
	turn chan struct{} // capacity 1: look again
}

func (q *queue) empty() bool { return q.n.Load() == 0 }

func (q *queue) enter() *place {
	p := &place{turn: make(chan struct{}, 1)}
	q.mu.Lock()
	defer q.mu.Unlock()
	q.line = append(q.line, p)
	q.n.Add(1)
	return p
}

// leave takes p out and lets the first of the others look.
func (q *queue) leave(p *place) {
	q.mu.Lock()
	if i := slices.Index(q.line, p); i >= 0 {
		q.line = slices.Delete(q.line, i, i+1)
		q.n.Add(-1)
	}
	q.mu.Unlock()
	q.next()
}

func (q *queue) first(p *place) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return len(q.line) > 0 && q.line[0] == p
}

// next lets the first one look again.
func (q *queue) next() {
	if q.empty() {
		return
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.line) == 0 {
		return
	}
	select {
	case q.line[0].turn <- struct{}{}:
	default: // it will look anyway
	}
}
