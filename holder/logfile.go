package holder

import (
	"errors"
	"fmt"
	"io"
	"os"
	"time"
)

const (
	maxLog      = 10 << 20
	rotateEvery = 10 * time.Second
)

// rotateLog copies a log that has grown too large to path.1 and empties it. The programs write to the file itself,
// appending, and not through a pipe of the holder's: a holder that is killed must not take them along with a SIGPIPE.
// Lines written between copy and truncation are lost; a rename would lose all later ones.
func rotateLog(path string) error {
	info, err := os.Stat(path)
	if err != nil || info.Size() < maxLog {
		return err
	}
	from, err := os.Open(path)
	if err != nil {
		return err
	}
	defer from.Close()
	to, err := os.OpenFile(path+".1.tmp", os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(to, from)
	if err = errors.Join(err, to.Close()); err != nil {
		return fmt.Errorf("copy %s: %w", path, errors.Join(err, os.Remove(to.Name())))
	}
	if err := os.Rename(to.Name(), path+".1"); err != nil {
		return err
	}
	return os.Truncate(path, 0)
}
