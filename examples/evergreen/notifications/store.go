// Package notifications is the domain of what learners are told: the other domains say what has happened, as often as it
// takes to be heard, and a learner finds it once in an inbox.
package notifications

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"time"

	"evergreen/database"
	"evergreen/rest"
)

var schema = []string{
	`CREATE TABLE notices (
		id TEXT PRIMARY KEY, account TEXT NOT NULL, kind TEXT NOT NULL, course TEXT NOT NULL, title TEXT NOT NULL,
		amount INTEGER NOT NULL, happened INTEGER NOT NULL, read INTEGER NOT NULL DEFAULT 0);
	CREATE INDEX notices_by_account ON notices (account, happened DESC);
	CREATE INDEX notices_unread ON notices (account) WHERE read = 0;`,
}

// Kind is what has happened.
type Kind string

// The kinds that learners are told of.
const (
	Enrolled  Kind = "enrolled"  // a seat is theirs
	Paid      Kind = "paid"      // money was taken
	Lapsed    Kind = "lapsed"    // a seat that was kept for them has gone back
	Completed Kind = "completed" // the last lesson of a course is done
)

// Event is something that has happened to a learner. ID is its identity: an event that arrives twice is told once.
type Event struct {
	ID      string    `json:"id"`
	Kind    Kind      `json:"kind"`
	Account string    `json:"account"`
	Course  string    `json:"course"` // slug
	Title   string    `json:"title"`  // of the course
	Amount  int       `json:"amount"` // cents of a euro; 0 none
	At      time.Time `json:"at"`
}

// Notice is an Event as its learner sees it.
type Notice struct {
	Event
	Text string `json:"text"`
	New  bool   `json:"new"` // not yet shown
}

// Inbox is what a learner has been told, newest first.
type Inbox struct {
	Notices []Notice `json:"notices"`
	Unread  int      `json:"unread"` // in all, also in what is left out here
}

// maxNotices is how many notices an inbox shows, and maxEvents how many events may arrive at once.
const (
	maxNotices = 100
	maxEvents  = 100
)

var errKind = &rest.Problem{Status: http.StatusUnprocessableEntity, Code: "no_event", Title: "This is no event that learners are told of."}

// Store keeps notices.
type Store struct{ db *database.DB }

// NewStore makes the tables.
func NewStore(ctx context.Context, db *database.DB) (*Store, error) {
	return &Store{db}, db.Migrate(ctx, "notifications", schema)
}

// Tell keeps events, all or none. One that is known already changes nothing.
func (s *Store) Tell(ctx context.Context, events []Event) error {
	if len(events) > maxEvents {
		return rest.Invalid("", fmt.Sprintf("At most %d events can be told at once.", maxEvents))
	}
	for _, e := range events {
		if e.ID == "" || e.Account == "" || e.text() == "" {
			return errKind
		}
	}
	return s.db.Write(ctx, func(tx *database.Tx) error {
		for _, e := range events {
			if _, err := tx.Exec(ctx, `INSERT INTO notices (id, account, kind, course, title, amount, happened)
				VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT (id) DO NOTHING`, e.ID, e.Account, string(e.Kind), e.Course,
				e.Title, e.Amount, e.At.UnixMilli()); err != nil {
				return fmt.Errorf("tell %s: %w", e.ID, err)
			}
		}
		return nil
	})
}

// text is what a learner reads; "" for a kind that is not known.
func (e Event) text() string {
	title := e.Title
	if title == "" {
		title = e.Course
	}
	switch e.Kind {
	case Enrolled:
		return fmt.Sprintf("You have a seat in %s. The first lesson is waiting for you.", title)
	case Paid:
		return fmt.Sprintf("We have received your payment of %s for %s. Thank you.", Euro(e.Amount), title)
	case Lapsed:
		return fmt.Sprintf("The seat in %s that we kept for you was not paid in time and has gone back. Nothing was taken from your card.", title)
	case Completed:
		return fmt.Sprintf("You have completed %s. Well done!", title)
	}
	return ""
}

// Euro writes an amount of cents: "€48", "€48.50".
func Euro(cents int) string {
	return strings.TrimSuffix(fmt.Sprintf("€%d.%02d", cents/100, cents%100), ".00")
}

// Inbox returns what account has been told.
func (s *Store) Inbox(ctx context.Context, account string) (Inbox, error) {
	box := Inbox{Notices: []Notice{}}
	var err error
	if box.Unread, err = s.Unread(ctx, account); err != nil {
		return box, err
	}
	rows, err := s.db.Read().Query(ctx, `SELECT id, kind, course, title, amount, happened, read FROM notices
		WHERE account = $1 ORDER BY happened DESC, id LIMIT $2`, account, maxNotices)
	if err != nil {
		return box, fmt.Errorf("inbox: %w", err)
	}
	defer rows.Close()
	for rows.Next() {
		n := Notice{Event: Event{Account: account}}
		var at, read int64
		if err := rows.Scan(&n.ID, &n.Kind, &n.Course, &n.Title, &n.Amount, &at, &read); err != nil {
			return box, fmt.Errorf("inbox: %w", err)
		}
		n.At, n.New, n.Text = time.UnixMilli(at).UTC(), read == 0, n.text()
		box.Notices = append(box.Notices, n)
	}
	return box, rows.Err()
}

// Unread returns how many notices account has not been shown.
func (s *Store) Unread(ctx context.Context, account string) (int, error) {
	var n int
	err := s.db.Read().QueryRow(ctx, `SELECT count(*) FROM notices WHERE account = $1 AND read = 0`, account).Scan(&n)
	if err != nil {
		return 0, fmt.Errorf("unread notices: %w", err)
	}
	return n, nil
}

// Seen says that account has been shown the notices with the given ids.
func (s *Store) Seen(ctx context.Context, account string, ids []string) error {
	if len(ids) > maxNotices {
		return rest.Invalid("ids", fmt.Sprintf("At most %d notices can be named at once.", maxNotices))
	}
	return s.db.Write(ctx, func(tx *database.Tx) error {
		for _, id := range ids {
			if _, err := tx.Exec(ctx, `UPDATE notices SET read = 1 WHERE id = $1 AND account = $2`, id, account); err != nil {
				return fmt.Errorf("notice %s: %w", id, err)
			}
		}
		return nil
	})
}
