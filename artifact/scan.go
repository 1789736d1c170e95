package artifact

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"trellis/errdefs"
)

// source is the folder that a build runs in.
type source struct {
	dir       string   // absolute, without symbolic links
	store     string   // the artifact store, which is never a source
	artifacts []string // relative, slashes, clean, sorted
}

// tree is what was found in a folder, sorted by path.
type tree []entry

// entry is a file or link, and among artifacts a folder too.
type entry struct {
	path string // relative, slashes
	kind byte   // 'f' file, 'x' executable file, 'l' link, 'd' folder
	sum  sum    // of the content, or of the link's target
	stat statEntry
}

// statEntry is what stat says about a file and the hash its content had then.
type statEntry struct {
	Size         int64
	Mtime, Ctime int64 // ns
	Ino          uint64
	Sum          sum
	// Settled says that the file had been left alone for a while when it was hashed: a later write would show in its
	// times, whose steps may be coarse.
	Settled bool
}

// settleTime is longer than the steps of any file system's time stamps.
const settleTime = 2 * time.Second

func (s statEntry) matches(o statEntry) bool {
	return s.Settled && s.Size == o.Size && s.Mtime == o.Mtime && s.Ctime == o.Ctime && s.Ino == o.Ino
}

func statOf(info fs.FileInfo) statEntry {
	e := statEntry{Size: info.Size(), Mtime: info.ModTime().UnixNano()}
	e.Ctime, e.Ino = changeTime(info)
	return e
}

// refresh takes over the hashes of t and says whether the folder changed by it, or by anything else since it was
// loaded.
func (f *folder) refresh(t tree) bool {
	stats := make(map[string]statEntry, len(t))
	for _, e := range t {
		if e.kind != 'l' && e.kind != 'd' {
			stats[e.path] = e.stat
		}
	}
	// Outputs and Last are small and change with the tree or right after it: writing is skipped for a warm look only.
	same := len(stats) == len(f.Stats) && !f.changed
	for p, e := range stats {
		if !same {
			break
		}
		same = f.Stats[p] == e
	}
	f.Stats = stats
	return !same
}

func (src source) isArtifact(p string) bool {
	return slices.ContainsFunc(src.artifacts, func(a string) bool { return within(p, a) })
}

// within says whether p is dir or below it; "." is above all.
func within(p, dir string) bool {
	return dir == "." || p == dir || strings.HasPrefix(p, dir+"/")
}

// scan returns the source tree: everything below dir but version control, Trellis' own state, what .gitignore and
// .dockerignore leave out but for files of settings, and node_modules unless it is an artifact. What these leave out is left.
func (src source) scan(ctx context.Context, f *folder) (t tree, left []string, err error) {
	w := walker{src: src, ctx: ctx}
	if err := w.walk(".", ignores{docker: readDockerignore(src.dir)}); err != nil {
		return nil, nil, fmt.Errorf("read the sources in %s: %w", src.dir, err)
	}
	t, err = w.hash(f)
	return t, w.left, err
}

// untouched says that nothing among the artifacts was made, changed or removed since a moment, in nanoseconds: the change time of
// a folder tells what was removed from it, and nobody can set it back.
func (src source) untouched(since int64) bool {
	for _, a := range src.artifacts {
		err := filepath.WalkDir(filepath.Join(src.dir, a), func(_ string, d fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			info, err := d.Info()
			if err == nil && statOf(info).Ctime > since {
				err = errTouched
			}
			return err
		})
		if err != nil {
			return false
		}
	}
	return true
}

var errTouched = errors.New("it was changed")

// scanArtifacts returns what the artifacts consist of, nothing left out.
func (src source) scanArtifacts(ctx context.Context, f *folder) (tree, error) {
	w := walker{src: src, ctx: ctx, all: true}
	for _, a := range src.artifacts {
		info, err := os.Lstat(filepath.Join(src.dir, a))
		if err != nil {
			return nil, fmt.Errorf("%w: the artifact %s: %w", errdefs.ErrInvalid, a, bare(err))
		}
		if info.IsDir() {
			err = w.walk(a, ignores{})
		} else {
			w.add(a, info)
		}
		if err != nil {
			return nil, fmt.Errorf("read the artifact %s: %w", a, err)
		}
	}
	return w.hash(f)
}

func bare(err error) error {
	var p *fs.PathError
	if errors.As(err, &p) {
		return p.Err
	}
	return err
}

// walker collects a tree.
type walker struct {
	src  source
	ctx  context.Context
	all  bool // nothing is left out
	tree tree
	left []string // what was left out
}

func (w *walker) walk(dir string, ig ignores) error {
	if err := w.ctx.Err(); err != nil {
		return err
	}
	abs := filepath.Join(w.src.dir, dir)
	entries, err := os.ReadDir(abs)
	if err != nil {
		return err
	}
	if !w.all {
		ig = ig.enter(abs, dir)
	}
	for _, e := range entries {
		p := path.Join(dir, e.Name())
		if neverSource(w.src, p, e) {
			continue
		}
		if !w.all && w.skip(p, e, ig) {
			w.left = append(w.left, p)
			continue
		}
		if e.IsDir() {
			if w.all { // an artifact has it, be it empty
				w.tree = append(w.tree, entry{path: p, kind: 'd'})
			}
			if err := w.walk(p, ig); err != nil {
				return err
			}
			continue
		}
		info, err := e.Info()
		if errors.Is(err, fs.ErrNotExist) {
			continue // removed meanwhile
		}
		if err != nil {
			return err
		}
		w.add(p, info)
	}
	return nil
}

// neverSource says what is neither source nor artifact: version control, Trellis' own state and this store.
func neverSource(src source, p string, e fs.DirEntry) bool {
	switch e.Name() {
	case ".git", ".hg", ".svn", ".jj", ".trellis":
		return true
	}
	return e.IsDir() && filepath.Join(src.dir, p) == src.store
}

func (w *walker) skip(p string, e fs.DirEntry, ig ignores) bool {
	if e.Name() == "node_modules" && e.IsDir() && !w.src.isArtifact(p) {
		return true
	}
	return ig.match(p, e.IsDir())
}

// add takes a file or link; sockets, pipes and devices are no sources.
func (w *walker) add(p string, info fs.FileInfo) {
	e := entry{path: p, stat: statOf(info)}
	switch {
	case info.Mode().IsRegular() && info.Mode()&0o111 != 0:
		e.kind = 'x'
	case info.Mode().IsRegular():
		e.kind = 'f'
	case info.Mode()&fs.ModeSymlink != 0:
		e.kind = 'l'
	default:
		return
	}
	w.tree = append(w.tree, e)
}

// hash fills in the sums: those of files that did not change since they were hashed come from f.
func (w *walker) hash(f *folder) (tree, error) {
	slices.SortFunc(w.tree, func(a, b entry) int { return strings.Compare(a.path, b.path) })
	w.tree = slices.CompactFunc(w.tree, func(a, b entry) bool { return a.path == b.path })
	g, ctx := errgroup.WithContext(w.ctx)
	g.SetLimit(runtime.GOMAXPROCS(0))
	vanished := make([]bool, len(w.tree))
	for i := range w.tree {
		e := &w.tree[i]
		if e.kind == 'd' {
			continue
		}
		if known := f.Stats[e.path]; e.kind != 'l' && known.matches(e.stat) {
			e.sum, e.stat = known.Sum, known
			continue
		}
		g.Go(func() error {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			err := e.hash(filepath.Join(w.src.dir, e.path))
			if errors.Is(err, fs.ErrNotExist) {
				vanished[i], err = true, nil
			}
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return nil, fmt.Errorf("read the sources in %s: %w", w.src.dir, err)
	}
	kept := w.tree[:0]
	for i, e := range w.tree {
		if !vanished[i] {
			kept = append(kept, e)
		}
	}
	return kept, nil
}

func (e *entry) hash(abs string) error {
	if e.kind == 'l' {
		target, err := os.Readlink(abs)
		e.sum = sha256.Sum256([]byte(target))
		return err
	}
	began := time.Now()
	// Not following: what was a file a moment ago may be a link now. Not blocking: or a pipe.
	file, err := os.OpenFile(abs, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return err
	}
	defer file.Close()
	h := sha256.New()
	if _, err := io.Copy(h, file); err != nil {
		return err
	}
	h.Sum(e.sum[:0])
	newest := max(e.stat.Mtime, e.stat.Ctime)
	e.stat.Sum, e.stat.Settled = e.sum, began.Sub(time.Unix(0, newest)) > settleTime
	return nil
}
