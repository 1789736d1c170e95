package state

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"trellis/errdefs"
)

// revisionRow is a Revision as it is stored: what never changes as JSON, what is settled later in columns.
type revisionRow struct {
	number    int64
	body      string
	outcome   string
	healthyAt sql.NullString
}

func encodeRevision(rev Revision) (revisionRow, error) {
	row := revisionRow{number: rev.Number, outcome: rev.Outcome}
	if rev.HealthyAt != nil {
		row.healthyAt = sql.NullString{String: rev.HealthyAt.Format(time.RFC3339Nano), Valid: true}
	}
	rev.Outcome, rev.HealthyAt = "", nil
	body, err := json.Marshal(rev)
	row.body = string(body)
	return row, err
}

func (row revisionRow) decode() (Revision, error) {
	var rev Revision
	if err := json.Unmarshal([]byte(row.body), &rev); err != nil {
		return Revision{}, fmt.Errorf("revision %d cannot be read: %w", row.number, err)
	}
	rev.Number, rev.Outcome, rev.HealthyAt = row.number, row.outcome, nil
	if row.healthyAt.Valid {
		at, err := time.Parse(time.RFC3339Nano, row.healthyAt.String)
		if err != nil {
			return Revision{}, fmt.Errorf("revision %d cannot be read: %w", row.number, err)
		}
		rev.HealthyAt = &at
	}
	return rev, nil
}

func (s *store) Put(ctx context.Context, rev Revision, after int64, overrides ...Override) (Revision, error) {
	rev.Number = after + 1
	if rev.Outcome == "" {
		rev.Outcome = Pending
	}
	row, err := encodeRevision(rev)
	if err != nil {
		return Revision{}, fmt.Errorf("put revision %d: %w: %w", rev.Number, errdefs.ErrInvalid, err)
	}
	// What is returned is what every later reader gets, not what the caller had in memory.
	if rev, err = row.decode(); err != nil {
		return Revision{}, fmt.Errorf("put revision %d: %w: %w", row.number, errdefs.ErrInvalid, err)
	}
	err = s.update(ctx, fmt.Sprintf("put revision %d", rev.Number), func(tx *sql.Tx) error {
		var newest int64
		if err := tx.QueryRowContext(ctx, "SELECT coalesce(max(number), 0) FROM revisions").Scan(&newest); err != nil {
			return err
		}
		if newest != after {
			return fmt.Errorf("%w: the newest revision is %d, not %d", errdefs.ErrConflict, newest, after)
		}
		if _, err := tx.ExecContext(ctx, "UPDATE revisions SET outcome = ? WHERE outcome = 'pending'", Superseded); err != nil {
			return err
		}
		if _, err := tx.ExecContext(ctx, "INSERT INTO revisions (number, body, outcome, healthy_at) VALUES (?, ?, ?, ?)",
			row.number, row.body, row.outcome, row.healthyAt); err != nil {
			return err
		}
		for _, o := range overrides {
			if err := writeOverride(ctx, tx, o); err != nil {
				return fmt.Errorf("override of %s: %w", o.Service, err)
			}
		}
		return nil
	})
	if err != nil {
		return Revision{}, err
	}
	s.backup.start()
	return rev, nil
}

const selectRevisions = "SELECT number, body, outcome, healthy_at FROM revisions "

func (s *store) Latest(ctx context.Context) (Revision, error) {
	return s.revision(ctx, "read the latest revision", selectRevisions+"ORDER BY number DESC LIMIT 1")
}

func (s *store) Get(ctx context.Context, number int64) (Revision, error) {
	return s.revision(ctx, fmt.Sprintf("read revision %d", number), selectRevisions+"WHERE number = ?", number)
}

func (s *store) revision(ctx context.Context, op, query string, args ...any) (Revision, error) {
	revs, err := s.revisions(ctx, op, query, args...)
	if err != nil {
		return Revision{}, err
	}
	if len(revs) == 0 {
		return Revision{}, fmt.Errorf("%s: %w", op, errdefs.ErrNotFound)
	}
	return revs[0], nil
}

func (s *store) History(ctx context.Context, limit int) ([]Revision, error) {
	if limit <= 0 {
		limit = -1
	}
	return s.revisions(ctx, "read revisions", selectRevisions+"ORDER BY number DESC LIMIT ?", limit)
}

func (s *store) revisions(ctx context.Context, op, query string, args ...any) ([]Revision, error) {
	rows, err := s.read.QueryContext(ctx, query, args...)
	if err != nil {
		return nil, s.explain(op, err)
	}
	defer rows.Close()
	var revs []Revision
	for rows.Next() {
		var row revisionRow
		if err := rows.Scan(&row.number, &row.body, &row.outcome, &row.healthyAt); err != nil {
			return nil, s.explain(op, err)
		}
		rev, err := row.decode()
		if err != nil {
			return nil, fmt.Errorf("%s: %w", op, damaged(s.path, err))
		}
		revs = append(revs, rev)
	}
	if err := rows.Err(); err != nil {
		return nil, s.explain(op, err)
	}
	return revs, nil
}

func (s *store) Settle(ctx context.Context, number int64, outcome string, at time.Time) error {
	op := fmt.Sprintf("settle revision %d", number)
	switch outcome {
	case Healthy, Failed, RolledBack, Superseded:
	default:
		return fmt.Errorf("%s: %w: no such outcome %q", op, errdefs.ErrInvalid, outcome)
	}
	var healthyAt sql.NullString
	if outcome == Healthy {
		healthyAt = sql.NullString{String: at.Format(time.RFC3339Nano), Valid: true}
	}
	return s.update(ctx, op, func(tx *sql.Tx) error {
		var now string
		err := tx.QueryRowContext(ctx, "SELECT outcome FROM revisions WHERE number = ?", number).Scan(&now)
		if errors.Is(err, sql.ErrNoRows) {
			return errdefs.ErrNotFound
		}
		if err != nil {
			return err
		}
		if now != Pending {
			return fmt.Errorf("%w: it is %s already", errdefs.ErrConflict, now)
		}
		_, err = tx.ExecContext(ctx, "UPDATE revisions SET outcome = ?, healthy_at = ? WHERE number = ?",
			outcome, healthyAt, number)
		return err
	})
}
