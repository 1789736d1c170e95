package detect

import (
	"path"
	"slices"
	"strings"

	"trellis/lazyregexp"
)

// started is what a component starts: argv, or a line for a shell.
type started struct {
	argv  []string
	line  string // where it takes a shell; argv is then its words as far as they are known
	where string
}

// fromDockerfile finds out what a component runs, from its Dockerfile and what the file says over it.
func (t *tree) fromDockerfile(c component, f *facts, r *Report) {
	st := c.docker.final(c.target)
	if st == nil {
		r.note(c.name, "%s has no stage to build: nothing is known of its program", c.docker.name)
		return
	}
	img := c.docker.image(st, c.args)
	f.env = needed(img.env)
	s, why := startedBy(c, img)
	if why != "" {
		r.note(c.name, "no process: %s", why)
		return
	}
	f.sources = []string{c.context}
	name := path.Base(s.argv[0])
	switch {
	case name == "node" || name == "nodejs" || slices.Contains(nodeTools, name):
		why = t.nodeFromImage(c, img, s, f)
	case strings.HasPrefix(name, "python") || pythonModule(name) != "":
		why = t.pythonFromImage(c, img, s, f)
	default:
		why = t.goFromImage(c, img, st, s, f)
	}
	if why != "" {
		f.process = nil
		r.note(c.name, "no process: %s", why)
	}
	if f.process != nil {
		t.checkEnv(c, f, r)
		f.settings = settings(c, img, r)
	}
}

var (
	numbers = lazyregexp.New(`^[0-9]+(:[0-9]+)?$`)
	signals = lazyregexp.New(`^(SIG[A-Z0-9+]+|[0-9]+)$`)
)

// settings are what an image says of how its program runs, and a process has to be told.
func settings(c component, img image, r *Report) []variable {
	var out []variable
	name, _, _ := strings.Cut(img.user.value, ":")
	switch {
	case name == "" || name == "root" || name == "0" || c.service.User != "":
	case numbers.MatchString(img.user.value):
		out = append(out, img.user)
	default:
		r.note(c.name, "USER %s (%s) is left out: it is a user of the image; set user to one of this machine", cut(img.user.value), img.user.where)
	}
	if signals.MatchString(img.stop.value) && c.service.StopSignal == "" {
		out = append(out, img.stop)
	}
	return out
}

// startedBy returns what a component starts, or why that is not known.
func startedBy(c component, img image) (started, string) {
	entry, cmd := img.entry, img.cmd
	where := "CMD in " + place(c.docker.name, cmd.line)
	if cmd.argv == nil && entry.argv != nil {
		where = "ENTRYPOINT in " + place(c.docker.name, entry.line)
	}
	if c.entry != nil {
		entry, cmd, where = command{argv: c.entry}, command{}, "entrypoint in "+c.where
	}
	if c.cmd != nil {
		cmd, where = command{argv: c.cmd}, "command in "+c.where
	}
	s := started{where: where}
	switch {
	case len(entry.argv) == 0 && len(cmd.argv) == 0:
		return s, c.docker.name + " has neither CMD nor ENTRYPOINT, so the program is the one of " + img.base
	case entry.shell:
		s.line = entry.argv[0] // a shell ignores CMD
	case cmd.shell && len(entry.argv) == 0:
		s.line = cmd.argv[0]
	case cmd.shell:
		s.argv = slices.Concat(entry.argv, []string{"/bin/sh", "-c", cmd.argv[0]})
	default:
		s.argv = slices.Concat(entry.argv, cmd.argv)
	}
	return unwrap(s, img)
}

var shells = []string{"sh", "bash", "ash", "dash"}

// unwrap takes away what only starts the program: small inits, a shell with one command.
func unwrap(s started, img image) (started, string) {
	for range 8 {
		if s.line != "" {
			line := strings.TrimPrefix(strings.TrimSpace(expand(s.line, withoutPort(img.vars))), "exec ")
			list, ok := plainWords(line)
			if !ok {
				return shellLine(s, line)
			}
			s.line, s.argv = "", list
		}
		if len(s.argv) == 0 || s.argv[0] == "" {
			return s, "the command is empty"
		}
		name := path.Base(s.argv[0])
		switch {
		case (name == "tini" || name == "dumb-init" || name == "tini-static") && len(s.argv) > 1:
			s.argv = s.argv[1:]
			for len(s.argv) > 1 && strings.HasPrefix(s.argv[0], "-") {
				s.argv = s.argv[1:]
			}
		case slices.Contains(shells, name) && len(s.argv) == 3 && s.argv[1] == "-c":
			s.line, s.argv = s.argv[2], nil
		case name == "docker-entrypoint.sh" && strings.HasPrefix(path.Base(img.base), "node") && len(s.argv) > 1:
			s.argv = s.argv[1:] // of the official image: runs the rest
		default:
			return s, ""
		}
	}
	return s, "the command is wrapped too often to be understood"
}

// withoutPort leaves $PORT to the environment: an instance may get another one.
func withoutPort(vars map[string]string) map[string]string {
	out := map[string]string{}
	for k, v := range vars {
		if k != "PORT" {
			out[k] = v
		}
	}
	return out
}

var oneCommand = lazyregexp.New("[|&;<>()`\n]")

// shellLine keeps a line that takes a shell for its variables alone.
func shellLine(s started, line string) (started, string) {
	list, err := words(strings.ReplaceAll(line, "$", "\\$"))
	if err != nil || len(list) == 0 || oneCommand.MatchString(line) || assignment.MatchString(list[0]) || strings.Contains(list[0], "$") {
		return s, "its command is a shell script (" + cut(line) + ", " + s.where + "), which is not taken apart"
	}
	s.line, s.argv = line, list
	return s, ""
}

func cut(s string) string {
	s = strings.Join(strings.Fields(s), " ")
	if r := []rune(s); len(r) > 60 {
		return string(r[:59]) + "…"
	}
	return s
}

// with returns the command line with other words for the first n ones.
func (s started) with(first []string, n int) []string {
	if s.line == "" {
		return slices.Concat(first, s.argv[n:])
	}
	rest := s.line
	for _, w := range s.argv[:n] {
		if i := strings.Index(rest, strings.ReplaceAll(w, `\$`, "$")); i >= 0 {
			rest = rest[i+len(w):]
		}
	}
	return []string{"sh", "-c", "exec " + strings.Join(first, " ") + " " + strings.Trim(rest, `"' `)}
}

// ofTheImage are variables that mean something in an image only.
var ofTheImage = []string{
	"PATH", "GOPATH", "GOROOT", "GOCACHE", "GOMODCACHE", "GOPROXY", "GOFLAGS", "GOOS", "GOARCH", "GO111MODULE", "CGO_ENABLED",
	"GOTOOLCHAIN", "VIRTUAL_ENV", "NODE_PATH", "PNPM_HOME", "DEBIAN_FRONTEND", "LANG", "LC_ALL", "HOME", "PYTHONPATH",
	"PYTHONDONTWRITEBYTECODE", "TINI_VERSION", "TERM", "SHELL",
}

// needed are the variables of an image's environment that its program is meant to see, the last value of each.
func needed(env []variable) []variable {
	var out []variable
	for i, v := range env {
		later := slices.ContainsFunc(env[i+1:], func(o variable) bool { return o.name == v.name })
		prefixed := strings.HasPrefix(v.name, "PIP_") || strings.HasPrefix(v.name, "POETRY_") || strings.HasPrefix(v.name, "UV_") ||
			strings.HasPrefix(v.name, "npm_config") || strings.HasPrefix(v.name, "NPM_CONFIG") || strings.HasPrefix(v.name, "YARN_")
		if !later && !prefixed && !slices.Contains(ofTheImage, v.name) && assignment.MatchString(v.name+"=") {
			out = append(out, v)
		}
	}
	return out
}

// checkEnv leaves out variables that name a place in the image, and says so.
func (t *tree) checkEnv(c component, f *facts, r *Report) {
	f.env = slices.DeleteFunc(f.env, func(v variable) bool {
		if _, set := c.service.Environment[v.name]; set {
			return true
		}
		if strings.HasPrefix(v.value, "/") || strings.Contains(v.value, "$") {
			r.note(c.name, "%s=%s (%s) is left out: it speaks of the image", v.name, cut(v.value), v.where)
			return true
		}
		return false
	})
}

// inContext returns what of the context lies at a path of a stage; false for what does not come from there.
func (img image) inContext(p string, binds []copied) (string, bool) {
	all := slices.Concat(img.copies, binds)
	for i := len(all) - 1; i >= 0; i-- {
		c := all[i]
		if c.from != nil || c.image != "" {
			continue
		}
		for _, src := range c.src {
			src = strings.TrimPrefix(path.Clean("/"+src), "/")
			if src == "" {
				src = "."
			}
			into := c.dst
			if c.dir && strings.Contains(path.Base(src), ".") && src != "." {
				into = path.Join(c.dst, path.Base(src)) // a file into a folder
			}
			if !strings.ContainsAny(src, "*?[") && below(p, into) {
				return path.Join(src, relative(p, into)), true
			}
		}
	}
	return "", false
}

// dirInContext returns the folder of the context that a folder of a stage shows.
func (img image) dirInContext(dir string, binds []copied) (string, bool) {
	if p, ok := img.inContext(dir, binds); ok {
		return p, true
	}
	// Only single files were copied there: they say which folder it is.
	for _, c := range slices.Concat(img.copies, binds) {
		if c.from != nil || c.image != "" {
			continue
		}
		for _, src := range c.src {
			name := path.Base(src)
			telling := strings.HasPrefix(name, "package") || name == "go.mod" || name == "requirements.txt" || strings.HasSuffix(name, ".go")
			if telling && (c.dst == dir || c.dst == path.Join(dir, name)) {
				return path.Clean(path.Dir(src)), true
			}
		}
	}
	return "", false
}
