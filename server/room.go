package server

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"syscall"

	"trellis/errdefs"
)

// filesOfInstance is how many files roomForInstance finds out about: those of one instance.
const filesOfInstance = 8

// roomForInstance says whether the state's folder has room for the files of another instance: the store writes into files that are
// there already, so a deploy could be taken down of which nothing can be started. It has not: ErrUnavailable.
func roomForInstance(dir string) error {
	trial, err := os.MkdirTemp(dir, ".room-")
	if err == nil {
		for i := 0; i < filesOfInstance && err == nil; i++ {
			err = os.WriteFile(filepath.Join(trial, strconv.Itoa(i)), []byte("room"), 0o600)
		}
		if gone := os.RemoveAll(trial); err == nil {
			err = gone
		}
	}
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		return fmt.Errorf("%w: no space left for the files of another instance in %s ('df -h %s' and 'df -i %s'): free some and repeat: %w",
			errdefs.ErrUnavailable, dir, dir, dir, err)
	}
	if err != nil {
		return fmt.Errorf("%w: no file can be made in %s: %w", errdefs.ErrUnavailable, dir, err)
	}
	return nil
}
