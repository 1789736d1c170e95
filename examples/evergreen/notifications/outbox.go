package notifications

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"evergreen/database"
	"evergreen/rest"
)

// Outbox keeps what a domain has to tell until it has been told. An event is written down in the transaction that makes
// it true, so that neither can be lost without the other, and is sent until notifications has it.
type Outbox struct {
	db    *database.DB
	table string
	tell  func(context.Context, []Event) error
	wake  chan struct{}
	log   *slog.Logger
}

// NewOutbox makes the outbox of a domain. tell is Client.Tell or as good.
func NewOutbox(ctx context.Context, db *database.DB, domain string, tell func(context.Context, []Event) error, log *slog.Logger) (*Outbox, error) {
	o := &Outbox{db: db, table: "outbox_" + domain, tell: tell, wake: make(chan struct{}, 1), log: log}
	return o, db.Migrate(ctx, o.table, []string{
		`CREATE TABLE ` + o.table + ` (id TEXT PRIMARY KEY, event TEXT NOT NULL, happened INTEGER NOT NULL)`,
	})
}

// Add writes an event down with the transaction tx.
func (o *Outbox) Add(ctx context.Context, tx *database.Tx, e Event) error {
	body, err := json.Marshal(e)
	if err != nil {
		return fmt.Errorf("event %s: %w", e.ID, err)
	}
	if _, err := tx.Exec(ctx, `INSERT INTO `+o.table+` (id, event, happened) VALUES ($1, $2, $3) ON CONFLICT (id) DO NOTHING`,
		e.ID, string(body), e.At.UnixMilli()); err != nil {
		return fmt.Errorf("event %s: %w", e.ID, err)
	}
	select {
	case o.wake <- struct{}{}:
	default:
	}
	return nil
}

// How long Run waits: to gather what happens at about the same time, before it looks by itself, and between two attempts
// while notifications is away: twice as long each time.
const (
	gather   = 400 * time.Millisecond
	look     = 2 * time.Second
	minRetry = 200 * time.Millisecond
	maxRetry = 10 * time.Second
)

// Run sends what is written down until ctx ends.
func (o *Outbox) Run(ctx context.Context) error {
	retry := minRetry
	for ctx.Err() == nil {
		if err := o.flush(ctx); err != nil {
			if ctx.Err() == nil {
				o.log.Warn("events wait for notifications", "err", err)
			}
			sleep(ctx, retry)
			retry = min(2*retry, maxRetry)
			continue
		}
		retry = minRetry
		select {
		case <-ctx.Done():
		case <-time.After(look):
		case <-o.wake:
			sleep(ctx, gather)
		}
	}
	return nil
}

func sleep(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

// flush sends all there is, oldest first.
func (o *Outbox) flush(ctx context.Context) error {
	for {
		events, err := o.waiting(ctx)
		if err != nil || len(events) == 0 {
			return err
		}
		if err := o.send(ctx, events); err != nil {
			return err
		}
		err = o.db.Write(ctx, func(tx *database.Tx) error {
			for _, e := range events {
				if _, err := tx.Exec(ctx, `DELETE FROM `+o.table+` WHERE id = $1`, e.ID); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil || len(events) < maxEvents {
			return err
		}
	}
}

func (o *Outbox) send(ctx context.Context, events []Event) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	err := o.tell(ctx, events)
	var p *rest.Problem
	if errors.As(err, &p) && p.Status < 500 && p.Status != 429 && !errors.Is(err, rest.ErrUnavailable) {
		// Notifications understands them as little the next time, and those behind them wait.
		o.log.Error("events dropped", "events", events, "err", err)
		return nil
	}
	return err
}

func (o *Outbox) waiting(ctx context.Context) ([]Event, error) {
	rows, err := o.db.Read().Query(ctx, `SELECT event FROM `+o.table+` ORDER BY happened LIMIT $1`, maxEvents)
	if err != nil {
		return nil, fmt.Errorf("events to be told: %w", err)
	}
	defer rows.Close()
	var all []Event
	for rows.Next() {
		var body string
		var e Event
		if err := rows.Scan(&body); err != nil {
			return nil, fmt.Errorf("events to be told: %w", err)
		}
		if err := json.Unmarshal([]byte(body), &e); err != nil {
			return nil, fmt.Errorf("events to be told: %w", err)
		}
		all = append(all, e)
	}
	return all, rows.Err()
}
