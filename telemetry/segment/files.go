package segment

import (
	"cmp"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"
)

// files are the files of a store as its writer sees them. Only the writer calls its methods but list and each.
type files[T any] struct {
	cfg     *Config[T]
	open    map[key]*file
	checked time.Time // when the caps were looked at last
}

// file is one that is open for writing.
type file struct {
	key
	db   *sql.DB
	used time.Time
	rows map[int]*sql.Stmt
}

// listed is a file on disk.
type listed struct {
	key
	bytes int64 // with its WAL
}

// rowsAtOnce is how many rows one statement inserts: it takes a third of the time of as many statements.
const rowsAtOnce = 32

// pageCache is what a connection keeps of its file at most, in KiB: rows are written and read in order, and 1024 save no time
// (BenchmarkLines of telemetry/logs). SQLite's allocator takes twice as much for it.
const pageCache = 256

func dsn(path string, pragmas ...string) string {
	q := url.Values{"_txlock": {"immediate"}, "_pragma": append([]string{"busy_timeout(5000)", fmt.Sprintf("cache_size(-%d)", pageCache)}, pragmas...)}
	return (&url.URL{Scheme: "file", Path: path, RawQuery: q.Encode()}).String()
}

// write writes rows to the files of their hours and returns how many; err is the first reason for the others.
func (f *files[T]) write(rows []T, now time.Time) (written int, err error) {
	if err := f.cfg.prepare(); err != nil {
		return 0, err
	}
	if now.Sub(f.checked) > time.Second {
		f.checked = now
		f.prune(now)
	}
	hours := map[int64][]*T{}
	for i := range rows {
		h := hourOf(f.cfg.Time(&rows[i]))
		hours[h] = append(hours[h], &rows[i])
	}
	for hour, part := range hours {
		werr := f.writeHour(hour, part, now)
		if werr == nil {
			written += len(part)
		}
		err = errors.Join(err, werr)
	}
	return written, err
}

func (f *files[T]) writeHour(hour int64, rows []*T, now time.Time) error {
	one, err := f.file(hour, now)
	if err != nil {
		return err
	}
	if err := f.insert(one, rows); err != nil && damaged(err) {
		if err := f.aside(one); err != nil {
			return err
		}
		return f.writeHour(hour, rows, now)
	} else if err != nil {
		// Whatever is wrong with this file, the next batch begins with a fresh connection.
		f.close(one)
		return fmt.Errorf("write %s: %w", one.name(f.cfg.Name), err)
	}
	return nil
}

// file returns the file that rows of an hour go to now. One that has had its share of the cap is followed by another.
func (f *files[T]) file(hour int64, now time.Time) (*file, error) {
	k := key{hour: hour}
	list, err := f.list()
	if err != nil {
		return nil, err
	}
	for _, l := range list {
		if l.hour == hour && l.part >= k.part {
			k.part = l.part
			if l.bytes > f.cfg.MaxBytes/8 {
				k.part++
			}
		}
	}
	if one := f.open[k]; one != nil {
		one.used = now
		return one, nil
	}
	f.closeIdle(now)
	// Their late rows may still come, their pages are read again then: the new file takes the memory that they had.
	for _, other := range f.open {
		_, _ = other.db.Exec("PRAGMA shrink_memory")
	}
	one, err := f.openFile(k, now)
	if err != nil {
		return nil, err
	}
	f.open[k] = one
	return one, nil
}

func (f *files[T]) openFile(k key, now time.Time) (*file, error) {
	path := k.path(f.cfg.Dir, f.cfg.Name)
	db, err := sql.Open("sqlite", dsn(path, "journal_mode(WAL)", "synchronous(NORMAL)", "journal_size_limit(4194304)"))
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", path, err)
	}
	db.SetMaxOpenConns(1)
	if _, err := db.Exec(f.cfg.Schema); err != nil {
		_ = db.Close()
		if damaged(err) {
			if err := f.aside(&file{key: k, db: db}); err != nil {
				return nil, err
			}
			return f.openFile(k, now)
		}
		return nil, fmt.Errorf("open %s: %w", path, err)
	}
	if err := os.Chmod(path, 0o600); err != nil {
		_ = db.Close()
		return nil, fmt.Errorf("open %s: %w", path, err)
	}
	one := &file{key: k, db: db, used: now, rows: map[int]*sql.Stmt{}}
	if err := f.prepare(one); err != nil {
		f.close(one)
		return nil, fmt.Errorf("open %s: %w", path, err)
	}
	return one, nil
}

// insert writes rows in one transaction.
func (f *files[T]) insert(one *file, rows []*T) error {
	ctx := context.Background()
	tx, err := one.db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	args := make([]any, 0, rowsAtOnce*len(f.cfg.Columns))
	for len(rows) > 0 {
		n := rowsAtOnce
		if len(rows) < n {
			n = 1
		}
		args = args[:0]
		for _, row := range rows[:n] {
			args = append(args, f.cfg.Row(row)...)
		}
		if _, err := tx.StmtContext(ctx, one.rows[n]).ExecContext(ctx, args...); err != nil {
			return errors.Join(err, tx.Rollback())
		}
		rows = rows[n:]
	}
	return tx.Commit()
}

// prepare makes the insertions of many rows and of one: before a transaction has the only connection.
func (f *files[T]) prepare(one *file) error {
	values := "(?" + strings.Repeat(",?", len(f.cfg.Columns)-1) + ")"
	for _, n := range []int{1, rowsAtOnce} {
		text := "INSERT INTO rows (" + strings.Join(f.cfg.Columns, ",") + ") VALUES " + values + strings.Repeat(","+values, n-1)
		stmt, err := one.db.Prepare(text)
		if err != nil {
			return err
		}
		one.rows[n] = stmt
	}
	return nil
}

// list returns the files on disk, oldest first. No folder is no file.
func (f *files[T]) list() ([]listed, error) {
	entries, err := os.ReadDir(f.cfg.Dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("list %s: %w", f.cfg.Dir, err)
	}
	sizes := map[key]int64{}
	for _, e := range entries {
		k, ok := f.parse(e.Name())
		if !ok {
			continue
		}
		if info, err := e.Info(); err == nil {
			sizes[k] += info.Size()
		}
	}
	all := make([]listed, 0, len(sizes))
	for k, n := range sizes {
		all = append(all, listed{k, n})
	}
	slices.SortFunc(all, func(a, b listed) int { return cmp.Or(cmp.Compare(a.hour, b.hour), cmp.Compare(a.part, b.part)) })
	return all, nil
}

// asideSuffix is added to the name of a damaged file. It counts as one of its hour's, and goes with it.
const asideSuffix = ".damaged"

// parse reads the name of a file of this store, or of what SQLite keeps beside it.
func (f *files[T]) parse(name string) (key, bool) {
	rest, ok := strings.CutPrefix(name, f.cfg.Name+"-")
	stamp, tail, ok2 := strings.Cut(rest, "-")
	if !ok || !ok2 {
		return key{}, false
	}
	t, err := time.Parse("2006010215", stamp)
	if err != nil {
		return key{}, false
	}
	k := key{hour: hourOf(t)}
	number, suffix, ok := strings.Cut(tail, ".db")
	k.part, err = strconv.Atoi(number)
	return k, ok && err == nil && (suffix == "" || suffix == "-wal" || suffix == "-shm" || suffix == asideSuffix)
}

// prune unlinks the oldest files while there are too many bytes, and those that are too old. The newest stays.
func (f *files[T]) prune(now time.Time) {
	list, err := f.list()
	if err != nil {
		return
	}
	total := int64(0)
	for _, l := range list {
		total += l.bytes
	}
	for _, l := range list[:max(0, len(list)-1)] {
		// Three quarters, so that what is added until the next look has room.
		if total <= f.cfg.MaxBytes/4*3 && l.start().Add(time.Hour).After(now.Add(-f.cfg.MaxAge)) {
			break
		}
		f.unlink(l.key)
		total -= l.bytes
	}
}

func (f *files[T]) unlink(k key) {
	if one := f.open[k]; one != nil {
		f.close(one)
	}
	path := k.path(f.cfg.Dir, f.cfg.Name)
	for _, suffix := range []string{"", "-wal", "-shm", asideSuffix} {
		_ = os.Remove(path + suffix) // the next look finds what is left
	}
}

func (f *files[T]) close(one *file) {
	delete(f.open, one.key)
	for _, stmt := range one.rows {
		_ = stmt.Close()
	}
	_ = one.db.Close() // the last connection's close merges the WAL; if it cannot, the next open does
}

// damaged says that a file is not what it was written as.
func damaged(err error) bool {
	var e *sqlite.Error
	return errors.As(err, &e) && (e.Code()&0xff == sqlite3.SQLITE_CORRUPT || e.Code()&0xff == sqlite3.SQLITE_NOTADB)
}

// aside takes a damaged file out of the store: what is in it cannot be read, and the next write begins another. Of those that
// were moved aside the newest is kept. An error is that the file is still there.
func (f *files[T]) aside(one *file) error {
	f.close(one)
	path := one.path(f.cfg.Dir, f.cfg.Name)
	for _, suffix := range []string{"-wal", "-shm"} {
		_ = os.Remove(path + suffix)
	}
	if err := os.Rename(path, path+asideSuffix); err != nil {
		if os.Remove(path) != nil {
			return fmt.Errorf("move the damaged %s aside: %w", one.name(f.cfg.Name), err)
		}
		f.cfg.Log.Error("a file of telemetry was damaged and is removed", "file", path)
		return nil
	}
	f.cfg.Log.Error("a file of telemetry is damaged and was moved aside", "file", path)
	list, err := f.list()
	if err != nil {
		return nil // the cap holds for it too
	}
	for _, l := range list {
		if l.key != one.key {
			_ = os.Remove(l.path(f.cfg.Dir, f.cfg.Name) + asideSuffix)
		}
	}
	return nil
}

func (f *files[T]) closeIdle(now time.Time) {
	for _, one := range f.open {
		if now.Sub(one.used) > idle || len(f.open) > 8 {
			f.close(one)
		}
	}
}

func (f *files[T]) closeAll() {
	for _, one := range f.open {
		f.close(one)
	}
}

// Each calls fn with each file that may hold rows between two moments, the newest first, until fn returns false or an
// error. The connection only reads, and is closed when fn returns. What is unlinked meanwhile is left out.
func (s *Store[T]) Each(ctx context.Context, from, to time.Time, fn func(db *sql.DB) (more bool, err error)) error {
	list, err := s.files.list()
	if err != nil {
		return err
	}
	slices.Reverse(list)
	for _, l := range list {
		if l.start().After(to) || !l.start().Add(time.Hour).After(from) {
			continue
		}
		more, err := s.read(ctx, l.key, fn)
		if err != nil || !more {
			return err
		}
	}
	return nil
}

func (s *Store[T]) read(ctx context.Context, k key, fn func(db *sql.DB) (bool, error)) (bool, error) {
	path := k.path(s.cfg.Dir, s.cfg.Name)
	if _, err := os.Stat(path); err != nil {
		return true, nil
	}
	db, err := sql.Open("sqlite", dsn(path, "query_only(1)"))
	if err != nil {
		return false, fmt.Errorf("read %s: %w", filepath.Base(path), err)
	}
	defer db.Close()
	db.SetMaxOpenConns(2)
	more, err := ask(ctx, db, fn)
	if err != nil && damaged(err) {
		return true, nil // the writer finds it too
	}
	if err != nil && ctx.Err() == nil {
		if _, serr := os.Stat(path); serr != nil {
			return true, nil
		}
		return false, fmt.Errorf("read %s: %w", filepath.Base(path), err)
	}
	return more, err
}

// ask calls fn with a file that has its table. SQLite makes the file first: one whose writer was killed, or lost power, in between
// holds nothing, and gets its table with the next row of that hour.
func ask(ctx context.Context, db *sql.DB, fn func(db *sql.DB) (bool, error)) (more bool, err error) {
	var there bool
	err = db.QueryRowContext(ctx, "SELECT EXISTS (SELECT 1 FROM sqlite_schema WHERE name = 'rows')").Scan(&there)
	if err != nil || !there {
		return true, err
	}
	return fn(db)
}
