package process

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"trellis/errdefs"
)

// VolumeDir returns the directory of the volume with that full name.
func (d *Driver) VolumeDir(name string) string {
	return filepath.Join(d.cfg.StateDir, "volumes", name)
}

// Volumes returns the full names of the volumes that are there for the project, whose own the directory of state is.
func (d *Driver) Volumes(_ context.Context, project string) ([]string, error) {
	if project != d.cfg.Project {
		return nil, nil
	}
	entries, err := os.ReadDir(d.VolumeDir(""))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("list volumes: %w", err)
	}
	var names []string
	for _, entry := range entries {
		if !strings.HasPrefix(entry.Name(), ".") { // half made
			names = append(names, entry.Name())
		}
	}
	return names, nil
}

// RemoveVolumes removes the volumes with these full names and everything in them; the caller makes sure that no instance
// uses them. Unknown ones: nil. It stops between two volumes when ctx ends.
func (d *Driver) RemoveVolumes(ctx context.Context, names []string) error {
	for _, name := range names {
		if err := ctx.Err(); err != nil {
			return err
		}
		if name != filepath.Base(name) || name == "." || name == ".." || name == "/" {
			return fmt.Errorf("remove volume %q: %w: this is not the name of a volume", name, errdefs.ErrInvalid)
		}
		if err := os.RemoveAll(d.VolumeDir(name)); err != nil {
			return fmt.Errorf("remove volume %s: %w", name, err)
		}
	}
	_ = os.Remove(d.VolumeDir("")) // refused while another one is in it
	return nil
}
