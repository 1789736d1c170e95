// Package database opens the store of a domain: a SQLite file by default. It is the one place that knows which database
// it is; the domains write portable SQL with numbered parameters ($1, $2), so that DATABASE_URL can name another one.
package database

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	_ "modernc.org/sqlite" // registers the driver "sqlite"
)

// DB is an open database. Writes go through one connection, so that they queue in this process instead of failing in the
// file; reads have a pool of their own and never wait for a write.
type DB struct {
	read  *sql.DB
	write *sql.DB
}

// Open opens the database that location names and makes it where there is none: "" is the file <dir>/<name>.db,
// "sqlite:<path>" another file. Several processes of one machine may have it open.
func Open(ctx context.Context, location, dir, name string) (*DB, error) {
	path := filepath.Join(dir, name+".db")
	if location != "" {
		scheme, rest, _ := strings.Cut(location, ":")
		if scheme != "sqlite" {
			return nil, fmt.Errorf("open database %s: DATABASE_URL has scheme %q: this build knows sqlite:<path> only", name, scheme)
		}
		path = strings.TrimPrefix(rest, "//")
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, fmt.Errorf("open database %s: %w", name, err)
	}
	db := &DB{}
	var err error
	if db.write, err = sql.Open("sqlite", dsn(path, true)); err == nil {
		db.write.SetMaxOpenConns(1)
		if db.read, err = sql.Open("sqlite", dsn(path, false)); err == nil {
			db.read.SetMaxOpenConns(8)
			db.read.SetMaxIdleConns(8)
			err = db.ping(ctx)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("open database %s: %w", name, errors.Join(err, db.Close()))
	}
	return db, nil
}

// dsn has a wait of 5 s for other processes, write-ahead logging, and a sync at every commit: what was answered with
// "yes" is there after a power cut too.
func dsn(path string, write bool) string {
	q := url.Values{"_pragma": {"busy_timeout(5000)", "journal_mode(WAL)", "synchronous(FULL)", "foreign_keys(ON)"}}
	if write {
		q.Set("_txlock", "immediate")
	} else {
		q.Add("_pragma", "query_only(ON)")
	}
	return (&url.URL{Scheme: "file", Opaque: (&url.URL{Path: path}).EscapedPath(), RawQuery: q.Encode()}).String()
}

// ping opens the file. Two processes that make it at the same moment can meet while one turns on the log: that is
// tried again.
func (db *DB) ping(ctx context.Context) error {
	var err error
	for range 20 {
		if err = db.write.PingContext(ctx); err == nil {
			return db.read.PingContext(ctx)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(100 * time.Millisecond):
		}
	}
	return err
}

// Close closes all connections, after the transactions that run have ended.
func (db *DB) Close() error {
	var err error
	for _, pool := range []*sql.DB{db.read, db.write} {
		if pool != nil {
			err = errors.Join(err, pool.Close())
		}
	}
	return err
}

// Ready reports whether the database answers.
func (db *DB) Ready(ctx context.Context) error {
	var one int
	return db.read.QueryRowContext(ctx, "SELECT 1").Scan(&one)
}

// Read returns the pool for queries. A write through it fails.
func (db *DB) Read() *sql.DB { return db.read }

// Write runs do in a transaction that no other write runs beside, and commits unless do fails.
func (db *DB) Write(ctx context.Context, do func(*sql.Tx) error) error {
	tx, err := db.write.BeginTx(ctx, nil)
	if err != nil {
		return fmt.Errorf("begin: %w", err)
	}
	defer tx.Rollback()
	if err := do(tx); err != nil {
		return err
	}
	if err := tx.Commit(); err != nil {
		return fmt.Errorf("commit: %w", err)
	}
	return nil
}

// Migrate brings the domain's tables to the newest form: steps[n] leads from version n to n+1, and each runs once. Steps
// only add, so that the release before goes on working beside this one while it is rolled out.
func (db *DB) Migrate(ctx context.Context, domain string, steps []string) error {
	return db.Write(ctx, func(tx *sql.Tx) error {
		if _, err := tx.ExecContext(ctx, `CREATE TABLE IF NOT EXISTS migrations (
			domain TEXT PRIMARY KEY, version INTEGER NOT NULL)`); err != nil {
			return fmt.Errorf("migrate %s: %w", domain, err)
		}
		var version int
		err := tx.QueryRowContext(ctx, `SELECT version FROM migrations WHERE domain = $1`, domain).Scan(&version)
		if err != nil && !errors.Is(err, sql.ErrNoRows) {
			return fmt.Errorf("migrate %s: %w", domain, err)
		}
		for n := version; n < len(steps); n++ {
			if _, err := tx.ExecContext(ctx, steps[n]); err != nil {
				return fmt.Errorf("migrate %s to version %d: %w", domain, n+1, err)
			}
		}
		if version >= len(steps) {
			return nil
		}
		_, err = tx.ExecContext(ctx, `INSERT INTO migrations (domain, version) VALUES ($1, $2)
			ON CONFLICT (domain) DO UPDATE SET version = excluded.version`, domain, len(steps))
		return err
	})
}
