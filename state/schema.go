package state

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
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
`, `
CREATE TABLE rollouts (
	revision INTEGER NOT NULL,
	service  TEXT NOT NULL,
	version  INTEGER NOT NULL,
	body     TEXT NOT NULL,
	PRIMARY KEY (revision, service)
) STRICT, WITHOUT ROWID;
`}
}

func (s *store) migrate(ctx context.Context) error {
	// Looked at through the connections that only read: the others change the file by being opened.
	if err := s.refuseForeign(ctx); err != nil {
		return err
	}
	var version int
	if err := s.read.QueryRowContext(ctx, "PRAGMA user_version").Scan(&version); err != nil {
		return err
	}
	all := migrations()
	if version > len(all) {
		return fmt.Errorf("%w: the file was written by a newer Trellis (schema %d, this one knows %d): use that version",
			errdefs.ErrUnsupported, version, len(all))
	}
	if err := s.enterWAL(ctx); err != nil {
		return err
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
		for ; version < len(all); version++ {
			if _, err := tx.ExecContext(ctx, all[version]); err != nil {
				return fmt.Errorf("to schema %d: %w", version+1, err)
			}
		}
		_, err := tx.ExecContext(ctx, fmt.Sprintf("PRAGMA user_version = %d; PRAGMA application_id = %d", version, applicationID))
		return err
	})
}

// enterWAL opens the writing connection. Switching a new file to WAL needs it alone and does not always wait for the
// busy time-out, so that two processes starting at once have to be let pass each other here.
func (s *store) enterWAL(ctx context.Context) error {
	deadline := time.Now().Add(lockWait)
	for {
		err := s.write.PingContext(ctx)
		var e *sqlite.Error
		if err == nil || !errors.As(err, &e) || e.Code()&0xff != sqlite3.SQLITE_BUSY || time.Now().After(deadline) {
			return err
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// refuseForeign keeps the tables of another program from being mixed with ours.
func (s *store) refuseForeign(ctx context.Context) error {
	var id, tables int
	// In this order: another process may make both in one transaction between the two looks.
	if err := s.read.QueryRowContext(ctx, "SELECT count(*) FROM sqlite_schema").Scan(&tables); err != nil {
		return err
	}
	if err := s.read.QueryRowContext(ctx, "PRAGMA application_id").Scan(&id); err != nil {
		return err
	}
	if id != applicationID && (id != 0 || tables > 0) {
		return damaged(s.path, fmt.Errorf("it belongs to another application (%#x, %d tables)", id, tables))
	}
	return nil
}
