package docker

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/moby/patternmatcher"
	"github.com/moby/patternmatcher/ignorefile"
)

// packing writes the context of a build as a tar archive.
type packing struct {
	root       string   // no link
	keep       string   // the Dockerfile, which is sent even where it is ignored
	dockerfile []byte   // one that is not in the context
	ignore     []string // without links
	ignored    *patternmatcher.PatternMatcher
}

// readIgnored reads DOCKERFILE.dockerignore, or else .dockerignore.
func (p *packing) readIgnored(dockerfile string) error {
	for _, name := range []string{dockerfile + ".dockerignore", ".dockerignore"} {
		f, err := os.Open(filepath.Join(p.root, name))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return fmt.Errorf("build context: %w", err)
		}
		patterns, err := ignorefile.ReadAll(f)
		f.Close()
		if err == nil {
			p.ignored, err = patternmatcher.New(patterns)
		}
		if err != nil {
			return fmt.Errorf("read %s: %w", filepath.Join(p.root, name), err)
		}
		return nil
	}
	return nil
}

func (p *packing) write(w io.Writer) error {
	t := tar.NewWriter(w)
	err := filepath.WalkDir(p.root, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return fmt.Errorf("build context: %w", err)
		}
		name, err := filepath.Rel(p.root, path)
		if err != nil || name == "." {
			return err
		}
		if slices.Contains(p.ignore, path) {
			return filepath.SkipDir
		}
		skip, err := p.skips(filepath.ToSlash(name), e.IsDir())
		if err != nil || skip {
			return err
		}
		return p.add(t, path, filepath.ToSlash(name), e)
	})
	if err != nil {
		return err
	}
	if p.dockerfile != nil {
		h := &tar.Header{Name: inlineName, Mode: 0o644, Size: int64(len(p.dockerfile)), Typeflag: tar.TypeReg}
		if err := t.WriteHeader(h); err != nil {
			return err
		}
		if _, err := t.Write(p.dockerfile); err != nil {
			return err
		}
	}
	return t.Close()
}

// skips says whether a name is left out. Of a directory that is, what a later pattern takes back may still come: it is
// left out whole only where no pattern takes anything back.
func (p *packing) skips(name string, dir bool) (bool, error) {
	if p.ignored == nil || name == p.keep || name == ".dockerignore" {
		return false, nil
	}
	matched, err := p.ignored.MatchesOrParentMatches(name)
	if err != nil {
		return false, fmt.Errorf("match %s with .dockerignore: %w", name, err)
	}
	if matched && dir && !p.ignored.Exclusions() && !filepath.IsAbs(name) && !within(p.keep, name) {
		return true, filepath.SkipDir
	}
	return matched, nil
}

// within says whether name lies below dir.
func within(name, dir string) bool {
	rel, err := filepath.Rel(dir, name)
	return name != "" && err == nil && filepath.IsLocal(rel)
}

func (p *packing) add(t *tar.Writer, path, name string, e fs.DirEntry) error {
	info, err := e.Info()
	if err != nil {
		return fmt.Errorf("build context: %w", err)
	}
	link := ""
	switch {
	case info.Mode()&fs.ModeSymlink != 0:
		if link, err = os.Readlink(path); err != nil {
			return fmt.Errorf("build context: %w", err)
		}
	case !info.Mode().IsRegular() && !info.IsDir():
		return nil // sockets, pipes and devices are no part of an image
	}
	h, err := tar.FileInfoHeader(info, link)
	if err != nil {
		return fmt.Errorf("build context: %w", err)
	}
	h.Name = name
	if info.IsDir() {
		h.Name += "/"
	}
	// What the builder compares is content, name and mode: who owns a checkout, and when, is nobody's business.
	h.Uid, h.Gid, h.Uname, h.Gname, h.AccessTime, h.ChangeTime = 0, 0, "", "", time.Time{}, time.Time{}
	if err := t.WriteHeader(h); err != nil {
		return fmt.Errorf("build context: %w", err)
	}
	if !info.Mode().IsRegular() {
		return nil
	}
	f, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("build context: %w", err)
	}
	defer f.Close()
	if _, err := io.CopyN(t, f, h.Size); err != nil {
		return fmt.Errorf("build context: %s: %w", name, err)
	}
	return nil
}
