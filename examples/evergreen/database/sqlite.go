package database

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"time"

	_ "modernc.org/sqlite" // registers the driver "sqlite"
)

func openSQLite(ctx context.Context, dir, name string) (*DB, error) {
	path := filepath.Join(dir, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, err
	}
	write, err := sql.Open("sqlite", dsn(path, true))
	if err != nil {
		return nil, err
	}
	write.SetMaxOpenConns(1)
	read, err := sql.Open("sqlite", dsn(path, false))
	if err != nil {
		return nil, errors.Join(err, write.Close())
	}
	read.SetMaxOpenConns(8)
	read.SetMaxIdleConns(8)
	if err := ping(ctx, write, read); err != nil {
		return nil, errors.Join(err, write.Close(), read.Close())
	}
	conn, err := write.Conn(ctx)
	if err != nil {
		return nil, errors.Join(err, write.Close(), read.Close())
	}
	w := &sqliteWriter{db: write, conn: conn, jobs: make(chan *job), stop: make(chan struct{}), ended: make(chan struct{})}
	w.tx = &Tx{on: conn, ready: newStatements(conn.PrepareContext)}
	go w.run()
	return &DB{dialect: SQLite, read: Pool{read, newStatements(read.PrepareContext)}, write: w}, nil
}

// dsn has a wait of 5 s for other processes, write-ahead logging, and a sync at every commit: what was answered with
// "yes" is there after a power cut too.
func dsn(path string, write bool) string {
	q := url.Values{"_pragma": {"busy_timeout(5000)", "journal_mode(WAL)", "synchronous(FULL)", "foreign_keys(ON)"}}
	if !write {
		q.Add("_pragma", "query_only(ON)")
	}
	return (&url.URL{Scheme: "file", Opaque: (&url.URL{Path: path}).EscapedPath(), RawQuery: q.Encode()}).String()
}

// ping opens the file. Two processes that make it at the same moment can meet while one turns on the log: that is
// tried again.
func ping(ctx context.Context, write, read *sql.DB) error {
	var err error
	for range 20 {
		if err = write.PingContext(ctx); err == nil {
			return read.PingContext(ctx)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(100 * time.Millisecond):
		}
	}
	return err
}

// sqliteWriter is the one writer of a file in this process. Writes that wait for it at the same time share a commit, and
// with it the sync of the disk; each has a savepoint, so that one that fails takes no other with it.
type sqliteWriter struct {
	db    *sql.DB
	conn  *sql.Conn
	tx    *Tx
	jobs  chan *job
	stop  chan struct{}
	ended chan struct{}
}

// maxShared bounds how many writes share a commit, and with it how long the first of them waits.
const maxShared = 32

type job struct {
	do     func(*Tx) error
	result chan error
	err    error
	panic  any
}

// try does the job; what it panics with is kept for whoever waits for it.
func (j *job) try(tx *Tx) {
	defer func() { j.panic = recover() }()
	j.err = j.do(tx)
}

func (j *job) failed() bool { return j.err != nil || j.panic != nil }

var errClosed = errors.New("database is closed")

func (w *sqliteWriter) write(ctx context.Context, do func(*Tx) error) error {
	j := &job{do: do, result: make(chan error, 1)}
	select {
	case w.jobs <- j:
	case <-ctx.Done():
		return fmt.Errorf("begin: %w", ctx.Err())
	case <-w.ended:
		return errClosed
	}
	err := <-j.result
	if j.panic != nil {
		panic(j.panic)
	}
	return err
}

func (w *sqliteWriter) close() error {
	close(w.stop)
	<-w.ended
	return errors.Join(w.conn.Close(), w.db.Close())
}

func (w *sqliteWriter) run() {
	defer close(w.ended)
	for {
		select {
		case <-w.stop:
			return
		case first := <-w.jobs:
			w.share(first)
		}
	}
}

// share carries out first and those that wait behind it, and commits them together. The first has the transaction to itself
// and needs no savepoint: where it fails there is nothing else to undo.
func (w *sqliteWriter) share(first *job) {
	ctx := context.Background()
	all := []*job{first}
	err := w.say(ctx, "BEGIN IMMEDIATE")
	if err == nil {
		first.try(w.tx)
		for more := !first.failed(); more && err == nil && len(all) < maxShared; {
			select {
			case j := <-w.jobs:
				all = append(all, j)
				err = w.perform(ctx, j)
			default:
				more = false
			}
		}
		if err == nil && !first.failed() {
			err = w.say(ctx, "COMMIT")
		}
		if err != nil || first.failed() {
			_ = w.say(ctx, "ROLLBACK") // there may be none to roll back: err tells
		}
	}
	for _, j := range all {
		if err != nil && j.err == nil {
			j.err = fmt.Errorf("commit: %w", err)
		}
		j.result <- j.err
	}
}

// perform runs one write inside its savepoint. It fails only where the whole transaction is lost.
func (w *sqliteWriter) perform(ctx context.Context, j *job) error {
	if err := w.say(ctx, "SAVEPOINT one"); err != nil {
		return err
	}
	j.try(w.tx)
	if j.failed() {
		if err := w.say(ctx, "ROLLBACK TO one"); err != nil {
			return err
		}
	}
	return w.say(ctx, "RELEASE one")
}

// say carries out a word of the transaction's own, prepared once.
func (w *sqliteWriter) say(ctx context.Context, word string) error {
	var err error
	if s := w.tx.ready.get(ctx, word); s != nil {
		_, err = s.ExecContext(ctx)
	} else {
		_, err = w.conn.ExecContext(ctx, word)
	}
	return err
}
