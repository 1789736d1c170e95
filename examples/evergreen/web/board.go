package web

import (
	"context"
	"sync"
	"time"

	"evergreen/enrollment"
)

// board shows the seats of all courses, by slug. One question to enrollment answers for every page of a moment: a page
// shows the seats of a dozen courses, and a question for each page would be most of what enrollment is asked.
type board struct {
	ask   func(context.Context) (map[string]enrollment.Seats, error)
	fresh time.Duration // how long an answer is shown

	mu     sync.Mutex
	seats  map[string]enrollment.Seats
	asked  time.Time // when the question for seats was sent
	asking *question // nil: nobody asks
}

type question struct {
	answered chan struct{}
	seats    map[string]enrollment.Seats
	err      error
}

// get returns the seats of all courses, which nobody may change. It waits for extra at most.
func (b *board) get(ctx context.Context) (map[string]enrollment.Seats, error) {
	q := b.question(ctx)
	select {
	case <-q.answered:
		return q.seats, q.err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// question returns the question whose answer is to be shown: one that has been answered a moment ago, or one that is on its
// way for somebody else, or a new one.
func (b *board) question(ctx context.Context) *question {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch {
	case b.asking != nil:
		return b.asking
	case b.seats != nil && time.Since(b.asked) < b.fresh:
		return &question{answered: closed(), seats: b.seats}
	}
	q := &question{answered: make(chan struct{})}
	b.asking = q
	go func() {
		// Others wait for the answer too: it is asked for even if the first of them goes away.
		ctx, cancel := within(context.WithoutCancel(ctx), extra)
		defer cancel()
		sent := time.Now()
		q.seats, q.err = b.ask(ctx)
		b.mu.Lock()
		defer b.mu.Unlock()
		if b.asking = nil; q.err == nil {
			b.seats, b.asked = q.seats, sent
		}
		close(q.answered)
	}()
	return q
}

func closed() chan struct{} {
	c := make(chan struct{})
	close(c)
	return c
}
