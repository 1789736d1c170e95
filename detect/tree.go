package detect

import (
	"context"
	"io"
	"io/fs"
	"path"
	"slices"
	"strings"
	"unicode/utf8"
)

// What is looked at, at most. A tree that has more is looked at in part, and the report says so.
const (
	maxFileBytes  = 1 << 20
	maxTotalBytes = 64 << 20
	maxEntries    = 50_000
	maxDepth      = 16
)

// tree is a file system that is read within limits.
type tree struct {
	ctx     context.Context
	fsys    fs.FS
	entries int
	bytes   int64
	cut     bool              // a limit was reached
	texts   map[string]string // what was read
	// What was found in files: programs share most of theirs, and each is looked through once.
	seen     map[string]any
	programs int // of Go modules, that were looked at
}

func newTree(ctx context.Context, fsys fs.FS) *tree {
	return &tree{ctx: ctx, fsys: fsys, texts: map[string]string{}, seen: map[string]any{}}
}

// once returns what look finds in a file or folder, which is asked for what once.
func once[V any](t *tree, what, name string, look func() V) V {
	key := what + ":" + name
	if found, ok := t.seen[key].(V); ok {
		return found
	}
	found := look()
	t.seen[key] = found
	return found
}

// another says whether one more program is looked at.
func (t *tree) another() bool {
	t.programs++
	t.cut = t.cut || t.programs > maxMarkers
	return t.programs <= maxMarkers
}

func (t *tree) warn(r *Report) {
	if t.cut {
		r.note("", "the sources are more than what is looked at (%d files and folders, %d MiB, %d programs): something may have been missed", maxEntries, maxTotalBytes>>20, maxMarkers)
	}
}

// read returns a text file; false for what is none, or too large.
func (t *tree) read(name string) (string, bool) {
	if !fs.ValidPath(name) || t.ctx.Err() != nil {
		return "", false
	}
	if text, ok := t.texts[name]; ok {
		return text, text != ""
	}
	info, err := fs.Stat(t.fsys, name)
	if err != nil || !info.Mode().IsRegular() || info.Size() > maxFileBytes {
		return "", false
	}
	if t.bytes += info.Size(); t.bytes > maxTotalBytes {
		t.cut = true
		return "", false
	}
	f, err := t.fsys.Open(name)
	if err != nil {
		return "", false
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxFileBytes+1))
	text := string(b)
	if err != nil || len(b) > maxFileBytes || strings.IndexByte(text, 0) >= 0 || !utf8.ValidString(text) {
		text = ""
	}
	t.texts[name] = text
	return text, text != ""
}

func (t *tree) isFile(name string) bool {
	info, err := fs.Stat(t.fsys, name)
	return fs.ValidPath(name) && err == nil && info.Mode().IsRegular()
}

func (t *tree) isDir(name string) bool {
	info, err := fs.Stat(t.fsys, name)
	return fs.ValidPath(name) && err == nil && info.IsDir()
}

// list returns the entries of a folder, sorted; nil for what is none.
func (t *tree) list(dir string) []fs.DirEntry {
	if t.ctx.Err() != nil || t.entries > maxEntries {
		t.cut = t.cut || t.entries > maxEntries
		return nil
	}
	entries, err := fs.ReadDir(t.fsys, dir)
	if err != nil {
		return nil
	}
	t.entries += len(entries)
	return entries
}

// foreign are folders whose content is not the project's own code.
var foreign = []string{
	"node_modules", "vendor", "testdata", "__pycache__", "venv", "env", "site-packages", "bower_components", "third_party",
	"target", "coverage", "__tests__", "e2e",
}

// beside are folders with code that is no part of what runs.
var beside = []string{"test", "tests", "example", "examples", "docs", "doc", "samples", "fixtures", "benchmarks", "hack"}

func skipped(name string) bool {
	return strings.HasPrefix(name, ".") && name != "." || slices.Contains(foreign, name)
}

// walk calls fn for every file below dir that is the project's own, folders in order; fn returns false to end it.
func (t *tree) walk(dir string, leave []string, fn func(file string) bool) {
	t.walkDir(dir, leave, 0, fn)
}

func (t *tree) walkDir(dir string, leave []string, depth int, fn func(string) bool) bool {
	if depth > maxDepth {
		t.cut = true
		return true
	}
	for _, e := range t.list(dir) {
		name := path.Join(dir, e.Name())
		switch {
		case e.IsDir():
			if skipped(e.Name()) || slices.Contains(beside, e.Name()) || slices.Contains(leave, name) {
				continue
			}
			if !t.walkDir(name, leave, depth+1, fn) {
				return false
			}
		case e.Type().IsRegular():
			if !fn(name) {
				return false
			}
		}
	}
	return true
}

// lineAt returns the number of the line that an offset of a text is in.
func lineAt(text string, offset int) int { return strings.Count(text[:offset], "\n") + 1 }
