package enrollment

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"testing"
	"time"

	"evergreen/notifications"
	"evergreen/rest"
)

func TestAPaidSeatIsHeldUntilItIsConfirmed(t *testing.T) {
	s, c := one(t, 1)
	c.price.Store(4800)
	e, err := s.Enroll(t.Context(), "ada", "go", "key-00001")
	if err != nil || !e.Held() || e.Price != 4800 || e.Title != "Go" {
		t.Fatalf("got %+v, %v", e, err)
	}
	if _, err := s.Enroll(t.Context(), "bob", "go", "key-00002"); !errors.Is(err, ErrFull) {
		t.Errorf("a held seat was sold: %v", err)
	}
	for range 2 {
		if got, err := s.Confirm(t.Context(), e.ID); err != nil || got.Held() {
			t.Errorf("got %+v, %v", got, err)
		}
	}
	if again, err := s.Enroll(t.Context(), "ada", "go", "key-00001"); err != nil || again.ID != e.ID || again.Held() {
		t.Errorf("the same form, later: %+v, %v", again, err)
	}
	if err := s.Leave(t.Context(), "ada", "go"); !errors.Is(err, ErrPaid) {
		t.Errorf("left: %v", err)
	}
	if n := taken(t, s); n.Taken != 1 {
		t.Errorf("%d taken", n.Taken)
	}
}

func TestAHeldSeatGoesBackWhenItsTimeIsOver(t *testing.T) {
	s, c := one(t, 1)
	c.price.Store(4800)
	e, err := s.Enroll(t.Context(), "ada", "go", "key-00001")
	if err != nil {
		t.Fatal(err)
	}
	s.now = func() time.Time { return time.Now().Add(s.Hold + time.Second) }
	if _, err := s.Seat(t.Context(), "ada", "go"); !errors.Is(err, ErrNoSeat) {
		t.Errorf("got %v", err)
	}
	if mine, err := s.Of(t.Context(), "ada"); err != nil || len(mine) != 0 {
		t.Errorf("got %v, %v", mine, err)
	}
	other, err := s.Enroll(t.Context(), "bob", "go", "key-00002") // before anybody has tidied up
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Confirm(t.Context(), e.ID); !errors.Is(err, ErrNoSeat) {
		t.Errorf("a seat that had gone back was confirmed: %v", err)
	}
	if err := s.sweep(t.Context()); err != nil {
		t.Fatal(err)
	}
	if n := taken(t, s); n.Taken != 1 {
		t.Errorf("%d taken", n.Taken)
	}
	s.now = func() time.Time { return time.Now().Add(3 * s.Hold) }
	if err := s.sweep(t.Context()); err != nil {
		t.Fatal(err)
	}
	if n := taken(t, s); n.Taken != 0 {
		t.Errorf("%d taken", n.Taken)
	}
	if _, err := s.Confirm(t.Context(), other.ID); !errors.Is(err, ErrNoSeat) {
		t.Errorf("got %v", err)
	}
}

// TestConfirmAndLapseNeverBothHappen has payments race against the end of the time that their seats are held for.
func TestConfirmAndLapseNeverBothHappen(t *testing.T) {
	const seats = 40
	s, c := one(t, seats)
	c.price.Store(100)
	var all sync.WaitGroup
	var mu sync.Mutex
	confirmed := 0
	late := func() time.Time { return time.Now().Add(s.Hold + time.Second) }
	var ids []string
	for n := range seats {
		e, err := s.Enroll(t.Context(), fmt.Sprint(n), "go", fmt.Sprintf("key-%05d", n))
		if err != nil {
			t.Fatal(err)
		}
		ids = append(ids, e.ID)
	}
	s.now = late
	for _, id := range ids {
		all.Go(func() {
			_, err := s.Confirm(context.Background(), id)
			switch {
			case err == nil:
				mu.Lock()
				confirmed++
				mu.Unlock()
			case !errors.Is(err, ErrNoSeat):
				t.Error(err)
			}
		})
	}
	all.Go(func() {
		if err := s.sweep(context.Background()); err != nil {
			t.Error(err)
		}
	})
	all.Wait()
	if n := taken(t, s); n.Taken != confirmed {
		t.Errorf("%d taken, %d confirmed", n.Taken, confirmed)
	}
}

func TestLearnersAreToldWhatBecameOfTheirSeats(t *testing.T) {
	s, c := one(t, 3)
	var heard told
	box, err := notifications.NewOutbox(t.Context(), s.db, "enrollment", heard.Tell, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Enroll(t.Context(), "ada", "go", "key-00001"); err != nil {
		t.Fatal(err)
	}
	c.price.Store(4800)
	now := time.Now().Add(2 * seatsFresh)
	s.now = func() time.Time { return now }
	bob, err1 := s.Enroll(t.Context(), "bob", "go", "key-00002")
	_, err2 := s.Enroll(t.Context(), "eve", "go", "key-00003")
	_, err3 := s.Confirm(t.Context(), bob.ID)
	now = now.Add(s.Hold + time.Second)
	if err := errors.Join(err1, err2, err3, s.sweep(t.Context())); err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error)
	go func() { ended <- box.Run(ctx) }()
	defer func() { stop(); <-ended }()
	want := map[string]notifications.Kind{"ada": notifications.Enrolled, "bob": notifications.Enrolled, "eve": notifications.Lapsed}
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		heard.mu.Lock()
		got := map[string]notifications.Kind{}
		for _, e := range heard.events {
			got[e.Account] = e.Kind
		}
		heard.mu.Unlock()
		if fmt.Sprint(got) == fmt.Sprint(want) {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("told %v, want %v", got, want)
		}
	}
}

func TestADoorRemembersWhomItLetIn(t *testing.T) {
	seat, err := Enrollment{ID: "enr_1", Title: "Go"}, error(nil)
	asked := 0
	d := NewDoor(func(context.Context, string, string) (Enrollment, error) { asked++; return seat, err })
	now := time.Now()
	d.now = func() time.Time { return now }
	for range 3 {
		if got, err := d.Admit(t.Context(), "ada", "token", "go"); err != nil || got.Title != "Go" {
			t.Fatal(got, err)
		}
	}
	if asked != 1 {
		t.Errorf("asked %d times", asked)
	}
	err = rest.ErrUnavailable
	now = now.Add(doorFresh + time.Second)
	if _, err := d.Admit(t.Context(), "ada", "token", "go"); err != nil {
		t.Errorf("while enrollment is away: %v", err)
	}
	if _, err := d.Admit(t.Context(), "bob", "token", "go"); !errors.Is(err, rest.ErrUnavailable) {
		t.Errorf("a stranger while enrollment is away: %v", err)
	}
	err = ErrNoSeat
	if _, err := d.Admit(t.Context(), "ada", "token", "go"); !errors.Is(err, ErrNoSeat) {
		t.Errorf("after leaving: %v", err)
	}
	soon := now.Add(time.Minute)
	seat, err = Enrollment{Expires: &soon}, nil
	if _, err := d.Admit(t.Context(), "eve", "token", "go"); !errors.Is(err, ErrNoSeat) {
		t.Errorf("with a seat that is not paid: %v", err)
	}
}
