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

	"github.com/spf13/cobra"

	"trellis/compose"
	"trellis/compose/edit"
	"trellis/detect"
	"trellis/errdefs"
)

// initView is the JSON of init.
type initView struct {
	Changes []initChange `json:"changes"`
	Notes   []initNote   `json:"notes"`
	Diff    string       `json:"diff"`
	Written bool         `json:"written"`
}

type initChange struct {
	File    string `json:"file"`
	Service string `json:"service"`
	Kind    string `json:"kind"`
	Path    string `json:"path"`
	Value   any    `json:"value"`
	Reason  string `json:"reason"`
}

type initNote struct {
	Service string `json:"service"`
	Message string `json:"message"`
}

// proposed is what init would write.
type proposed struct {
	view  initView
	files []rewrite
	paths []string // all files of the project
	dir   string   // its directory
}

// rewrite is one file as it is and as it would be.
type rewrite struct {
	path          string
	before, after []byte // before is nil where there is no such file
}

type initFlags struct {
	yes, dry bool
	skip     []string
	json     bool
}

func (p *program) initCommand() *cobra.Command {
	var f initFlags
	cmd := &cobra.Command{
		Use:   "init",
		Short: "Propose for your project what makes it run here: processes, probes, limits",
		Long: `Init reads the Compose file and the sources of its services, and proposes what
Trellis can use: how a service runs as a process, how it is asked whether it is
ready, a limit for its memory, routes. It shows the change as a diff, with the
place that each proposal comes from, and writes after a yes. Your comments, order
and formatting stay as they are. What it is not sure of it leaves out, and says
so. It runs nothing.

Without a Compose file it looks for Dockerfiles, a Procfile, go.mod, package.json
and Python programs, and proposes a compose.yaml that docker compose reads too.`,
		Example: `  trellis init                look, ask, write
  trellis init --dry-run      look
  trellis init --skip limits  without limits`,
		Args: arguments(0, 0),
	}
	cmd.Flags().BoolVarP(&f.yes, "yes", "y", false, "write without asking")
	cmd.Flags().BoolVar(&f.dry, "dry-run", false, "write nothing")
	cmd.Flags().Var((*list)(&f.skip), "skip", "leave out a `KIND` of proposals: "+strings.Join(detect.Kinds(), ", ")+"; repeatable")
	format := formatFlag(cmd.Flags())
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		for _, kind := range f.skip {
			if !slices.Contains(detect.Kinds(), kind) {
				return usageError{fmt.Sprintf("--skip %s: want %s%s", kind, strings.Join(detect.Kinds(), ", "), didYouMean(kind, detect.Kinds())), cmd.CommandPath()}
			}
		}
		f.json = format.json()
		return p.init(cmd.Context(), f)
	}
	return p.project(cmd)
}

func (p *program) init(ctx context.Context, f initFlags) error {
	l, err := p.load(ctx)
	var all proposed
	switch {
	case errors.Is(err, compose.ErrNoFile):
		all, err = p.proposeNew(ctx, f.skip)
	case err == nil:
		all, err = p.proposeFor(ctx, l, f.skip)
	default:
		p.warn(l.warnings)
		return err
	}
	if err != nil {
		return err
	}
	if len(all.files) > 0 {
		if err := p.tryOut(ctx, all); err != nil {
			return err
		}
	}
	if !f.json {
		if err := p.showProposal(all); err != nil {
			return err
		}
	}
	write := len(all.files) > 0 && !f.dry && (f.yes || !f.json)
	if write && !f.yes {
		if err := p.confirm(ctx, "Write "+names(all.files)+"?"); err != nil {
			return err
		}
	}
	if write {
		if err := writeAll(all.files, "trellis init"); err != nil {
			return err
		}
		all.view.Written = true
	}
	if f.json {
		return p.writeJSON(all.view)
	}
	if write {
		p.progressf("wrote %s; 'trellis check' says what of it is carried out here, 'trellis up -d' starts it", names(all.files))
	}
	return nil
}

func names(files []rewrite) string {
	var out []string
	for _, f := range files {
		out = append(out, shortPath(f.path))
	}
	return strings.Join(out, " and ")
}

// shortPath is a path relative to the working directory, where that is shorter.
func shortPath(path string) string {
	if dir, err := os.Getwd(); err == nil && path != "" {
		if rel, err := filepath.Rel(dir, path); err == nil && len(rel) < len(path) {
			return rel
		}
	}
	return path
}

// proposeNew looks at a project without a Compose file.
func (p *program) proposeNew(ctx context.Context, skip []string) (proposed, error) {
	dir := p.flags.directory
	if dir == "" {
		dir = "."
	}
	dir, err := filepath.Abs(dir)
	if err != nil {
		return proposed{}, fmt.Errorf("find the project's directory: %w", err)
	}
	name := p.flags.name
	if name == "" {
		name = projectName(filepath.Base(dir))
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return proposed{}, fmt.Errorf("look at the sources: %w", err)
	}
	defer root.Close()
	text, report, err := detect.Fresh(ctx, root.FS(), name, skip)
	if err != nil {
		return proposed{}, err
	}
	if text == nil {
		err := fmt.Errorf("there is no project in %s: no compose.yaml, and no program that is surely a service: %w", dir, errdefs.ErrInvalid)
		for _, n := range report.Notes {
			p.progressf("%s %s", p.styleOf(p.stderr).dim("note:"), noteLine(initNote(n)))
		}
		return proposed{}, withHint(plain{err}, "write a compose.yaml, or go to the project's directory")
	}
	leaveOut(&report, skip)
	file := filepath.Join(dir, "compose.yaml")
	all := proposed{files: []rewrite{{path: file, after: text}}, paths: []string{file}, dir: dir}
	all.view = proposalView(report, func(detect.Proposal) string { return shortPath(file) })
	all.view.Diff = diffOf(all.files)
	return all, nil
}

func projectName(base string) string {
	name := strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z' || r >= '0' && r <= '9' || r == '-' || r == '_':
			return r
		case r == ' ' || r == '.':
			return '-'
		}
		return -1
	}, strings.ToLower(base))
	if name = strings.TrimLeft(name, "-_"); name == "" {
		return "app"
	}
	return name
}

func proposalView(r detect.Report, fileOf func(detect.Proposal) string) initView {
	v := initView{Changes: []initChange{}, Notes: []initNote{}}
	for _, x := range r.Proposals {
		v.Changes = append(v.Changes, initChange{fileOf(x), x.Service, x.Kind, x.Path, x.Value, x.Reason})
	}
	for _, n := range r.Notes {
		v.Notes = append(v.Notes, initNote(n))
	}
	return v
}

// proposeFor looks at a project with a Compose file.
func (p *program) proposeFor(ctx context.Context, l loaded, skip []string) (proposed, error) {
	dir := sourceRoot(l.project)
	root, err := os.OpenRoot(dir)
	if err != nil {
		return proposed{}, fmt.Errorf("look at the sources: %w", err)
	}
	defer root.Close()
	inside := func(path string) (string, bool) { return within(dir, path) }
	base, _ := inside(l.project.WorkingDir)
	report, err := detect.Look(ctx, root.FS(), base, inside, l.project)
	if err != nil {
		return proposed{}, err
	}
	leaveOut(&report, skip)
	files, err := openAll(l.project.Files)
	if err != nil {
		return proposed{}, err
	}
	all := proposed{paths: l.project.Files, dir: l.project.WorkingDir}
	placed := placeAll(files, &report)
	for _, f := range files {
		if after := f.edit.Bytes(); !bytes.Equal(after, f.before) {
			all.files = append(all.files, rewrite{f.path, f.before, after})
		}
	}
	all.view = proposalView(report, func(x detect.Proposal) string { return shortPath(placed[x.Path]) })
	all.view.Diff = diffOf(all.files)
	return all, nil
}

// leaveOut takes kinds of proposals out of a report, and what it says of them.
func leaveOut(r *detect.Report, kinds []string) {
	for _, kind := range kinds {
		r.Proposals = slices.DeleteFunc(r.Proposals, func(x detect.Proposal) bool { return x.Kind == kind })
		r.Notes = slices.DeleteFunc(r.Notes, func(n detect.Note) bool { return strings.HasPrefix(n.Message, "no "+kind) })
	}
}

// sourceRoot is the folder that sources are read from: the project's, or the repository around it where a build needs
// that.
func sourceRoot(p compose.Project) string {
	for _, s := range p.Services {
		if s.Build == nil || strings.Contains(s.Build.Context, "://") {
			continue
		}
		if _, ok := within(p.WorkingDir, s.Build.Context); ok {
			continue
		}
		for d := p.WorkingDir; d != filepath.Dir(d); d = filepath.Dir(d) {
			if exists(filepath.Join(d, ".git")) {
				return d
			}
		}
	}
	return p.WorkingDir
}

// within returns a path relative to a folder, with slashes; false where it is not in it.
func within(dir, path string) (string, bool) {
	rel, err := filepath.Rel(dir, path)
	if err != nil || !filepath.IsLocal(rel) {
		return "", false
	}
	return filepath.ToSlash(rel), true
}

// edited is one Compose file that proposals go to.
type edited struct {
	path   string
	before []byte
	edit   *edit.File
}

func openAll(paths []string) ([]edited, error) {
	var files []edited
	for _, path := range paths {
		if path == "-" {
			return nil, usageError{"init writes into a file: standard input is none", "trellis init"}
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return nil, fmt.Errorf("read the Compose file: %w", err)
		}
		f, err := edit.Parse(shortPath(path), text)
		if err != nil {
			return nil, err
		}
		files = append(files, edited{path, text, f})
	}
	return files, nil
}

// placeAll puts proposals into the files that define their services, and says where each went. One that cannot be put
// becomes a note. The order can matter where services share an anchor, so what is refused is tried again.
func placeAll(files []edited, r *detect.Report) map[string]string {
	placed, refused := map[string]string{}, map[string]error{}
	for left := slices.Clone(r.Proposals); len(left) > 0; {
		var again []detect.Proposal
		for _, x := range left {
			file, err := put(files, x)
			if err != nil {
				refused[x.Path], again = err, append(again, x)
				continue
			}
			placed[x.Path] = file
		}
		if len(again) == len(left) {
			break
		}
		left = again
	}
	r.Proposals = slices.DeleteFunc(r.Proposals, func(x detect.Proposal) bool {
		if placed[x.Path] != "" {
			return false
		}
		r.Notes = append(r.Notes, detect.Note{Service: x.Service, Message: "no " + x.Kind + ": " + refused[x.Path].Error()})
		return true
	})
	return placed
}

// put sets one proposal, in the first file that has its service.
func put(files []edited, x detect.Proposal) (string, error) {
	path := x.Path
	service := compose.JoinPath("services", x.Service)
	for _, f := range files {
		if !f.edit.Has(service) {
			continue
		}
		value := x.Value
		env := service + ".environment"
		if name, ok := strings.CutPrefix(path, env+"."); ok {
			if n := f.edit.Len(env); n >= 0 {
				path, value = fmt.Sprintf("%s[%d]", env, n), fmt.Sprintf("%s=%v", name, x.Value)
			}
		}
		return f.path, f.edit.Set(path, value)
	}
	return "", fmt.Errorf("the service is defined in a file that is included, which is not changed: %w", errdefs.ErrUnsupported)
}
