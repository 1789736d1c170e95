package detect

import (
	"path"
	"slices"
	"strconv"
	"strings"

	"trellis/compose"
	"trellis/lazyregexp"
)

func portNumber(text string) int {
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 || n > 65535 {
		return 0
	}
	return n
}

// tcpPorts are the TCP ports that the file says a service listens on.
func tcpPorts(s compose.Service) []int {
	var out []int
	add := func(n int) {
		if n > 0 && !slices.Contains(out, n) {
			out = append(out, n)
		}
	}
	for _, p := range s.Ports {
		if p.Protocol != "udp" {
			add(p.Target)
		}
	}
	for _, e := range s.Expose {
		add(portNumber(strings.TrimSuffix(e, "/tcp")))
	}
	return out
}

// portOf finds the port that a component listens on: what the file says, the image, the command, the code. Several of
// them are none.
func (t *tree) portOf(c component, f facts) port {
	switch ports := tcpPorts(c.service); {
	case len(ports) == 1:
		return port{ports[0], "ports or expose in the file"}
	case len(ports) > 1:
		return port{}
	}
	if c.docker != nil {
		img := c.docker.image(c.docker.final(c.target), c.args)
		switch {
		case len(img.expose) == 1:
			return img.expose[0]
		case len(img.expose) > 1:
			return port{}
		}
	}
	if n := portNumber(c.service.Environment["PORT"]); n > 0 {
		return port{n, "PORT in the environment"}
	}
	for _, v := range f.env {
		if n := portNumber(v.value); n > 0 && v.name == "PORT" {
			return port{n, "ENV PORT in " + v.where}
		}
	}
	if f.process != nil {
		if n := portOfCommand(f.process.command); n > 0 {
			return port{n, f.process.reason}
		}
	}
	return t.portInCode(f, c.others)
}

var commandPort = lazyregexp.New(`(?:^| )(?:--port[ =]|-p |--bind[ =]\S*:|-b \S*:|--listen[ =]\S*:|--http[ =]\S*:|--addr[ =]\S*:|-addr[ =]\S*:|-port[ =]|runserver \S*?:?)([0-9]{2,5})(?: |$)`)

func portOfCommand(argv []string) int {
	if m := commandPort.FindStringSubmatch(strings.Join(argv, " ")); m != nil {
		return portNumber(m[1])
	}
	return 0
}

// listening are the ways in which code names the port it listens on, by language.
var listening = map[string][]*lazyregexp.Regexp{
	"go": {
		lazyregexp.New(`ListenAndServe(?:TLS)?\(\s*"[^":]*:([0-9]+)"`),
		lazyregexp.New(`\bAddr:\s*"[^":]*:([0-9]+)"`),
		lazyregexp.New(`net\.Listen\(\s*"tcp[46]?",\s*"[^":]*:([0-9]+)"`),
		lazyregexp.New(`\.(?:Run|Start|Listen)\(\s*"[^":]*:([0-9]+)"`),
		lazyregexp.New(`(?i)\b(?:flag\.String|cmp\.Or|getenv|envOr|env|getEnv)\([^)\n]*(?:addr|port|listen)[^)\n]*\)?,\s*"(?:[^":]*:)?([0-9]{2,5})"`),
		lazyregexp.New(`Getenv\("PORT"\)(?:[^\n]*\n){1,4}?[^\n]*"(?:[^":\n]*:)?([0-9]{2,5})"`),
	},
	"node": {
		lazyregexp.New(`process\.env\.[A-Z_]*PORT\s*(?:\|\||\?\?)\s*['"]?([0-9]{2,5})`),
		lazyregexp.New(`\.listen\(\s*([0-9]{2,5})\b`),
		lazyregexp.New(`(?i)\bport\s*[:=]\s*['"]?([0-9]{2,5})\b`),
	},
	"python": {
		lazyregexp.New(`(?:\.run|serve|run_simple|TCPServer|HTTPServer)\([^\n]*?(?:port\s*=\s*|,\s*)([0-9]{2,5})\b`),
		lazyregexp.New(`environ(?:\.get\(|\[)\s*['"]PORT['"],\s*['"]?([0-9]{2,5})`),
		lazyregexp.New(`(?:HTTPServer|TCPServer)\(\(\s*['"][^'"]*['"],\s*([0-9]{2,5})\s*\)`),
	},
}

var suffixes = map[string][]string{
	"go": {".go"}, "node": {".js", ".mjs", ".cjs", ".ts", ".mts"}, "python": {".py"},
}

const maxCodeFiles = 2000

// code calls fn for the files of a component's code, up to some number.
func (t *tree) code(f facts, others []string, fn func(file, text string)) {
	count := 0
	visit := func(file string) bool {
		if slices.Contains(suffixes[f.language], path.Ext(file)) && !strings.Contains(path.Base(file), ".test.") && !strings.Contains(path.Base(file), ".spec.") &&
			!strings.HasPrefix(path.Base(file), "test_") && !strings.HasSuffix(file, "_test.go") {
			if text, ok := t.read(file); ok {
				fn(file, text)
			}
			count++
		}
		return count < maxCodeFiles
	}
	for _, s := range f.sources {
		if t.isDir(s) {
			t.walk(s, others, visit)
		} else {
			visit(s)
		}
	}
}

// portInCode finds the one port that code listens on.
func (t *tree) portInCode(f facts, others []string) port {
	var found []port
	t.code(f, others, func(file, text string) {
		for _, p := range once(t, "ports in "+f.language, file, func() []port { return portsIn(f.language, file, text) }) {
			if !slices.ContainsFunc(found, func(other port) bool { return other.number == p.number }) {
				found = append(found, p)
			}
		}
	})
	if len(found) == 1 {
		return found[0]
	}
	return port{}
}

// portsIn finds the ports that a file listens on.
func portsIn(language, file, text string) (found []port) {
	for _, re := range listening[language] {
		for _, m := range re.FindAllStringSubmatchIndex(text, 16) {
			if n := portNumber(text[m[2]:m[3]]); n > 0 {
				found = append(found, port{n, "the code listens on it, " + place(file, lineAt(text, m[2]))})
			}
		}
	}
	return found
}
