package filelock

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestLock: one has it at a time; whoever waits gets it when it is free, or gives up.
func TestLock(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	unlock, err := Lock(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := Lock(ctx, path); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a second one gets %v", err)
	}
	next := make(chan error, 1)
	go func() {
		unlock, err := Lock(context.Background(), path)
		if err == nil {
			unlock()
		}
		next <- err
	}()
	unlock()
	select {
	case err := <-next:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(20 * time.Second):
		t.Error("nobody has it, and whoever waits does not get it")
	}
}

// TestOpen: a folder is locked as a file is, and what cannot be locked is closed and named.
func TestOpen(t *testing.T) {
	dir := t.TempDir()
	f, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	unlock, err := Open(t.Context(), f)
	if err != nil {
		t.Fatal(err)
	}
	other, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Flock(int(other.Fd()), unix.LOCK_EX|unix.LOCK_NB); !errors.Is(err, unix.EWOULDBLOCK) {
		t.Errorf("it is locked by another one, too: %v", err)
	}
	unlock()
	if err := other.Close(); err != nil {
		t.Fatal(err)
	}
	var named *os.PathError
	if _, err := Open(t.Context(), other); !errors.Is(err, unix.EBADF) || !errors.As(err, &named) || named.Path != dir {
		t.Errorf("what is closed: %v", err)
	}
}
