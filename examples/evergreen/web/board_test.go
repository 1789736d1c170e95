package web

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"evergreen/enrollment"
)

func TestOneQuestionAnswersForAllPagesOfAMoment(t *testing.T) {
	var asked atomic.Int32
	answer := make(chan error)
	b := &board{fresh: time.Hour, ask: func(context.Context) (map[string]enrollment.Seats, error) {
		asked.Add(1)
		return map[string]enrollment.Seats{"go": {Course: "go", Taken: 3}}, <-answer
	}}
	gone, leave := context.WithCancel(t.Context())
	var asking sync.WaitGroup
	first := make(chan error, 1)
	asking.Go(func() { _, err := b.get(gone); first <- err })
	for asked.Load() == 0 {
		time.Sleep(time.Millisecond)
	}
	leave()
	if err := <-first; !errors.Is(err, context.Canceled) {
		t.Errorf("who went away got %v", err)
	}
	for range 5 {
		asking.Go(func() {
			if seats, err := b.get(t.Context()); err != nil || seats["go"].Taken != 3 {
				t.Errorf("got %v, %v", seats, err)
			}
		})
	}
	answer <- nil
	asking.Wait()
	if seats, err := b.get(t.Context()); err != nil || len(seats) != 1 || asked.Load() != 1 {
		t.Errorf("got %v, %v after %d questions", seats, err, asked.Load())
	}

	b.fresh = 0
	away := errors.New("away")
	asking.Go(func() { answer <- away })
	if seats, err := b.get(t.Context()); !errors.Is(err, away) || asked.Load() != 2 {
		t.Errorf("got %v, %v after %d questions", seats, err, asked.Load())
	}
	asking.Go(func() { answer <- nil })
	if _, err := b.get(t.Context()); err != nil {
		t.Errorf("asked again: %v", err)
	}
	asking.Wait()
}
