package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/rogpeppe/go-internal/diff"

	"trellis/compose"
	"trellis/errdefs"
)

// diffOf is the change of all files as a unified diff.
func diffOf(files []rewrite) string {
	var b strings.Builder
	for _, f := range files {
		name, old := shortPath(f.path), shortPath(f.path)
		if f.before == nil {
			old = os.DevNull
		}
		text := string(diff.Diff(old, f.before, name, f.after))
		_, text, _ = strings.Cut(text, "\n") // "diff old new"
		b.WriteString(text)
	}
	return b.String()
}

// showProposal prints the diff, with the reasons before it and what was left out after it.
func (p *program) showProposal(all proposed) error {
	s := p.styleOf(p.stdout)
	var b strings.Builder
	if len(all.files) == 0 {
		b.WriteString("nothing to propose: the file has all that init is sure of\n")
	}
	service := ""
	width := 0
	for _, c := range all.view.Changes {
		width = max(width, len(c.label()))
	}
	for _, c := range all.view.Changes {
		if c.Service != service {
			service = c.Service
			b.WriteString(s.bold(oneLine(service)) + "\n")
		}
		fmt.Fprintf(&b, "  %s  %s\n", pad(c.label(), width), s.dim(oneLine(c.Reason)))
	}
	if len(all.view.Changes) > 0 {
		b.WriteByte('\n')
	}
	lines := strings.SplitAfter(all.view.Diff, "\n")
	for _, line := range lines {
		b.WriteString(paintDiff(s, line, terminal(p.stdout)))
	}
	if len(all.view.Notes) > 0 {
		if len(all.files) > 0 {
			b.WriteByte('\n')
		}
		b.WriteString("left out, because it is not sure:\n")
		for _, n := range all.view.Notes {
			b.WriteString("  " + noteLine(n) + "\n")
		}
	}
	_, err := p.stdout.Write([]byte(b.String()))
	return err
}

// label names what a change is about.
func (c initChange) label() string {
	if _, name, ok := strings.Cut(c.Path, ".environment."); ok {
		return oneLine(name)
	}
	if last := c.Path[strings.LastIndexByte(c.Path, '.')+1:]; slices.Contains([]string{"build", "image", "ports", "user", "stop_signal"}, last) {
		return last
	}
	return c.Kind
}

func noteLine(n initNote) string {
	if n.Service == "" {
		return oneLine(n.Message)
	}
	return oneLine(n.Service + ": " + n.Message)
}

// paintDiff colours a line of a diff. On a terminal, what the file holds cannot move the cursor.
func paintDiff(s style, line string, onTerminal bool) string {
	text := strings.TrimRight(line, "\r\n")
	end := strings.TrimPrefix(line, text)
	if onTerminal {
		text = visible(text)
		end = strings.TrimPrefix(end, "\r")
	}
	switch {
	case strings.HasPrefix(text, "+++") || strings.HasPrefix(text, "---"):
		return s.bold(text) + end
	case strings.HasPrefix(text, "@@"):
		return s.cyan(text) + end
	case strings.HasPrefix(text, "+"):
		return s.green(text) + end
	case strings.HasPrefix(text, "-"):
		return s.red(text) + end
	}
	return text + end
}

// visible takes out of a line what a terminal would carry out.
func visible(text string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' && r != '\t' || r == 0x7f || r >= 0x80 && r < 0xa0 {
			return '?'
		}
		return r
	}, text)
}

// confirm asks a person. Without a terminal it fails: what was shown can be agreed to with --yes.
func (p *program) confirm(ctx context.Context, what string) error {
	question, done := p.asking()
	if question == nil {
		return withHint(errors.New("nothing is written: there is no terminal to ask"), "repeat with --yes to write it, or with --dry-run only to look")
	}
	defer done()
	return p.answer(ctx, question, what)
}

// tryOut loads the project's files as they would be: what init proposes must not be an error. Where copies of them cannot
// be loaded from another folder even as they are, nothing is known.
func (p *program) tryOut(ctx context.Context, all proposed) error {
	if all.files[0].before != nil {
		if _, broken, err := p.loadCopies(ctx, all.paths, nil, all.dir); err != nil || len(broken) > 0 {
			return err
		}
	}
	_, broken, err := p.loadCopies(ctx, all.paths, all.files, all.dir)
	if err != nil {
		return fmt.Errorf("try the proposal out: %w", err)
	}
	if len(broken) > 0 {
		d := broken[0]
		return fmt.Errorf("init would write a file with an error, and writes nothing: %s: %s", d.Path, d.Message)
	}
	return nil
}

// loadCopies loads copies of a project's files, with rewritten ones as they would be, and returns what is wrong with them.
func (p *program) loadCopies(
	ctx context.Context, paths []string, rewritten []rewrite, projectDir string,
) (compose.Project, compose.Diagnostics, error) {
	dir, err := os.MkdirTemp("", "trellis-copies-")
	if err != nil {
		return compose.Project{}, nil, err
	}
	defer os.RemoveAll(dir)
	var copies []string
	for i, path := range paths {
		content, err := os.ReadFile(path)
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return compose.Project{}, nil, err
		}
		for _, f := range rewritten {
			if f.path == path {
				content = f.after
			}
		}
		to := filepath.Join(dir, fmt.Sprintf("%d.yaml", i))
		if err := os.WriteFile(to, content, 0o600); err != nil {
			return compose.Project{}, nil, err
		}
		copies = append(copies, to)
	}
	project, _, err := compose.Load(ctx, compose.Options{Files: copies, ProjectDirectory: projectDir, Name: p.flags.name, Profiles: p.flags.profiles,
		EnvFiles: p.flags.envFiles, Environ: p.environ})
	var broken compose.Diagnostics
	errors.As(err, &broken)
	return project, broken, ctx.Err()
}

// writeAll writes the files, each whole or not at all. A file that changed since it was read stays.
func writeAll(files []rewrite, again string) error {
	for _, f := range files {
		now, err := os.ReadFile(f.path)
		if f.before == nil && !errors.Is(err, os.ErrNotExist) || f.before != nil && !bytes.Equal(now, f.before) {
			return withHint(plain{fmt.Errorf("%s changed while it was looked at: %w", shortPath(f.path), errdefs.ErrConflict)}, "run '%s' again", again)
		}
	}
	for _, f := range files {
		if err := replaceFile(f.path, f.after); err != nil {
			return withHint(fmt.Errorf("write %s: %w", shortPath(f.path), err), "nothing of it is written; check who may write there")
		}
	}
	return nil
}

// replaceFile puts content in the place of a file, or of the one that a link leads to, with its mode and owner.
func replaceFile(path string, content []byte) error {
	if real, err := filepath.EvalSymlinks(path); err == nil {
		path = real
	}
	mode := os.FileMode(0o644)
	info, err := os.Stat(path)
	if err == nil {
		mode = info.Mode().Perm()
	}
	tmp, err := os.CreateTemp(filepath.Dir(path), ".compose-*")
	if err != nil {
		return err
	}
	defer os.Remove(tmp.Name()) // gone after the rename
	_, err = tmp.Write(content)
	if err == nil {
		err = tmp.Chmod(mode)
	}
	if err == nil && info != nil && keepOwner(tmp, info) != nil {
		// Somebody else's file, which this user may write but not give away: its content is replaced, not the file.
		return errors.Join(tmp.Close(), os.WriteFile(path, content, mode))
	}
	if err == nil {
		err = tmp.Sync()
	}
	if err = errors.Join(err, tmp.Close()); err != nil {
		return err
	}
	return os.Rename(tmp.Name(), path)
}

// keepOwner gives a file the owner of another one, where that is somebody else.
func keepOwner(to *os.File, of os.FileInfo) error {
	stat, ok := of.Sys().(*syscall.Stat_t)
	if !ok || int(stat.Uid) == os.Geteuid() && int(stat.Gid) == os.Getegid() {
		return nil
	}
	return to.Chown(int(stat.Uid), int(stat.Gid))
}
