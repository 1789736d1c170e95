package artifact

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// syncTree brings a tree to the disk. One call for the whole file system costs less than one for each of many files.
func syncTree(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(unix.Syncfs(int(d.Fd())), d.Close())
}
