package compose

import (
	"fmt"
	"path/filepath"
	"slices"
	"sort"
	"strings"
)

func (l *loading) errorAt(file string, line, col int, path, format string, args ...any) {
	l.add(Diagnostic{File: file, Line: line, Column: col, Path: path, Message: fmt.Sprintf(format, args...)}, false)
}

// add reports an error unless it only follows from one that is reported: a second word on the same value, or what a
// check of the resolved project says of a value that was left out of it for being wrong.
func (l *loading) add(d Diagnostic, key bool) {
	if l.moreErrors = l.moreErrors || len(l.errors) >= maxErrors; l.moreErrors {
		return
	}
	if l.early < 0 {
		if slices.ContainsFunc(l.errors, func(e Diagnostic) bool { return e.Line > 0 && e.Path == d.Path && e.File == d.File && e.Line == d.Line }) {
			return
		}
	} else if slices.ContainsFunc(l.errors[:l.early], func(e Diagnostic) bool { return explains(e, d.Path) }) {
		return
	}
	if d.Line > 0 {
		l.bad[place{d.File, d.Line, d.Column, key}] = true
	}
	l.errors = append(l.errors, d)
}

// explains says that an error is at path, directly below it, or above it. A key that is missing explains nothing of its
// neighbours.
func explains(e Diagnostic, path string) bool {
	why := e.Path
	if why == path {
		return why != ""
	}
	if strings.HasPrefix(path, why+".") || strings.HasPrefix(path, why+"[") {
		return why != "" && !strings.HasSuffix(e.Message, "is missing")
	}
	below := strings.TrimPrefix(why, path)
	return path != "" && below != why && (below[0] == '.' || below[0] == '[') && !strings.ContainsAny(below[1:], ".[")
}

// told returns the errors in order of place.
func (l *loading) told() Diagnostics {
	all := l.finish(l.errors)
	if l.moreErrors {
		all = append(all, Diagnostic{File: shorten(l.first(), l.cwd), Message: fmt.Sprintf("more than %d errors: the others are told when these are corrected", maxErrors)})
	}
	return all
}

func (l *loading) warnAt(file string, line, col int, path, format string, args ...any) {
	l.warnings = append(l.warnings, Diagnostic{File: file, Line: line, Column: col, Path: path, Message: fmt.Sprintf(format, args...)})
}

func (l *loading) errorMark(m *mark, path, format string, args ...any) {
	line, col := m.place()
	l.errorAt(m.file(), line, col, path, format, args...)
}

func (l *loading) errorKey(m *mark, path, format string, args ...any) {
	if m.keyLine == 0 {
		l.errorMark(m, path, format, args...)
		return
	}
	l.add(Diagnostic{File: m.file(), Line: m.keyLine, Column: m.keyCol, Path: path, Message: fmt.Sprintf(format, args...)}, true)
}

// errorPath reports an error at a path of the merged tree.
func (l *loading) errorPath(path, format string, args ...any) {
	m, _ := Positions{root: l.root}.find(path)
	if m == nil {
		l.errorAt(l.first(), 0, 0, path, format, args...)
		return
	}
	l.errorMark(m, path, format, args...)
}

func (l *loading) warnPath(path, format string, args ...any) {
	m, _ := Positions{root: l.root}.find(path)
	if m == nil {
		l.warnAt(l.first(), 0, 0, path, format, args...)
		return
	}
	line, col := m.place()
	l.warnAt(m.file(), line, col, path, format, args...)
}

// finish sorts diagnostics by place, drops repetitions and shortens their files' paths.
func (l *loading) finish(list []Diagnostic) []Diagnostic {
	order := map[string]int{}
	for i, f := range l.files {
		order[f] = i - len(l.files)
	}
	sort.SliceStable(list, func(i, j int) bool {
		a, b := list[i], list[j]
		switch {
		case a.File != b.File && order[a.File] != order[b.File]:
			return order[a.File] < order[b.File]
		case a.File != b.File:
			return a.File < b.File
		case a.Line != b.Line:
			return a.Line < b.Line
		case a.Column != b.Column:
			return a.Column < b.Column
		case a.Path != b.Path:
			return a.Path < b.Path
		}
		return a.Message < b.Message
	})
	var out []Diagnostic
	for _, d := range list {
		d.File = shorten(d.File, l.cwd)
		d.Message = printable(d.Message)
		if len(out) == 0 || out[len(out)-1] != d {
			out = append(out, d)
		}
	}
	return out
}

// printable makes a message safe for a terminal: what a file says must not move the cursor.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if r == '\n' || r == '\t' {
			return ' '
		}
		if controlCharacter(string(r)) != "" {
			return '\uFFFD'
		}
		return r
	}, s)
}

// inside says whether a file that the project reads lies where the project may reach by itself: below the repository or
// the directories of the files given. What is written as an absolute path is meant, and only warned of.
func (l *loading) inside(file, written string, by *mark, path string) bool {
	real := file
	if resolved, err := filepath.EvalSymlinks(file); err == nil {
		real = resolved
	}
	for _, root := range l.roots {
		if real == root || strings.HasPrefix(real, strings.TrimSuffix(root, "/")+"/") {
			return true
		}
	}
	if filepath.IsAbs(written) && real == file {
		line, col := by.place()
		l.warnAt(by.file(), line, col, path, "%s lies outside of the project (%s): the project works only on machines that have it", cut(written, 120), l.roots[0])
		return true
	}
	l.errorMark(by, path, "%s leads out of the project (%s): move it inside, or write its absolute path if it is meant", cut(written, 120), l.roots[0])
	return false
}
