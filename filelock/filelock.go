// Package filelock keeps processes out of each other's way: a lock on a file, which its process has until it lets go of it
// or ends, however it ends (flock).
package filelock

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// Lock waits for the file at path to be free, which is made if there is none, for its owner alone. ctx is done before: its error.
// The file stays: removing it would let two in.
func Lock(ctx context.Context, path string) (unlock func(), err error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	return Open(ctx, f)
}

// Open is Lock of a file or folder that is open; it is closed with the lock, or where it fails. A file system without locks:
// EOPNOTSUPP, ENOLCK or EBADF.
func Open(ctx context.Context, f *os.File) (unlock func(), err error) {
	for pause := 5 * time.Millisecond; ; pause = min(2*pause, 100*time.Millisecond) {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			return func() { _ = f.Close() }, nil
		}
		if !errors.Is(err, unix.EWOULDBLOCK) && !errors.Is(err, unix.EINTR) {
			return nil, errors.Join(&fs.PathError{Op: "lock", Path: f.Name(), Err: err}, f.Close())
		}
		select {
		case <-ctx.Done():
			return nil, errors.Join(ctx.Err(), f.Close())
		case <-time.After(pause):
		}
	}
}
