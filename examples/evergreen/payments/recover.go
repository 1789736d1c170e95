package payments

import (
	"context"
	"errors"
	"fmt"
	"time"

	"evergreen/cardnet"
	"evergreen/database"
)

// left is how long nobody has touched a payment before it counts as left behind: longer than any request lives.
const left = 15 * time.Second

// Recover brings payments to their end that were left behind, by a crash or by a party that was away, until ctx ends.
func (s *Store) Recover(ctx context.Context) error {
	t := time.NewTicker(2 * time.Second)
	defer t.Stop()
	for {
		if err := s.recover(ctx); err != nil && ctx.Err() == nil {
			s.log.Warn("payments left behind", "err", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-t.C:
		}
	}
}

func (s *Store) recover(ctx context.Context) error {
	all, err := s.leftBehind(ctx)
	if err != nil {
		return err
	}
	var failed error
	for _, p := range all {
		if mine, err := s.claim(ctx, p); err != nil || !mine {
			failed = errors.Join(failed, err)
			continue
		}
		if err := s.resume(ctx, p); err != nil {
			failed = errors.Join(failed, fmt.Errorf("resume %s: %w", p.ID, err))
		}
	}
	return failed
}

// resume asks the network what has become of the charge. One that it does not know is made impossible first: the card's
// number is not kept, so nobody can carry on with it.
func (s *Store) resume(ctx context.Context, p Payment) error {
	ctx, cancel := context.WithTimeout(ctx, 8*time.Second)
	defer cancel()
	charge, known, err := s.cards.Find(ctx, p.ID)
	if err == nil && !known {
		charge, err = s.cards.Void(ctx, p.ID)
	}
	if err != nil && !errors.Is(err, cardnet.ErrLost) {
		return err
	}
	if err != nil {
		return nil // asked again when the claim has aged
	}
	_, err = s.settle(ctx, p, charge)
	return err
}

func (s *Store) leftBehind(ctx context.Context) ([]Payment, error) {
	rows, err := s.db.Read().Query(ctx, selected+`WHERE state = 'pending' AND touched < $1 ORDER BY touched LIMIT 50`,
		s.now().Add(-left).UnixMilli())
	if err != nil {
		return nil, fmt.Errorf("payments left behind: %w", err)
	}
	defer rows.Close()
	var all []Payment
	for rows.Next() {
		p, err := scan(rows)
		if err != nil {
			return nil, fmt.Errorf("payments left behind: %w", err)
		}
		all = append(all, p)
	}
	return all, rows.Err()
}

// claim reports whether this process is the one to carry on with p.
func (s *Store) claim(ctx context.Context, p Payment) (mine bool, err error) {
	now := s.now()
	err = s.db.Write(ctx, func(tx *database.Tx) error {
		mine, err = tx.Changed(ctx, `UPDATE payments SET touched = $1 WHERE id = $2 AND state = 'pending' AND touched < $3`,
			now.UnixMilli(), p.ID, now.Add(-left).UnixMilli())
		return err
	})
	return mine, err
}
