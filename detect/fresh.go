package detect

import (
	"context"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strconv"
	"strings"

	"trellis/compose"
	"trellis/compose/edit"
	"trellis/lazyregexp"
)

// candidate is a service of a project without a Compose file.
type candidate struct {
	component
	facts  facts
	build  edit.Map // build of the new file; nil: image stands for it
	inline string   // Dockerfile, where there is none
	note   string   // why the service is there
	env    []variable
	skip   []string
}

// Fresh reads a project that has no Compose file and proposes one: a service for every program that is surely one. file
// is nil where none is found; the report then says what was looked for. Kinds of proposals in skip are left out.
func Fresh(ctx context.Context, root fs.FS, name string, skip []string) (file []byte, r Report, err error) {
	t := newTree(ctx, root)
	all := t.candidates(&r)
	for i := range all {
		c := &all[i]
		c.service.Build = &compose.Build{} // it has sources
		c.facts.port = t.portOf(c.component, c.facts)
		if len(c.env) > 0 && c.facts.port.number == procfilePort {
			c.facts.port.reason = fmt.Sprintf("$PORT in %s, %d as foreman gives it", c.where, procfilePort)
		}
		c.facts.probe = t.probeOf(c.component, c.facts, &r)
		c.skip = skip
	}
	t.warn(&r)
	if err := ctx.Err(); err != nil {
		return nil, Report{}, fmt.Errorf("look at the sources: %w", err)
	}
	if len(all) == 0 {
		r.note("", "looked for Dockerfiles, a Procfile, programs of a go.mod that listen on a port, package.json with scripts.start, and Python programs with requirements.txt: there is none that says what to run")
		return nil, r, nil
	}
	file, err = t.write(name, all, slices.Contains(skip, KindRoutes), &r)
	return file, r, err
}

// candidates finds the services of a tree.
func (t *tree) candidates(r *Report) []candidate {
	m := t.markers()
	var all []candidate
	for _, file := range m.docker {
		all = append(all, t.fromFile(file, r)...)
	}
	covered := func(dir string) bool {
		return slices.ContainsFunc(all, func(c candidate) bool { return below(dir, c.context) })
	}
	all = append(all, t.fromProcfile(all, r)...)
	for _, dir := range m.modules {
		if !covered(dir) {
			all = append(all, t.fromModule(dir, r)...)
		}
	}
	for _, dir := range m.packages {
		if !covered(dir) {
			all = append(all, t.fromPackage(dir, r)...)
		}
	}
	for _, dir := range m.python {
		if !covered(dir) {
			all = append(all, t.fromPython(dir, r)...)
		}
	}
	taken := map[string]bool{}
	for i := range all {
		base := all[i].name
		for n := 2; taken[all[i].name]; n++ {
			all[i].name = fmt.Sprintf("%s-%d", base, n)
		}
		taken[all[i].name] = true
	}
	return all
}

// maxMarkers is how many files are taken for a sign of a service: more are not one project.
const maxMarkers = 300

// markers are the files that tell of services.
type markers struct{ docker, modules, packages, python []string }

var otherwise = lazyregexp.New(`(?i)(^|[.-])(dev|devel|development|test|tests|ci|debug|local|lint|base|e2e|builder)($|[.-])`)

func (t *tree) markers() markers {
	var m markers
	t.walk(".", nil, func(file string) bool {
		if len(m.docker)+len(m.modules)+len(m.packages)+len(m.python) >= maxMarkers {
			t.cut = true
			return false
		}
		name, dir := path.Base(file), path.Dir(file)
		suffix, named := strings.CutPrefix(name, "Dockerfile")
		if !named {
			suffix, named = strings.CutSuffix(name, ".Dockerfile")
		}
		switch {
		case named && !otherwise.MatchString(suffix) && !strings.Contains(suffix, "dockerignore"):
			m.docker = append(m.docker, file)
		case name == "go.mod":
			m.modules = append(m.modules, dir)
		case name == "package.json":
			m.packages = append(m.packages, dir)
		case name == "requirements.txt" || name == "pyproject.toml" || name == "manage.py":
			if !slices.Contains(m.python, dir) {
				m.python = append(m.python, dir)
			}
		}
		return true
	})
	return m
}

var notInNames = lazyregexp.New(`[^a-z0-9]+`)

// serviceName makes a name for a service.
func serviceName(text string) string {
	if name := strings.Trim(notInNames.ReplaceAllString(strings.ToLower(text), "-"), "-"); name != "" {
		return name
	}
	return "app"
}

func nameOf(dir, root string) string {
	if dir == "." {
		return root
	}
	for slices.Contains(generic, path.Base(dir)) && path.Dir(dir) != "." {
		dir = path.Dir(dir)
	}
	return serviceName(path.Base(dir))
}

// generic are folders whose name says nothing of what is in them.
var generic = []string{"src", "app", "code", "source", "docker", "build", "deploy", "deployment", "package", "scripts", "container", "containers"}

var eachCommand = lazyregexp.New(`cmd/\$\{?([A-Za-z_][A-Za-z0-9_]*)\}?`)

// fromFile makes services of a Dockerfile: one, or one for each program where an argument says which.
func (t *tree) fromFile(file string, r *Report) []candidate {
	text, ok := t.read(file)
	if !ok {
		return nil
	}
	d := parseDockerfile(file, text)
	context, ok := t.contextOf(d, path.Dir(file))
	if !ok {
		r.note("", "%s is left out: what it copies is found neither beside it nor in the project's directory", file)
		return nil
	}
	base := strings.Trim(strings.ReplaceAll(path.Base(file), "Dockerfile", ""), ".-")
	name := nameOf(context, "app")
	if base != "" {
		name = serviceName(base)
	} else if context == "." && path.Dir(file) != "." && !slices.Contains(generic, path.Base(path.Dir(file))) {
		name = serviceName(path.Base(path.Dir(file)))
	}
	one := func(name string, args map[string]string) candidate {
		c := candidate{component: component{name: name, context: context, docker: d, args: args, where: "the file"}, note: file}
		c.service.Name = name
		c.build = buildOf(context, file, args)
		t.fromDockerfile(c.component, &c.facts, r)
		return c
	}
	if m := eachCommand.FindStringSubmatch(text); m != nil && t.isDir(path.Join(context, "cmd")) {
		var all []candidate
		for _, e := range t.list(path.Join(context, "cmd")) {
			if pkg := path.Join(context, "cmd", e.Name()); e.IsDir() && t.isMain(pkg) && t.another() && t.listens(pkg) {
				all = append(all, one(serviceName(e.Name()), map[string]string{m[1]: e.Name()}))
			}
		}
		if len(all) > 0 {
			return all
		}
	}
	return []candidate{one(name, nil)}
}

func buildOf(context, file string, args map[string]string) edit.Map {
	dir := "./" + context
	if context == "." {
		dir = "."
	}
	m := edit.Map{{Key: "context", Value: escape(dir)}}
	if rel := relative(file, context); rel != "Dockerfile" {
		m = append(m, edit.Entry{Key: "dockerfile", Value: escape(rel)})
	}
	for k, v := range args {
		m = append(m, edit.Entry{Key: "args", Value: edit.Map{{Key: k, Value: escape(v)}}})
	}
	return m
}

// contextOf finds the folder that a Dockerfile copies from: its own, or the project's.
func (t *tree) contextOf(d *dockerfile, dir string) (string, bool) {
	for _, context := range []string{dir, "."} {
		missing := false
		for _, st := range d.stages {
			for _, cp := range d.image(st, nil).copies {
				for _, src := range cp.src {
					src = path.Clean("./" + strings.TrimPrefix(src, "/"))
					if cp.from == nil && cp.image == "" && !strings.ContainsAny(src, "*?[$:") && !t.isFile(path.Join(context, src)) && !t.isDir(path.Join(context, src)) {
						missing = true
					}
				}
			}
		}
		if !missing {
			return context, true
		}
	}
	return "", false
}

var procfileLine = lazyregexp.New(`^([A-Za-z0-9_-]+):\s*(\S.*)$`)

// fromProcfile makes a service of every line of a Procfile, built like the one in the same folder.
func (t *tree) fromProcfile(others []candidate, r *Report) []candidate {
	text, ok := t.read("Procfile")
	if !ok {
		return nil
	}
	var all []candidate
	for i, line := range strings.Split(text, "\n") {
		m := procfileLine.FindStringSubmatch(strings.TrimSpace(line))
		if m == nil {
			continue
		}
		name, where := serviceName(m[1]), place("Procfile", i+1)
		if m[1] == "release" {
			r.note("", "release (%s) is left out: it runs once per deploy; pre_start of a service can run it", where)
			continue
		}
		if slices.ContainsFunc(others, func(c candidate) bool { return c.context == "." }) {
			r.note("", "%s (%s) is left out: the Dockerfile says what runs", m[1], where)
			continue
		}
		c := candidate{component: component{name: name, context: ".", where: where}, note: where}
		c.service.Name = name
		s := started{where: where}
		if list, plain := plainWords(m[2]); plain {
			s.argv = list
		} else {
			var why string
			if s, why = shellLine(s, m[2]); why != "" {
				s.argv, s.line = []string{"sh"}, m[2]
			}
		}
		t.fromLine(&c, s, m[2], r)
		all = append(all, c)
	}
	return all
}

// procfilePort is what foreman and its like give the first process of a Procfile.
const procfilePort = 5000

// fromLine finds out what a line of a Procfile starts. What it is not sure of, it starts as it is written.
func (t *tree) fromLine(c *candidate, s started, line string, r *Report) {
	why := "unknown"
	name := path.Base(s.argv[0])
	switch {
	case name == "node" || slices.Contains(nodeTools, name):
		why = t.nodeProcess(c.component, ".", t.nodeInstall("."), s, &c.facts)
	case pythonName.MatchString(name) || pythonModule(name) != "":
		why = t.pythonProcess(c.component, ".", t.pythonInstall("."), s, &c.facts)
	case t.isMain("cmd/"+name) || t.isMain(".") && name == t.moduleName("."):
		pkg := "."
		if t.isMain("cmd/" + name) {
			pkg = "./cmd/" + name
		}
		why = t.goProcess(c.component, image{workdir: "/"}, ".", built{pkg: pkg, where: s.where}, s, &c.facts)
	}
	if why != "" {
		c.facts = facts{process: &process{dir: ".", command: []string{"sh", "-c", "exec " + line}, reason: s.where}}
		if plain, ok := plainWords(line); ok {
			c.facts.process.command = plain
		} else if strings.ContainsAny(line, "|&;") {
			c.facts.process.command[2] = line
		}
		r.note(c.name, "what builds it is not known (%s): docker compose needs an image of the name in the file, or a build", s.where)
	}
	if c.inline = t.inlineFor(c.facts); c.inline != "" {
		c.build = edit.Map{{Key: "context", Value: "."}, {Key: "dockerfile_inline", Value: escape(c.inline)}}
	}
	if strings.Contains(line, "PORT") {
		c.env = append(c.env, variable{"PORT", strconv.Itoa(procfilePort), s.where})
		c.service.Environment = map[string]string{"PORT": strconv.Itoa(procfilePort)}
	}
}

func (t *tree) moduleName(dir string) string {
	_, name, _ := t.module(dir)
	return path.Base(name)
}

// write makes the new file.
func (t *tree) write(name string, all []candidate, noRoutes bool, r *Report) ([]byte, error) {
	taken, published := map[int]bool{}, map[string]int{}
	var http []string
	for _, c := range all {
		n := c.facts.port.number
		if n == 0 {
			continue
		}
		for n < 1024 || taken[n] {
			if n++; n < 1024 {
				n += 8000
			}
		}
		taken[n], published[c.name] = true, n
		if c.facts.probe.path != "" || t.speaksHTTP(c.facts) {
			http = append(http, c.name)
		}
	}
	top := edit.Map{{Key: "name", Value: name}}
	if len(http) > 1 && !noRoutes {
		gateway := 8080
		for taken[gateway] {
			gateway++
		}
		top = append(top, edit.Entry{Key: "x-trellis", Value: edit.Map{{Key: "gateway", Value: edit.Map{{Key: "http", Value: fmt.Sprintf(":%d", gateway)}}}}})
	} else {
		http = nil
	}
	text, err := edit.Render(top, 0)
	if err != nil {
		return nil, fmt.Errorf("write the proposal: %w", err)
	}
	text = append(text, "\nservices:\n"...)
	for i, c := range all {
		m := c.entries(name, published[c.name], slices.Contains(http, c.name), r)
		block, err := edit.Render(edit.Map{{Key: "services", Value: edit.Map{{Key: c.name, Value: m}}}}, 2)
		if err != nil {
			return nil, fmt.Errorf("write the proposal: %w", err)
		}
		if i > 0 {
			text = append(text, '\n')
		}
		text = append(text, strings.TrimPrefix(string(block), "services:\n")...)
	}
	return text, nil
}

// entries are what the new file says of a service, and the report why.
func (c candidate) entries(project string, published int, routed bool, r *Report) edit.Map {
	var m edit.Map
	say := func(kind, below string, value any, reason string) {
		r.Proposals = append(r.Proposals, Proposal{kind, c.name, serviceAt(c.name) + below, value, reason})
	}
	if c.build != nil {
		value := any(c.build)
		if len(c.build) == 1 {
			value = c.build[0].Value
		}
		m = append(m, edit.Entry{Key: "build", Value: value})
		say(KindService, ".build", value, c.note)
	} else {
		m = append(m, edit.Entry{Key: "image", Value: project + "-" + c.name})
		say(KindService, ".image", project+"-"+c.name, "a name for what docker compose runs")
	}
	for _, v := range c.facts.settings {
		m = append(m, edit.Entry{Key: v.name, Value: v.value})
		say(KindService, "."+v.name, v.value, "in "+v.where)
	}
	var env edit.Map
	for _, v := range c.env {
		env = append(env, edit.Entry{Key: v.name, Value: escape(v.value)})
	}
	if c.docker != nil && c.facts.process != nil {
		for _, v := range c.facts.env {
			env = append(env, edit.Entry{Key: v.name, Value: escape(v.value)})
		}
	}
	if env != nil {
		m = append(m, edit.Entry{Key: "environment", Value: env})
	}
	if n := c.facts.port.number; n > 0 && routed {
		routes := []any{edit.Map{{Key: "host", Value: c.name + ".localhost"}, {Key: "auth", Value: "none"}}}
		m = append(m, edit.Entry{Key: "ports", Value: []any{edit.Map{{Key: "target", Value: n}, {Key: "published", Value: strconv.Itoa(published)},
			{Key: "app_protocol", Value: "http"}, {Key: "x-trellis", Value: edit.Map{{Key: "routes", Value: routes}}}}}})
		say(KindRoutes, ".ports[0].x-trellis.routes", routes, "several services speak HTTP: the gateway tells them apart by host, and 'auth: none' lets everyone in")
	} else if n > 0 {
		m = append(m, edit.Entry{Key: "ports", Value: []any{fmt.Sprintf("%d:%d", published, n)}})
	}
	if published > 0 {
		say(KindService, ".ports", published, c.facts.port.reason)
	}
	if c.facts.language != "" && !slices.Contains(c.skip, KindLimits) {
		memory, reason := memoryOf(c.component, c.facts)
		m = append(m, edit.Entry{Key: "deploy", Value: edit.Map{{Key: "resources", Value: edit.Map{{Key: "limits", Value: edit.Map{{Key: "memory", Value: memory}}}}}}})
		say(KindLimits, ".deploy.resources.limits.memory", memory, reason)
	}
	var x edit.Map
	if c.facts.process != nil && !slices.Contains(c.skip, KindProcess) {
		if value, ok := c.facts.process.value("."); ok {
			x = append(x, edit.Entry{Key: "process", Value: value})
			say(KindProcess, ".x-trellis.process", value, c.facts.process.reason)
		}
	}
	if p := c.facts.probe; p.reason != "" && !slices.Contains(c.skip, KindProbe) {
		value := edit.Map{{Key: "tcp", Value: p.port}}
		if p.path != "" {
			value = edit.Map{{Key: "http", Value: escape(p.path)}}
			if p.port != c.facts.port.number {
				value = append(value, edit.Entry{Key: "port", Value: p.port})
			}
		}
		x = append(x, edit.Entry{Key: "probe", Value: value})
		say(KindProbe, ".x-trellis.probe", value, p.reason)
	}
	if x != nil {
		m = append(m, edit.Entry{Key: "x-trellis", Value: x})
	}
	return m
}
