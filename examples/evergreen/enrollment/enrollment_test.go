package enrollment

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"evergreen/catalog"
	"evergreen/database/databasetest"
	"evergreen/identity"
	"evergreen/notifications"
	"evergreen/rest"
)

func TestMain(m *testing.M) { os.Exit(databasetest.Main(m)) }

// courses is a catalogue of one course, whose size, price and absence a test sets.
type courses struct {
	seats, price atomic.Int64
	away         atomic.Bool
	asked        atomic.Int64
}

func (c *courses) Course(_ context.Context, slug string) (catalog.Course, error) {
	c.asked.Add(1)
	switch {
	case c.away.Load():
		return catalog.Course{}, rest.ErrUnavailable
	case slug != "go":
		return catalog.Course{}, catalog.ErrNoCourse
	}
	return catalog.Course{Slug: slug, Title: "Go", Seats: int(c.seats.Load()), Price: int(c.price.Load())}, nil
}

// told is what notifications hears.
type told struct {
	mu     sync.Mutex
	events []notifications.Event
}

func (o *told) Tell(_ context.Context, events []notifications.Event) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.events = append(o.events, events...)
	return nil
}

func newStore(t testing.TB, location string, c *courses) *Store {
	t.Helper()
	db := databasetest.At(t, location)
	outbox, err := notifications.NewOutbox(context.Background(), db, "enrollment", (&told{}).Tell, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	s, err := NewStore(context.Background(), db, Config{Course: c.Course, Outbox: outbox})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func one(t *testing.T, seats int64) (*Store, *courses) {
	c := &courses{}
	c.seats.Store(seats)
	return newStore(t, databasetest.Location(t), c), c
}

func taken(t *testing.T, s *Store) Seats {
	t.Helper()
	all, err := s.Taken(t.Context(), []string{"go"})
	if err != nil || len(all) != 1 {
		t.Fatalf("got %v, %v", all, err)
	}
	return all[0]
}

// TestNoSeatIsSoldTwice has sixty learners, some of them impatient, rush for ten seats through two processes' worth of
// stores on one file.
func TestNoSeatIsSoldTwice(t *testing.T) {
	const seats, learners, tries = 10, 60, 2
	path := databasetest.Location(t)
	c := &courses{}
	c.seats.Store(seats)
	stores := []*Store{newStore(t, path, c), newStore(t, path, c)}
	var all sync.WaitGroup
	var won, full atomic.Int64
	for n := range learners {
		account := fmt.Sprintf("acc-%d", n)
		ids := make(chan string, tries)
		for range tries {
			all.Go(func() {
				e, err := stores[n%2].Enroll(context.Background(), account, "go", "key-"+account)
				switch {
				case err == nil:
					ids <- e.ID
				case errors.Is(err, ErrFull):
					ids <- ""
				default:
					t.Error(err)
					ids <- "failed"
				}
			})
		}
		all.Go(func() {
			first := <-ids
			for range tries - 1 {
				if other := <-ids; other != first {
					t.Errorf("%s got %q and %q for one key", account, first, other)
				}
			}
			if first == "" {
				full.Add(1)
			} else {
				won.Add(1)
			}
		})
	}
	all.Wait()
	if won.Load() != seats || full.Load() != learners-seats {
		t.Errorf("%d won, %d did not", won.Load(), full.Load())
	}
	var rows int
	if err := stores[0].db.Read().QueryRow(t.Context(), `SELECT count(*) FROM enrollments`).Scan(&rows); err != nil || rows != seats {
		t.Errorf("%d rows, %v", rows, err)
	}
	if n := taken(t, stores[1]); n.Taken != seats || n.Free() != 0 {
		t.Errorf("got %+v", n)
	}
}

func TestAKeyHappensOnce(t *testing.T) {
	s, _ := one(t, 5)
	first, err := s.Enroll(t.Context(), "ada", "go", "key-00001")
	if err != nil {
		t.Fatal(err)
	}
	again, err := s.Enroll(t.Context(), "ada", "go", "key-00001")
	if err != nil || again != first {
		t.Errorf("got %+v and %+v, %v", first, again, err)
	}
	if _, err := s.Enroll(t.Context(), "ada", "rust", "key-00001"); !errors.Is(err, ErrKey) {
		t.Errorf("the key with another course: %v", err)
	}
	if other, err := s.Enroll(t.Context(), "bob", "go", "key-00001"); err != nil || other.ID == first.ID {
		t.Errorf("the key of another learner: %+v, %v", other, err)
	}
	if same, err := s.Enroll(t.Context(), "ada", "go", "key-00002"); err != nil || same.ID != first.ID {
		t.Errorf("another key for the same seat: %+v, %v", same, err)
	}
	if n := taken(t, s); n.Taken != 2 {
		t.Errorf("%d seats taken", n.Taken)
	}
}

func TestLeavingFreesTheSeatOnce(t *testing.T) {
	s, _ := one(t, 1)
	if _, err := s.Enroll(t.Context(), "ada", "go", "key-00001"); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Enroll(t.Context(), "bob", "go", "key-00002"); !errors.Is(err, ErrFull) {
		t.Fatalf("got %v", err)
	}
	for range 3 {
		if err := s.Leave(t.Context(), "ada", "go"); err != nil {
			t.Fatal(err)
		}
	}
	if n := taken(t, s); n.Taken != 0 {
		t.Errorf("%d seats taken", n.Taken)
	}
	if _, err := s.Enroll(t.Context(), "bob", "go", "key-00002"); err != nil {
		t.Errorf("the same key, after a seat came back: %v", err)
	}
	if mine, err := s.Of(t.Context(), "ada"); err != nil || len(mine) != 0 {
		t.Errorf("got %v, %v", mine, err)
	}
}

func TestTheCatalogueMayBeAway(t *testing.T) {
	s, c := one(t, 2)
	c.away.Store(true)
	if _, err := s.Enroll(t.Context(), "ada", "go", "key-00001"); !errors.Is(err, rest.ErrUnavailable) {
		t.Errorf("a course nobody knows: %v", err)
	}
	c.away.Store(false)
	if _, err := s.Enroll(t.Context(), "ada", "go", "key-00001"); err != nil {
		t.Fatal(err)
	}
	c.away.Store(true)
	s.now = func() time.Time { return time.Now().Add(2 * seatsFresh) }
	if _, err := s.Enroll(t.Context(), "bob", "go", "key-00002"); err != nil {
		t.Errorf("a course whose seats are known: %v", err)
	}
	if _, err := s.Enroll(t.Context(), "eve", "go", "key-00003"); !errors.Is(err, ErrFull) {
		t.Errorf("the third of two seats: %v", err)
	}
}

func TestACourseMayChangeItsSize(t *testing.T) {
	s, c := one(t, 3)
	for n := range 3 {
		if _, err := s.Enroll(t.Context(), fmt.Sprint(n), "go", fmt.Sprintf("key-0000%d", n)); err != nil {
			t.Fatal(err)
		}
	}
	if c.asked.Load() != 1 {
		t.Errorf("the catalogue was asked %d times", c.asked.Load())
	}
	c.seats.Store(1)
	s.now = func() time.Time { return time.Now().Add(2 * seatsFresh) }
	if _, err := s.Enroll(t.Context(), "late", "go", "key-late1"); !errors.Is(err, ErrFull) {
		t.Errorf("got %v", err)
	}
	if n := taken(t, s); n.Taken != 3 || n.Seats != 1 || n.Free() != 0 {
		t.Errorf("got %+v", n)
	}
	c.seats.Store(4)
	s.now = func() time.Time { return time.Now().Add(5 * seatsFresh) }
	if _, err := s.Enroll(t.Context(), "late", "go", "key-late1"); err != nil {
		t.Errorf("a seat was added: %v", err)
	}
}

func TestKeysAreForgottenAfterADay(t *testing.T) {
	s, _ := one(t, 3)
	if _, err := s.Enroll(t.Context(), "ada", "go", "key-00001"); err != nil {
		t.Fatal(err)
	}
	count := func() (n int) {
		if err := s.forget(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := s.db.Read().QueryRow(t.Context(), `SELECT count(*) FROM enrollment_keys`).Scan(&n); err != nil {
			t.Fatal(err)
		}
		return n
	}
	if n := count(); n != 1 {
		t.Errorf("%d keys", n)
	}
	s.now = func() time.Time { return time.Now().Add(keyLife + time.Minute) }
	if n := count(); n != 0 {
		t.Errorf("%d keys after a day", n)
	}
}

func TestASeatIsTakenWithoutALookThroughAll(t *testing.T) {
	s, _ := one(t, 2)
	databasetest.Seeks(t, s.db, lapsedOf, 1, "go")
	databasetest.Seeks(t, s.db, `SELECT `+columns+`WHERE e.account = $1 AND e.course = $2`, "ada", "go")
}

func TestOverTheNetwork(t *testing.T) {
	s, _ := one(t, 2)
	db := databasetest.Open(t)
	people, err := identity.NewStore(t.Context(), db, identity.Config{Issuer: "test", Cost: identity.Cost{Memory: 64, Passes: 1}},
		slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := people.SignUp(t.Context(), "ada@example.org", "Ada", "a short sentence"); err != nil {
		t.Fatal(err)
	}
	session, err := people.SignIn(t.Context(), "ada@example.org", "a short sentence")
	if err != nil {
		t.Fatal(err)
	}
	v := identity.NewVerifier("test", func(ctx context.Context) (identity.JWKS, error) { return people.JWKS(ctx, time.Now()) })
	server := httptest.NewServer(Handler(s, v, "between services"))
	defer server.Close()
	c := &Client{REST: &rest.Client{Base: server.URL, Secret: "between services"}}

	if _, err := c.Enroll(t.Context(), "forged", "go", "key-00001"); !errors.Is(err, rest.ErrUnauthorized) {
		t.Errorf("without a token: %v", err)
	}
	if _, err := c.Enroll(t.Context(), session.Token, "go", ""); err == nil || !strings.Contains(err.Error(), "key_missing") {
		t.Errorf("without a key: %v", err)
	}
	if _, err := c.Enroll(t.Context(), session.Token, "nothing", "key-00001"); !errors.Is(err, catalog.ErrNoCourse) {
		t.Errorf("no such course: %v", err)
	}
	e, err := c.Enroll(t.Context(), session.Token, "go", "key-00002")
	if err != nil {
		t.Fatal(err)
	}
	mine, err := c.Mine(t.Context(), session.Token)
	if err != nil || len(mine) != 1 || mine[0] != e {
		t.Errorf("got %v, %v", mine, err)
	}
	if got, err := c.Seat(t.Context(), session.Token, "go"); err != nil || got != e {
		t.Errorf("got %v, %v", got, err)
	}
	if _, err := c.Seat(t.Context(), session.Token, "other"); !errors.Is(err, ErrNoSeat) {
		t.Errorf("got %v", err)
	}
	if _, err := c.Confirm(t.Context(), "enr_nothing"); !errors.Is(err, ErrNoSeat) {
		t.Errorf("got %v", err)
	}
	stranger := &Client{REST: &rest.Client{Base: server.URL}}
	if _, err := stranger.Confirm(t.Context(), e.ID); err == nil || !strings.Contains(err.Error(), "no_service") {
		t.Errorf("somebody confirmed a seat: %v", err)
	}
	seats, err := c.Taken(t.Context(), "go", "other")
	if err != nil || len(seats) != 1 || seats["go"].Free() != 1 {
		t.Errorf("got %v, %v", seats, err)
	}
	if err := c.Leave(t.Context(), session.Token, "go"); err != nil {
		t.Error(err)
	}
	if mine, err := c.Mine(t.Context(), session.Token); err != nil || len(mine) != 0 {
		t.Errorf("got %v, %v", mine, err)
	}
}
