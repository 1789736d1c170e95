package state

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
)

// backupSuffix is what the copy's name has behind the file's.
const backupSuffix = ".bak"

func hasBackup(path string) bool {
	info, err := os.Stat(path + backupSuffix)
	return err == nil && info.Size() > 0
}

// backup keeps a copy of a database, made in the background, at most one at a time.
type backup struct {
	path string

	mu      sync.Mutex
	running bool
	again   bool // something changed since the running copy began
	done    sync.WaitGroup
	err     error // of the last copy
}

// start asks for a copy of what is in db now and does not wait for it.
func (b *backup) start(db *sql.DB) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.running {
		b.again = true
		return
	}
	b.running = true
	b.done.Go(func() {
		for {
			err := b.write(context.Background(), db)
			b.mu.Lock()
			b.err = err
			if !b.again {
				b.running = false
				b.mu.Unlock()
				return
			}
			b.again = false
			b.mu.Unlock()
		}
	})
}

// wait returns when no copy is being made, and how the last one went.
func (b *backup) wait() error {
	b.done.Wait()
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.err
}

// write makes a copy and puts it in the place of the old one. It reads every page: a database that is damaged fails
// here, and the old copy stays.
func (b *backup) write(ctx context.Context, db *sql.DB) (err error) {
	// VACUUM INTO takes an empty file, which brings the mode with it.
	f, err := os.CreateTemp(filepath.Dir(b.path), filepath.Base(b.path)+".*.tmp")
	if err != nil {
		return fmt.Errorf("write %s: %w", b.path, err)
	}
	defer func() {
		f.Close()
		if err != nil {
			err = fmt.Errorf("write %s: %w", b.path, errors.Join(err, os.Remove(f.Name())))
		}
	}()
	if _, err := db.ExecContext(ctx, "VACUUM INTO ?", f.Name()); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), b.path); err != nil {
		return err
	}
	return syncDir(filepath.Dir(b.path))
}
