package server

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"trellis/errdefs"
	"trellis/identity"
)

// registryDir is where this user's projects are written down for as long as their state exists, also while they do not
// run and after a reboot.
func registryDir() (string, error) {
	if dir := os.Getenv("XDG_STATE_HOME"); filepath.IsAbs(dir) {
		return filepath.Join(dir, "trellis", "projects"), nil
	}
	if os.Geteuid() == 0 {
		return "/var/lib/trellis/projects", nil
	}
	home, err := os.UserHomeDir()
	if err != nil {
		return "", fmt.Errorf("find the home directory: %w", err)
	}
	return filepath.Join(home, ".local", "state", "trellis", "projects"), nil
}

// registryFile is where l is written down.
func (l Location) registryFile() (string, error) {
	dir, err := registryDir()
	return filepath.Join(dir, filepath.Base(l.RuntimeDir)+".json"), err
}

// remember writes l down, for `trellis ls --all` and for the choice of ports that others keep.
func (l Location) remember() error {
	file, err := l.registryFile()
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		return fmt.Errorf("write down project %s: %w", l.Project, err)
	}
	return writeJSON(file, l)
}

// remembered returns what was written down of l, the zero Location if nothing was.
func (l Location) remembered() Location {
	var was Location
	file, err := l.registryFile()
	if err != nil || readJSON(file, &was) != nil || was.StateDir != l.StateDir {
		return Location{}
	}
	return was
}

// known returns every project of this user whose state exists, whether or not it runs, and forgets the others.
func known() ([]Location, error) {
	dir, err := registryDir()
	if err != nil {
		return nil, err
	}
	files, err := filepath.Glob(filepath.Join(dir, "*.json"))
	if err != nil {
		return nil, err
	}
	var all []Location
	for _, file := range files {
		var l Location
		if err := readJSON(file, &l); err != nil {
			continue // gone between the two calls, or not ours
		}
		if _, err := os.Stat(l.StateDir); errors.Is(err, fs.ErrNotExist) {
			_ = os.Remove(file) // nothing is lost if it stays
			continue
		}
		all = append(all, l)
	}
	return all, nil
}

// writeJSON replaces file whole.
func writeJSON(file string, v any) error {
	b, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return err
	}
	if err := identity.WriteFile(file, append(b, '\n')); err != nil {
		return fmt.Errorf("write %s: %w", file, err)
	}
	return nil
}

func readJSON(file string, v any) error {
	b, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(b, v); err != nil {
		return fmt.Errorf("read %s: %w: %w", file, errdefs.ErrInvalid, err)
	}
	return nil
}
