//go:build !linux

package artifact

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
)

// syncTree brings a tree to the disk.
func syncTree(dir string) error {
	return filepath.WalkDir(dir, func(p string, e fs.DirEntry, err error) error {
		if err != nil || !e.Type().IsRegular() && !e.IsDir() {
			return err
		}
		f, err := os.Open(p)
		if err != nil {
			return err
		}
		return errors.Join(f.Sync(), f.Close())
	})
}
