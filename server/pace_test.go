package server

import (
	"context"
	"testing"
	"testing/synctest"
	"time"
)

// TestASleepIsNoticed: a machine that slept, or whose clock was set, is at once where its wall clock says.
func TestASleepIsNoticed(t *testing.T) {
	now := time.Now()
	p := pace{every: time.Minute}
	for _, look := range []struct {
		after time.Duration // the last
		due   bool
	}{{0, true}, {0, false}, {59 * time.Second, false}, {2 * time.Second, true}, {24 * time.Hour, true}, {time.Second, false}, {-time.Hour, true}, {time.Second, false}} {
		// A reading of the wall clock alone is what a sleep leaves: the other clock stood still.
		now = now.Round(0).Add(look.after)
		if got := p.due(now); got != look.due {
			t.Errorf("%s after the last: due is %v", look.after, got)
		}
	}
	if slept := time.Now(); p.last != p.last.Round(0) || p.due(slept) && p.last != slept.Round(0) {
		t.Error("the monotonic clock is compared with")
	}
}

func TestPace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		p := pace{every: time.Minute}
		began := time.Now()
		if !p.await(ctx, nil) || time.Since(began) < time.Minute || time.Since(began) > time.Minute+2*beat {
			t.Errorf("awaited for %s", time.Since(began))
		}
		next := make(chan struct{})
		close(next)
		began = time.Now()
		if !p.await(ctx, next) || time.Since(began) > 0 {
			t.Errorf("awaited a change for %s", time.Since(began))
		}
		cancel()
		if p.await(ctx, nil) {
			t.Error("it is time when all is over")
		}
	})
}
