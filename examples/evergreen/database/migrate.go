package database

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"
)

// Migrate brings the domain's tables to the newest form: steps[n] leads from version n to n+1, and each runs once. Steps
// only add, so that the release before goes on working beside this one while it is rolled out. They name types as SQLite
// does; on PostgreSQL an INTEGER is a BIGINT and a BLOB is a BYTEA.
func (db *DB) Migrate(ctx context.Context, domain string, steps []string) error {
	err := db.Write(ctx, func(tx *Tx) error { return db.migrate(ctx, tx, domain, steps) })
	if err != nil {
		return fmt.Errorf("migrate %s: %w", domain, err)
	}
	return nil
}

func (db *DB) migrate(ctx context.Context, tx *Tx, domain string, steps []string) error {
	if db.dialect == Postgres {
		// Domains that share a database make this table at the same moment.
		if _, err := tx.Exec(ctx, `SELECT pg_advisory_xact_lock(1)`); err != nil {
			return err
		}
	}
	if _, err := tx.Exec(ctx, `CREATE TABLE IF NOT EXISTS migrations (domain TEXT PRIMARY KEY, version INTEGER NOT NULL)`); err != nil {
		return err
	}
	var version int
	err := tx.QueryRow(ctx, `SELECT version FROM migrations WHERE domain = $1`, domain).Scan(&version)
	if err != nil && !errors.Is(err, sql.ErrNoRows) {
		return err
	}
	for n := version; n < len(steps); n++ {
		if _, err := tx.Exec(ctx, db.types(steps[n])); err != nil {
			return fmt.Errorf("to version %d: %w", n+1, err)
		}
	}
	if version >= len(steps) {
		return nil
	}
	_, err = tx.Exec(ctx, `INSERT INTO migrations (domain, version) VALUES ($1, $2)
		ON CONFLICT (domain) DO UPDATE SET version = excluded.version`, domain, len(steps))
	return err
}

func (db *DB) types(step string) string {
	if db.dialect != Postgres {
		return step
	}
	return strings.NewReplacer(" INTEGER", " BIGINT", " BLOB", " BYTEA").Replace(step)
}
