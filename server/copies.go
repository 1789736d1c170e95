package server

import (
	"bufio"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// copies says whether two projects are copies of one another: the same folder with --copy, or two folders that hold the
// same project, which is one of the same name, or the same folder of the same repository in two worktrees or clones.
func copies(a, b Location) bool {
	switch {
	case a.StateDir == b.StateDir:
		return false
	case a.WorkingDir == b.WorkingDir:
		return a.Copy != "" || b.Copy != ""
	}
	return a.original() == b.original() ||
		slices.ContainsFunc(a.Origins, func(origin string) bool { return slices.Contains(b.Origins, origin) })
}

// beside says whether l is an environment of the same folder's project as other, which is another one or none: then the
// one that is none keeps the ports of the file.
func (l Location) beside(other Location) bool {
	return l.Environment != "" && l.WorkingDir == other.WorkingDir && l.Environment != other.Environment
}

// original is the name of the project that l is a copy of, its own where it is none.
func (l Location) original() string {
	if l.Copy == "" {
		return l.Project
	}
	return strings.TrimSuffix(l.Project, "-"+l.Copy)
}

// origins names the repository that dir lies in and where in it: by the folder that all its worktrees share, and by the
// address it was cloned from. None where dir is in no repository of git.
func origins(dir string) []string {
	dir, err := filepath.EvalSymlinks(dir)
	if err != nil {
		return nil
	}
	for top := dir; ; top = filepath.Dir(top) {
		if common := commonDir(filepath.Join(top, ".git")); common != "" {
			at, _ := filepath.Rel(top, dir)
			found := []string{common + "//" + at}
			if url := cloneURL(filepath.Join(common, "config")); url != "" {
				found = append(found, url+"//"+at)
			}
			return found
		}
		if top == filepath.Dir(top) {
			return nil
		}
	}
}

// commonDir returns the folder that the worktrees of a repository share, "" where git is not the .git of one.
func commonDir(git string) string {
	info, err := os.Stat(git)
	if err != nil {
		return ""
	}
	if !info.IsDir() { // of another worktree, or of a submodule: it says where the folder is
		text, err := os.ReadFile(git)
		to, ok := strings.CutPrefix(strings.TrimSpace(string(text)), "gitdir: ")
		if err != nil || !ok {
			return ""
		}
		git = beside(filepath.Dir(git), to)
	}
	if to, err := os.ReadFile(filepath.Join(git, "commondir")); err == nil {
		git = beside(git, strings.TrimSpace(string(to)))
	}
	if _, err := os.Stat(filepath.Join(git, "HEAD")); err != nil {
		return ""
	}
	if git, err = filepath.EvalSymlinks(git); err != nil {
		return ""
	}
	return git
}

func beside(dir, path string) string {
	if filepath.IsAbs(path) {
		return filepath.Clean(path)
	}
	return filepath.Join(dir, path)
}

// cloneURL returns remote.origin.url of a repository's configuration, "" where there is none. What git would include from
// other files is not looked at.
func cloneURL(config string) string {
	f, err := os.Open(config)
	if err != nil {
		return ""
	}
	defer f.Close()
	within := false
	for s := bufio.NewScanner(f); s.Scan(); {
		line := strings.TrimSpace(s.Text())
		if strings.HasPrefix(line, "[") {
			within = line == `[remote "origin"]`
			continue
		}
		key, value, ok := strings.Cut(line, "=")
		if within && ok && strings.TrimSpace(key) == "url" {
			return strings.Trim(strings.TrimSpace(value), `"`)
		}
	}
	return ""
}
