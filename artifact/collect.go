package artifact

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"trellis/errdefs"
)

// collect copies the artifacts into the store and returns the digest of what was copied.
func (s *Store) collect(ctx context.Context, src source) (digest string, err error) {
	tmp, err := os.MkdirTemp(s.dir, tempPrefix)
	if err != nil {
		return "", fmt.Errorf("keep the artifacts: %w", err)
	}
	defer func() { err = errors.Join(err, removeReadOnly(tmp)) }()
	c := collector{ctx: ctx, src: src, to: filepath.Join(tmp, "content"), entries: map[string]string{}}
	if err := c.run(); err != nil {
		return "", err
	}
	digest = c.digest()
	if err := s.keep(c.to, digest); err != nil {
		return "", fmt.Errorf("keep the artifacts: %w", err)
	}
	return digest, nil
}

// keep gives the copy its name. One of that name has the same content.
func (s *Store) keep(from, digest string) error {
	to := s.Path(digest)
	now := time.Now()
	if err := os.Chtimes(to, now, now); err == nil {
		return nil
	}
	if err := syncTree(from); err != nil {
		return err
	}
	if err := os.Rename(from, to); err != nil {
		if info, statErr := os.Stat(to); statErr == nil && info.IsDir() {
			return nil // another one was faster
		}
		return err
	}
	// Not before: moving a folder writes to it.
	if err := os.Chmod(to, 0o555); err != nil {
		return err
	}
	d, err := os.Open(s.dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// collector copies artifacts of src.dir to a new folder. Everything is read through root, which nothing leads out of.
type collector struct {
	ctx     context.Context
	src     source
	root    *os.Root
	to      string
	entries map[string]string // path to what counts into the digest
	links   []string
}

func (c *collector) run() error {
	root, err := os.OpenRoot(c.src.dir)
	if err != nil {
		return fmt.Errorf("keep the artifacts: %w", err)
	}
	defer root.Close()
	c.root = root
	if err := os.Mkdir(c.to, 0o755); err != nil {
		return fmt.Errorf("keep the artifacts: %w", err)
	}
	for _, a := range c.src.artifacts {
		info, err := root.Lstat(a)
		if errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("%w: the artifact %s is not there: %s has to make it", errdefs.ErrInvalid, a, c.maker())
		}
		if err != nil {
			return fmt.Errorf("%w: the artifact %s: %w", errdefs.ErrInvalid, a, err)
		}
		if err := c.parents(path.Dir(a)); err != nil {
			return fmt.Errorf("keep the artifact %s: %w", a, err)
		}
		if err := c.copy(a, info); err != nil {
			return fmt.Errorf("keep the artifact %s: %w", a, err)
		}
	}
	if err := c.checkLinks(); err != nil {
		return err
	}
	return c.close()
}

func (c *collector) maker() string { return "the build in " + c.src.dir }

// parents makes the folders above an artifact; their modes are those of all folders.
func (c *collector) parents(dir string) error {
	if dir == "." {
		return nil
	}
	if err := c.parents(path.Dir(dir)); err != nil {
		return err
	}
	return c.mkdir(dir)
}

func (c *collector) mkdir(p string) error {
	c.entries[p] = "d"
	err := os.Mkdir(filepath.Join(c.to, p), 0o755)
	if errors.Is(err, fs.ErrExist) {
		return nil
	}
	return err
}

func (c *collector) copy(p string, info fs.FileInfo) error {
	if err := c.ctx.Err(); err != nil {
		return err
	}
	if known := c.entries[p]; known != "" && known != "d" {
		return nil // an artifact inside of another one
	}
	switch {
	case info.IsDir():
		return c.copyDir(p)
	case info.Mode().IsRegular():
		return c.copyFile(p, info)
	case info.Mode()&fs.ModeSymlink != 0:
		return c.copyLink(p)
	}
	return fmt.Errorf("%w: %s is neither file, folder nor link", errdefs.ErrInvalid, p)
}

func (c *collector) copyDir(p string) error {
	if p != "." {
		if err := c.mkdir(p); err != nil {
			return err
		}
	}
	d, err := c.root.Open(p)
	if err != nil {
		return err
	}
	entries, err := d.ReadDir(-1)
	if err = errors.Join(err, d.Close()); err != nil {
		return err
	}
	for _, e := range entries {
		child := path.Join(p, e.Name())
		if neverSource(c.src, child, e) {
			continue
		}
		info, err := c.root.Lstat(child)
		if err != nil {
			return err
		}
		if err := c.copy(child, info); err != nil {
			return err
		}
	}
	return nil
}

func (c *collector) copyFile(p string, info fs.FileInfo) error {
	from, err := c.root.OpenFile(p, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return err
	}
	defer from.Close()
	to := filepath.Join(c.to, p)
	f, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	mode, kind := fs.FileMode(0o444), "f"
	if info.Mode()&0o111 != 0 {
		mode, kind = 0o555, "x"
	}
	h := sha256.New()
	_, err = io.Copy(io.MultiWriter(f, h), from)
	if err == nil {
		err = f.Chmod(mode)
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	c.entries[p] = kind + " " + hex.EncodeToString(h.Sum(nil))
	// Interpreters know by it whether what they compiled beside a source is of that source.
	return os.Chtimes(to, info.ModTime(), info.ModTime())
}

func (c *collector) copyLink(p string) error {
	target, err := c.root.Readlink(p)
	if err != nil {
		return err
	}
	if inside := path.Join(path.Dir(p), target); path.IsAbs(target) || !filepath.IsLocal(inside) {
		return fmt.Errorf("%w: %s is a link to %s, outside of %s", errdefs.ErrInvalid, p, target, c.src.dir)
	}
	c.entries[p] = fmt.Sprintf("l %q", target)
	c.links = append(c.links, p)
	return os.Symlink(target, filepath.Join(c.to, p))
}

// checkLinks refuses links that work in the folder and would not in the copy.
func (c *collector) checkLinks() error {
	copied, err := os.OpenRoot(c.to)
	if err != nil {
		return fmt.Errorf("keep the artifacts: %w", err)
	}
	defer copied.Close()
	for _, p := range c.links {
		if _, err := copied.Stat(p); err == nil {
			continue
		}
		if _, err := c.root.Stat(p); errors.Is(err, fs.ErrNotExist) {
			continue // it leads nowhere there either
		}
		target, _ := copied.Readlink(p)
		return fmt.Errorf("%w: keep the artifact %s: it is a link to %s, which is not among the artifacts: add that to them",
			errdefs.ErrInvalid, p, target)
	}
	return nil
}

// close makes the folders read-only, but for the top.
func (c *collector) close() error {
	for p, what := range c.entries {
		if what == "d" {
			if err := os.Chmod(filepath.Join(c.to, p), 0o555); err != nil {
				return fmt.Errorf("keep the artifacts: %w", err)
			}
		}
	}
	return nil
}

func (c *collector) digest() string {
	lines := make([]string, 0, len(c.entries))
	for p, what := range c.entries {
		lines = append(lines, fmt.Sprintf("%q %s\n", p, what))
	}
	slices.Sort(lines)
	h := sha256.Sum256([]byte(strings.Join(lines, "")))
	return hex.EncodeToString(h[:])
}
