package detect

import (
	"encoding/json"
	"fmt"
	"path"
	"regexp"
	"strings"

	"trellis/compose/edit"
	"trellis/lazyregexp"
)

// Programs of a project that has neither Compose file nor Dockerfile.

// listens says that a Go program surely serves something.
func (t *tree) listens(pkg string) bool {
	for _, file := range t.goSources(pkg) {
		if once(t, "listens", file, func() bool { text, _ := t.read(file); return listeningGo.MatchString(text) }) {
			return true
		}
	}
	return false
}

var listeningGo = lazyregexp.New(`\.ListenAndServe(?:TLS)?\(|\bnet\.Listen\(|\.Listen\(ctx|gin\.(?:Default|New)\(|echo\.New\(|fiber\.New\(`)

// fromModule makes services of the programs of a Go module.
func (t *tree) fromModule(dir string, r *Report) []candidate {
	pkgs := []string{"."}
	for _, e := range t.list(path.Join(dir, "cmd")) {
		if e.IsDir() {
			pkgs = append(pkgs, "./cmd/"+e.Name())
		}
	}
	var all []candidate
	for _, pkg := range pkgs {
		at := path.Join(dir, pkg)
		if !t.isMain(at) {
			continue
		}
		if !t.another() {
			break
		}
		if !t.listens(at) {
			r.note("", "%s is left out: it is not seen to listen on a port; add it as a service if it runs for long", at)
			continue
		}
		name := serviceName(path.Base(at))
		if pkg == "." {
			name = serviceName(t.moduleName(dir))
		}
		where := path.Join(dir, "go.mod") + ", " + at
		c := candidate{component: component{name: name, context: dir, where: where}, note: where}
		c.service.Name = name
		s := started{argv: []string{name}, where: "package main in " + at}
		img := image{base: "scratch", workdir: "/", copies: []copied{{src: []string{"."}, dst: "/", dir: true}}, file: &dockerfile{}}
		if why := t.goProcess(c.component, img, dir, built{pkg: pkg, where: where}, s, &c.facts); why != "" {
			r.note(name, "no process: %s", why)
			continue
		}
		c.facts.process.reason = s.where
		c.inline = t.inlineFor(c.facts)
		c.build = edit.Map{{Key: "context", Value: buildOf(dir, path.Join(dir, "Dockerfile"), nil)[0].Value}, {Key: "dockerfile_inline", Value: escape(c.inline)}}
		all = append(all, c)
	}
	return all
}

// fromPackage makes a service of a Node package with a start script. A workspace's packages are found by themselves.
func (t *tree) fromPackage(dir string, r *Report) []candidate {
	m, ok := t.manifest(dir)
	file := path.Join(dir, "package.json")
	if !ok {
		r.note("", "%s is left out: it is no JSON", file)
		return nil
	}
	if m.Scripts["start"] == "" {
		if len(m.Workspaces) == 0 && !t.inWorkspace(dir) {
			r.note("", "%s is left out: it has no scripts.start", file)
		}
		return nil
	}
	name := nameOf(dir, serviceName(m.Name))
	c := candidate{component: component{name: name, context: dir, where: file}, note: "scripts.start in " + file}
	c.service.Name = name
	build := t.nodeInstall(dir)
	s := started{argv: []string{"npm", "start"}, where: "scripts.start in " + file}
	if t.inWorkspace(dir) {
		r.note(name, "its packages are those of a workspace: %s installs them in %s alone", strings.SplitN(build+" ", " ", 2)[0], dir)
	}
	if why := t.nodeProcess(c.component, dir, build, s, &c.facts); why != "" {
		r.note(name, "no process: %s", why)
		return nil
	}
	c.facts.process.reason = s.where
	c.inline = t.inlineFor(c.facts)
	c.build = edit.Map{{Key: "context", Value: buildOf(dir, path.Join(dir, "Dockerfile"), nil)[0].Value}, {Key: "dockerfile_inline", Value: escape(c.inline)}}
	return []candidate{c}
}

// inWorkspace says that a folder above has a package.json with workspaces.
func (t *tree) inWorkspace(dir string) bool {
	for dir != "." {
		dir = path.Dir(dir)
		if m, ok := t.manifest(dir); ok && len(m.Workspaces) > 0 && string(m.Workspaces) != "null" {
			return true
		}
	}
	return false
}

// nodeInstall is what makes a Node package ready to start, "" where nothing has to be done.
func (t *tree) nodeInstall(dir string) string {
	m, _ := t.manifest(dir)
	var steps []string
	run := "npm run"
	switch {
	case len(m.Dependencies)+len(m.Dev) == 0:
	case t.isFile(path.Join(dir, "pnpm-lock.yaml")):
		steps, run = append(steps, "pnpm install --frozen-lockfile"), "pnpm run"
	case t.isFile(path.Join(dir, "yarn.lock")):
		steps, run = append(steps, "yarn install --frozen-lockfile"), "yarn run"
	case t.isFile(path.Join(dir, "package-lock.json")):
		steps = append(steps, "npm ci")
	default:
		steps = append(steps, "npm install")
	}
	if m.Scripts["build"] != "" {
		steps = append(steps, run+" build")
	}
	return strings.Join(steps, " && ")
}

func (t *tree) pythonInstall(dir string) string {
	if !t.isFile(path.Join(dir, "requirements.txt")) {
		return ""
	}
	return "python3 -m pip install --target " + packages + " -r requirements.txt"
}

var (
	settingsModule = lazyregexp.New(`DJANGO_SETTINGS_MODULE['"],\s*['"]([A-Za-z0-9_]+)\.settings`)
	webApp         = lazyregexp.New(`(?m)^(\w+)(?:\s*:\s*\w+)?\s*=\s*(Flask|FastAPI)\(`)
	mainRuns       = lazyregexp.New(`(?s)__name__ == ['"]__main__['"]:.*?(?:\.run\(|serve_forever\(|asyncio\.run\()`)
)

// fromPython makes a service of a Python program where it is sure how one is started.
func (t *tree) fromPython(dir string, r *Report) []candidate {
	requirements, _ := t.read(path.Join(dir, "requirements.txt"))
	project, _ := t.read(path.Join(dir, "pyproject.toml"))
	has := func(pkg string) bool {
		return regexp.MustCompile(`(?im)^\s*["']?` + pkg + `\b`).MatchString(requirements + "\n" + project)
	}
	line, where := "", ""
	if manage, ok := t.read(path.Join(dir, "manage.py")); ok && has("gunicorn") {
		if m := settingsModule.FindStringSubmatch(manage); m != nil && t.isFile(path.Join(dir, m[1], "wsgi.py")) {
			line, where = "gunicorn --bind 0.0.0.0:8000 "+m[1]+".wsgi", path.Join(dir, m[1], "wsgi.py")+", gunicorn in requirements.txt"
		}
	}
	for _, file := range []string{"app.py", "main.py", "server.py", "wsgi.py"} {
		text, ok := t.read(path.Join(dir, file))
		if !ok || line != "" {
			continue
		}
		m := webApp.FindStringSubmatch(text)
		module := strings.TrimSuffix(file, ".py")
		switch at := path.Join(dir, file); {
		case m != nil && m[2] == "FastAPI" && has("uvicorn"):
			line, where = "uvicorn --host 0.0.0.0 --port 8000 "+module+":"+m[1], at+", uvicorn in requirements.txt"
		case m != nil && m[2] == "Flask" && has("gunicorn"):
			line, where = "gunicorn --bind 0.0.0.0:8000 "+module+":"+m[1], at+", gunicorn in requirements.txt"
		case mainRuns.MatchString(text):
			line, where = "python3 "+file, at
		}
	}
	if line == "" {
		r.note("", "the Python code in %s is left out: how it is started is not sure (looked for a Procfile, manage.py with gunicorn, app.py and its like)", dir)
		return nil
	}
	if requirements == "" && project != "" {
		r.note("", "the Python code in %s is left out: its packages are in pyproject.toml, and how they are installed is not sure", dir)
		return nil
	}
	name := nameOf(dir, "app")
	c := candidate{component: component{name: name, context: dir, where: where}, note: where}
	c.service.Name = name
	if why := t.pythonProcess(c.component, dir, t.pythonInstall(dir), started{argv: strings.Fields(line), where: where}, &c.facts); why != "" {
		r.note(name, "no process: %s", why)
		return nil
	}
	c.inline = t.inlineFor(c.facts)
	c.build = edit.Map{{Key: "context", Value: buildOf(dir, path.Join(dir, "Dockerfile"), nil)[0].Value}, {Key: "dockerfile_inline", Value: escape(c.inline)}}
	return []candidate{c}
}

var (
	goVersion   = lazyregexp.New(`(?m)^go ([0-9]+\.[0-9]+)`)
	nodeVersion = lazyregexp.New(`[0-9]+`)
)

// inlineFor is a Dockerfile for a process, so that docker compose runs the same; "" where its language is not known.
func (t *tree) inlineFor(f facts) string {
	p := f.process
	if p == nil {
		return ""
	}
	argv, _ := json.Marshal(p.command)
	switch f.language {
	case "go":
		root, _, _ := t.module(p.dir)
		text, _ := t.read(path.Join(root, "go.mod"))
		from := "golang"
		if m := goVersion.FindStringSubmatch(text); m != nil {
			from += ":" + m[1]
		}
		lines := []string{"FROM " + from + " AS build", "WORKDIR /src", "COPY . .", "RUN CGO_ENABLED=0 " + strings.Replace(p.build, "-buildvcs=false ", "", 1), "FROM alpine", "WORKDIR /app"}
		for _, a := range p.artifacts {
			lines = append(lines, fmt.Sprintf("COPY --from=build /src/%s %s", a, a))
		}
		return strings.Join(append(lines, "CMD "+string(argv)), "\n") + "\n"
	case "node":
		m, _ := t.manifest(p.dir)
		from := "node:lts"
		if v := nodeVersion.FindString(m.Engines["node"]); v != "" {
			from = "node:" + v
		}
		lines := []string{"FROM " + from, "WORKDIR /app", "COPY . ."}
		if strings.HasPrefix(p.build, "pnpm") {
			lines = append(lines, "RUN corepack enable")
		}
		if p.build != "" {
			lines = append(lines, "RUN "+p.build)
		}
		return strings.Join(append(lines, "CMD "+string(argv)), "\n") + "\n"
	case "python":
		lines := []string{"FROM python:3", "WORKDIR /app", "COPY . ."}
		if p.build != "" {
			lines = append(lines, "RUN "+p.build)
		}
		return strings.Join(append(lines, "CMD "+string(argv)), "\n") + "\n"
	}
	return ""
}

var httpServers = map[string]*lazyregexp.Regexp{
	"go":     lazyregexp.New(`\bhttp\.(?:ListenAndServe|Server\{|Serve\()|gin\.(?:Default|New)\(|echo\.New\(|fiber\.New\(|chi\.NewRouter\(`),
	"node":   lazyregexp.New(`\bexpress\(|createServer\(|[fF]astify\(|new Koa\(|next start|new Hono\(`),
	"python": lazyregexp.New(`\bFlask\(|FastAPI\(|http\.server|django|HTTPServer|aiohttp|Starlette\(`),
}

// speaksHTTP says that the code of a component surely serves HTTP.
func (t *tree) speaksHTTP(f facts) bool {
	re, found := httpServers[f.language], false
	if f.process != nil {
		line := strings.Join(f.process.command, " ")
		found = strings.Contains(line, "gunicorn") || strings.Contains(line, "uvicorn") || strings.Contains(line, "manage.py runserver")
	}
	if re == nil {
		return found
	}
	t.code(f, nil, func(file, text string) {
		found = found || once(t, "HTTP in "+f.language, file, func() bool { return re.MatchString(text) })
	})
	return found
}
