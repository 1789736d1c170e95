package state

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"

	"golang.org/x/sys/unix"
)

// backupSuffix is what the copy's name has behind the file's.
const backupSuffix = ".bak"

func hasBackup(path string) bool {
	info, err := os.Stat(path + backupSuffix)
	return err == nil && info.Size() > 0
}

// backup keeps a copy of a database, made in the background, at most one at a time.
type backup struct {
	source string // the database's file

	mu      sync.Mutex
	running bool
	again   bool // something changed since the running copy began
	done    sync.WaitGroup
	err     error // of the last copy
}

// start asks for a copy of what is there now and does not wait for it.
func (b *backup) start() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.running {
		b.again = true
		return
	}
	b.running = true
	b.done.Go(func() {
		for {
			err := b.write(context.Background())
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
// here, and the old copy stays. Where another process is writing the copy it is left to that one.
func (b *backup) write(ctx context.Context) error {
	path := b.source + backupSuffix
	tmp, err := lockTemp(path + ".tmp")
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	if tmp == nil {
		return nil
	}
	defer tmp.Close()
	err = vacuumInto(ctx, b.source, tmp.Name())
	if err == nil {
		err = tmp.Sync()
	}
	if err == nil {
		err = os.Rename(tmp.Name(), path)
	}
	if err != nil {
		return fmt.Errorf("write %s: %w", path, errors.Join(err, os.Remove(tmp.Name())))
	}
	return syncDir(filepath.Dir(path))
}

// lockTemp opens the file name, empty and locked until it is closed, nil where another process has it. VACUUM INTO
// takes an empty file, and the copy gets its mode.
func lockTemp(name string) (*os.File, error) {
	f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if err == nil {
		// Between open and lock another process may have finished it and given it the copy's name.
		mine, statErr := f.Stat()
		there, thereErr := os.Stat(name)
		if statErr != nil || thereErr != nil || !os.SameFile(mine, there) {
			return nil, f.Close()
		}
		err = f.Truncate(0)
	}
	if errors.Is(err, unix.EWOULDBLOCK) {
		return nil, f.Close()
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// vacuumInto has a connection of its own: one that may only query is refused by VACUUM, and the writing one would be
// blocked for as long as it takes.
func vacuumInto(ctx context.Context, source, target string) error {
	db, err := sql.Open("sqlite", dsn(source))
	if err != nil {
		return err
	}
	_, err = db.ExecContext(ctx, "VACUUM INTO ?", target)
	return errors.Join(err, db.Close())
}
