package compose

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/compose-spec/compose-go/v2/cli"
	"github.com/compose-spec/compose-go/v2/loader"
	"go.yaml.in/yaml/v4"
)

// settings are what Options come to.
type settings struct {
	cwd      string
	dir      string      // the project directory
	files    []string    // absolute, or "-"
	env      environment // variables of the files: those given and those of envFiles
	envFiles []string
	profiles []string
	name     string
	roots    []string // directories that the project may read from
	notes    []Diagnostic
}

// ErrNoFile is in the error of Load where there is no Compose file at all.
var ErrNoFile = errors.New("there is no Compose file")

type noFile struct{ Diagnostics }

func (e noFile) Unwrap() []error { return []error{ErrNoFile, e.Diagnostics} }

// discover finds the files and variables of a project, in the order in which Docker Compose does.
func discover(opt Options) (settings, error) {
	var s settings
	fail := func(file, format string, args ...any) (settings, error) {
		return s, Diagnostics{{File: file, Message: fmt.Sprintf(format, args...)}}
	}
	s.cwd = opt.WorkingDir
	if s.cwd == "" {
		cwd, err := os.Getwd()
		if err != nil {
			return fail("", "the working directory is unknown: %v", err)
		}
		s.cwd = cwd
	}
	if abs, err := filepath.Abs(s.cwd); err == nil {
		s.cwd = abs
	}
	environ := opt.Environ
	if environ == nil {
		environ = os.Environ()
	}
	s.env = variables(environ)
	early := s.cwd
	if opt.ProjectDirectory != "" {
		early = absolute(opt.ProjectDirectory, s.cwd)
	}
	if len(opt.Files) == 0 {
		// COMPOSE_FILE may stand in .env.
		if vars, err := readEnvFiles(s.defaultEnv(opt, early), s.env); err == nil {
			s.findFiles(opt, s.env.under(vars), early)
		} else {
			s.findFiles(opt, s.env, early)
		}
	} else {
		s.findFiles(opt, s.env, early)
	}
	if len(s.files) == 0 {
		err := Diagnostics{{File: shorten(filepath.Join(early, "compose.yaml"), s.cwd), Message: "there is no compose.yaml here or in a directory above: go to the project's directory, or name the file with -f"}}
		return s, noFile{err}
	}
	s.dir = s.projectDir(opt)
	if info, err := os.Stat(s.dir); err != nil || !info.IsDir() {
		return fail(shorten(s.dir, s.cwd), "the project directory is not a directory: correct --project-directory or -f")
	}
	s.envFiles = s.defaultEnv(opt, s.dir)
	vars, err := readEnvFiles(s.envFiles, s.env)
	if err != nil {
		return fail("", "the variables cannot be read: %v", err)
	}
	s.env = s.env.under(vars)
	s.profiles = opt.Profiles
	if s.profiles == nil {
		for _, p := range strings.Split(s.env["COMPOSE_PROFILES"], ",") {
			if p = strings.TrimSpace(p); p != "" {
				s.profiles = append(s.profiles, p)
			}
		}
	}
	if opt.Environment != "" {
		if err := s.addEnvironment(opt.Environment); err != nil {
			return s, err
		}
	}
	if opt.Copy != "" && !environmentName.MatchString(opt.Copy) {
		return fail("", "%s is not the name of a copy: use lower case letters, digits, - and _", quoted(opt.Copy))
	}
	s.setRoots()
	return s, nil
}

func variables(environ []string) environment {
	env := make(environment, len(environ))
	for _, kv := range environ {
		if k, v, ok := strings.Cut(kv, "="); ok && k != "" {
			env[k] = v
		}
	}
	return env
}

// defaultEnv returns the files that variables are read from.
func (s *settings) defaultEnv(opt Options, dir string) []string {
	given := opt.EnvFiles
	if list := s.env["COMPOSE_ENV_FILES"]; len(given) == 0 && list != "" {
		given = strings.Split(list, ",")
	}
	var files []string
	for _, f := range given {
		files = append(files, absolute(f, s.cwd))
	}
	if len(files) > 0 {
		return files
	}
	if off, _ := strconv.ParseBool(s.env["COMPOSE_DISABLE_ENV_FILE"]); off {
		return nil
	}
	file := filepath.Join(dir, ".env")
	if info, err := os.Stat(file); err == nil && !info.IsDir() {
		return []string{file}
	}
	return nil
}

// findFiles fills in files: those given, those of COMPOSE_FILE, or the default ones here or above.
func (s *settings) findFiles(opt Options, env environment, dir string) {
	files := opt.Files
	if len(files) == 0 && env["COMPOSE_FILE"] != "" {
		separator := env["COMPOSE_PATH_SEPARATOR"]
		if separator == "" {
			separator = string(os.PathListSeparator)
		}
		files = strings.Split(env["COMPOSE_FILE"], separator)
	}
	for _, f := range files {
		if f == "-" {
			s.files = append(s.files, f)
			continue
		}
		s.files = append(s.files, absolute(f, s.cwd))
	}
	for len(s.files) == 0 {
		if found := s.existing(dir, cli.DefaultFileNames); found != "" {
			s.files = append(s.files, found)
			if over := s.existing(dir, cli.DefaultOverrideFileNames); over != "" {
				s.files = append(s.files, over)
			}
			return
		}
		parent := filepath.Dir(dir)
		if parent == dir {
			return
		}
		dir = parent
	}
}

// existing returns the first of names that is in dir and notes that there are others.
func (s *settings) existing(dir string, names []string) string {
	found := ""
	for _, name := range names {
		file := filepath.Join(dir, name)
		if _, err := os.Stat(file); err != nil {
			continue
		}
		if found != "" {
			s.notes = append(s.notes, Diagnostic{File: file, Message: "is not read, because " + filepath.Base(found) + " is here too: remove one of them"})
			continue
		}
		found = file
	}
	return found
}

func (s *settings) projectDir(opt Options) string {
	if opt.ProjectDirectory != "" {
		return absolute(opt.ProjectDirectory, s.cwd)
	}
	for _, f := range s.files {
		if f != "-" {
			return filepath.Dir(f)
		}
	}
	return s.cwd
}

var environmentName = regexp.MustCompile(`^[a-z0-9][a-z0-9_-]{0,62}$`)

// addEnvironment adds compose.NAME.yaml, which lies beside the first file.
func (s *settings) addEnvironment(name string) error {
	if !environmentName.MatchString(name) {
		return Diagnostics{{Message: fmt.Sprintf("%q is not the name of an environment: use lower case letters, digits, - and _", cut(name, 80))}}
	}
	stem := "compose"
	if s.files[0] != "-" {
		base := filepath.Base(s.files[0])
		stem = strings.TrimSuffix(base, filepath.Ext(base))
	}
	for _, candidate := range []string{stem, "compose"} {
		for _, ext := range []string{".yaml", ".yml"} {
			file := filepath.Join(s.dir, candidate+"."+name+ext)
			if _, err := os.Stat(file); err == nil {
				if !slices.Contains(s.files, file) {
					s.files = append(s.files, file)
				}
				return nil
			}
		}
	}
	return nil
}

// setRoots finds what belongs to the project: the repositories of its directory and files, or these themselves where
// there is none.
func (s *settings) setRoots() {
	add := func(dir string) {
		if real, err := filepath.EvalSymlinks(dir); err == nil {
			dir = real
		}
		root := dir
		for d := dir; d != filepath.Dir(d); d = filepath.Dir(d) {
			if _, err := os.Stat(filepath.Join(d, ".git")); err == nil {
				root = d
				break
			}
		}
		if !slices.Contains(s.roots, root) {
			s.roots = append(s.roots, root)
		}
	}
	add(s.dir)
	for _, f := range s.files {
		if f != "-" {
			add(filepath.Dir(f))
		}
	}
}

// setName decides the project's name, before variables are replaced: COMPOSE_PROJECT_NAME is one of them.
func (l *loading) setName() {
	suffix := ""
	if l.opt.Environment != "" {
		suffix = "-" + l.opt.Environment
	}
	switch {
	case l.opt.Name != "":
		// A name given is the name meant.
		l.name, suffix = l.opt.Name, ""
	case l.env["COMPOSE_PROJECT_NAME"] != "":
		l.name = l.env["COMPOSE_PROJECT_NAME"]
	default:
		if l.name = l.writtenName(); l.name == "" {
			l.name = loader.NormalizeProjectName(filepath.Base(l.dir))
		}
	}
	if len(l.errors) > 0 {
		l.name = "project" // goes on to what else is wrong
	}
	if l.name == "" || l.name != loader.NormalizeProjectName(l.name) || len(l.name) > 128 {
		l.errorAt(l.first(), 0, 0, "", "%s cannot be the project's name: use lower case letters, digits, - and _, starting with a letter or digit (-p NAME or name: NAME)", quoted(l.name))
		l.name = "project"
	}
	l.name += suffix
	if l.opt.Copy != "" {
		l.name += "-" + l.opt.Copy
	}
	l.env = l.env.under(nil)
	l.env["COMPOSE_PROJECT_NAME"] = l.name
}

// writtenName returns the name that the files give, normalised, "" where they give none.
func (l *loading) writtenName() string {
	name := ""
	for _, file := range l.files {
		docs, ok := l.documents(file, nil, "")
		if !ok {
			continue
		}
		for _, doc := range docs {
			k, v := nameNode(doc)
			if v == nil || v.Value == "" {
				continue
			}
			written, _ := l.substitute(v.Value, &source{path: file, dir: l.dir, env: l.env}, v, "name")
			normalised := loader.NormalizeProjectName(written)
			if strings.ContainsFunc(written, func(r rune) bool { return !strings.ContainsRune(" ._-", r) && !alphanumeric(r) }) || normalised == "" {
				l.errorAt(file, v.Line, v.Column, "name", "%s cannot be the project's name: use lower case letters, digits, - and _", quoted(written))
				continue
			}
			if normalised != written {
				l.warnAt(file, k.Line, k.Column, "name", "the project is called %s: write the name in lower case letters, digits, - and _", normalised)
			}
			name = normalised
		}
	}
	return name
}

func alphanumeric(r rune) bool {
	return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9'
}

// nameNode returns key and value of the top-level name of a document, nil where it has none.
func nameNode(doc *yaml.Node) (key, value *yaml.Node) {
	if doc.Kind == yaml.DocumentNode && len(doc.Content) > 0 {
		doc = doc.Content[0]
	}
	if doc.Kind != yaml.MappingNode {
		return nil, nil
	}
	for i := 0; i+1 < len(doc.Content); i += 2 {
		if doc.Content[i].Value == "name" && doc.Content[i+1].Kind == yaml.ScalarNode {
			return doc.Content[i], doc.Content[i+1]
		}
	}
	return nil, nil
}
