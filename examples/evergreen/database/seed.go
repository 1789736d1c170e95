package database

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
)

// Seed writes what a new database begins with: insert is called for 0 to n-1, in this order and each once, with at most part
// of them in a transaction. So no transaction takes long, however many there are and however slow the machine is, and none
// has to be done again: how far it has got is kept under what, and whoever is started next, or seeds at the same time, goes on
// from there. standing tells how many there are in a database that knows nothing of what yet, made by an earlier release.
// The tables, of Migrate, must be there.
func (db *DB) Seed(ctx context.Context, what string, n, part int, standing func(*Tx) (int, error), insert func(*Tx, int) error) error {
	for done := -1; done < n; {
		err := db.Write(ctx, func(tx *Tx) error {
			var err error
			if done, err = seeded(ctx, tx, what, standing); err != nil {
				return err
			}
			from := done
			for ; done < min(from+part, n); done++ {
				if err := insert(tx, done); err != nil {
					return err
				}
			}
			_, err = tx.Exec(ctx, `INSERT INTO migrations (domain, version) VALUES ($1, $2)
				ON CONFLICT (domain) DO UPDATE SET version = excluded.version`, seedOf(what), done)
			return err
		})
		if err != nil {
			return fmt.Errorf("seed %s: %w", what, err)
		}
	}
	return nil
}

// seedOf is the name under which migrations knows how far a seed has got; no domain is called so.
func seedOf(what string) string { return "seed: " + what }

func seeded(ctx context.Context, tx *Tx, what string, standing func(*Tx) (int, error)) (int, error) {
	var done int
	err := tx.QueryRow(ctx, `SELECT version FROM migrations WHERE domain = $1`, seedOf(what)).Scan(&done)
	if errors.Is(err, sql.ErrNoRows) {
		return standing(tx)
	}
	return done, err
}
