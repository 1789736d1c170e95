package metrics

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// moveAside makes room for a folder that begins anew. Of those that could not be read the newest is kept.
func (s *Store) moveAside(why error) error {
	before := s.asides()
	aside := fmt.Sprintf("%s%d", s.asidePrefix(), time.Now().UnixNano())
	s.cfg.Log.Error("metrics cannot be read; they are moved aside and begin anew", "err", why, "aside", aside)
	if err := os.Rename(s.cfg.Dir, aside); err != nil {
		return err
	}
	var err error
	for _, path := range before {
		err = errors.Join(err, os.RemoveAll(path))
	}
	return err
}

// dropAside removes what was moved aside and last written longer ago than metrics are kept.
func (s *Store) dropAside() error {
	var err error
	for _, path := range s.asides() {
		if info, serr := os.Stat(path); serr == nil && time.Since(info.ModTime()) > s.cfg.MaxAge {
			err = errors.Join(err, os.RemoveAll(path))
		}
	}
	return err
}

func (s *Store) asidePrefix() string { return s.cfg.Dir + ".damaged-" }

// asides returns the folders that were moved aside.
func (s *Store) asides() []string {
	parent, prefix := filepath.Split(s.asidePrefix())
	entries, _ := os.ReadDir(parent) // no folder, none aside
	var all []string
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), prefix) {
			all = append(all, filepath.Join(parent, e.Name()))
		}
	}
	return all
}

// bytesAside is what was moved aside takes of the cap.
func (s *Store) bytesAside() (n int64) {
	for _, path := range s.asides() {
		n += bytesUnder(path)
	}
	return n
}
