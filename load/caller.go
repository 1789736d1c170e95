package load

import (
	"context"
	"errors"
	"os"
	"time"
)

// exchange is a way to get an answer. It is used by one hand.
type exchange interface {
	// do sees a start through until ctx ends, and writes into r all but when it ended.
	do(ctx context.Context, s *start, r *Result)
	// close ends what do has left open, politely unless ctx has ended.
	close(ctx context.Context)
}

// exchanges returns what makes the exchange of each hand, nil for HTTP/1.1, which has workers.
func (r *run) exchanges() func(i int) exchange {
	switch {
	case r.cfg.webSocket():
		return r.webSockets()
	case r.cfg.HTTP2 || r.cfg.GRPC != nil:
		return r.streams()
	}
	return nil
}

// caller is the hand for everything that has an exchange.
type caller struct {
	run    *run
	way    exchange
	todo   chan start
	start  start
	result Result
}

func (c *caller) begin(s start, _ time.Duration) { c.todo <- s } // it is idle: there is room
func (c *caller) rest()                          {}
func (c *caller) abort()                         {} // the flight's end is enough

func (c *caller) loop(flight context.Context) {
	defer c.way.close(flight)
	for {
		select {
		case c.start = <-c.todo:
		case <-c.run.over:
			return
		}
		for more := true; more; {
			c.perform(flight)
			var next start
			if next, more = c.run.settle(c, c.start.visit, &c.result); more {
				c.start = next
			}
		}
	}
}

func (c *caller) perform(flight context.Context) {
	c.result = c.start.result()
	ctx, cancel := context.WithTimeout(flight, c.run.cfg.Timeout)
	defer cancel()
	c.way.do(ctx, &c.start, &c.result)
	c.result.Done = c.run.since()
}

// failure is the kind of an error: a time-out, or otherwise.
func failure(ctx context.Context, err error, otherwise Kind) Kind {
	if errors.Is(ctx.Err(), context.DeadlineExceeded) || errors.Is(err, context.DeadlineExceeded) || errors.Is(err, os.ErrDeadlineExceeded) {
		return Timeout
	}
	return otherwise
}
