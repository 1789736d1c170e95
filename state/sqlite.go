package state

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"

	"trellis/errdefs"
)

// lockWait is how long a call waits for another process's write to end.
const lockWait = 10 * time.Second

// store is the SQLite Store: one file, one writing connection, a few reading ones. It writes with synchronous=FULL in
// WAL mode, so that a commit that returned has been fsynced.
type store struct {
	path   string
	write  *sql.DB // one connection; its transactions take the write lock at BEGIN
	read   *sql.DB // refuses to write
	backup backup

	keepEvents int64
	// failed is the first error after which the file's content is no longer certain: an fsync that failed is not
	// repeated, because the kernel may have marked the lost pages as clean.
	failed    atomic.Pointer[error]
	closeOnce sync.Once
	closeErr  error
}

// Open opens the store in the file path, and makes file and folder if there are none (0600, 0700). After each new
// revision a copy is written to path.bak in the background.
//
// A file that is damaged, is not a Trellis state file, or is missing while its copy is there: an error that says what
// to do; nothing is changed or deleted. A file written by a newer Trellis: ErrUnsupported. Another process may have
// the same file open; a write waits for the other's at most ten seconds, then ErrUnavailable.
func Open(path string) (Store, error) {
	path, err := filepath.Abs(path)
	if err != nil {
		return nil, fmt.Errorf("open state %s: %w", path, err)
	}
	if err := prepareFile(path); err != nil {
		return nil, err
	}
	s := &store{path: path, backup: backup{source: path}, keepEvents: keepEvents}
	s.write, s.read = openPools(path)
	if err := s.prepare(context.Background()); err != nil {
		s.write.Close()
		s.read.Close()
		return nil, s.explain("open state "+path, err)
	}
	return s, nil
}

// pageCache is what each connection keeps of the file at most, in KiB, where SQLite's own would be 2,000: the kernel has it in its cache
// anyway, once for all of them. 512 save no time (BenchmarkEvents, BenchmarkPut).
const pageCache = 128

// dsn is the data source name of path, with these pragmas set on each connection.
func dsn(path string, pragmas ...string) string {
	q := url.Values{"_txlock": {"immediate"}, "_pragma": append([]string{
		fmt.Sprintf("busy_timeout(%d)", lockWait.Milliseconds()), fmt.Sprintf("cache_size(-%d)", pageCache),
	}, pragmas...)}
	return (&url.URL{Scheme: "file", Path: path, RawQuery: q.Encode()}).String()
}

func openPools(path string) (write, read *sql.DB) {
	// sql.Open fails for an unknown driver name only.
	write, _ = sql.Open("sqlite", dsn(path, "journal_mode(WAL)", "synchronous(FULL)"))
	read, _ = sql.Open("sqlite", dsn(path, "query_only(1)"))
	write.SetMaxOpenConns(1)
	read.SetMaxOpenConns(4)
	return write, read
}

// prepareFile makes an empty file where there is none, so that SQLite gives its WAL the same mode, and refuses one that
// SQLite would take for new although there was another. It never opens a file that is there: closing it again would
// drop the locks of a store that this process has open on it. What else can be wrong SQLite finds out by itself: it
// compares the header with the file's size.
func prepareFile(path string) error {
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("open state %s: %w", path, err)
	}
	info, err := os.Stat(path)
	switch {
	case errors.Is(err, os.ErrNotExist) && hasBackup(path):
		return damaged(path, errors.New("the file is missing, its copy is there"))
	case errors.Is(err, os.ErrNotExist):
		return createFile(path)
	case err != nil:
		return fmt.Errorf("open state %s: %w", path, err)
	case !info.Mode().IsRegular():
		return fmt.Errorf("open state %s: %w: not a regular file", path, errdefs.ErrInvalid)
	case info.Size() == 0 && hasBackup(path):
		return damaged(path, errors.New("it is empty, its copy is not"))
	}
	if err := os.Chmod(path, 0o600); err != nil {
		return fmt.Errorf("open state %s: %w", path, err)
	}
	return nil
}

func createFile(path string) error {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if errors.Is(err, os.ErrExist) { // another process was faster
		return nil
	}
	if err != nil {
		return fmt.Errorf("open state %s: %w", path, err)
	}
	if err := f.Close(); err != nil {
		return fmt.Errorf("open state %s: %w", path, err)
	}
	return syncDir(filepath.Dir(path))
}

// prepare brings the schema up to date and looks the tables over.
func (s *store) prepare(ctx context.Context) error {
	if err := s.migrate(ctx); err != nil {
		return err
	}
	return s.verify(ctx)
}

// verify reads every page of the small tables. Events are left out: they may be large, and nothing that runs
// depends on them.
func (s *store) verify(ctx context.Context) error {
	for _, table := range []string{"revisions", "rollouts", "overrides", "vals"} {
		rows, err := s.read.QueryContext(ctx, "PRAGMA quick_check("+table+")")
		if err != nil {
			return err
		}
		var first string
		if rows.Next() {
			err = rows.Scan(&first)
		}
		if err = errors.Join(err, rows.Err(), rows.Close()); err != nil {
			return err
		}
		if first != "ok" {
			return damaged(s.path, errors.New(first))
		}
	}
	return nil
}

// Close waits for the copy being made and closes the file. Its error may be that the last copy could not be made.
func (s *store) Close() error {
	s.closeOnce.Do(func() {
		s.closeErr = errors.Join(s.backup.wait(), s.read.Close(), s.write.Close())
	})
	return s.closeErr
}

// update runs fn in a write transaction. Its commit is on disk when update returns nil.
func (s *store) update(ctx context.Context, op string, fn func(tx *sql.Tx) error) error {
	if first := s.failed.Load(); first != nil {
		return fmt.Errorf("%s: %w: %s is not written any more since an earlier write failed (%v): restart to read it anew",
			op, errdefs.ErrUnavailable, s.path, *first)
	}
	tx, err := s.write.BeginTx(ctx, nil)
	if err != nil {
		return s.explain(op, err)
	}
	if err := fn(tx); err != nil {
		return s.explain(op, errors.Join(err, ignoreDone(tx.Rollback())))
	}
	if err := tx.Commit(); err != nil {
		return s.explain(op, err)
	}
	return nil
}

func ignoreDone(err error) error {
	if errors.Is(err, sql.ErrTxDone) {
		return nil
	}
	return err
}

// explain wraps err with the operation and gives it its kind.
func (s *store) explain(op string, err error) error {
	var e *sqlite.Error
	if !errors.As(err, &e) {
		return fmt.Errorf("%s: %w", op, err)
	}
	switch e.Code() & 0xff {
	case sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED:
		return fmt.Errorf("%s: %w: another process is writing to %s: %w", op, errdefs.ErrUnavailable, s.path, err)
	case sqlite3.SQLITE_FULL:
		return fmt.Errorf("%s: %w: no space left for %s ('df -h %s'): free some and repeat: %w",
			op, errdefs.ErrUnavailable, s.path, filepath.Dir(s.path), err)
	case sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB:
		return fmt.Errorf("%s: %w", op, damaged(s.path, err))
	case sqlite3.SQLITE_IOERR:
		s.failed.CompareAndSwap(nil, &err)
		return fmt.Errorf("%s: %w: the disk under %s failed: %w", op, errdefs.ErrUnavailable, s.path, err)
	}
	return fmt.Errorf("%s: %w", op, err)
}

// damaged says what to do about a file that cannot be used. It promises nothing about the copy but that it is there.
func damaged(path string, cause error) error {
	var b strings.Builder
	fmt.Fprintf(&b, "state file %s is damaged or not a Trellis state file (%v); nothing was changed", path, cause)
	if info, err := os.Stat(path + backupSuffix); err == nil {
		aside := strconv.FormatInt(time.Now().Unix(), 10)
		fmt.Fprintf(&b, "; the last good copy is of %s: to go back to it, with no trellis running: for f in '%s' '%s-wal' '%s-shm'; do mv \"$f\" \"$f.%s\"; done; cp '%s' '%s'",
			info.ModTime().UTC().Format(time.RFC3339), path, path, path, aside, path+backupSuffix, path)
	} else {
		b.WriteString("; there is no copy beside it: restore the file from a backup of yours, or move it aside to begin anew (instances that run are found again, revisions are lost)")
	}
	return &damagedError{text: b.String(), cause: cause}
}

// damagedError keeps the cause for errors.Is and As without repeating its text.
type damagedError struct {
	text  string
	cause error
}

func (e *damagedError) Error() string { return e.text }
func (e *damagedError) Unwrap() error { return e.cause }

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("sync %s: %w", dir, err)
	}
	defer d.Close()
	if err := d.Sync(); err != nil {
		return fmt.Errorf("sync %s: %w", dir, err)
	}
	return nil
}
