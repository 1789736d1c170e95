package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"

	"trellis/compose"
	"trellis/compose/edit"
	"trellis/engine"
	"trellis/errdefs"
)

// adopt writes what is there into the files of the project. What no file can say, or not without changing more, is left
// and told.
func (p *program) adopt(ctx context.Context, all []engine.Drift, quiet bool) error {
	l, err := p.read(ctx)
	if err != nil {
		return err
	}
	if all, err = asAnswered(all); err != nil {
		return fmt.Errorf("adopt: %w", err)
	}
	a := adoption{program: p, project: l.project, texts: map[string]*edit.File{}, before: map[string][]byte{}}
	if a.old, _, err = p.loadCopies(ctx, l.project.Files, nil, l.project.WorkingDir); err != nil {
		return fmt.Errorf("adopt: %w", err)
	}
	var left []string
	for i, d := range all {
		why := ""
		switch {
		case !d.Adoptable && d.Heals:
			continue
		case !d.Adoptable:
			why = "a file does not say that; --revert brings it back"
		default:
			why, err = a.take(ctx, all, i)
		}
		if err != nil {
			return err
		}
		if line := d.Path + ": " + why; why != "" && !slices.Contains(left, line) {
			left = append(left, line)
		}
	}
	files := a.files()
	if len(files) > 0 {
		if !quiet {
			s := p.styleOf(p.stdout)
			for _, line := range strings.SplitAfter("\n"+diffOf(files), "\n") {
				if _, err := p.stdout.Write([]byte(paintDiff(s, line, terminal(p.stdout)))); err != nil {
					return err
				}
			}
		}
		if err := writeAll(files, "trellis drift --adopt"); err != nil {
			return err
		}
		p.progressf("wrote %s; 'trellis up' makes it a revision", names(files))
	}
	for _, line := range left {
		p.progressf("%s %s", p.styleOf(p.stderr).yellow("not adopted:"), line)
	}
	if len(files) == 0 && len(left) > 0 {
		return plain{fmt.Errorf("nothing could be adopted: %w", errdefs.ErrUnsupported)}
	}
	return nil
}

// asAnswered returns what was found with the values that an answer of the API has: in a cluster none is in between.
func asAnswered(all []engine.Drift) (same []engine.Drift, err error) {
	text, err := json.Marshal(all)
	if err == nil {
		err = json.Unmarshal(text, &same)
	}
	return same, err
}

// adoption patches the files of one project.
type adoption struct {
	program *program
	project compose.Project // as loaded: it knows where things stand
	old     compose.Project // as its files say it, for comparing
	texts   map[string]*edit.File
	before  map[string][]byte
	taken   []string // paths
}

// older are the keys of Compose that say the same as a path of the canonical form, and which a file may have in its place.
var older = map[string]string{
	"deploy.replicas": "scale", "deploy.resources.limits.memory": "mem_limit", "deploy.resources.limits.cpus": "cpus",
	"deploy.resources.limits.pids": "pids_limit", "deploy.resources.reservations.memory": "mem_reservation",
}

// take writes one value, and says why where it cannot.
func (a *adoption) take(ctx context.Context, all []engine.Drift, i int) (why string, err error) {
	d := all[i]
	for _, other := range all {
		if other.Path == d.Path && other.Adoptable && !sameJSON(other.To, d.To) {
			return "instances differ: --revert brings them back", nil
		}
	}
	if slices.Contains(a.taken, d.Path) {
		return "", nil
	}
	file, path, err := a.place(d)
	if err != nil {
		return plain{err}.Error(), nil
	}
	text := a.texts[file]
	undo, err := edit.Parse(shortPath(file), text.Bytes())
	if err != nil {
		return err.Error(), nil
	}
	if d.To == nil {
		err = text.Remove(path)
	} else {
		err = text.Set(path, fileValue(path, d.To))
	}
	if err == nil {
		err = a.check(ctx, d)
	}
	if err != nil {
		a.texts[file] = undo
		return err.Error(), ctx.Err()
	}
	a.taken = append(a.taken, d.Path)
	return "", nil
}

// place finds the file, and the path in it, where a value stands or is to stand: an environment's own file, else the file
// that says it last, else the one that says most of the service. A file keeps to the form that the others have.
func (a *adoption) place(d engine.Drift) (file, path string, err error) {
	rest := strings.TrimPrefix(d.Path, compose.JoinPath("services", d.Service)+".")
	ways := []string{d.Path}
	if key, ok := older[rest]; ok {
		ways = append(ways, compose.JoinPath("services", d.Service)+"."+key)
	}
	if limit, ok := strings.CutSuffix(d.Path, ".hard"); ok {
		ways = append(ways, limit) // one number for both limits
	}
	files := slices.Clone(a.project.Files)
	slices.Reverse(files)
	path = d.Path
	for _, name := range files {
		text, err := a.open(name)
		if err != nil {
			return "", "", err
		}
		at := slices.IndexFunc(ways, func(way string) bool { return text.Has(way) && !text.Has(way+".soft") })
		if at >= 0 {
			file, path = name, ways[at]
			break
		}
	}
	if env := a.project.Environment; env != "" { // what is written elsewhere is other environments' too
		own := ownFile(a.project)
		if own == "" {
			return "", "", fmt.Errorf("the environment %s has no file of its own: add compose.%s.yaml", env, env)
		}
		return own, path, nil
	}
	if file == "" {
		file, _, _ = a.project.Position(compose.JoinPath("services", d.Service))
	}
	if !slices.Contains(a.project.Files, file) {
		return "", "", fmt.Errorf("the service stands in %s, which is included or extended: change it there", shortPath(file))
	}
	return file, path, nil
}

func (a *adoption) open(name string) (*edit.File, error) {
	if text, ok := a.texts[name]; ok {
		return text, nil
	}
	b, err := os.ReadFile(name)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", shortPath(name), err)
	}
	text, err := edit.Parse(shortPath(name), b)
	if err == nil {
		a.texts[name], a.before[name] = text, b
	}
	return text, err
}

// check loads the files as they would be: only what is adopted may be another, and it has to be what is there.
func (a *adoption) check(ctx context.Context, d engine.Drift) error {
	next, broken, err := a.program.loadCopies(ctx, a.project.Files, a.files(), a.project.WorkingDir)
	if err != nil {
		return err
	}
	if len(broken) > 0 {
		return fmt.Errorf("the file would have an error: %s: %s", broken[0].Path, broken[0].Message)
	}
	allowed := append(slices.Clone(a.taken), d.Path)
	said := false
	for _, c := range engine.Diff(next, engine.State{Desired: &a.old}) {
		limit, isUlimit := strings.CutSuffix(d.Path, ".hard")
		switch {
		case c.Path == d.Path && !sameJSON(c.To, d.To) && !(d.To == nil && sameJSON(c.To, compose.Zero(d.Path))):
			return fmt.Errorf("the file would say %s", valueText(c.To))
		case c.Path == d.Path, isUlimit && strings.HasPrefix(c.Path, limit):
			said = true
		case !slices.ContainsFunc(allowed, func(path string) bool { return strings.HasPrefix(c.Path, strings.TrimSuffix(path, ".hard")) }):
			return fmt.Errorf("%s would change with it", c.Path)
		}
	}
	if !said {
		return fmt.Errorf("the file says it already: 'trellis plan' shows what is not deployed")
	}
	return nil
}

// files returns what is to be written, in the order of the project's files.
func (a *adoption) files() []rewrite {
	var all []rewrite
	for _, name := range a.project.Files {
		if text := a.texts[name]; text != nil && string(text.Bytes()) != string(a.before[name]) {
			all = append(all, rewrite{name, a.before[name], text.Bytes()})
		}
	}
	return all
}

func sameJSON(a, b any) bool {
	x, err := json.Marshal(a)
	y, err2 := json.Marshal(b)
	return err == nil && err2 == nil && string(x) == string(y)
}

// fileValue is a value as a person writes it in a file.
func fileValue(path string, v any) any {
	n, isNumber := v.(float64) // as JSON has it
	whole := isNumber && n == float64(int64(n))
	switch {
	case strings.HasSuffix(path, ".memory") || strings.HasSuffix(path, ".mem_limit") || strings.HasSuffix(path, ".mem_reservation"):
		if whole {
			return sizeText(int64(n))
		}
	case strings.HasSuffix(path, ".cpus") && isNumber:
		return strconv.FormatFloat(n, 'f', -1, 64)
	case whole:
		return int(n)
	}
	return v
}

// sizeText writes an amount of bytes as Compose reads it.
func sizeText(n int64) string {
	for _, unit := range []struct {
		size int64
		name string
	}{{1 << 30, "G"}, {1 << 20, "M"}, {1 << 10, "K"}} {
		if n > 0 && n%unit.size == 0 {
			return strconv.FormatInt(n/unit.size, 10) + unit.name
		}
	}
	return strconv.FormatInt(n, 10)
}
