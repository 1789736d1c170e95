package detect

import (
	"encoding/json"
	"fmt"
	"path"
	"slices"
	"strings"
)

// nodeTools start what package.json says.
var nodeTools = []string{"npm", "yarn", "pnpm"}

// manifest is a package.json as far as it is needed.
type manifest struct {
	Name         string            `json:"name"`
	Main         string            `json:"main"`
	Scripts      map[string]string `json:"scripts"`
	Dependencies map[string]string `json:"dependencies"`
	Dev          map[string]string `json:"devDependencies"`
	Engines      map[string]string `json:"engines"`
	Workspaces   json.RawMessage   `json:"workspaces"`
}

func (t *tree) manifest(dir string) (manifest, bool) {
	var m manifest
	text, ok := t.read(path.Join(dir, "package.json"))
	return m, ok && json.Unmarshal([]byte(text), &m) == nil
}

// nodeFromImage makes a process of what an image starts with node or one of its package managers.
func (t *tree) nodeFromImage(c component, img image, s started, f *facts) string {
	sub, ok := img.dirInContext(img.workdir, nil)
	if !ok {
		return fmt.Sprintf("%s is not seen to come from the sources (%s)", img.workdir, c.docker.name)
	}
	dir := path.Join(c.context, sub)
	var build []string
	for _, i := range t.feeding(c, img) {
		for _, r := range i.runs {
			for _, cmd := range simples(expand(r.text, i.vars), r.workdir) {
				if line, ok := nodeBuild(cmd); ok && !slices.Contains(build, line) {
					build = append(build, line)
				}
			}
		}
	}
	argv := slices.Clone(s.argv)
	for i, w := range argv {
		if below(w, img.workdir) && strings.HasPrefix(w, "/") && img.workdir != "/" {
			argv[i] = relative(w, img.workdir)
		}
	}
	s.argv = argv
	return t.nodeProcess(c, dir, strings.Join(build, " && "), s, f)
}

// feeding are the images that a final image takes files from, itself last.
func (t *tree) feeding(c component, img image) []image {
	var out []image
	for _, st := range c.docker.stages {
		if slices.ContainsFunc(img.copies, func(cp copied) bool { return cp.from == st }) {
			out = append(out, c.docker.image(st, c.args))
		}
	}
	return append(out, img)
}

// nodeBuild returns a step of an image's build that a process needs too: installing packages, running scripts.
func nodeBuild(cmd simple) (string, bool) {
	w := cmd.words
	if !slices.Contains(nodeTools, w[0]) || strings.ContainsAny(strings.Join(w, " "), "$`'\"|<>") {
		return "", false
	}
	verb := ""
	for _, word := range w[1:] {
		switch {
		case word == "-g" || word == "--global" || word == "global":
			return "", false
		case verb == "" && !strings.HasPrefix(word, "-"):
			verb = word
		}
	}
	switch verb {
	case "cache", "config", "set", "audit", "version", "prune", "dlx", "exec":
		return "", false
	case "":
		return quoteAll(w), w[0] == "yarn"
	}
	return quoteAll(w), true
}

// nodeProcess makes a process of a command in a package's folder.
func (t *tree) nodeProcess(c component, dir, build string, s started, f *facts) string {
	m, ok := t.manifest(dir)
	if !ok && slices.Contains(nodeTools, s.argv[0]) {
		return path.Join(dir, "package.json") + " is not there, or is no JSON"
	}
	p := &process{dir: dir, build: build, reason: s.where}
	if s.line != "" {
		p.command = s.with(s.argv[:1], 1)
	} else {
		p.command, s.where = t.script(s.argv, m, s.where)
		p.reason = s.where
	}
	scripts := scriptsOf(build, m)
	outputs, known := t.outputs(dir, scripts, p.command)
	sources, listed := t.sourcesOf(dir, c.others)
	if known && listed {
		p.artifacts = sources
		for _, o := range outputs {
			if !slices.Contains(p.artifacts, o) {
				p.artifacts = append(p.artifacts, o)
			}
		}
		if len(m.Dependencies) > 0 && strings.Contains(build, " ") || strings.HasPrefix(build, "yarn") {
			p.artifacts = append(p.artifacts, "node_modules")
		}
		slices.Sort(p.artifacts)
	}
	f.language, f.process, f.sources = "node", p, []string{dir}
	return ""
}

// script returns what "npm start" and its like run, where that is one node command: a package manager in between does
// not always pass signals on.
func (t *tree) script(argv []string, m manifest, where string) ([]string, string) {
	if !slices.Contains(nodeTools, argv[0]) {
		return argv, where
	}
	words := slices.DeleteFunc(slices.Clone(argv[1:]), func(w string) bool { return w == "run" || w == "run-script" || w == "--silent" || w == "-s" })
	if len(words) != 1 {
		return argv, where
	}
	text := m.Scripts[words[0]]
	if text == "" && words[0] == "start" && t.isFile("server.js") {
		return argv, where
	}
	if list, ok := plainWords(text); ok && (list[0] == "node" || list[0] == "nodejs") && m.Scripts["pre"+words[0]] == "" {
		return list, fmt.Sprintf("%s; scripts.%s in package.json", where, words[0])
	}
	return argv, where
}

// scriptsOf are the scripts of package.json that a build runs, in full.
func scriptsOf(build string, m manifest) string {
	var all []string
	for _, w := range strings.Fields(build) {
		if text := m.Scripts[w]; text != "" && w != "install" {
			all = append(all, text)
		}
	}
	return strings.Join(all, " && ")
}

// outputs are the folders that a build makes; false where that is not known.
func (t *tree) outputs(dir, scripts string, command []string) ([]string, bool) {
	var out []string
	add := func(p string) {
		p = strings.TrimPrefix(path.Clean(p), "./")
		if first := strings.SplitN(p, "/", 2)[0]; first != "." && first != ".." && first != "" && !slices.Contains(out, first) {
			out = append(out, first)
		}
	}
	for _, w := range command {
		if (strings.HasSuffix(w, "js") || strings.HasPrefix(w, "dist") || strings.HasPrefix(w, "build/")) && strings.Contains(w, "/") && !strings.HasPrefix(w, "/") {
			add(w)
		}
	}
	switch {
	case scripts == "":
		return nil, true
	case strings.Contains(scripts, "next build"):
		add(".next")
	case strings.Contains(scripts, "vite build") || strings.Contains(scripts, "nest build"):
		add("dist")
	case strings.Contains(scripts, "react-scripts build"):
		add("build")
	case strings.Contains(scripts, "tsc"):
		text, _ := t.read(path.Join(dir, "tsconfig.json"))
		if _, after, ok := strings.Cut(text, `"outDir"`); ok {
			if parts := strings.SplitN(after, `"`, 3); len(parts) == 3 {
				add(parts[1])
			}
		}
	}
	return out, len(out) > 0
}

// notRun are entries of a folder that are no part of what runs.
var notRun = []string{
	"node_modules", "test", "tests", "__tests__", "spec", "docs", "doc", "coverage", "tmp", "log", "logs", "bin", "dist", "build", "e2e", "examples",
	"__pycache__", "venv", "env", "Makefile", "Procfile", "Procfile.windows", "app.json", "project.toml", "requirements.in", "LICENSE", "CHANGELOG", "CODEOWNERS", "Vagrantfile", "Jenkinsfile", "Taskfile.yml",
	"tsconfig.json", "vitest.config.ts", "renovate.json", "bake.hcl", "docker-bake.hcl",
}

const maxArtifacts = 24

// sourcesOf lists what in a folder a program consists of whose code is not compiled; false where that is too much to
// list.
func (t *tree) sourcesOf(dir string, others []string) ([]string, bool) {
	ignored := map[string]bool{}
	text, _ := t.read(path.Join(dir, ".gitignore"))
	for _, line := range strings.Split(text, "\n") {
		ignored[strings.Trim(strings.TrimSpace(line), "/")] = true
	}
	var out []string
	for _, e := range t.list(dir) {
		n, lower := e.Name(), strings.ToLower(e.Name())
		switch {
		case strings.HasPrefix(n, ".") || slices.Contains(notRun, n) || ignored[n] || slices.Contains(others, path.Join(dir, n)),
			strings.HasPrefix(lower, "dockerfile") || strings.HasSuffix(lower, ".dockerfile"),
			strings.HasPrefix(lower, "compose") || strings.HasPrefix(lower, "docker-compose"),
			strings.HasPrefix(lower, "readme") || strings.HasPrefix(lower, "license") || strings.HasSuffix(lower, ".md"),
			strings.HasSuffix(lower, ".log") || strings.Contains(lower, ".sqlite") || strings.HasSuffix(lower, ".db"),
			strings.Contains(lower, ".test.") || strings.Contains(lower, "jest.config") || strings.Contains(lower, "eslint"),
			strings.HasSuffix(lower, ".pem") || strings.HasSuffix(lower, ".key"),
			!e.IsDir() && !e.Type().IsRegular():
			continue
		}
		out = append(out, n)
	}
	return out, len(out) <= maxArtifacts && len(out) > 0
}
