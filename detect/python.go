package detect

import (
	"fmt"
	"path"
	"slices"
	"strings"

	"trellis/lazyregexp"
)

// packages is where a process has its Python packages: a folder that can be moved, as a virtual environment cannot.
const packages = ".packages"

// pythonModule returns the module that stands for a program that comes with a package, "" for no such one.
func pythonModule(program string) string {
	if slices.Contains([]string{"gunicorn", "uvicorn", "flask", "celery", "hypercorn", "daphne", "waitress", "streamlit", "fastapi"}, program) {
		return program
	}
	return ""
}

// pythonFromImage makes a process of what an image starts with Python.
func (t *tree) pythonFromImage(c component, img image, s started, f *facts) string {
	sub, ok := img.dirInContext(img.workdir, nil)
	if !ok {
		return fmt.Sprintf("%s is not seen to come from the sources (%s)", img.workdir, c.docker.name)
	}
	dir := path.Join(c.context, sub)
	var install []string
	for _, i := range t.feeding(c, img) {
		for _, r := range i.runs {
			for _, cmd := range simples(expand(r.text, i.vars), r.workdir) {
				line, why := t.pipInstall(c, i, cmd, dir)
				if why != "" {
					return fmt.Sprintf("%s (%s)", why, place(c.docker.name, r.line))
				}
				if line != "" && !slices.Contains(install, line) {
					install = append(install, line)
				}
			}
		}
	}
	for i, w := range s.argv {
		if strings.HasPrefix(w, img.workdir+"/") {
			s.argv = slices.Clone(s.argv)
			s.argv[i] = relative(w, img.workdir)
		}
	}
	return t.pythonProcess(c, dir, strings.Join(install, " && "), s, f)
}

// pipInstall returns what installs an image's packages beside the sources, "" for a command that installs none; or why
// it cannot be done.
func (t *tree) pipInstall(c component, img image, cmd simple, dir string) (line, why string) {
	w := cmd.words
	if strings.HasPrefix(path.Base(w[0]), "python") && len(w) > 2 && w[1] == "-m" {
		w = w[2:]
	}
	switch tool := path.Base(w[0]); {
	case tool == "poetry" || tool == "pipenv" || tool == "uv" || tool == "conda" || tool == "mamba" || tool == "pdm":
		return "", tool + " installs its packages, which a process would have to have in another way"
	case !strings.HasPrefix(tool, "pip") || len(w) < 2 || w[1] != "install":
		return "", ""
	}
	args := []string{"python3", "-m", "pip", "install", "--target", packages}
	for i := 2; i < len(w); i++ {
		switch {
		case (w[i] == "-r" || w[i] == "--requirement") && i+1 < len(w):
			file, ok := img.inContext(path.Join("/", absolute(w[i+1], cmd.dir)), nil)
			file = path.Join(c.context, file)
			if !ok || !below(file, dir) || !t.isFile(file) {
				return "", "where " + w[i+1] + " comes from is not seen"
			}
			args = append(args, "-r", relative(file, dir))
			i++
		case strings.HasPrefix(w[i], "--no-cache") || w[i] == "--user" || w[i] == "--upgrade" || w[i] == "-U" || strings.HasPrefix(w[i], "--root-user") || w[i] == "--break-system-packages":
		case strings.HasPrefix(w[i], "-") || strings.ContainsAny(w[i], "$`'\" *"):
			return "", "the options of its pip install are not understood"
		case w[i] == "pip" || w[i] == "setuptools" || w[i] == "wheel" || strings.HasPrefix(w[i], "pip="):
		case w[i] == "." || strings.HasPrefix(w[i], "."):
			return "", "its own code is installed as a package"
		default:
			args = append(args, w[i])
		}
	}
	if len(args) == 6 {
		return "", ""
	}
	return quoteAll(args), ""
}

func absolute(p, dir string) string {
	if strings.HasPrefix(p, "/") {
		return p
	}
	return path.Join(dir, p)
}

var pythonName = lazyregexp.New(`^python[0-9.]*$`)

// pythonProcess makes a process of a command in a folder of Python code.
func (t *tree) pythonProcess(c component, dir, build string, s started, f *facts) string {
	name := path.Base(s.argv[0])
	first := []string{"python3"}
	if module := pythonModule(name); module != "" {
		first = append(first, "-m", module)
	} else if !pythonName.MatchString(name) {
		return s.argv[0] + " is not known (" + s.where + ")"
	} else if script := firstScript(s.argv[1:]); script != "" && !t.isFile(path.Join(dir, script)) {
		return path.Join(dir, script) + " is not there (" + s.where + ")"
	}
	p := &process{dir: dir, build: build, reason: s.where}
	if build != "" {
		first = slices.Concat([]string{"env", "PYTHONPATH=" + packages}, first)
	}
	p.command = s.with(first, 1)
	if sources, ok := t.sourcesOf(dir, c.others); ok {
		p.artifacts = sources
		if build != "" {
			p.artifacts = append(p.artifacts, packages)
		}
	}
	f.language, f.process, f.sources = "python", p, []string{dir}
	return ""
}

func firstScript(args []string) string {
	for _, a := range args {
		if !strings.HasPrefix(a, "-") {
			return a
		}
		if a == "-m" || a == "-c" {
			return ""
		}
	}
	return ""
}
