package notifications

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"evergreen/database"
	"evergreen/database/databasetest"
	"evergreen/rest"
)

func TestMain(m *testing.M) { os.Exit(databasetest.Main(m)) }

var quiet = slog.New(slog.DiscardHandler)

func event(n int) Event {
	return Event{ID: fmt.Sprintf("paid %d", n), Kind: Paid, Account: "ada", Course: "go", Title: "Go", Amount: 4850,
		At: time.UnixMilli(int64(1_800_000_000_000 + n))}
}

func TestWhatIsToldTwiceIsShownOnce(t *testing.T) {
	s, err := NewStore(t.Context(), databasetest.Open(t))
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if err := s.Tell(t.Context(), []Event{event(1), event(2), event(1)}); err != nil {
			t.Fatal(err)
		}
	}
	box, err := s.Inbox(t.Context(), "ada")
	if err != nil || len(box.Notices) != 2 || box.Unread != 2 || box.Notices[0].ID != "paid 2" || !box.Notices[0].New ||
		!strings.Contains(box.Notices[0].Text, "€48.50 for Go") {
		t.Fatalf("got %+v, %v", box, err)
	}
	if err := s.Seen(t.Context(), "bob", []string{"paid 1"}); err != nil {
		t.Fatal(err)
	}
	if err := s.Seen(t.Context(), "ada", []string{"paid 2"}); err != nil {
		t.Fatal(err)
	}
	if err := s.Tell(t.Context(), []Event{event(2)}); err != nil {
		t.Fatal(err)
	}
	if box, err := s.Inbox(t.Context(), "ada"); err != nil || box.Unread != 1 || box.Notices[0].New || !box.Notices[1].New {
		t.Errorf("got %+v, %v", box, err)
	}
	if n, err := s.Unread(t.Context(), "bob"); err != nil || n != 0 {
		t.Errorf("somebody else has %d, %v", n, err)
	}
	for _, bad := range []Event{{ID: "x", Kind: "gossip", Account: "ada"}, {Kind: Paid, Account: "ada"}, {ID: "x", Kind: Paid}} {
		if err := s.Tell(t.Context(), []Event{bad}); !errors.Is(err, errKind) {
			t.Errorf("%+v: %v", bad, err)
		}
	}
}

// post office: notifications as a sender sees it, away at first, and losing some of its answers.
type office struct {
	mu    sync.Mutex
	store *Store
	calls int
}

func (o *office) Tell(ctx context.Context, events []Event) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.calls++
	if o.calls == 1 {
		return rest.ErrUnavailable
	}
	if err := o.store.Tell(ctx, events); err != nil {
		return err
	}
	if o.calls == 2 {
		return rest.ErrUnavailable // it was heard, and nobody knows
	}
	return nil
}

func TestWhatHasHappenedIsToldInTheEnd(t *testing.T) {
	db := databasetest.Open(t)
	s, err := NewStore(t.Context(), db)
	if err != nil {
		t.Fatal(err)
	}
	o := &office{store: s}
	box, err := NewOutbox(t.Context(), db, "test", o.Tell, quiet)
	if err != nil {
		t.Fatal(err)
	}
	no := errors.New("no")
	for n := range 250 {
		err := db.Write(t.Context(), func(tx *database.Tx) error {
			if err := box.Add(t.Context(), tx, event(n)); err != nil {
				return err
			}
			if n%2 == 1 {
				return no // what did not happen is not told
			}
			return nil
		})
		if err != nil && !errors.Is(err, no) {
			t.Fatal(err)
		}
	}
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error)
	go func() { ended <- box.Run(ctx) }()
	defer func() { stop(); <-ended }()
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		left, err := box.waiting(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if len(left) == 0 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d events still wait", len(left))
		}
	}
	if n, err := s.Unread(t.Context(), "ada"); err != nil || n != 125 {
		t.Errorf("%d of 125 were told, %v", n, err)
	}
}

func TestAnEventThatIsNotUnderstoodDoesNotStopTheOthers(t *testing.T) {
	db := databasetest.Open(t)
	box, err := NewOutbox(t.Context(), db, "test", func(context.Context, []Event) error { return errKind }, quiet)
	if err != nil {
		t.Fatal(err)
	}
	if err := db.Write(t.Context(), func(tx *database.Tx) error { return box.Add(t.Context(), tx, event(1)) }); err != nil {
		t.Fatal(err)
	}
	if err := box.flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	if left, err := box.waiting(t.Context()); err != nil || len(left) != 0 {
		t.Errorf("%v, %v", left, err)
	}
}
