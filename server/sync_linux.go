package server

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// syncFilesystem returns when everything on the file system of dir is on its disk.
func syncFilesystem(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	if err := unix.Syncfs(int(d.Fd())); err != nil {
		return fmt.Errorf("sync %s: %w", dir, err)
	}
	return nil
}
