package detect

import (
	"fmt"
	"path"
	"strings"

	"github.com/mattn/go-shellwords"

	"trellis/lazyregexp"
)

// maxCommand is how many bytes of a command are taken apart: the parser's time grows with the square of a word's length, and takes
// minutes for what some images have, a file in base64.
const maxCommand = 4096

// words takes a simple command apart as a shell does, variables left as they are.
func words(text string) (list []string, err error) {
	if len(text) > maxCommand {
		return nil, fmt.Errorf("%d bytes are too long for a command", len(text))
	}
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("not understood: %v", r)
		}
	}()
	p := shellwords.NewParser()
	p.ParseEnv, p.ParseBacktick = false, false
	list, err = p.Parse(text)
	if err == nil && p.Position >= 0 {
		return nil, fmt.Errorf("more than one command")
	}
	return list, err
}

// simple is one command of a shell script.
type simple struct {
	env   []string // NAME=value before it
	words []string
	dir   string // where it runs
}

var assignment = lazyregexp.New(`^[A-Za-z_][A-Za-z0-9_]*=`)

// simples returns the simple commands of a script that are run in any case, with cd followed. What it does not
// understand is left out.
func simples(script, dir string) []simple {
	var out []simple
	for _, part := range splitScript(script) {
		list, err := words(part)
		if err != nil {
			continue
		}
		s := simple{dir: dir}
		for len(list) > 0 && assignment.MatchString(list[0]) {
			s.env, list = append(s.env, list[0]), list[1:]
		}
		if len(list) == 0 {
			continue
		}
		if list[0] == "cd" && len(list) == 2 {
			if dir = list[1]; !strings.HasPrefix(dir, "/") {
				dir = path.Join(s.dir, dir)
			}
			continue
		}
		s.words = list
		out = append(out, s)
	}
	return out
}

// splitScript splits at && and ; and line ends outside of quotes.
func splitScript(script string) []string {
	var parts []string
	quote, start := byte(0), 0
	for i := 0; i < len(script); i++ {
		c := script[i]
		switch {
		case c == '\\':
			i++
		case quote != 0:
			if c == quote {
				quote = 0
			}
		case c == '"' || c == '\'':
			quote = c
		case c == ';' || c == '\n' || c == '&' && i+1 < len(script) && script[i+1] == '&':
			parts = append(parts, script[start:i])
			if c == '&' {
				i++
			}
			start = i + 1
		}
	}
	return append(parts, script[start:])
}

// place names a line of a file.
func place(file string, line int) string { return fmt.Sprintf("%s:%d", file, line) }

// plainWords returns the words of a shell command line that needs no shell; false where it does.
func plainWords(line string) ([]string, bool) {
	if strings.ContainsAny(line, "|&;<>()`$*?~\n") {
		return nil, false
	}
	list, err := words(line)
	if err != nil || len(list) == 0 || assignment.MatchString(list[0]) {
		return nil, false
	}
	return list, true
}

var needsNoQuotes = lazyregexp.New(`^[A-Za-z0-9_./=,:@%+-]+$`)

// quote writes a word for a shell.
func quote(word string) string {
	if needsNoQuotes.MatchString(word) {
		return word
	}
	return "'" + strings.ReplaceAll(word, "'", `'\''`) + "'"
}

// quoteAll writes words as a command line for a shell.
func quoteAll(list []string) string {
	out := make([]string, len(list))
	for i, w := range list {
		out[i] = quote(w)
	}
	return strings.Join(out, " ")
}
