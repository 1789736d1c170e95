package progress

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"evergreen/catalog"
	"evergreen/content"
	"evergreen/database/databasetest"
	"evergreen/notifications"
	"evergreen/rest"
)

func TestMain(m *testing.M) { os.Exit(databasetest.Main(m)) }

// lessons is content with one course of three lessons, which can be away.
type lessons struct {
	away  atomic.Bool
	asked atomic.Int64
}

func (l *lessons) Lessons(_ context.Context, course string) ([]content.Lesson, error) {
	l.asked.Add(1)
	switch {
	case l.away.Load():
		return nil, rest.ErrUnavailable
	case course != "go":
		return nil, catalog.ErrNoCourse
	}
	return make([]content.Lesson, 3), nil
}

func newStore(t *testing.T) (*Store, *lessons, *atomic.Int64) {
	t.Helper()
	db := databasetest.Open(t)
	told := &atomic.Int64{}
	outbox, err := notifications.NewOutbox(t.Context(), db, "progress", func(_ context.Context, events []notifications.Event) error {
		for _, e := range events {
			if e.Kind == notifications.Completed && e.Title == "Go" {
				told.Add(1)
			}
		}
		return nil
	}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	l := &lessons{}
	s, err := NewStore(t.Context(), db, Config{Lessons: l.Lessons, Outbox: outbox})
	if err != nil {
		t.Fatal(err)
	}
	return s, l, told
}

func TestTheLastLessonCompletesACourseOnce(t *testing.T) {
	s, l, told := newStore(t)
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error)
	go func() { ended <- s.Outbox.Run(ctx) }()
	defer func() { stop(); <-ended }()
	var all sync.WaitGroup
	var completed atomic.Int64
	for n := range 12 {
		all.Go(func() {
			p, err := s.Finish(context.Background(), "ada", "go", "Go", 1+n%3)
			if err != nil {
				t.Error(err)
			}
			if p.Completed != nil {
				completed.Add(1)
			}
		})
	}
	all.Wait()
	p, err := s.Of(t.Context(), "ada", "go")
	if err != nil || len(p) != 1 || fmt.Sprint(p[0].Done) != "[1 2 3]" || p[0].Completed == nil || completed.Load() == 0 {
		t.Fatalf("got %+v, %v; %d answers said completed", p, err, completed.Load())
	}
	again, err := s.Finish(t.Context(), "ada", "go", "Go", 2)
	if err != nil || !again.Completed.Equal(*p[0].Completed) || !again.Has(3) || again.Has(4) {
		t.Errorf("got %+v, %v", again, err)
	}
	for deadline := time.Now().Add(20 * time.Second); told.Load() == 0; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("nobody was told")
		}
	}
	if told.Load() != 1 || l.asked.Load() > 12 {
		t.Errorf("told %d times, content was asked %d times", told.Load(), l.asked.Load())
	}
	if other, err := s.Of(t.Context(), "bob", ""); err != nil || len(other) != 0 {
		t.Errorf("somebody else has done %v, %v", other, err)
	}
}

func TestLessonsThatAreNotThereCannotBeDone(t *testing.T) {
	s, _, _ := newStore(t)
	for _, n := range []int{-1, 0, 4} {
		if _, err := s.Finish(t.Context(), "ada", "go", "Go", n); !errors.Is(err, content.ErrNoLesson) {
			t.Errorf("%d: %v", n, err)
		}
	}
	if _, err := s.Finish(t.Context(), "ada", "rust", "Rust", 1); !errors.Is(err, catalog.ErrNoCourse) {
		t.Errorf("got %v", err)
	}
}

func TestContentMayBeAway(t *testing.T) {
	s, l, _ := newStore(t)
	l.away.Store(true)
	if _, err := s.Finish(t.Context(), "ada", "go", "Go", 1); !errors.Is(err, rest.ErrUnavailable) {
		t.Errorf("a course nobody knows: %v", err)
	}
	l.away.Store(false)
	if _, err := s.Finish(t.Context(), "ada", "go", "Go", 1); err != nil {
		t.Fatal(err)
	}
	l.away.Store(true)
	s.now = func() time.Time { return time.Now().Add(2 * outlineFresh) }
	if _, err := s.Finish(t.Context(), "ada", "go", "Go", 2); err != nil {
		t.Errorf("a course that is known: %v", err)
	}
}
