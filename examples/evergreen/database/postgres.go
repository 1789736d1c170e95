package database

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"hash/fnv"
	"time"

	_ "github.com/jackc/pgx/v5/stdlib" // registers the driver "pgx"
)

func openPostgres(ctx context.Context, location, name string) (*DB, error) {
	db, err := sql.Open("pgx", location)
	if err != nil {
		return nil, err
	}
	db.SetMaxOpenConns(8)
	db.SetMaxIdleConns(8)
	db.SetConnMaxIdleTime(5 * time.Minute)
	if err := db.PingContext(ctx); err != nil {
		return nil, errors.Join(err, db.Close())
	}
	h := fnv.New64a()
	h.Write([]byte("evergreen " + name))
	return &DB{dialect: Postgres, read: Pool{db: db}, write: &postgresWriter{db, int64(h.Sum64())}}, nil
}

// postgresWriter queues the writes of a domain by an advisory lock that ends with the transaction.
type postgresWriter struct {
	db   *sql.DB
	lock int64
}

// longest bounds a write, the wait for its turn included.
const longest = 15 * time.Second

// write goes on when its caller gives up: a statement that is broken off costs a connection.
func (w *postgresWriter) write(ctx context.Context, do func(*Tx) error) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), longest)
	defer cancel()
	tx, err := w.db.BeginTx(ctx, nil)
	if err != nil {
		return fmt.Errorf("begin: %w", err)
	}
	defer tx.Rollback()
	if _, err := tx.ExecContext(ctx, "SELECT pg_advisory_xact_lock($1)", w.lock); err != nil {
		return fmt.Errorf("begin: %w", err)
	}
	if err := do(&Tx{on: tx}); err != nil {
		return err
	}
	if err := tx.Commit(); err != nil {
		return fmt.Errorf("commit: %w", err)
	}
	return nil
}

// close does nothing: reads and writes share one pool.
func (w *postgresWriter) close() error { return nil }
