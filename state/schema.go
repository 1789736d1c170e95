package state

import (
	"bytes"
	"context"
	"database/sql"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"

	"trellis/errdefs"
)

// applicationID marks the file in SQLite's header as ours ("TRLS").
const applicationID = 0x54524c53

// migrations bring a file from schema version i to i+1. An entry is never edited once released: a file in the field
// was made by it. Bodies are JSON of the nouns, so that a new field needs no migration; a column exists only for what
// is searched or written later.
func migrations() []string {
	return []string{`
CREATE TABLE revisions (
	number     INTEGER PRIMARY KEY,
	body       TEXT NOT NULL,
	outcome    TEXT NOT NULL,
	healthy_at TEXT
) STRICT;
CREATE INDEX revisions_pending ON revisions (number) WHERE outcome = 'pending';
CREATE TABLE overrides (
	service TEXT PRIMARY KEY,
	body    TEXT NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE events (
	seq     INTEGER PRIMARY KEY AUTOINCREMENT,
	time    INTEGER NOT NULL,
	service TEXT NOT NULL,
	body    TEXT NOT NULL
) STRICT;
CREATE INDEX events_service ON events (service, seq);
CREATE TABLE vals (
	name TEXT PRIMARY KEY,
	body TEXT NOT NULL
) STRICT, WITHOUT ROWID;
`}
}

// checkHeader refuses a file that SQLite would take for empty, or would read beyond its end. The header's fields are
// those of https://www.sqlite.org/fileformat2.html#the_database_header.
func checkHeader(f *os.File, path string) error {
	info, err := f.Stat()
	if err != nil {
		return fmt.Errorf("open state %s: %w", path, err)
	}
	if !info.Mode().IsRegular() {
		return fmt.Errorf("open state %s: %w: not a regular file", path, errdefs.ErrInvalid)
	}
	if info.Size() == 0 {
		if hasBackup(path) {
			return damaged(path, errors.New("it is empty, its copy is not"))
		}
		return nil
	}
	head := make([]byte, 100)
	if _, err := io.ReadFull(f, head); err != nil {
		return damaged(path, fmt.Errorf("it has %d bytes, a header has 100", info.Size()))
	}
	if !bytes.HasPrefix(head, []byte("SQLite format 3\x00")) {
		return damaged(path, errors.New("it does not begin as an SQLite file"))
	}
	pageSize := int64(binary.BigEndian.Uint16(head[16:]))
	if pageSize == 1 {
		pageSize = 65536
	}
	pages := int64(binary.BigEndian.Uint32(head[28:]))
	if id := binary.BigEndian.Uint32(head[68:]); id != applicationID && id != 0 {
		return damaged(path, fmt.Errorf("it belongs to another application (%#x)", id))
	}
	if walEmpty(path) && info.Size() < pages*pageSize {
		return damaged(path, fmt.Errorf("it is cut off: %d of %d bytes", info.Size(), pages*pageSize))
	}
	return nil
}

// walEmpty says whether the file is all there is. With a WAL, pages the header counts may still stand in it.
func walEmpty(path string) bool {
	info, err := os.Stat(path + "-wal")
	return err != nil || info.Size() == 0
}

func (s *store) migrate(ctx context.Context) error {
	version, err := s.schemaVersion(ctx)
	if err != nil {
		return err
	}
	all := migrations()
	if version > len(all) {
		return fmt.Errorf("%w: the file was written by a newer Trellis (schema %d, this one knows %d): use that version",
			errdefs.ErrUnsupported, version, len(all))
	}
	if version == len(all) {
		return nil
	}
	if version > 0 {
		if err := s.backup.write(ctx); err != nil {
			return fmt.Errorf("copy before migrating from schema %d: %w", version, err)
		}
	}
	return s.update(ctx, "migrate", func(tx *sql.Tx) error {
		// Another process may have done it between the look above and the lock.
		if err := tx.QueryRowContext(ctx, "PRAGMA user_version").Scan(&version); err != nil {
			return err
		}
		if version == 0 {
			if err := refuseForeign(ctx, tx, s.path); err != nil {
				return err
			}
		}
		for ; version < len(all); version++ {
			if _, err := tx.ExecContext(ctx, all[version]); err != nil {
				return fmt.Errorf("to schema %d: %w", version+1, err)
			}
		}
		_, err := tx.ExecContext(ctx, fmt.Sprintf("PRAGMA user_version = %d; PRAGMA application_id = %d", version, applicationID))
		return err
	})
}

// schemaVersion is the first access to the file. Switching a new file to WAL needs it alone and does not always wait
// for the busy time-out, so that two processes starting at once have to be let pass each other here.
func (s *store) schemaVersion(ctx context.Context) (int, error) {
	deadline := time.Now().Add(lockWait)
	for {
		var version int
		err := s.write.QueryRowContext(ctx, "PRAGMA user_version").Scan(&version)
		var e *sqlite.Error
		if err == nil || !errors.As(err, &e) || e.Code()&0xff != sqlite3.SQLITE_BUSY || time.Now().After(deadline) {
			return version, err
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// refuseForeign keeps tables of another program from being mixed with ours.
func refuseForeign(ctx context.Context, tx *sql.Tx, path string) error {
	var n int
	if err := tx.QueryRowContext(ctx, "SELECT count(*) FROM sqlite_schema").Scan(&n); err != nil {
		return err
	}
	if n > 0 {
		return damaged(path, errors.New("it holds tables that are not a state file's"))
	}
	return nil
}
