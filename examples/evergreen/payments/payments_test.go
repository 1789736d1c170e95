package payments

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

	"evergreen/cardnet"
	"evergreen/database/databasetest"
	"evergreen/enrollment"
	"evergreen/identity"
	"evergreen/notifications"
	"evergreen/rest"
)

func TestMain(m *testing.M) { os.Exit(databasetest.Main(m)) }

const (
	good    = "4242 4242 4242 4242"
	refused = "4000 0000 0000 0002"
	poor    = "4000 0000 0000 9995"
	old     = "4000 0000 0000 0069"
	lossy   = "4000 0000 0000 0119"
)

// seats is an enrollment of one seat in "go", which can be away and can have gone back.
type seats struct {
	away, gone, held atomic.Bool
	confirmed        atomic.Int64
}

func (s *seats) Seat(_ context.Context, _, course string) (enrollment.Enrollment, error) {
	e := enrollment.Enrollment{ID: "enr_1", Course: course, Title: "Go", Price: 4800}
	if s.held.Load() {
		soon := time.Now().Add(time.Minute)
		e.Expires = &soon
	}
	switch {
	case s.away.Load():
		return e, rest.ErrUnavailable
	case course != "go", s.gone.Load():
		return e, enrollment.ErrNoSeat
	}
	return e, nil
}

func (s *seats) Confirm(_ context.Context, id string) (enrollment.Enrollment, error) {
	switch {
	case s.away.Load():
		return enrollment.Enrollment{}, rest.ErrUnavailable
	case s.gone.Load() || id != "enr_1":
		return enrollment.Enrollment{}, enrollment.ErrNoSeat
	}
	s.held.Store(false)
	s.confirmed.Add(1)
	return enrollment.Enrollment{ID: id}, nil
}

func newStore(t testing.TB, location string, c cardnet.Config) (*Store, *seats) {
	t.Helper()
	db := databasetest.At(t, location)
	cards, err1 := cardnet.New(context.Background(), db, c)
	outbox, err2 := notifications.NewOutbox(context.Background(), db, "payments",
		func(context.Context, []notifications.Event) error { return nil }, slog.New(slog.DiscardHandler))
	s := &seats{}
	s.held.Store(true)
	store, err3 := NewStore(context.Background(), db, cards, s, outbox, slog.New(slog.DiscardHandler))
	if err := errors.Join(err1, err2, err3); err != nil {
		t.Fatal(err)
	}
	return store, s
}

func order(number, key string) Order {
	return Order{Account: "ada", Token: "token", Course: "go", Key: key, Card: Card{Number: number, Expiry: "12/99", Code: "123"}}
}

// books compares what the network took with the ledger, and returns how many lines they have.
func books(t *testing.T, s *Store) int {
	t.Helper()
	taken, err1 := s.cards.Taken(t.Context(), "", 1000)
	ledger, err2 := s.Ledger(t.Context(), "", 1000)
	if err := errors.Join(err1, err2); err != nil {
		t.Fatal(err)
	}
	if len(taken) != len(ledger) {
		t.Fatalf("%d charges were captured, %d are in the ledger", len(taken), len(ledger))
	}
	for i := range taken {
		if taken[i].Key != ledger[i].Payment || taken[i].ID != ledger[i].Charge || taken[i].Amount != ledger[i].Amount {
			t.Errorf("the network has %+v, the ledger %+v", taken[i], ledger[i])
		}
	}
	return len(ledger)
}

func TestAPaymentIsMadeOnceForAKeyAndOnceForASeat(t *testing.T) {
	s, seat := newStore(t, databasetest.Location(t), cardnet.Config{})
	first, err := s.Pay(t.Context(), order(good, "key-00001"))
	if err != nil || first.State != Paid || first.Amount != 4800 || first.Digits != "4242" || first.Brand != "Visa" {
		t.Fatalf("got %+v, %v", first, err)
	}
	if seat.confirmed.Load() != 1 {
		t.Errorf("the seat was confirmed %d times", seat.confirmed.Load())
	}
	for _, key := range []string{"key-00001", "key-00002"} {
		if again, err := s.Pay(t.Context(), order(good, key)); err != nil || again.ID != first.ID {
			t.Errorf("%s: %+v, %v", key, again, err)
		}
	}
	other := order(good, "key-00001")
	other.Course = "rust"
	if _, err := s.Pay(t.Context(), other); !errors.Is(err, ErrKey) {
		t.Errorf("the key for another course: %v", err)
	}
	if n := books(t, s); n != 1 {
		t.Errorf("paid %d times", n)
	}
}

func TestWhatIsWrongIsSaid(t *testing.T) {
	s, seat := newStore(t, databasetest.Location(t), cardnet.Config{})
	for number, want := range map[string]error{refused: ErrDeclined, poor: ErrFunds, old: ErrExpired} {
		for range 2 {
			if p, err := s.Pay(t.Context(), order(number, "key-"+number)); !errors.Is(err, want) || p.State != Declined {
				t.Errorf("%s: %+v, %v", number, p, err)
			}
		}
	}
	for field, card := range map[string]Card{
		"number": {Number: "4242424242424241", Expiry: "12/99", Code: "123"},
		"expiry": {Number: good, Expiry: "12/19", Code: "123"},
		"code":   {Number: good, Expiry: "12/99", Code: "12a"},
	} {
		o := order(good, "key-bad-"+field)
		o.Card = card
		var p *rest.Problem
		if _, err := s.Pay(t.Context(), o); !errors.As(err, &p) || p.Field != field {
			t.Errorf("%s: %v", field, err)
		}
	}
	other := order(good, "key-other")
	other.Course = "rust"
	if _, err := s.Pay(t.Context(), other); !errors.Is(err, enrollment.ErrNoSeat) {
		t.Errorf("without a seat: %v", err)
	}
	seat.held.Store(false)
	if _, err := s.Pay(t.Context(), order(good, "key-settled")); !errors.Is(err, ErrSettled) {
		t.Errorf("a seat that is the learner's: %v", err)
	}
	if n := books(t, s); n != 0 {
		t.Errorf("paid %d times", n)
	}
}

func TestASeatThatHasGoneBackIsNotPaidFor(t *testing.T) {
	s, seat := newStore(t, databasetest.Location(t), cardnet.Config{})
	seat.away.Store(false)
	p, err := s.begin(t.Context(), order(good, "key-00001"))
	if err != nil {
		t.Fatal(err)
	}
	seat.gone.Store(true)
	if _, err := s.Pay(t.Context(), order(good, "key-00001")); !errors.Is(err, enrollment.ErrNoSeat) {
		t.Errorf("got %v", err)
	}
	if c, _, err := s.cards.Find(t.Context(), p.ID); err != nil || c.State != cardnet.Voided {
		t.Errorf("the charge is %+v, %v", c, err)
	}
	if n := books(t, s); n != 0 {
		t.Errorf("paid %d times", n)
	}
}

// TestNobodyPaysTwice has learners click again and again, through two processes' worth of stores, while a good share of
// the network's answers is lost, and then lets what is left behind be brought to its end.
func TestNobodyPaysTwice(t *testing.T) {
	location := databasetest.Location(t)
	a, seat := newStore(t, location, cardnet.Config{Losses: .3})
	b, _ := newStore(t, location, cardnet.Config{Losses: .3})
	b.seats = seat
	var all sync.WaitGroup
	for n := range 40 {
		all.Go(func() {
			s := []*Store{a, b}[n%2]
			_, err := s.Pay(context.Background(), order([]string{good, lossy}[n/2%2], fmt.Sprintf("key-%05d", n%7)))
			if err != nil && !errors.Is(err, rest.ErrUnavailable) && !errors.Is(err, ErrBusy) && !errors.Is(err, ErrSettled) {
				t.Error(err)
			}
		})
	}
	all.Wait()
	now := time.Now()
	a.now = func() time.Time { now = now.Add(2 * left); return now }
	for deadline := time.Now().Add(20 * time.Second); ; {
		if err := a.recover(t.Context()); err != nil && time.Now().After(deadline) {
			t.Fatal(err)
		}
		if pending, err := a.leftBehind(t.Context()); err == nil && len(pending) == 0 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("payments are still pending")
		}
	}
	if n := books(t, a); n != 1 {
		t.Errorf("paid %d times", n)
	}
}

func TestWhatWasLeftBehindIsBroughtToItsEnd(t *testing.T) {
	for name, test := range map[string]struct {
		upTo func(s *Store, p Payment) error // how far the process got before it died
		gone bool
		want State
		paid int
	}{
		"before anybody heard of it": {func(*Store, Payment) error { return nil }, false, Dropped, 0},
		"authorized":                 {authorized(good), false, Paid, 1},
		"authorized, the seat gone":  {authorized(good), true, Dropped, 0},
		"declined":                   {authorized(refused), false, Declined, 0},
		"captured": {func(s *Store, p Payment) error {
			err := authorized(good)(s, p)
			if err == nil {
				_, err = s.cards.Capture(context.Background(), p.ID)
			}
			return err
		}, false, Paid, 1},
	} {
		t.Run(name, func(t *testing.T) {
			s, seat := newStore(t, databasetest.Location(t), cardnet.Config{})
			p, err := s.begin(t.Context(), order(good, "key-00001"))
			if err != nil {
				t.Fatal(err)
			}
			if err := test.upTo(s, p); err != nil {
				t.Fatal(err)
			}
			seat.gone.Store(test.gone)
			if err := s.recover(t.Context()); err != nil {
				t.Fatal(err)
			}
			if pending, _ := s.earlier(t.Context(), order(good, "key-00001")); pending.State != Pending {
				t.Fatalf("it was touched too early: %s", pending.State)
			}
			s.now = func() time.Time { return time.Now().Add(2 * left) }
			if err := s.recover(t.Context()); err != nil {
				t.Fatal(err)
			}
			got, err := s.earlier(t.Context(), order(good, "key-00001"))
			if err != nil || got.State != test.want {
				t.Errorf("it is %s, want %s (%v)", got.State, test.want, err)
			}
			if n := books(t, s); n != test.paid {
				t.Errorf("paid %d times", n)
			}
			// Whoever still holds the card cannot make it happen after all.
			if charge, err := s.cards.Authorize(t.Context(), p.ID, good, p.Amount); err != nil || charge.State == cardnet.Authorized {
				t.Errorf("a late authorization is %s, %v", charge.State, err)
			}
		})
	}
}

func authorized(number string) func(*Store, Payment) error {
	return func(s *Store, p Payment) error {
		_, err := s.cards.Authorize(context.Background(), p.ID, digits(number), p.Amount)
		return err
	}
}

func TestLuhn(t *testing.T) {
	for n, want := range map[string]bool{"4242424242424242": true, "5555555555554444": true, "378282246310005": true, "4242424242424243": false, "0": true} {
		if luhn(n) != want {
			t.Errorf("%s", n)
		}
	}
}

func FuzzCard(f *testing.F) {
	f.Add("4242 4242 4242 4242", "12/99", "123")
	f.Add("", "/", "")
	f.Fuzz(func(t *testing.T, number, expiry, code string) {
		c := Card{number, expiry, code}
		if c.check(time.Now()) == nil && (len(digits(number)) < 12 || c.Brand() == "") {
			t.Errorf("%+v is taken for a card", c)
		}
	})
}

func TestWhatIsPaidIsFoundWithoutALookThroughAll(t *testing.T) {
	s, _ := newStore(t, databasetest.Location(t), cardnet.Config{})
	databasetest.Seeks(t, s.db, liveOnly, "enr_1")
	databasetest.Seeks(t, s.db, selected+`WHERE account = $1 AND key = $2`, "ada", "key")
}

func TestOverTheNetwork(t *testing.T) {
	s, _ := newStore(t, databasetest.Location(t), cardnet.Config{Latency: time.Millisecond})
	people, err := identity.NewStore(t.Context(), databasetest.Open(t), identity.Config{Issuer: "test", Cost: identity.Cost{Memory: 64, Passes: 1}},
		slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	if err := people.Demo(t.Context(), 1); err != nil {
		t.Fatal(err)
	}
	session, err := people.SignIn(t.Context(), "learner-0@demo.example", identity.DemoPassword)
	if err != nil {
		t.Fatal(err)
	}
	v := identity.NewVerifier("test", func(ctx context.Context) (identity.JWKS, error) { return people.JWKS(ctx, time.Now()) })
	server := httptest.NewServer(Handler(s, v, "between services"))
	defer server.Close()
	c := &Client{REST: &rest.Client{Base: server.URL, Secret: "between services"}}
	card := order(good, "").Card
	if _, err := c.Pay(t.Context(), "forged", "go", card, "key-00001"); !errors.Is(err, rest.ErrUnauthorized) {
		t.Errorf("without a token: %v", err)
	}
	if _, err := c.Pay(t.Context(), session.Token, "go", card, "short"); err == nil || !strings.Contains(err.Error(), "key_missing") {
		t.Errorf("without a key: %v", err)
	}
	bad := card
	bad.Number = refused
	if _, err := c.Pay(t.Context(), session.Token, "go", bad, "key-00001"); !errors.Is(err, ErrDeclined) {
		t.Errorf("got %v", err)
	}
	if p, err := c.Pay(t.Context(), session.Token, "go", card, "key-00002"); err != nil || p.State != Paid {
		t.Errorf("got %+v, %v", p, err)
	}
	var ledger []Entry
	if err := c.REST.Do(t.Context(), rest.Call{Method: "GET", Path: "/api/ledger"}, &ledger); err != nil || len(ledger) != 1 {
		t.Errorf("ledger %+v, %v", ledger, err)
	}
	for _, path := range []string{"/api/ledger", "/api/charges"} {
		stranger := &rest.Client{Base: server.URL}
		if err := stranger.Do(t.Context(), rest.Call{Method: "GET", Path: path, Token: session.Token}, nil); err == nil || !strings.Contains(err.Error(), "no_service") {
			t.Errorf("%s for a learner: %v", path, err)
		}
	}
}
