package state

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"slices"
	"time"

	"trellis/errdefs"
)

// What is kept of the events. Older ones go with the transaction that appends newer ones.
const (
	keepEvents   = 100_000
	keepEventAge = 90 * 24 * time.Hour
	// pruneBatch bounds how many events one append looks at for their age.
	pruneBatch = 256
	// eventPage is how many events a reader takes at once; no connection is held while it handles them.
	eventPage = 512
)

func (s *store) Append(ctx context.Context, events ...Event) error {
	const op = "append events"
	if len(events) == 0 {
		return nil
	}
	now, bodies := time.Now(), make([]string, len(events))
	events = slices.Clone(events)
	for i := range events {
		if events[i].Time.IsZero() {
			events[i].Time = now
		}
		body, err := json.Marshal(events[i])
		if err != nil {
			return fmt.Errorf("%s: %w: %w", op, errdefs.ErrInvalid, err)
		}
		bodies[i] = string(body)
	}
	return s.update(ctx, op, func(tx *sql.Tx) error {
		insert, err := tx.PrepareContext(ctx, "INSERT INTO events (time, service, body) VALUES (?, ?, ?)")
		if err != nil {
			return err
		}
		defer insert.Close()
		var last int64
		for i, e := range events {
			res, err := insert.ExecContext(ctx, e.Time.UnixNano(), e.Service, bodies[i])
			if err != nil {
				return err
			}
			if last, err = res.LastInsertId(); err != nil {
				return err
			}
		}
		return s.pruneEvents(ctx, tx, last, now)
	})
}

// pruneEvents costs two searches by key when there is nothing to remove.
func (s *store) pruneEvents(ctx context.Context, tx *sql.Tx, last int64, now time.Time) error {
	if _, err := tx.ExecContext(ctx, "DELETE FROM events WHERE seq <= ?", last-s.keepEvents); err != nil {
		return err
	}
	var oldest int64
	if err := tx.QueryRowContext(ctx, "SELECT time FROM events ORDER BY seq LIMIT 1").Scan(&oldest); err != nil {
		return err
	}
	cutoff := now.Add(-keepEventAge).UnixNano()
	if oldest >= cutoff {
		return nil
	}
	// The newest is kept whatever its age: an append never removes what it wrote last.
	_, err := tx.ExecContext(ctx, `DELETE FROM events WHERE seq IN (
		SELECT seq FROM events WHERE seq < ? ORDER BY seq LIMIT ?) AND time < ?`, last, pruneBatch, cutoff)
	return err
}

func (s *store) Events(ctx context.Context, f EventFilter) iter.Seq2[Event, error] {
	return func(yield func(Event, error) bool) {
		from, to, err := s.eventRange(ctx, f)
		if err != nil {
			yield(Event{}, err)
			return
		}
		for after := from - 1; after < to; {
			page, err := s.eventPage(ctx, f, after, to)
			if err != nil {
				yield(Event{}, err)
				return
			}
			for _, e := range page {
				if !yield(e, nil) {
					return
				}
			}
			if len(page) < eventPage {
				return
			}
			after = page[len(page)-1].Seq
		}
	}
}

// where returns the condition for what f selects behind after, up to to.
func (f EventFilter) where(after, to int64) (string, []any) {
	cond, args := " WHERE seq > ? AND seq <= ?", []any{after, to}
	if !f.Since.IsZero() {
		cond, args = cond+" AND time >= ?", append(args, f.Since.UnixNano())
	}
	if f.Service != "" {
		cond, args = cond+" AND service = ?", append(args, f.Service)
	}
	return cond, args
}

// eventRange returns the first and the last Seq that f selects now; what is appended afterwards is not seen.
func (s *store) eventRange(ctx context.Context, f EventFilter) (from, to int64, err error) {
	const op = "read events"
	if err := s.read.QueryRowContext(ctx, "SELECT coalesce(max(seq), 0) FROM events").Scan(&to); err != nil {
		return 0, 0, s.explain(op, err)
	}
	if f.Limit <= 0 {
		return f.After + 1, to, nil
	}
	cond, args := f.where(f.After, to)
	err = s.read.QueryRowContext(ctx, "SELECT seq FROM events"+cond+" ORDER BY seq DESC LIMIT 1 OFFSET ?",
		append(args, f.Limit-1)...).Scan(&from)
	if errors.Is(err, sql.ErrNoRows) { // fewer than the limit
		return f.After + 1, to, nil
	}
	if err != nil {
		return 0, 0, s.explain(op, err)
	}
	return from, to, nil
}

func (s *store) eventPage(ctx context.Context, f EventFilter, after, to int64) ([]Event, error) {
	const op = "read events"
	cond, args := f.where(after, to)
	rows, err := s.read.QueryContext(ctx, "SELECT seq, body FROM events"+cond+" ORDER BY seq LIMIT ?",
		append(args, eventPage)...)
	if err != nil {
		return nil, s.explain(op, err)
	}
	defer rows.Close()
	var page []Event
	for rows.Next() {
		var seq int64
		var body string
		if err := rows.Scan(&seq, &body); err != nil {
			return nil, s.explain(op, err)
		}
		var e Event
		if err := json.Unmarshal([]byte(body), &e); err != nil {
			return nil, fmt.Errorf("%s: event %d cannot be read: %w", op, seq, err)
		}
		e.Seq = seq
		page = append(page, e)
	}
	if err := rows.Err(); err != nil {
		return nil, s.explain(op, err)
	}
	return page, nil
}
