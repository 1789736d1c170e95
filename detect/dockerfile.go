package detect

import (
	"encoding/json"
	"maps"
	"path"
	"strings"

	"trellis/lazyregexp"
)

// dockerfile is a Dockerfile as far as it says what runs. Instructions that it does not need are read and left alone.
type dockerfile struct {
	name   string
	stages []*stage
	args   map[string]string // those before the first FROM
}

// stage is one FROM with what follows.
type stage struct {
	name, from string
	base       *stage // nil: from is an image
	code       []instruction
}

// instruction is one instruction, its continued lines joined.
type instruction struct {
	line  int
	name  string // in capitals
	flags []string
	rest  string
	list  []string // of the JSON form; nil: it is in shell form
}

const (
	maxInstructions = 2000
	maxStages       = 100
	// maxExpanded is how many bytes of variables one text gets: each variable may hold others several times.
	maxExpanded = 4096
)

var (
	directive = lazyregexp.New(`(?i)^#\s*escape\s*=\s*(\S)\s*$`)
	heredoc   = lazyregexp.New(`<<-?["']?([A-Za-z_][A-Za-z0-9_]*)["']?`)
	reference = lazyregexp.New(`\$(\{([A-Za-z_][A-Za-z0-9_]*)(?::([-+])([^}]*))?\}|([A-Za-z_][A-Za-z0-9_]*))`)
)

// parseDockerfile reads a Dockerfile. What is no instruction is passed over: the image's builder will complain.
func parseDockerfile(name, text string) *dockerfile {
	d := &dockerfile{name: name, args: map[string]string{}}
	lines := strings.Split(strings.ReplaceAll(strings.TrimPrefix(text, "\ufeff"), "\r\n", "\n"), "\n")
	escape := `\`
	for _, line := range lines {
		if m := directive.FindStringSubmatch(line); m != nil {
			escape = m[1]
		} else if !strings.HasPrefix(line, "#") {
			break
		}
	}
	count := 0
	for i := 0; i < len(lines) && count < maxInstructions; {
		start := i
		var joined string
		joined, i = logicalLine(lines, i, escape)
		if joined == "" {
			continue
		}
		ins := instructionOf(joined, start+1)
		if ins.name == "RUN" || ins.name == "COPY" {
			var body string
			if body, i = heredocs(ins.rest, lines, i); ins.name == "RUN" && body != "" {
				ins.rest = body
			}
		}
		count++
		d.add(ins)
	}
	return d
}

// logicalLine joins a line with those it is continued by; comments in between are left out.
func logicalLine(lines []string, i int, escape string) (string, int) {
	var b strings.Builder
	for i < len(lines) {
		line := strings.TrimRight(lines[i], " \t")
		i++
		if trimmed := strings.TrimSpace(line); strings.HasPrefix(trimmed, "#") || trimmed == "" {
			if b.Len() == 0 {
				return "", i
			}
			continue
		}
		more := strings.HasSuffix(line, escape)
		b.WriteString(strings.TrimSuffix(line, escape))
		if !more {
			break
		}
		b.WriteByte(' ')
	}
	return strings.TrimSpace(b.String()), i
}

// heredocs skips the here-documents of an instruction and returns the content of the only one of a RUN.
func heredocs(rest string, lines []string, i int) (string, int) {
	var body strings.Builder
	for _, m := range heredoc.FindAllStringSubmatch(rest, 8) {
		for i < len(lines) && strings.TrimLeft(lines[i], "\t") != m[1] {
			body.WriteString(lines[i] + "\n")
			i++
		}
		i++
	}
	return body.String(), min(i, len(lines))
}

func instructionOf(line string, number int) instruction {
	name, rest, _ := strings.Cut(strings.Replace(line, "\t", " ", 1), " ")
	ins := instruction{line: number, name: strings.ToUpper(name), rest: strings.TrimSpace(rest)}
	for strings.HasPrefix(ins.rest, "--") {
		flag, after, _ := strings.Cut(ins.rest, " ")
		ins.flags, ins.rest = append(ins.flags, flag), strings.TrimSpace(after)
	}
	if strings.HasPrefix(ins.rest, "[") {
		var list []string
		if json.Unmarshal([]byte(ins.rest), &list) == nil && list != nil {
			ins.list = list
		}
	}
	return ins
}

func (d *dockerfile) add(ins instruction) {
	if ins.name == "FROM" {
		if len(d.stages) == maxStages {
			return
		}
		words := strings.Fields(ins.rest)
		s := &stage{}
		if len(words) > 0 {
			s.from = expand(words[0], d.args)
			s.base = d.stage(s.from)
		}
		if len(words) > 2 && strings.EqualFold(words[1], "as") {
			s.name = words[2]
		}
		d.stages = append(d.stages, s)
		return
	}
	if len(d.stages) == 0 {
		if ins.name == "ARG" {
			assign(d.args, ins.rest, d.args)
		}
		return
	}
	last := d.stages[len(d.stages)-1]
	last.code = append(last.code, ins)
}

// stage returns the stage of a name or number, nil where there is none.
func (d *dockerfile) stage(name string) *stage {
	for i := len(d.stages) - 1; i >= 0; i-- {
		if strings.EqualFold(d.stages[i].name, name) && name != "" || name == string(rune('0'+i)) && i < 10 {
			return d.stages[i]
		}
	}
	return nil
}

// final returns the stage that is built; nil where there is none.
func (d *dockerfile) final(target string) *stage {
	if target != "" {
		return d.stage(target)
	}
	if len(d.stages) == 0 {
		return nil
	}
	return d.stages[len(d.stages)-1]
}

// flag returns the value of --name=value.
func (ins instruction) flag(name string) string {
	for _, f := range ins.flags {
		if v, ok := strings.CutPrefix(f, "--"+name+"="); ok {
			return v
		}
	}
	return ""
}

// assign reads NAME=value pairs, or NAME value, into vars.
func assign(vars map[string]string, text string, with map[string]string) []string {
	var names []string
	words, err := words(text)
	if err != nil {
		return nil
	}
	if len(words) > 0 && !strings.Contains(words[0], "=") {
		if len(words) > 1 {
			vars[words[0]] = expand(strings.Join(words[1:], " "), with)
			return []string{words[0]}
		}
		return nil
	}
	for _, w := range words {
		if name, value, ok := strings.Cut(w, "="); ok {
			vars[name] = expand(value, with)
			names = append(names, name)
		}
	}
	return names
}

// expand replaces variables. One that is not known stays, so that whoever reads on sees a dollar and knows that; so does what
// would make the text too large.
func expand(text string, vars map[string]string) string {
	left := maxExpanded
	return reference.ReplaceAllStringFunc(text, func(ref string) string {
		m := reference.FindStringSubmatch(ref)
		v, ok := vars[m[2]+m[5]]
		switch {
		case m[3] == "-" && v == "":
			return m[4]
		case m[3] == "+" && v != "":
			return m[4]
		case m[3] == "+":
			return ""
		case !ok:
			return ref
		}
		if left -= len(v); left < 0 {
			return ref
		}
		return v
	})
}

// image is what a stage comes to.
type image struct {
	file       *dockerfile
	base       string // the image at the bottom
	workdir    string
	vars       map[string]string // ARG and ENV
	env        []variable
	entry, cmd command
	expose     []port
	health     command
	copies     []copied
	runs       []run
	user, stop variable // USER and STOPSIGNAL
}

// command is what an instruction runs.
type command struct {
	argv  []string // nil: nothing
	shell bool     // argv is one line for a shell
	line  int
}

// copied is a COPY or ADD, with absolute paths in the image.
type copied struct {
	from  *stage // nil: the context, or another image
	image string // another image
	src   []string
	dst   string
	dir   bool // dst is surely a folder
	line  int
}

// run is one RUN.
type run struct {
	text    string
	workdir string
	binds   []copied // what is mounted while it runs
	line    int
}

// image reads a stage and those below it.
func (d *dockerfile) image(s *stage, args map[string]string) image {
	img := image{file: d, workdir: "/", vars: map[string]string{}}
	if s == nil {
		return img
	}
	if s.base != nil && s.base != s {
		img = d.image(s.base, args)
		img.vars = maps.Clone(img.vars)
	} else {
		img.base = s.from
	}
	for _, ins := range s.code {
		img.take(ins, args)
	}
	return img
}

func (img *image) take(ins instruction, args map[string]string) {
	switch ins.name {
	case "ARG":
		img.arg(ins.rest, args)
	case "ENV":
		for _, name := range assign(img.vars, ins.rest, img.vars) {
			img.env = append(img.env, variable{name, img.vars[name], place(img.file.name, ins.line)})
		}
	case "WORKDIR":
		img.workdir = img.abs(ins.rest)
	case "USER":
		img.user = variable{"user", expand(ins.rest, img.vars), place(img.file.name, ins.line)}
	case "STOPSIGNAL":
		img.stop = variable{"stop_signal", expand(ins.rest, img.vars), place(img.file.name, ins.line)}
	case "EXPOSE":
		for _, w := range strings.Fields(expand(ins.rest, img.vars)) {
			if n := portNumber(strings.TrimSuffix(w, "/tcp")); n > 0 {
				img.expose = append(img.expose, port{n, "EXPOSE in " + place(img.file.name, ins.line)})
			}
		}
	case "ENTRYPOINT":
		img.entry, img.cmd = img.command(ins), command{}
	case "CMD":
		img.cmd = img.command(ins)
	case "HEALTHCHECK":
		kind, rest, _ := strings.Cut(ins.rest, " ")
		img.health = command{line: ins.line}
		if strings.EqualFold(kind, "CMD") {
			img.health = img.command(instructionOf("CMD "+rest, ins.line))
		}
	case "COPY", "ADD":
		if c, ok := img.copied(ins); ok {
			img.copies = append(img.copies, c)
		}
	case "RUN":
		text := ins.rest
		if ins.list != nil {
			text = strings.Join(ins.list, " ")
		}
		img.runs = append(img.runs, run{text, img.workdir, img.binds(ins), ins.line})
	}
}

func (img *image) arg(text string, args map[string]string) {
	name, _, set := strings.Cut(text, "=")
	if given, ok := args[name]; ok {
		img.vars[name] = given
	} else if set {
		assign(img.vars, text, img.vars)
	} else if global, ok := img.file.args[name]; ok {
		img.vars[name] = global
	}
}

func (img *image) command(ins instruction) command {
	if ins.list != nil {
		return command{ins.list, false, ins.line}
	}
	return command{[]string{ins.rest}, true, ins.line}
}

func (img image) abs(p string) string {
	p = expand(strings.Trim(p, `"'`), img.vars)
	if !strings.HasPrefix(p, "/") {
		p = path.Join(img.workdir, p)
	}
	return path.Clean(p)
}

func (img *image) copied(ins instruction) (copied, bool) {
	list := ins.list
	if list == nil {
		list = strings.Fields(ins.rest)
	}
	if len(list) < 2 || heredoc.MatchString(ins.rest) {
		return copied{}, false
	}
	dst := expand(list[len(list)-1], img.vars)
	c := copied{dst: img.abs(dst), line: ins.line, dir: strings.HasSuffix(dst, "/") || dst == "." || len(list) > 2}
	for _, s := range list[:len(list)-1] {
		c.src = append(c.src, expand(s, img.vars))
	}
	if from := ins.flag("from"); from != "" {
		if c.from = img.file.stage(expand(from, img.vars)); c.from == nil {
			c.image = from
		}
	}
	return c, true
}

// binds are the mounts of a RUN that show the context.
func (img *image) binds(ins instruction) []copied {
	var out []copied
	for _, f := range ins.flags {
		spec, ok := strings.CutPrefix(f, "--mount=")
		if !ok {
			continue
		}
		m := map[string]string{}
		for _, kv := range strings.Split(spec, ",") {
			k, v, _ := strings.Cut(kv, "=")
			m[k] = v
		}
		target := m["target"] + m["dst"] + m["destination"]
		if (m["type"] == "" || m["type"] == "bind") && m["from"] == "" && target != "" {
			src := m["source"] + m["src"]
			if src == "" {
				src = "."
			}
			out = append(out, copied{src: []string{src}, dst: img.abs(target), line: ins.line})
		}
	}
	return out
}
