package state

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"

	"trellis/errdefs"
)

func (s *store) Overrides(ctx context.Context) ([]Override, error) {
	const op = "read overrides"
	rows, err := s.read.QueryContext(ctx, "SELECT service, body FROM overrides ORDER BY service")
	if err != nil {
		return nil, s.explain(op, err)
	}
	defer rows.Close()
	var all []Override
	for rows.Next() {
		var service, body string
		if err := rows.Scan(&service, &body); err != nil {
			return nil, s.explain(op, err)
		}
		var o Override
		if err := json.Unmarshal([]byte(body), &o); err != nil {
			return nil, fmt.Errorf("%s: %w", op, damaged(s.path, fmt.Errorf("override of %s: %w", service, err)))
		}
		o.Service = service
		all = append(all, o)
	}
	if err := rows.Err(); err != nil {
		return nil, s.explain(op, err)
	}
	return all, nil
}

func (s *store) SetOverride(ctx context.Context, o Override) error {
	return s.update(ctx, "write override of "+o.Service, func(tx *sql.Tx) error { return writeOverride(ctx, tx, o) })
}

func writeOverride(ctx context.Context, tx *sql.Tx, o Override) error {
	if o.Service == "" {
		return fmt.Errorf("%w: it names no service", errdefs.ErrInvalid)
	}
	if o == (Override{Service: o.Service}) {
		_, err := tx.ExecContext(ctx, "DELETE FROM overrides WHERE service = ?", o.Service)
		return err
	}
	body, err := json.Marshal(o)
	if err != nil {
		return fmt.Errorf("%w: %w", errdefs.ErrInvalid, err)
	}
	_, err = tx.ExecContext(ctx, "REPLACE INTO overrides (service, body) VALUES (?, ?)", o.Service, string(body))
	return err
}

func (s *store) Value(ctx context.Context, name string, v any) error {
	op := "read value " + name
	var body string
	err := s.read.QueryRowContext(ctx, "SELECT body FROM vals WHERE name = ?", name).Scan(&body)
	if errors.Is(err, sql.ErrNoRows) {
		return fmt.Errorf("%s: %w", op, errdefs.ErrNotFound)
	}
	if err != nil {
		return s.explain(op, err)
	}
	if err := json.Unmarshal([]byte(body), v); err != nil {
		return fmt.Errorf("%s: %w", op, err)
	}
	return nil
}

func (s *store) SetValue(ctx context.Context, name string, v any) error {
	op := "write value " + name
	body, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("%s: %w: %w", op, errdefs.ErrInvalid, err)
	}
	return s.update(ctx, op, func(tx *sql.Tx) error {
		if v == nil {
			_, err := tx.ExecContext(ctx, "DELETE FROM vals WHERE name = ?", name)
			return err
		}
		_, err := tx.ExecContext(ctx, "REPLACE INTO vals (name, body) VALUES (?, ?)", name, string(body))
		return err
	})
}
