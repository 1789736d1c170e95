package server

import (
	"context"
	"fmt"
	"sync"
	"time"

	"trellis/telemetry/alerts"
)

// spending is what was read of error budgets. They are of weeks, and each console asks for them every five seconds: all of it is read
// again once a 240th of it has passed, and until then what came since is added.
type spending struct {
	mu sync.Mutex // held while it is read, so that what many ask for is read once
	of map[alerts.Objective]counted
}

// counted are the requests of a window that ended then.
type counted struct {
	at       time.Time
	all, bad float64
}

// enoughNew is how much has to be new to be read: of less there are too few samples for a rate.
const enoughNew = time.Minute

// share returns the share of bad requests over a window, nil if there were none. number asks for a number, nil if there is none.
func (s *spending) share(ctx context.Context, o alerts.Objective, window time.Duration, now time.Time,
	number func(ctx context.Context, expr string, at time.Time) (*float64, error)) (*float64, error) {
	count := func(over time.Duration) (counted, error) {
		text := fmt.Sprintf("%ds", int(over.Seconds()))
		all, err := number(ctx, o.All(text), now)
		if err != nil || all == nil {
			return counted{at: now}, err
		}
		bad, err := number(ctx, o.Bad(text), now)
		if err != nil || bad == nil {
			return counted{at: now}, err
		}
		return counted{now, *all, *bad * *all}, nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	known, ok := s.of[o]
	switch passed := now.Sub(known.at); {
	case !ok || passed < 0 || passed > window/240:
		var err error
		if known, err = count(window); err != nil {
			return nil, err
		}
		if s.of == nil {
			s.of = map[alerts.Objective]counted{}
		}
		s.of[o] = known
	case passed >= enoughNew:
		more, err := count(passed)
		if err != nil {
			return nil, err
		}
		known.all, known.bad = known.all+more.all, known.bad+more.bad
	}
	if known.all == 0 {
		return nil, nil
	}
	share := known.bad / known.all
	return &share, nil
}
