package artifact

import (
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"sync"
)

// Skip returns what says of a path below dir, relative and with slashes, that a build in dir does not count it as source:
// see scan. An ignore file is read once. It is safe for concurrent use.
func Skip(dir string, artifacts []string) func(path string, dir bool) bool {
	src := source{dir: dir, artifacts: artifacts}
	var mu sync.Mutex
	known := map[string]ignores{}
	var of func(folder string) ignores
	of = func(folder string) ignores {
		ig, ok := known[folder]
		if !ok {
			if folder == "." {
				ig = ignores{docker: readDockerignore(dir)}
			} else {
				ig = of(path.Dir(folder))
			}
			ig = ig.enter(filepath.Join(dir, folder), folder)
			known[folder] = ig
		}
		return ig
	}
	return func(p string, isDir bool) bool {
		mu.Lock()
		defer mu.Unlock()
		return isDir && path.Base(p) == "node_modules" && !src.isArtifact(p) || of(path.Dir(p)).match(p, isDir)
	}
}

// IsArtifact says whether a path relative to the folder of a build, with slashes, is among its artifacts.
func IsArtifact(artifacts []string, p string) bool {
	return slices.ContainsFunc(artifacts, func(a string) bool { return within(p, path.Clean(filepath.ToSlash(a))) })
}

// Holds says whether an artifact has at p, relative and with slashes, the same as the file at path.
func (s *Store) Holds(digest, p, path string) bool {
	from := s.Path(digest)
	return from != "" && filepath.IsLocal(p) && equal(filepath.Join(from, p), path)
}

// CopyTo makes dir a copy of an artifact that may be written to. What is in it already and equal is left alone, what else
// is in it is removed.
func (s *Store) CopyTo(digest, dir string) error {
	from := s.Path(digest)
	if from == "" {
		return fmt.Errorf("copy artifact %q: that is no digest", digest)
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("copy artifact %s: %w", digest, err)
	}
	err := filepath.WalkDir(from, func(p string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(from, p)
		if err != nil {
			return err
		}
		return CopyFile(p, filepath.Join(dir, rel))
	})
	if err == nil {
		err = removeOthers(dir, from)
	}
	if err != nil {
		return fmt.Errorf("copy artifact %s to %s: %w", digest, dir, err)
	}
	return nil
}

// removeOthers removes from dir what is not in like.
func removeOthers(dir, like string) error {
	return filepath.WalkDir(dir, func(p string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(dir, p)
		if err != nil {
			return err
		}
		if _, err := os.Lstat(filepath.Join(like, rel)); err == nil {
			return nil
		}
		if err := os.RemoveAll(p); err != nil || !e.IsDir() {
			return err
		}
		return fs.SkipDir
	})
}

// CopyFile makes to what from is: a folder (not what is in it), a link, or a file with its content, which whoever has the
// old one open goes on reading. Equal files are left alone; anything else is left out.
func CopyFile(from, to string) error {
	info, err := os.Lstat(from)
	if err != nil {
		return err
	}
	now, terr := os.Lstat(to)
	if terr == nil && now.Mode().Type() != info.Mode().Type() {
		if err := os.RemoveAll(to); err != nil {
			return err
		}
	}
	switch {
	case info.IsDir():
		return os.MkdirAll(to, 0o755)
	case info.Mode()&fs.ModeSymlink != 0:
		target, err := os.Readlink(from)
		if err != nil {
			return err
		}
		return replace(to, func(temp string) error { return os.Symlink(target, temp) })
	case !info.Mode().IsRegular():
		return nil
	case terr == nil && now.Mode()&0o111 == info.Mode()&0o111 && equal(from, to):
		return nil
	}
	return replace(to, func(temp string) error { return copyContent(from, temp, 0o644|info.Mode()&0o111) })
}

// replace makes a file beside to and renames it over.
func replace(to string, create func(temp string) error) error {
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		return err
	}
	temp := filepath.Join(filepath.Dir(to), fmt.Sprintf("%s%d-%s", tempPrefix, os.Getpid(), filepath.Base(to)))
	defer os.Remove(temp)
	if err := create(temp); err != nil {
		return err
	}
	return os.Rename(temp, to)
}

func copyContent(from, to string, mode fs.FileMode) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, mode)
	if err != nil {
		return err
	}
	if _, err := io.Copy(out, in); err != nil {
		_ = out.Close()
		return err
	}
	if err := out.Chmod(mode); err != nil { // whatever the umask
		_ = out.Close()
		return err
	}
	return out.Close()
}

// equal says whether two files have the same content.
func equal(a, b string) bool {
	x, err := os.ReadFile(a)
	if err != nil {
		return false
	}
	y, err := os.ReadFile(b)
	return err == nil && string(x) == string(y)
}
