package artifact

import (
	"os"
	"path"
	"path/filepath"
	"strings"
)

// ignores are the ignore files in force in one folder: those of .gitignore from the top down, and the .dockerignore of
// the top.
type ignores struct {
	docker []pattern
	git    []gitignore
}

// gitignore is one .gitignore, in force for base and below.
type gitignore struct {
	base     string
	patterns []pattern
}

// pattern is one line of an ignore file.
type pattern struct {
	segments []string // of a path; "**" is any number of them
	negated  bool
	dirOnly  bool
}

// maxIgnoreFile bounds what is read of an ignore file; what is longer is no ignore file.
const maxIgnoreFile = 1 << 20

// enter returns what is in force in dir, which lies at abs.
func (ig ignores) enter(abs, dir string) ignores {
	lines := readLines(filepath.Join(abs, ".gitignore"))
	if len(lines) == 0 {
		return ig
	}
	g := gitignore{base: dir}
	for _, line := range lines {
		if p, ok := parseGit(line); ok {
			g.patterns = append(g.patterns, p)
		}
	}
	ig.git = append(ig.git[:len(ig.git):len(ig.git)], g)
	return ig
}

// readDockerignore returns the patterns of dir's .dockerignore. One that leaves out everything and then names what to
// take is for images made of finished programs: their sources are not in it, so it is not applied.
func readDockerignore(dir string) []pattern {
	var patterns []pattern
	for _, line := range readLines(filepath.Join(dir, ".dockerignore")) {
		p, ok := parseDocker(line)
		if !ok {
			continue
		}
		switch strings.Join(p.segments, "/") {
		case "*", "**", "**/*", "*/**":
			if !p.negated {
				return nil
			}
		}
		patterns = append(patterns, p)
	}
	return patterns
}

func readLines(name string) []string {
	info, err := os.Stat(name)
	if err != nil || !info.Mode().IsRegular() || info.Size() > maxIgnoreFile {
		return nil
	}
	b, err := os.ReadFile(name)
	if err != nil {
		return nil
	}
	return strings.Split(strings.TrimPrefix(string(b), "\ufeff"), "\n")
}

// parseGit reads a line of a .gitignore, as gitignore(5) has it.
func parseGit(line string) (pattern, bool) {
	line = strings.TrimSuffix(line, "\r")
	for strings.HasSuffix(line, " ") && !strings.HasSuffix(line, `\ `) {
		line = line[:len(line)-1]
	}
	var p pattern
	if strings.HasPrefix(line, "#") {
		return p, false
	}
	if rest, ok := strings.CutPrefix(line, "!"); ok {
		p.negated, line = true, rest
	}
	if rest, ok := strings.CutSuffix(line, "/"); ok {
		p.dirOnly, line = true, rest
	}
	anchored := strings.Contains(line, "/")
	line = strings.Trim(line, "/")
	if line == "" {
		return p, false
	}
	p.segments = segments(line)
	if !anchored {
		p.segments = append([]string{"**"}, p.segments...)
	}
	return p, true
}

// parseDocker reads a line of a .dockerignore: like Go's filepath.Match with "**" beside, from the top.
func parseDocker(line string) (pattern, bool) {
	line = strings.TrimSpace(line)
	var p pattern
	if strings.HasPrefix(line, "#") {
		return p, false
	}
	if rest, ok := strings.CutPrefix(line, "!"); ok {
		p.negated, line = true, strings.TrimSpace(rest)
	}
	line = strings.TrimPrefix(path.Clean("/"+line), "/")
	if line == "" {
		return p, false
	}
	p.segments = segments(line)
	return p, true
}

func segments(line string) []string {
	list := strings.Split(line, "/")
	for i, s := range list {
		list[i] = strings.ReplaceAll(s, "[!", "[^")
	}
	return list
}

// match says whether p is left out. Folders that are left out need not be entered.
func (ig ignores) match(p string, isDir bool) bool {
	return (isDir || !isSettings(path.Base(p))) && (ig.matchGit(p, isDir) || ig.matchDocker(p, isDir))
}

// isSettings says of a file's name that builds read settings from it, as Vite, Next.js and Rails do: .env, .env.local, .env.production.
// A .gitignore keeps those out of version control because of what is in them, and a .dockerignore out of images; a build that runs in the
// folder itself finds them there.
func isSettings(name string) bool { return name == ".env" || strings.HasPrefix(name, ".env.") }

func (ig ignores) matchGit(p string, isDir bool) bool {
	for i := len(ig.git) - 1; i >= 0; i-- {
		g := ig.git[i]
		rel := p
		if g.base != "." {
			rel = strings.TrimPrefix(p, g.base+"/")
		}
		names := strings.Split(rel, "/")
		for j := len(g.patterns) - 1; j >= 0; j-- {
			if q := g.patterns[j]; (isDir || !q.dirOnly) && matchPath(q.segments, names) {
				return !q.negated
			}
		}
	}
	return false
}

func (ig ignores) matchDocker(p string, isDir bool) bool {
	names := strings.Split(p, "/")
	ignored, exceptions := false, false
	for _, q := range ig.docker {
		exceptions = exceptions || q.negated
		if q.negated == ignored && q.matchesOrContains(names) {
			ignored = !q.negated
		}
	}
	// An exception may name something inside of a folder that is left out.
	return ignored && (!isDir || !exceptions)
}

// matchesOrContains says whether the pattern matches a path or a folder that it is in.
func (q pattern) matchesOrContains(names []string) bool {
	for n := 1; n <= len(names); n++ {
		if matchPath(q.segments, names[:n]) {
			return true
		}
	}
	return false
}

// matchPath matches a path, name by name. Its time is the product of both lengths, whatever the pattern.
func matchPath(pattern, names []string) bool {
	// reach[j]: the pattern up to here matches the first j names.
	reach := make([]bool, len(names)+1)
	reach[0] = true
	for i, segment := range pattern {
		next := make([]bool, len(names)+1)
		if segment == "**" {
			open := false
			for j := range reach {
				// At the end it stands for at least one name: "a/**" is what is in a, not a.
				if i < len(pattern)-1 || i == 0 {
					open = open || reach[j]
					next[j] = open
				} else {
					next[j] = open
					open = open || reach[j]
				}
			}
		} else {
			for j, name := range names {
				if reach[j] {
					ok, err := path.Match(segment, name)
					next[j+1] = ok && err == nil
				}
			}
		}
		reach = next
	}
	return reach[len(names)]
}
