// Package database opens the store of a domain: a SQLite file by default, PostgreSQL where DATABASE_URL names one. It is
// the one place that knows which of them it is. The domains write portable SQL with numbered parameters ($1, $2); where
// they cannot (full-text search), they ask for the Dialect.
package database

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"
	"sync"
)

// Dialect is a kind of database.
type Dialect string

// The kinds there are.
const (
	SQLite   Dialect = "sqlite"
	Postgres Dialect = "postgres"
)

// DB is an open database. Writes of a domain queue, in all processes together, so that its rules can be written as if
// there were one writer; reads have a pool of their own and never wait for a write.
type DB struct {
	dialect Dialect
	read    Pool
	write   writer
}

// writer carries out transactions one after the other.
type writer interface {
	write(ctx context.Context, do func(*Tx) error) error
	close() error
}

// Open opens the database that location names. "" is the SQLite file <dir>/<name>.db and "sqlite:<path>" another one; both
// are made where there is none, and several processes of one machine may have them open. "postgres://…" is a PostgreSQL
// database, which several domains may share. name also names the queue of writes.
func Open(ctx context.Context, location, dir, name string) (*DB, error) {
	scheme, rest, _ := strings.Cut(location, ":")
	var db *DB
	dialect, err := DialectOf(location)
	switch {
	case err != nil:
	case dialect == Postgres:
		db, err = openPostgres(ctx, location, name)
	case scheme == "":
		db, err = openSQLite(ctx, dir, name+".db")
	default:
		db, err = openSQLite(ctx, "", strings.TrimPrefix(rest, "//"))
	}
	if err != nil {
		return nil, fmt.Errorf("open database %s: %w", name, err)
	}
	return db, nil
}

// DialectOf tells which kind of database location names.
func DialectOf(location string) (Dialect, error) {
	scheme, _, _ := strings.Cut(location, ":")
	switch scheme {
	case "", "sqlite":
		return SQLite, nil
	case "postgres", "postgresql":
		return Postgres, nil
	}
	return "", fmt.Errorf("DATABASE_URL has scheme %q: sqlite:<path> or postgres://… is needed", scheme)
}

// Dialect tells which kind of database it is.
func (db *DB) Dialect() Dialect { return db.dialect }

// Close closes all connections, after the transactions that run have ended.
func (db *DB) Close() error { return errors.Join(db.write.close(), db.read.db.Close()) }

// Ready reports whether the database answers.
func (db *DB) Ready(ctx context.Context) error {
	var one int
	return db.read.QueryRow(ctx, "SELECT 1").Scan(&one)
}

// Read returns the pool for queries. A write through it fails.
func (db *DB) Read() *Pool { return &db.read }

// Write runs do in a transaction that no other write of this domain runs beside, and commits unless do fails. When Write
// returns nil, what do wrote is on disk.
func (db *DB) Write(ctx context.Context, do func(*Tx) error) error { return db.write.write(ctx, do) }

// Querier is what can be asked: a Pool or a Tx.
type Querier interface {
	Query(ctx context.Context, query string, args ...any) (*sql.Rows, error)
	QueryRow(ctx context.Context, query string, args ...any) *sql.Row
}

// Pool asks and never writes. In SQLite a query that has begun goes on when its context ends: it reads a few rows, which
// takes less than watching over it would.
type Pool struct {
	db    *sql.DB
	ready *statements // nil: the driver keeps prepared statements itself
}

// Query is sql.DB.QueryContext with the statement prepared once.
func (p *Pool) Query(ctx context.Context, query string, args ...any) (*sql.Rows, error) {
	if s := p.ready.get(ctx, query); s != nil && ctx.Err() == nil {
		return s.QueryContext(context.WithoutCancel(ctx), args...)
	}
	return p.db.QueryContext(ctx, query, args...)
}

// QueryRow is sql.DB.QueryRowContext with the statement prepared once.
func (p *Pool) QueryRow(ctx context.Context, query string, args ...any) *sql.Row {
	if s := p.ready.get(ctx, query); s != nil && ctx.Err() == nil {
		return s.QueryRowContext(context.WithoutCancel(ctx), args...)
	}
	return p.db.QueryRowContext(ctx, query, args...)
}

// connection is what a transaction runs on.
type connection interface {
	ExecContext(ctx context.Context, query string, args ...any) (sql.Result, error)
	QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error)
	QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row
}

// Tx is a transaction, for as long as the function that Write was given runs. Its statements go on when their context
// ends: in SQLite an interrupted one would undo the transaction, and with it the writes of others.
type Tx struct {
	on    connection
	ready *statements // nil: the driver keeps prepared statements itself
}

// Exec is sql.Tx.ExecContext with the statement prepared once.
func (tx *Tx) Exec(ctx context.Context, query string, args ...any) (sql.Result, error) {
	ctx = context.WithoutCancel(ctx)
	if s := tx.ready.get(ctx, query); s != nil && len(args) > 0 {
		return s.ExecContext(ctx, args...)
	}
	return tx.on.ExecContext(ctx, query, args...)
}

// Query is sql.Tx.QueryContext with the statement prepared once.
func (tx *Tx) Query(ctx context.Context, query string, args ...any) (*sql.Rows, error) {
	ctx = context.WithoutCancel(ctx)
	if s := tx.ready.get(ctx, query); s != nil {
		return s.QueryContext(ctx, args...)
	}
	return tx.on.QueryContext(ctx, query, args...)
}

// QueryRow is sql.Tx.QueryRowContext with the statement prepared once.
func (tx *Tx) QueryRow(ctx context.Context, query string, args ...any) *sql.Row {
	ctx = context.WithoutCancel(ctx)
	if s := tx.ready.get(ctx, query); s != nil {
		return s.QueryRowContext(ctx, args...)
	}
	return tx.on.QueryRowContext(ctx, query, args...)
}

// Changed runs a statement and reports whether it changed any row.
func (tx *Tx) Changed(ctx context.Context, query string, args ...any) (bool, error) {
	r, err := tx.Exec(ctx, query, args...)
	if err != nil {
		return false, err
	}
	n, err := r.RowsAffected()
	return n > 0, err
}

// statements keeps prepared statements by their text.
type statements struct {
	prepare func(ctx context.Context, query string) (*sql.Stmt, error)
	mu      sync.RWMutex
	known   map[string]*sql.Stmt
}

// maxStatements bounds them: a domain has a few dozen, and lists of several lengths.
const maxStatements = 300

func newStatements(prepare func(context.Context, string) (*sql.Stmt, error)) *statements {
	return &statements{prepare: prepare, known: map[string]*sql.Stmt{}}
}

// get returns query's statement, or nil where it has to be run as text: there its error will tell.
func (s *statements) get(ctx context.Context, query string) *sql.Stmt {
	if s == nil {
		return nil
	}
	s.mu.RLock()
	stmt, full := s.known[query], len(s.known) >= maxStatements
	s.mu.RUnlock()
	if stmt != nil || full {
		return stmt
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if stmt = s.known[query]; stmt != nil {
		return stmt
	}
	stmt, err := s.prepare(ctx, query)
	if err != nil {
		return nil
	}
	s.known[query] = stmt
	return stmt
}
