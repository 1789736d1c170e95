package watch

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/moby/patternmatcher"
)

// rule is a Rule in use.
type rule struct {
	index           int
	given           string // Path as it was given
	root            string // without links
	folder          bool
	ignore, include *patternmatcher.PatternMatcher // include is nil where everything is
	skip            func(path string, dir bool) bool
	files           map[string]stamp
	folders         map[string]uint64 // that were walked, with their nodes
}

// stamp tells two states of a file apart.
type stamp struct {
	size, mtime int64
	mode        fs.FileMode
	node        uint64
}

func compile(r Rule) (*rule, error) {
	info, err := os.Stat(r.Path)
	if err != nil {
		var path *fs.PathError
		if errors.As(err, &path) {
			err = path.Err
		}
		return nil, err
	}
	root, err := filepath.EvalSymlinks(r.Path)
	if err != nil {
		return nil, err
	}
	c := &rule{given: filepath.Clean(r.Path), root: root, folder: info.IsDir(), skip: r.Skip, files: map[string]stamp{}, folders: map[string]uint64{}}
	if c.ignore, err = patternmatcher.New(r.Ignore); err != nil {
		return nil, err
	}
	if len(r.Include) > 0 {
		if c.include, err = patternmatcher.New(r.Include); err != nil {
			return nil, err
		}
	}
	return c, nil
}

// relative returns path as the rule's patterns see it; false for what is not the rule's.
func (r *rule) relative(path string) (string, bool) {
	if !within(path, r.root) {
		return "", false
	}
	rel, err := filepath.Rel(r.root, path)
	return filepath.ToSlash(rel), err == nil
}

// leavesOut says whether a file, or a folder with all in it, does not matter.
func (r *rule) leavesOut(rel string, dir bool) bool {
	if rel == "." {
		return false
	}
	if slices.ContainsFunc(strings.Split(rel, "/"), never) {
		return true
	}
	if r.skip != nil && r.skip(rel, dir) {
		return true
	}
	ignored, err := r.ignore.MatchesOrParentMatches(rel)
	if err != nil || ignored && (!dir || !r.ignore.Exclusions()) {
		return true // an exception may be for something inside of a folder
	}
	if dir || r.include == nil {
		return false
	}
	included, err := r.include.MatchesOrParentMatches(rel)
	return err != nil || !included
}

// never says of a name that nothing under it is a project's own: version control, Trellis' state, what editors keep
// beside a file while they write it.
func never(name string) bool {
	switch name {
	case ".git", ".hg", ".svn", ".jj", ".trellis", ".DS_Store", "4913", "___jb_tmp___", "___jb_old___":
		return true
	}
	return strings.HasSuffix(name, "~") || strings.HasPrefix(name, ".#") || strings.HasPrefix(name, ".goutputstream-") ||
		strings.HasPrefix(name, "#") && strings.HasSuffix(name, "#") ||
		strings.HasPrefix(name, ".") && (strings.HasSuffix(name, ".swp") || strings.HasSuffix(name, ".swx") || strings.HasSuffix(name, ".swo"))
}

// look compares the files at dirty paths, or all of them, with what they were, and watches the folders that are new. The
// changes are in order of rule and path, as the rules' paths were given.
func (w *Watcher) look(dirty map[string]bool, all bool) ([]Change, error) {
	w.unwatch(dirty, all)
	var changes []Change
	for _, r := range w.rules {
		l := looking{watcher: w, rule: r, was: map[string]bool{}}
		var err error
		if all {
			err = l.at(r.root)
		}
		for path := range dirty {
			if err == nil && !all && (within(path, r.root) || within(r.root, path)) {
				err = l.at(path)
			}
		}
		if err != nil {
			return nil, err
		}
		slices.SortFunc(l.changes, func(a, b Change) int { return strings.Compare(a.Path, b.Path) })
		changes = append(changes, slices.Compact(l.changes)...)
	}
	return changes, nil
}

// unwatch lets go of the folders that are not where they were any more. The kernel watches a folder wherever it is moved to, and
// with it those inside, of which it tells nothing then: watched again as they are called now, they would be told of by their old names.
func (w *Watcher) unwatch(dirty map[string]bool, all bool) {
	for _, r := range w.rules {
		moved := all
		for path := range dirty {
			_, folder := r.folders[path]
			moved = moved || folder || within(r.root, path)
		}
		if !moved {
			continue
		}
		for folder, node := range r.folders {
			if info, err := os.Lstat(folder); err != nil || nodeOf(info) != node {
				_ = w.drop(folder) // it may not be watched any more
			}
		}
	}
}

// looking is one look for one rule.
type looking struct {
	watcher *Watcher
	rule    *rule
	was     map[string]bool // folders that were walked
	changes []Change
}

// at looks at one path: a file, a folder with all below it, or one that is gone.
func (l *looking) at(path string) error {
	r := l.rule
	if !within(path, r.root) {
		path = r.root // a folder above it was moved or made anew
	}
	// The folder above tells when the path itself is replaced.
	if path == r.root {
		if _, err := l.watcher.watchFolder(filepath.Dir(r.root)); err != nil {
			return err
		}
	}
	rel, ok := r.relative(path)
	if !ok {
		return nil
	}
	info, err := os.Lstat(path)
	if err == nil && info.IsDir() {
		if above := filepath.Dir(path); path != r.root && l.skipsAbove(above) || r.leavesOut(rel, true) {
			return nil
		}
		return l.walk(path)
	}
	if err != nil || l.skipsAbove(filepath.Dir(path)) || r.leavesOut(rel, false) {
		l.forget(path, nil)
		l.forgetFolders(path)
		return nil
	}
	l.forget(path, map[string]bool{path: true}) // where it was a folder
	l.forgetFolders(path)
	l.file(path, info)
	return nil
}

// skipsAbove says whether a folder above, up to the rule's own, is left out.
func (l *looking) skipsAbove(dir string) bool {
	for ; within(dir, l.rule.root) && dir != l.rule.root; dir = filepath.Dir(dir) {
		if rel, ok := l.rule.relative(dir); ok && l.rule.leavesOut(rel, true) {
			return true
		}
	}
	return false
}

// walk watches a folder and those in it, before it reads them, so that nothing falls between the two.
func (l *looking) walk(dir string) error {
	seen := map[string]bool{}
	if err := l.folder(dir, seen); err != nil {
		return err
	}
	l.forget(dir, seen)
	return nil
}

func (l *looking) folder(dir string, seen map[string]bool) error {
	if l.was[dir] {
		for path := range l.rule.files {
			if within(path, dir) {
				seen[path] = true
			}
		}
		return nil
	}
	l.was[dir], l.rule.folders[dir] = true, 0
	if info, err := os.Lstat(dir); err == nil {
		l.rule.folders[dir] = nodeOf(info)
	}
	ok, err := l.watcher.watchFolder(dir)
	if !ok || err != nil {
		return err
	}
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrPermission) {
		l.watcher.warnOnce(dir, "it cannot be read")
	}
	for _, e := range entries {
		path := filepath.Join(dir, e.Name())
		rel, _ := l.rule.relative(path)
		if l.rule.leavesOut(rel, e.IsDir()) {
			continue
		}
		if e.IsDir() {
			if err := l.folder(path, seen); err != nil {
				return err
			}
			continue
		}
		if info, err := e.Info(); err == nil {
			seen[path] = true
			l.file(path, info)
		}
	}
	return nil
}

// file notes a file, and a change if it is another than before.
func (l *looking) file(path string, info fs.FileInfo) {
	if !info.Mode().IsRegular() && info.Mode()&fs.ModeSymlink == 0 {
		return // sockets, pipes and devices hold nothing
	}
	now := stamp{size: info.Size(), mtime: info.ModTime().UnixNano(), mode: info.Mode(), node: nodeOf(info)}
	if was, known := l.rule.files[path]; known && was == now {
		return
	}
	l.rule.files[path] = now
	l.changes = append(l.changes, Change{Rule: l.rule.index, Path: l.given(path)})
}

// forget notes as gone what was at path or below it and is not in seen.
func (l *looking) forget(path string, seen map[string]bool) {
	if _, folder := l.rule.folders[path]; !folder { // then nothing is below it
		if _, known := l.rule.files[path]; known && !seen[path] {
			delete(l.rule.files, path)
			l.changes = append(l.changes, Change{Rule: l.rule.index, Path: l.given(path), Gone: true})
		}
		return
	}
	for file := range l.rule.files {
		if within(file, path) && !seen[file] {
			delete(l.rule.files, file)
			l.changes = append(l.changes, Change{Rule: l.rule.index, Path: l.given(file), Gone: true})
		}
	}
}

// forgetFolders notes that there is no folder at path any more.
func (l *looking) forgetFolders(path string) {
	if _, known := l.rule.folders[path]; !known {
		return
	}
	for folder := range l.rule.folders {
		if within(folder, path) {
			delete(l.rule.folders, folder)
		}
	}
}

// given returns a path as it would be written under the path that the rule was given.
func (l *looking) given(path string) string {
	return l.rule.given + strings.TrimPrefix(path, l.rule.root)
}
