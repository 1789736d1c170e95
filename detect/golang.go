package detect

import (
	"fmt"
	"go/parser"
	"go/token"
	"path"
	"slices"
	"strings"

	"trellis/lazyregexp"
)

// goFromImage finds the go build that makes the program a component starts, or says why it is not found.
func (t *tree) goFromImage(c component, img image, st *stage, s started, f *facts) string {
	if s.argv[0] == "go" && len(s.argv) > 1 && s.argv[1] == "run" {
		return t.goRun(c, img, s, f)
	}
	steps := maxTraced
	b, ok := t.traced(c, st, programPath(img, s.argv[0]), &steps)
	if !ok && strings.HasSuffix(s.argv[0], ".sh") {
		return fmt.Sprintf("its start-up script %s (%s) is not taken apart", s.argv[0], s.where)
	}
	if !ok {
		return fmt.Sprintf("%s (%s) is a program of the image %s, or made in a way that is not understood", s.argv[0], s.where, img.base)
	}
	dir, ok := b.img.dirInContext(b.dir, b.binds)
	if !ok {
		return fmt.Sprintf("the folder of 'go build' in %s is not seen to come from the sources", b.where)
	}
	return t.goProcess(c, img, path.Join(c.context, dir), b, s, f)
}

func programPath(img image, program string) string {
	if strings.Contains(program, "/") {
		return img.abs(program)
	}
	return program // somewhere in PATH
}

// built is one go build.
type built struct {
	img   image
	dir   string // in the image
	binds []copied
	pkg   string
	flags []string
	env   []string
	where string
	left  []string // flags that were left out
}

// maxTraced is how many stages are looked at for one program: each may take a file from another in several ways.
const maxTraced = 200

// traced follows a file of a stage back to the go build that made it, in at most so many steps.
func (t *tree) traced(c component, st *stage, file string, steps *int) (built, bool) {
	if *steps--; st == nil || *steps < 0 || t.ctx.Err() != nil {
		return built{}, false
	}
	img := c.docker.image(st, c.args)
	for i := len(img.copies) - 1; i >= 0; i-- {
		cp := img.copies[i]
		if cp.from == nil {
			continue
		}
		for _, src := range cp.src {
			if from, ok := source(cp, src, file); ok {
				if b, ok := t.traced(c, cp.from, path.Join("/", from), steps); ok {
					return b, true
				}
			}
		}
	}
	for i := len(img.runs) - 1; i >= 0; i-- {
		for _, cmd := range simples(expand(img.runs[i].text, img.vars), img.runs[i].workdir) {
			b, out, ok := goBuild(cmd)
			if ok && (out == file || !strings.Contains(file, "/") && path.Base(out) == file || b.pkg == "./..." && path.Dir(out) == path.Dir(file)) {
				if b.pkg == "./..." {
					b.pkg = "./cmd/" + path.Base(file)
				}
				b.img, b.dir, b.binds, b.where = img, cmd.dir, img.runs[i].binds, place(c.docker.name, img.runs[i].line)
				return b, true
			}
		}
	}
	return built{}, false
}

// source returns where a file of the target of a COPY was before; false where it does not come from src.
func source(cp copied, src, file string) (string, bool) {
	switch {
	case !strings.Contains(file, "/"):
		return src, path.Base(cp.dst) == file || path.Base(src) == file
	case cp.dst == file && !cp.dir:
		return src, true
	case path.Join(cp.dst, path.Base(src)) == file:
		return src, true
	case below(file, cp.dst):
		return path.Join(src, relative(file, cp.dst)), true
	}
	return "", false
}

// withValue are the flags of go build that take a value as the next word.
var withValue = []string{"-o", "-ldflags", "-tags", "-mod", "-gcflags", "-asmflags", "-p", "-buildmode", "-installsuffix", "-pgo", "-gccgoflags", "-overlay", "-modfile", "-C"}

// goBuild reads a go build or go install, and says where its result lies in the image.
func goBuild(cmd simple) (b built, out string, ok bool) {
	w := cmd.words
	if len(w) > 1 && w[0] == "env" {
		for w = w[1:]; len(w) > 0 && assignment.MatchString(w[0]); w = w[1:] {
			cmd.env = append(cmd.env, w[0])
		}
	}
	if len(w) < 2 || path.Base(w[0]) != "go" || w[1] != "build" && w[1] != "install" {
		return b, "", false
	}
	o, pkgs := "", []string(nil)
	for i := 2; i < len(w); i++ {
		flag, value, joined := strings.Cut(w[i], "=")
		flag = "-" + strings.TrimLeft(flag, "-")
		switch {
		case !strings.HasPrefix(w[i], "-"):
			pkgs = append(pkgs, w[i])
			continue
		case !joined && slices.Contains(withValue, flag) && i+1 < len(w):
			value = w[i+1]
			i++
		}
		b.flag(flag, value, &o)
	}
	if b.pkg = "."; len(pkgs) == 1 {
		b.pkg = pkgs[0]
	}
	if len(pkgs) > 1 || strings.Contains(b.pkg, "$") || strings.HasSuffix(b.pkg, ".go") && b.pkg != "main.go" && path.Base(b.pkg) != "main.go" {
		return b, "", false
	}
	if strings.HasSuffix(b.pkg, ".go") {
		b.pkg = path.Dir(b.pkg)
	}
	if !strings.HasPrefix(b.pkg, ".") {
		if strings.Contains(strings.SplitN(b.pkg, "/", 2)[0], ".") {
			return b, "", false // another module
		}
		b.pkg = "./" + b.pkg
	}
	for _, kv := range cmd.env {
		if strings.HasPrefix(kv, "CGO_ENABLED=") {
			b.env = append(b.env, quote(kv))
		}
	}
	name := path.Base(path.Join(cmd.dir, b.pkg))
	switch {
	case w[1] == "install":
		return b, "/go/bin/" + name, true
	case o == "":
		return b, path.Join(cmd.dir, name), true
	case strings.HasSuffix(o, "/"):
		o += name
	}
	if !strings.HasPrefix(o, "/") {
		o = path.Join(cmd.dir, o)
	}
	return b, path.Clean(o), true
}

// flag takes a flag over, if it means something outside of the image.
func (b *built) flag(flag, value string, out *string) {
	switch {
	case flag == "-o":
		*out = value
	case flag == "-v" || flag == "-x" || flag == "-a" || flag == "-installsuffix" || flag == "-trimpath" || flag == "-buildvcs" || flag == "-p":
	case strings.ContainsAny(value, "$`") || flag == "-C":
		b.left = append(b.left, flag)
	case flag == "-ldflags" && strings.Contains(value, "-static"):
		b.left = append(b.left, flag)
	case value != "":
		b.flags = append(b.flags, flag+"="+quote(value))
	default:
		b.flags = append(b.flags, quote(flag))
	}
}

// goProcess makes a process of a go build, if the program finds beside itself what it finds in the image.
func (t *tree) goProcess(c component, img image, dir string, b built, s started, f *facts) string {
	pkg := path.Join(dir, b.pkg)
	if !t.isMain(pkg) {
		return fmt.Sprintf("'go build %s' in %s: %s has no package main", b.pkg, b.where, pkg)
	}
	if _, _, ok := t.module(dir); !ok {
		return fmt.Sprintf("'go build' in %s: there is no go.mod", b.where)
	}
	bin := "bin/" + c.name
	p := &process{dir: dir, artifacts: []string{bin}}
	p.build = goCommand(b, bin)
	p.command = s.with([]string{bin}, 1)
	p.reason = fmt.Sprintf("%s; go build in %s", s.where, b.where)
	if len(b.left) > 0 {
		p.reason += ", without its " + strings.Join(b.left, ", ")
	}
	for _, cp := range img.copies {
		file, why := besideProgram(c, img, cp, dir)
		if why != "" {
			return why
		}
		more := []string{file}
		if file == "." || strings.HasPrefix(imageName(img.base), "golang") {
			more = oftenRead
		}
		for _, name := range more {
			if name != "" && !slices.Contains(p.artifacts, name) && (t.isFile(path.Join(dir, name)) || t.isDir(path.Join(dir, name))) {
				p.artifacts = append(p.artifacts, name)
			}
		}
	}
	f.language, f.process, f.sources = "go", p, t.goSources(pkg)
	return ""
}

func goCommand(b built, bin string) string {
	parts := slices.Concat(b.env, []string{"go", "build", "-trimpath", "-buildvcs=false"}, b.flags, []string{"-o", quote(bin), quote(b.pkg)})
	return strings.Join(parts, " ")
}

// oftenCopied are parts of other systems that a minimal image needs and a machine has.
var oftenCopied = []string{"/etc/ssl", "/etc/passwd", "/etc/group", "/usr/share/zoneinfo", "/etc/ca-certificates", "/usr/share/ca-certificates", "/etc/nsswitch.conf", "/usr/local/share/ca-certificates", "/lib", "/usr/lib", "/usr/local/go"}

// oftenRead are folders that a Go program reads from where it runs, taken along where an image has all of the sources.
var oftenRead = []string{"templates", "static", "public", "views", "assets", "migrations", "locales"}

// besideProgram returns what a COPY of the final image puts beside the program, as the process finds it below dir; ""
// for what is not needed. Where it cannot be found there, it says why.
func besideProgram(c component, img image, cp copied, dir string) (file, why string) {
	if cp.image != "" || slices.ContainsFunc(oftenCopied, func(p string) bool { return below(cp.dst, p) }) {
		return "", ""
	}
	for _, src := range cp.src {
		name, ok := src, true
		if cp.from != nil {
			from := c.docker.image(cp.from, c.args)
			if name, ok = from.inContext(from.abs(src), nil); !ok {
				continue // made by the build, or of the system
			}
			if _, out, built := lastBuild(from); built && out == from.abs(src) {
				continue
			}
		}
		if img.base == "" {
			return "", ""
		}
		if path.Clean(name) == "." && below(cp.dst, img.workdir) {
			return ".", ""
		}
		dst := cp.dst
		if cp.dir || path.Base(cp.dst) != path.Base(name) && strings.Contains(path.Base(name), ".") && !strings.Contains(path.Base(cp.dst), ".") {
			dst = path.Join(cp.dst, path.Base(name))
		}
		in := path.Join(c.context, name)
		if !below(dst, img.workdir) || !below(in, dir) || relative(dst, img.workdir) != relative(in, dir) {
			return "", fmt.Sprintf("COPY in %s puts %s at %s, where a process would not find it", place(c.docker.name, cp.line), name, dst)
		}
		return relative(in, dir), ""
	}
	return "", ""
}

func lastBuild(img image) (built, string, bool) {
	for i := len(img.runs) - 1; i >= 0; i-- {
		for _, cmd := range simples(expand(img.runs[i].text, img.vars), img.runs[i].workdir) {
			if b, out, ok := goBuild(cmd); ok {
				return b, out, true
			}
		}
	}
	return built{}, "", false
}

// goRun makes a build of go run, so that what runs is one program that signals reach.
func (t *tree) goRun(c component, img image, s started, f *facts) string {
	dir, ok := img.dirInContext(img.workdir, nil)
	i := 2
	for i < len(s.argv) && strings.HasPrefix(s.argv[i], "-") {
		i++
	}
	if !ok || i >= len(s.argv) {
		return "'go run' in " + s.where + " does not say what it runs"
	}
	b, _, ok := goBuild(simple{words: []string{"go", "build", s.argv[i]}})
	if !ok {
		return "'go run' in " + s.where + " runs single files"
	}
	b.where = s.where
	one := started{argv: slices.Clone(s.argv[i:]), where: s.where}
	return t.goProcess(c, image{workdir: img.workdir}, path.Join(c.context, dir), b, one, f)
}

var packageMain = lazyregexp.New(`(?m)^package main\b`)

// isMain says that a folder holds a Go program.
func (t *tree) isMain(dir string) bool {
	for _, e := range t.list(dir) {
		if n := e.Name(); strings.HasSuffix(n, ".go") && !strings.HasSuffix(n, "_test.go") {
			if text, ok := t.read(path.Join(dir, n)); ok && packageMain.MatchString(text) {
				return true
			}
		}
	}
	return false
}

var moduleLine = lazyregexp.New(`(?m)^module\s+"?([^\s"]+)`)

// module returns the folder and path of the module that a folder belongs to.
func (t *tree) module(dir string) (root, name string, ok bool) {
	for d := dir; ; d = path.Dir(d) {
		if text, found := t.read(path.Join(d, "go.mod")); found {
			m := moduleLine.FindStringSubmatch(text)
			if m == nil {
				return "", "", false
			}
			return d, m[1], true
		}
		if d == "." || d == "/" {
			return "", "", false
		}
	}
}

// goSources returns the files of a package and of all of its module that it imports.
func (t *tree) goSources(pkg string) []string {
	root, name, _ := t.module(pkg)
	var files []string
	seen, queue := map[string]bool{pkg: true}, []string{pkg}
	for len(queue) > 0 && len(files) < maxEntries {
		p := once(t, "package of "+root, queue[0], func() goPackage { return t.goPackage(queue[0], root, name) })
		queue = queue[1:]
		files = append(files, p.files...)
		for _, inner := range p.imports {
			if !seen[inner] {
				seen[inner], queue = true, append(queue, inner)
			}
		}
	}
	return files
}

// goPackage is a folder of Go code: its files, and the folders of its module that they import.
type goPackage struct{ files, imports []string }

func (t *tree) goPackage(dir, root, name string) (p goPackage) {
	seen := map[string]bool{}
	for _, e := range t.list(dir) {
		file := path.Join(dir, e.Name())
		if !strings.HasSuffix(file, ".go") || strings.HasSuffix(file, "_test.go") {
			continue
		}
		text, ok := t.read(file)
		if !ok {
			continue
		}
		p.files = append(p.files, file)
		parsed, err := parser.ParseFile(token.NewFileSet(), "", text, parser.ImportsOnly)
		if err != nil || name == "" {
			continue
		}
		for _, imp := range parsed.Imports {
			from := strings.Trim(imp.Path.Value, "\"`")
			if inner := path.Join(root, relative(from, name)); below(from, name) && !seen[inner] {
				if seen[inner] = true; t.isDir(inner) {
					p.imports = append(p.imports, inner)
				}
			}
		}
	}
	return p
}
