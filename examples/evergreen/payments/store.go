// Package payments is the domain of money: a seat is paid once, whatever is repeated, lost or restarted on the way.
//
// Three parties have to agree, and each of them may fail at any moment: the card network, which holds the money;
// enrollment, which holds the seat; and this domain's ledger. The order is: authorize, confirm the seat, capture, write
// down. Every step can be repeated and answers the same, so that whoever finds a payment unfinished carries on.
package payments

import (
	"context"
	"crypto/rand"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"time"

	"evergreen/cardnet"
	"evergreen/database"
	"evergreen/enrollment"
	"evergreen/notifications"
	"evergreen/rest"
)

// At most one payment of an enrollment is pending or paid, and the ledger has one line for an enrollment: the database
// itself refuses to take money twice.
var schema = []string{
	`CREATE TABLE payments (
		id TEXT PRIMARY KEY, account TEXT NOT NULL, key TEXT NOT NULL, enrollment TEXT NOT NULL, course TEXT NOT NULL,
		title TEXT NOT NULL, amount INTEGER NOT NULL, state TEXT NOT NULL, reason TEXT NOT NULL DEFAULT '',
		brand TEXT NOT NULL, digits TEXT NOT NULL, created INTEGER NOT NULL, touched INTEGER NOT NULL,
		UNIQUE (account, key));
	CREATE UNIQUE INDEX payments_live ON payments (enrollment) WHERE state IN ('pending', 'paid');
	CREATE INDEX payments_pending ON payments (touched) WHERE state = 'pending';
	CREATE TABLE ledger (
		payment TEXT PRIMARY KEY REFERENCES payments (id), enrollment TEXT NOT NULL UNIQUE, account TEXT NOT NULL,
		amount INTEGER NOT NULL CHECK (amount > 0), charge TEXT NOT NULL UNIQUE, booked INTEGER NOT NULL);`,
}

// State is how far a payment has got.
type State string

// A payment is pending until it is one of the others, which are final.
const (
	Pending  State = "pending"
	Paid     State = "paid"
	Declined State = "declined" // by the card network
	Dropped  State = "dropped"  // the seat was gone, or nobody carried on: nothing was taken
)

// Payment is one attempt to pay for one seat.
type Payment struct {
	ID         string    `json:"id"`
	Enrollment string    `json:"enrollment"`
	Course     string    `json:"course"`
	Title      string    `json:"title"`
	Amount     int       `json:"amount"` // cents of a euro
	State      State     `json:"state"`
	Reason     string    `json:"reason,omitempty"` // of a decline: cardnet's words
	Brand      string    `json:"brand"`
	Digits     string    `json:"digits"` // the last four of the card
	Created    time.Time `json:"created"`
	account    string
}

// Entry is a line of the ledger: money that was taken.
type Entry struct {
	Payment    string    `json:"payment"`
	Enrollment string    `json:"enrollment"`
	Account    string    `json:"account"`
	Amount     int       `json:"amount"` // cents of a euro
	Charge     string    `json:"charge"` // the card network's
	Booked     time.Time `json:"booked"`
}

// The answers a learner may get.
var (
	ErrDeclined = &rest.Problem{Status: http.StatusPaymentRequired, Code: "declined",
		Title: "Your bank has declined the payment. Nothing was taken."}
	ErrFunds = &rest.Problem{Status: http.StatusPaymentRequired, Code: "insufficient_funds",
		Title: "There is not enough money on this card. Nothing was taken."}
	ErrExpired = &rest.Problem{Status: http.StatusPaymentRequired, Code: "expired_card",
		Title: "Your bank says that this card has expired. Nothing was taken."}
	ErrSettled = &rest.Problem{Status: http.StatusConflict, Code: "settled", Title: "There is nothing to pay for this seat."}
	ErrBusy    = &rest.Problem{Status: http.StatusConflict, Code: "in_progress", RetryAfter: 2 * time.Second,
		Title: "A payment for this seat is on its way."}
	ErrKey = &rest.Problem{Status: http.StatusUnprocessableEntity, Code: "key_reused",
		Title: "This idempotency key has been used for another request."}
)

func declined(reason string) error {
	switch reason {
	case cardnet.Insufficient:
		return ErrFunds
	case cardnet.Expired:
		return ErrExpired
	}
	return ErrDeclined
}

// Seats is what payments needs of enrollment; enrollment.Client is one.
type Seats interface {
	Seat(ctx context.Context, token, course string) (enrollment.Enrollment, error)
	Confirm(ctx context.Context, id string) (enrollment.Enrollment, error)
}

// Store keeps payments and the ledger.
type Store struct {
	db     *database.DB
	cards  *cardnet.Network
	seats  Seats
	outbox *notifications.Outbox
	log    *slog.Logger
	now    func() time.Time
}

// NewStore makes the tables.
func NewStore(ctx context.Context, db *database.DB, cards *cardnet.Network, seats Seats, outbox *notifications.Outbox,
	log *slog.Logger) (*Store, error) {
	return &Store{db, cards, seats, outbox, log, time.Now}, db.Migrate(ctx, "payments", schema)
}

// Order is a learner's wish to pay for the seat held in a course.
type Order struct {
	Account, Token, Course string
	Card                   Card
	Key                    string // names the wish: the same one again is the same payment
}

// Pay pays for the held seat of a learner. ErrDeclined, ErrFunds or ErrExpired where the card network refuses,
// enrollment.ErrNoSeat where no seat is held or it has gone back, ErrSettled where there is nothing to pay, ErrBusy while
// another payment for the seat is on its way. After rest.ErrUnavailable the payment may still happen: asked again with
// the same key, Pay tells.
func (s *Store) Pay(ctx context.Context, o Order) (Payment, error) {
	if err := o.Card.check(s.now()); err != nil {
		return Payment{}, err
	}
	p, err := s.earlier(ctx, o)
	if err != nil {
		return Payment{}, err
	}
	if p.ID == "" {
		if p, err = s.begin(ctx, o); err != nil {
			return Payment{}, err
		}
	}
	if p.State == Pending {
		// From here on the learner may go away: what was begun is brought to its end.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 8*time.Second)
		defer cancel()
		if p, err = s.carry(ctx, p, digits(o.Card.Number)); err != nil {
			return Payment{}, fmt.Errorf("pay %s: %w", p.ID, errors.Join(rest.ErrUnavailable, err))
		}
	}
	switch p.State {
	case Declined:
		return p, declined(p.Reason)
	case Dropped:
		return p, enrollment.ErrNoSeat
	}
	return p, nil
}

// earlier returns the payment that was begun with the same key; one without an ID if there is none.
func (s *Store) earlier(ctx context.Context, o Order) (Payment, error) {
	p, err := scan(s.db.Read().QueryRow(ctx, selected+`WHERE account = $1 AND key = $2`, o.Account, o.Key))
	if errors.Is(err, sql.ErrNoRows) {
		return Payment{}, nil
	}
	if err == nil && p.Course != o.Course {
		return Payment{}, ErrKey
	}
	return p, err
}

// begin writes down that a payment is about to be made, before anybody else hears of it.
func (s *Store) begin(ctx context.Context, o Order) (Payment, error) {
	seat, err := s.seats.Seat(ctx, o.Token, o.Course)
	if err != nil {
		return Payment{}, err
	}
	if !seat.Held() {
		p, err := live(ctx, s.db.Read(), seat.ID)
		if errors.Is(err, sql.ErrNoRows) || err == nil && p.State != Paid {
			return Payment{}, ErrSettled
		}
		return p, err
	}
	now := s.now()
	n := digits(o.Card.Number)
	p := Payment{ID: "pay_" + rand.Text(), Enrollment: seat.ID, Course: o.Course, Title: seat.Title, Amount: seat.Price,
		State: Pending, Brand: o.Card.Brand(), Digits: n[len(n)-4:], Created: now.UTC().Truncate(time.Millisecond), account: o.Account}
	err = s.db.Write(ctx, func(tx *database.Tx) error {
		same, err := scan(tx.QueryRow(ctx, selected+`WHERE account = $1 AND key = $2`, o.Account, o.Key))
		if err == nil {
			p = same // it arrived twice at once
			return nil
		}
		if !errors.Is(err, sql.ErrNoRows) {
			return err
		}
		other, err := live(ctx, tx, seat.ID)
		switch {
		case err == nil && other.State == Paid:
			p = other
			return nil
		case err == nil:
			return ErrBusy
		case !errors.Is(err, sql.ErrNoRows):
			return err
		}
		_, err = tx.Exec(ctx, `INSERT INTO payments (id, account, key, enrollment, course, title, amount, state, brand, digits,
			created, touched) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $11)`, p.ID, o.Account, o.Key, p.Enrollment,
			p.Course, p.Title, p.Amount, string(p.State), p.Brand, p.Digits, now.UnixMilli())
		return err
	})
	if err != nil {
		return Payment{}, fmt.Errorf("begin payment for %s: %w", o.Course, err)
	}
	return p, nil
}

// liveOnly asks in the words of the index payments_live: with others, such as state = 'paid', SQLite would look through all
// payments.
const liveOnly = selected + `WHERE enrollment = $1 AND state IN ('pending', 'paid')`

// live returns the payment of an enrollment that is pending or paid.
func live(ctx context.Context, q database.Querier, enrollment string) (Payment, error) {
	return scan(q.QueryRow(ctx, liveOnly, enrollment))
}

// carry brings a pending payment to its end: it asks the card network, then for the seat, then takes the money.
func (s *Store) carry(ctx context.Context, p Payment, number string) (Payment, error) {
	charge, err := s.cards.Authorize(ctx, p.ID, number, p.Amount)
	if errors.Is(err, cardnet.ErrLost) {
		charge, err = s.cards.Authorize(ctx, p.ID, number, p.Amount)
	}
	if err != nil {
		return p, err
	}
	return s.settle(ctx, p, charge)
}

// settle ends a payment whose charge is known.
func (s *Store) settle(ctx context.Context, p Payment, charge cardnet.Charge) (Payment, error) {
	if charge.State == cardnet.Authorized {
		_, err := s.seats.Confirm(ctx, p.Enrollment)
		switch {
		case err == nil:
			charge, err = s.cards.Capture(ctx, p.ID)
		case errors.Is(err, enrollment.ErrNoSeat):
			charge, err = s.cards.Void(ctx, p.ID)
		}
		if err != nil {
			return p, err
		}
	}
	switch charge.State {
	case cardnet.Captured:
		return s.finish(ctx, p, Paid, charge)
	case cardnet.Declined:
		return s.finish(ctx, p, Declined, charge)
	}
	return s.finish(ctx, p, Dropped, charge)
}

// finish writes down how a payment ended, and in the ledger that it was paid; once, however many bring it to its end.
func (s *Store) finish(ctx context.Context, p Payment, state State, charge cardnet.Charge) (Payment, error) {
	err := s.db.Write(ctx, func(tx *database.Tx) error {
		now := s.now()
		first, err := tx.Changed(ctx, `UPDATE payments SET state = $1, reason = $2, touched = $3 WHERE id = $4 AND state = $5`,
			string(state), charge.Reason, now.UnixMilli(), p.ID, string(Pending))
		if err != nil || !first || state != Paid {
			return err
		}
		if _, err := tx.Exec(ctx, `INSERT INTO ledger (payment, enrollment, account, amount, charge, booked)
			VALUES ($1, $2, $3, $4, $5, $6)`, p.ID, p.Enrollment, p.account, charge.Amount, charge.ID, now.UnixMilli()); err != nil {
			return err
		}
		return s.outbox.Add(ctx, tx, notifications.Event{ID: "paid " + p.ID, Kind: notifications.Paid, Account: p.account,
			Course: p.Course, Title: p.Title, Amount: charge.Amount, At: now})
	})
	if err != nil {
		return p, fmt.Errorf("finish payment: %w", err)
	}
	p.State, p.Reason = state, charge.Reason
	return p, nil
}

const selected = `SELECT id, account, enrollment, course, title, amount, state, reason, brand, digits, created FROM payments `

func scan(row interface{ Scan(...any) error }) (Payment, error) {
	var p Payment
	var created int64
	err := row.Scan(&p.ID, &p.account, &p.Enrollment, &p.Course, &p.Title, &p.Amount, &p.State, &p.Reason, &p.Brand, &p.Digits, &created)
	p.Created = time.UnixMilli(created).UTC()
	return p, err
}

// Ledger returns the lines of payments whose id comes after after, in the order of ids.
func (s *Store) Ledger(ctx context.Context, after string, limit int) ([]Entry, error) {
	rows, err := s.db.Read().Query(ctx, `SELECT payment, enrollment, account, amount, charge, booked FROM ledger
		WHERE payment > $1 ORDER BY payment LIMIT $2`, after, limit)
	if err != nil {
		return nil, fmt.Errorf("ledger: %w", err)
	}
	defer rows.Close()
	all := []Entry{}
	for rows.Next() {
		var e Entry
		var booked int64
		if err := rows.Scan(&e.Payment, &e.Enrollment, &e.Account, &e.Amount, &e.Charge, &booked); err != nil {
			return nil, fmt.Errorf("ledger: %w", err)
		}
		e.Booked = time.UnixMilli(booked).UTC()
		all = append(all, e)
	}
	return all, rows.Err()
}
