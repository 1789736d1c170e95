package compose

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"go.yaml.in/yaml/v4"
)

// documents returns the documents of a file, read at most once. The mark that names it, if any, is where a failure is
// reported.
func (l *loading) documents(path string, by *mark, byPath string) ([]*yaml.Node, bool) {
	if docs, ok := l.parsed[path]; ok {
		return docs, !l.broken[path]
	}
	refuse := func(format string, args ...any) ([]*yaml.Node, bool) {
		l.broken[path], l.parsed[path] = true, nil
		if by == nil {
			l.errorAt(path, 0, 0, "", format, args...)
			return nil, false
		}
		l.errorMark(by, byPath, shorten(path, l.cwd)+" "+format, args...)
		return nil, false
	}
	if len(l.parsed) >= maxFiles {
		return refuse("is one Compose file too many: at most %d are read", maxFiles)
	}
	content, given := l.contents[path]
	if !given {
		var err error
		if content, err = readLimited(path); errors.Is(err, fs.ErrNotExist) {
			return refuse("does not exist: correct the path")
		} else if err != nil {
			return refuse("cannot be read: %v", err)
		}
	}
	if l.total += len(content); l.total > maxTotalSize {
		return refuse("makes the Compose files larger than %d bytes together", maxTotalSize)
	}
	docs, problem := parseYAML(path, content)
	if problem != nil {
		l.broken[path] = true
		l.errors = append(l.errors, *problem)
	}
	l.parsed[path] = docs
	return docs, problem == nil
}

// layers builds and merges files that are read as one from the same directory: the files given on the command line, or
// those of one include.
func (l *loading) layers(paths []string, src source, stack []string, by *mark, byPath string) *mark {
	var root *mark
	for _, path := range paths {
		s := src
		s.path = path
		docs, _ := l.documents(path, by, byPath)
		for _, doc := range docs {
			m := l.build(doc, &s)
			if m == nil {
				continue
			}
			l.validate(m)
			m = l.include(m, &s, append(slices.Clone(stack), path))
			m = l.extend(m, path)
			root = l.merge(root, m, nil)
			l.misplaced(m, "")
		}
	}
	return root
}

// include merges what the files that m includes define under m's own resources.
func (l *loading) include(m *mark, src *source, stack []string) *mark {
	list := m.fields["include"]
	if list == nil {
		return m
	}
	m = m.with("include", nil)
	if list.kind != listMark {
		return m
	}
	for i, entry := range list.items {
		imported := l.included(entry, indexPath("include", i), src, stack)
		if imported == nil {
			continue
		}
		for _, section := range []string{"services", "jobs", "volumes", "networks", "secrets", "configs", "models"} {
			from, own := imported.fields[section], m.fields[section]
			if from == nil {
				continue
			}
			if own == nil || own.kind != mappingMark {
				m = m.with(section, from)
				continue
			}
			for name, resource := range from.fields {
				if have := own.fields[name]; have == nil || !sameValue(resource, have) {
					own = own.with(name, l.merge(resource, have, []string{section, name}))
				}
			}
			m = m.with(section, own)
		}
	}
	return m
}

// included returns the merged tree of one entry of include, nil where there was an error.
func (l *loading) included(entry *mark, path string, src *source, stack []string) *mark {
	if l.includes++; l.includes > maxIncludes {
		if l.includes == maxIncludes+1 {
			l.errorMark(entry, path, "more than %d files are included or extended: it is refused", maxIncludes)
		}
		return nil
	}
	var files []string
	at := entry
	if entry.kind == mappingMark {
		at = entry.fields["path"]
	}
	switch {
	case at == nil:
		return nil // the schema said so
	case at.kind == listMark:
		for _, item := range at.items {
			files = append(files, item.text())
		}
	default:
		files = []string{at.text()}
	}
	if len(files) == 0 || slices.Contains(files, "") {
		l.errorMark(entry, path, "names no file: write the path of a Compose file")
		return nil
	}
	for i, f := range files {
		if remote(f) {
			l.errorMark(at, path, "%s is not a local file: fetch it and include the copy", cut(f, 80))
			return nil
		}
		files[i] = absolute(f, src.dir)
		if slices.Contains(stack, files[i]) {
			l.errorMark(at, path, "%s includes itself: %s: remove one include", shorten(files[i], l.cwd), l.chain(append(stack, files[i])))
			return nil
		}
		if !l.inside(files[i], f, at, path) {
			return nil
		}
	}
	next := source{dir: filepath.Dir(files[0])}
	if dir := entry.at("project_directory"); dir.text() != "" {
		next.dir = absolute(dir.text(), src.dir)
	}
	env, ok := l.includedEnv(entry, path, src, next.dir)
	if !ok {
		return nil
	}
	next.env = env
	return l.layers(files, next, stack, at, path)
}

func (l *loading) includedEnv(entry *mark, path string, src *source, dir string) (environment, bool) {
	var files []string
	by := entry
	if list := entry.at("env_file"); list != nil {
		by = list
		values := []*mark{list}
		if list.kind == listMark {
			values = list.items
		}
		for _, v := range values {
			if v.text() == "/dev/null" || v.text() == "" {
				continue
			}
			file := absolute(v.text(), src.dir)
			if !l.inside(file, v.text(), v, JoinPath(path, "env_file")) {
				return nil, false
			}
			files = append(files, file)
		}
	} else if info, err := os.Stat(filepath.Join(dir, ".env")); err == nil && !info.IsDir() {
		files = []string{filepath.Join(dir, ".env")}
	}
	vars, err := readEnvFiles(files, src.env)
	if err != nil {
		l.errorMark(by, JoinPath(path, "env_file"), "cannot be read: %v", err)
		return nil, false
	}
	return src.env.under(vars), true
}

func remote(path string) bool {
	return strings.Contains(path, "://") || strings.HasPrefix(path, "git@") || strings.HasPrefix(path, "oci:")
}

// chain writes a cycle of files.
func (l *loading) chain(files []string) string {
	first := slices.Index(files, files[len(files)-1])
	short := make([]string, 0, len(files))
	for _, f := range files[first:] {
		short = append(short, shorten(f, l.cwd))
	}
	return strings.Join(short, " -> ")
}

// extend resolves extends of every service of m, a document of the file at path.
func (l *loading) extend(m *mark, path string) *mark {
	for _, section := range []string{"services", "jobs"} {
		services := m.fields[section]
		if services == nil || services.kind != mappingMark {
			continue
		}
		done := services
		for _, name := range services.keys() {
			if s := l.extended(services, section, name, path, nil); s != services.fields[name] {
				done = done.with(name, s)
			}
		}
		m = m.with(section, done)
	}
	return m
}

// extended returns a service of services with everything it extends merged under it.
func (l *loading) extended(services *mark, section, name, file string, stack []string) *mark {
	s := services.fields[name]
	e := s.at("extends")
	if e == nil || s.kind != mappingMark {
		return s
	}
	if l.tooMany {
		return s
	}
	path := JoinPath(JoinPath(section, name), "extends")
	own := s.with("extends", nil)
	here := file + "#" + name
	if slices.Contains(stack, here) {
		cycle := append(slices.Clone(stack[slices.Index(stack, here):]), here)
		key := slices.Clone(cycle[1:])
		slices.Sort(key)
		if id := strings.Join(key, "\x00"); !l.cycles[id] {
			l.cycles[id] = true
			for i, step := range cycle {
				f, service, _ := strings.Cut(step, "#")
				cycle[i] = service + " in " + shorten(f, l.cwd)
			}
			l.errorMark(e, path, "%s extends itself: %s: remove one extends", name, strings.Join(cycle, " -> "))
		}
		return s // its extends stays and says why it lacks what it lacks
	}
	stack = append(slices.Clone(stack), here)
	if l.includes++; l.includes > maxIncludes {
		if l.includes == maxIncludes+1 {
			l.errorMark(e, path, "more than %d files are included or extended: it is refused", maxIncludes)
		}
		return s
	}
	ref := e.text()
	if e.kind == mappingMark {
		ref = e.at("service").text()
		if f := e.at("file"); f.text() != "" {
			services, file = l.extendsFile(f, JoinPath(path, "file"), section, ref)
			if services == nil {
				return s
			}
		}
	}
	if services.fields[ref] == nil {
		l.errorMark(e, path, "there is no service %q in %s%s", ref, shorten(file, l.cwd), didYouMean(ref, services.keys()))
		return s
	}
	base := l.extended(services, section, ref, file, stack)
	if l.taken += base.size(); l.taken > maxExtended {
		if !l.tooMany {
			l.errorMark(e, path, "more than %d values are taken over by extends: it is refused", maxExtended)
		}
		l.tooMany = true
		return s
	}
	return l.merge(l.settle(base, []string{section, name}), own, []string{section, name})
}

// extendsFile returns the services of another file that a service extends.
func (l *loading) extendsFile(f *mark, path, section, ref string) (*mark, string) {
	if remote(f.text()) {
		l.errorMark(f, path, "%s is not a local file: fetch it and extend the copy", cut(f.text(), 80))
		return nil, ""
	}
	file := absolute(f.text(), f.src.dir)
	if !l.inside(file, f.text(), f, path) {
		return nil, ""
	}
	key := file + "\x00" + section
	if have, ok := l.bases[key]; ok {
		l.validateBase(have, section, ref)
		return have, file
	}
	docs, ok := l.documents(file, f, path)
	if !ok {
		return nil, ""
	}
	var root *mark
	for _, doc := range docs {
		if m := l.build(doc, &source{path: file, dir: filepath.Dir(file), env: f.src.env}); m != nil {
			root = l.merge(root, m, nil)
		}
	}
	services := root.at(section)
	if services == nil || services.kind != mappingMark {
		l.errorMark(f, path, "%s has no %s", shorten(file, l.cwd), section)
		return nil, ""
	}
	l.bases[key] = services
	l.validateBase(services, section, ref)
	return services, file
}
