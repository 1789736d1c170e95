package compose

import (
	"context"
	"fmt"
	"os"
	"strings"

	"github.com/compose-spec/compose-go/v2/loader"
	"github.com/compose-spec/compose-go/v2/types"
	"github.com/compose-spec/compose-go/v2/validation"
	"go.yaml.in/yaml/v4"
)

// Options say what to load. The zero value loads what `docker compose` would load in the current directory.
type Options struct {
	Files            []string // as -f; "-" is standard input; nil: COMPOSE_FILE, or compose.yaml here or above
	ProjectDirectory string   // "": where the first file is
	Name             string   // "": COMPOSE_PROJECT_NAME, name: of the files, or the directory's
	Profiles         []string // nil: COMPOSE_PROFILES
	EnvFiles         []string // nil: COMPOSE_ENV_FILES, or .env of the project directory
	Environ          []string // KEY=value; nil: os.Environ()
	Environment      string   // adds compose.NAME.yaml and makes the project's name end in -NAME
	Copy             string   // makes the project's name end in -NAME, after that of the environment
	WorkingDir       string   // what relative paths of these options are relative to; "": the process's own
}

// Load reads a project. The warnings are given with and without an error. The error is of type Diagnostics and names
// everything that is wrong, not only the first; it is of the kind errdefs.ErrInvalid. Load reads files and nothing else:
// it opens no connection and starts nothing, and a hostile file costs it a bounded amount of time and memory.
func Load(ctx context.Context, opt Options) (p Project, warnings []Diagnostic, err error) {
	l, err := newLoading(opt)
	if err != nil {
		return Project{}, nil, err
	}
	defer func() {
		if r := recover(); r != nil {
			l.errorAt(l.first(), 0, 0, "", "the file cannot be loaded: internal error: %v", r)
			p, warnings, err = Project{}, l.finish(l.warnings), Diagnostics(l.finish(l.errors))
		}
	}()
	p = l.load(ctx)
	if err := ctx.Err(); err != nil {
		return Project{}, nil, fmt.Errorf("load %s: %w", l.first(), err)
	}
	warnings = l.finish(l.warnings)
	if len(l.errors) > 0 {
		return Project{}, warnings, l.told()
	}
	return p, warnings, nil
}

// loading is one call of Load.
type loading struct {
	settings
	opt Options

	parsed    map[string][]*yaml.Node
	broken    map[string]bool
	contents  map[string][]byte // of the files given
	total     int
	includes  int
	bases     map[string]*mark // services of extended files
	validated map[string]bool
	cycles    map[string]bool // of extends, reported

	expanded       int
	expandedTooFar bool
	unset          map[string]bool

	built, taken int  // values: of documents, and those taken over by extends
	tooMany      bool // of either

	compared         int // values, by merging lists
	comparedTooOften bool

	errors, warnings []Diagnostic
	moreErrors       bool           // than are told of
	bad              map[place]bool // where the errors are
	early            int            // how many errors were found before the project was resolved; -1: not yet resolved

	root     *mark
	project  ProjectExtension
	services map[string]ServiceExtension
	deploys  map[string]DeployExtension
	ports    map[*mark]PortExtension
	portsOf  map[string]map[string]*mark // marks of ports by service and key
	portAt   map[*mark]int               // and their index
	// portParts are the indexes of a service's ports by key: several are joined.
	portParts map[string]map[string][]int
}

func newLoading(opt Options) (*loading, error) {
	l := &loading{
		opt: opt, parsed: map[string][]*yaml.Node{}, broken: map[string]bool{}, contents: map[string][]byte{},
		bad: map[place]bool{}, early: -1, bases: map[string]*mark{}, validated: map[string]bool{}, cycles: map[string]bool{}, unset: map[string]bool{},
		services: map[string]ServiceExtension{}, deploys: map[string]DeployExtension{}, ports: map[*mark]PortExtension{},
		portsOf: map[string]map[string]*mark{}, portAt: map[*mark]int{}, portParts: map[string]map[string][]int{},
	}
	s, err := discover(opt)
	if err != nil {
		return nil, err
	}
	l.settings = s
	l.warnings = append(l.warnings, s.notes...)
	return l, nil
}

func (l *loading) first() string {
	if len(l.files) == 0 {
		return ""
	}
	return l.files[0]
}

// load does the work and returns the project; it is worthless where l.errors is not empty.
func (l *loading) load(ctx context.Context) Project {
	for _, file := range l.files {
		if file == "-" {
			content, err := readAtMost(os.Stdin)
			if err != nil {
				l.errorAt(file, 0, 0, "", "standard input cannot be read: %v", err)
				return Project{}
			}
			l.contents[file] = content
		} else if content, err := readLimited(file); err == nil {
			l.contents[file] = content
		}
	}
	l.setName()
	l.root = l.layers(l.files, source{dir: l.dir, env: l.env}, nil, nil, "")
	if l.root == nil || len(l.root.fields) == 0 {
		if len(l.errors) == 0 {
			l.errorAt(l.first(), 0, 0, "", "the file is empty: add services")
		}
		return Project{}
	}
	l.checkVersion()
	l.extensions(l.root)
	l.checkMarks()
	l.checkForms()
	if ctx.Err() != nil || l.expandedTooFar || l.tooMany || l.moreErrors {
		return Project{}
	}
	resolved := l.resolve(ctx)
	if resolved == nil {
		return Project{}
	}
	p := l.convert(resolved)
	if p.Places = l.places(p); len(p.Places) == 0 {
		p.Places = nil
	}
	l.early = len(l.errors)
	l.check(p)
	return p
}

// resolve loads the files through compose-go. Where they have errors, it loads what is left of them without the places
// that are wrong, so that later checks have something to look at.
func (l *loading) resolve(ctx context.Context) *types.Project {
	if len(l.errors) == 0 {
		l.validate(l.root) // each file is valid; what they make together may not be
	}
	if len(l.errors) == 0 {
		details := types.ConfigDetails{WorkingDir: l.dir, Environment: l.mapping()}
		for _, file := range l.files {
			details.ConfigFiles = append(details.ConfigFiles, types.ConfigFile{Filename: file, Content: l.contents[file]})
		}
		p, err := l.composeGo(ctx, details, false)
		if err == nil {
			return p
		}
		l.fromLibrary(err)
	}
	for range 10 {
		if l.moreErrors {
			return nil
		}
		rest, _ := l.without(l.root, "").(map[string]any)
		rest["services"] = orEmpty(rest["services"])
		p, err := l.composeGo(ctx, types.ConfigDetails{WorkingDir: l.dir, Environment: l.mapping(),
			ConfigFiles: []types.ConfigFile{{Filename: l.first(), Config: rest}}}, true)
		if err == nil {
			return p
		}
		before := len(l.bad)
		if l.fromLibrary(err); len(l.bad) == before {
			return nil
		}
	}
	return nil
}

func orEmpty(v any) any {
	if v == nil {
		return map[string]any{}
	}
	return v
}

// composeGo calls the library. It panics on some files that it should refuse; that is an error like any other.
func (l *loading) composeGo(ctx context.Context, details types.ConfigDetails, partly bool) (p *types.Project, err error) {
	defer func() {
		if r := recover(); r != nil {
			p, err = nil, fmt.Errorf("internal error: %v", r)
		}
	}()
	prepareLibrary()
	if !partly {
		if err := validation.Validate(l.root.plain(nil).(map[string]any)); err != nil {
			return nil, err
		}
	}
	return loader.LoadWithContext(ctx, details, func(o *loader.Options) {
		o.SetProjectName(l.name, true)
		o.Profiles = l.profiles
		o.SkipConsistencyCheck = true
		o.SkipValidation = true // by schema: validate has done so, with places; its own schema depends on the working directory
		o.SkipResolveEnvironment = partly
		o.SkipResolveLabels = partly
		o.SkipExtends = partly
		o.SkipInclude = partly
	})
}

func (l *loading) mapping() types.Mapping {
	m := make(types.Mapping, len(l.env)+1)
	for k, v := range l.env {
		m[k] = v
	}
	return m
}

// place is a position as a key: of a value, or of the key that stands before it.
type place struct {
	file      string
	line, col int
	key       bool
}

// without returns the plain value of a tree, for compose-go to read again, leaving out every value that stands at one
// of the places that are wrong. Relative paths of files from other directories are made absolute, because the tree no
// longer says where they came from.
func (l *loading) without(m *mark, pattern string) any {
	wrong := func(m *mark) bool {
		line, col := m.place()
		return m.reset || l.bad[place{m.file(), line, col, false}] || l.bad[place{m.file(), m.keyLine, m.keyCol, true}]
	}
	switch m.kind {
	case mappingMark:
		out := map[string]any{}
		for k, f := range m.fields {
			if !wrong(f) {
				out[k] = l.without(f, below(pattern, k))
			}
		}
		return out
	case listMark:
		out := []any{}
		for _, item := range m.items {
			if !wrong(item) {
				out = append(out, l.without(item, pattern+"[]"))
			}
		}
		return out
	}
	s, ok := m.value.(string)
	if !ok {
		return m.value
	}
	if m.src.dir != l.dir && isPath(pattern, s) {
		s = absolute(s, m.src.dir)
	}
	return strings.ReplaceAll(s, "$", "$$")
}

// below returns the row of the matrix for a key of the mapping at a row.
func below(pattern, key string) string {
	switch {
	case pattern == "":
		return key
	case named(pattern):
		return pattern + ".*"
	}
	return pattern + "." + key
}

// isPath says whether a value is a path that is relative to the file it stands in.
func isPath(pattern, value string) bool {
	if value == "" || strings.HasPrefix(value, "~") || strings.Contains(value, "://") {
		return false
	}
	switch pattern {
	case "services.*.build.context", "services.*.env_file[]", "services.*.env_file[].path", "services.*.label_file[]",
		"services.*.pre_start[].env_file", "services.*.pre_start[].env_file[]", "services.*.pre_start[].env_file[].path",
		"services.*.pre_start[].label_file", "services.*.pre_start[].label_file[]",
		"services.*.develop.watch[].path", "secrets.*.file", "configs.*.file":
		return true
	case "services.*.volumes[]", "services.*.volumes[].source":
		return strings.HasPrefix(value, ".")
	}
	return false
}
