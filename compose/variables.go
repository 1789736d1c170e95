package compose

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"unicode"

	"github.com/compose-spec/compose-go/v2/dotenv"
	"github.com/compose-spec/compose-go/v2/template"
	"go.yaml.in/yaml/v4"
)

// environment are the variables that a file may use.
type environment map[string]string

// under returns e with the variables of a file added that e does not have.
func (e environment) under(more map[string]string) environment {
	out := make(environment, len(e)+len(more))
	for k, v := range more {
		out[k] = v
	}
	for k, v := range e {
		out[k] = v
	}
	return out
}

// substitute replaces the variables of one value and says whether there were any.
func (l *loading) substitute(text string, src *source, n *yaml.Node, path string) (string, bool) {
	if !strings.Contains(text, "$") {
		return text, false
	}
	if tooManyUses(text) {
		l.errorAt(src.path, n.Line, n.Column, path, "too many variables in one value of %d bytes: take it apart", len(text))
		return text, true
	}
	unset := false
	mapping := func(name string) (string, bool) {
		v, ok := src.env[name]
		unset = unset || !ok
		if l.expanded += len(v); l.expanded > maxExpansion {
			return "", ok
		}
		return v, ok
	}
	out, err := template.SubstituteWithOptions(text, mapping, template.WithPattern(template.DefaultPattern), template.WithoutLogging)
	if l.expanded > maxExpansion {
		if !l.expandedTooFar {
			l.errorAt(src.path, n.Line, n.Column, path, "variables make the project larger than %d bytes: it is refused", maxExpansion)
		}
		l.expandedTooFar = true
		return "", true
	}
	if err != nil {
		l.errorAt(src.path, n.Line, n.Column, path, "%s", substituteMessage(text, err))
		return text, true
	}
	if unset {
		l.warnUnset(text, src, n, path)
	}
	return out, true
}

func substituteMessage(text string, err error) string {
	var missing *template.MissingRequiredError
	if errors.As(err, &missing) {
		m := fmt.Sprintf("the variable %s is required and not set", missing.Variable)
		if missing.Reason != "" {
			m += ": " + missing.Reason
		}
		return m + ": set it in the environment or in .env"
	}
	return fmt.Sprintf("%q is not a valid use of variables: write ${NAME}, or $$ for a dollar sign", cut(text, 80))
}

// warnUnset says once for each variable that it is not set, where the file gives it no default.
func (l *loading) warnUnset(text string, src *source, n *yaml.Node, path string) {
	otherwise := map[string]bool{}
	for _, use := range variableDefault.FindAllStringSubmatch(text, -1) {
		otherwise[use[1]] = true
	}
	for name, v := range template.ExtractVariables(map[string]any{"value": text}, template.DefaultPattern) {
		if _, set := src.env[name]; set || v.DefaultValue != "" || v.PresenceValue != "" || v.Required || l.unset[name] || otherwise[name] {
			continue
		}
		l.unset[name] = true
		l.warnAt(src.path, n.Line, n.Column, path,
			"the variable %s is not set and becomes an empty string: set it, or give it a default with ${%s:-value}", name, name)
	}
}

// readEnvFiles reads files of variables; known variables may be used in them, and win.
func readEnvFiles(files []string, known environment) (map[string]string, error) {
	files = slices.DeleteFunc(slices.Clone(files), func(f string) bool { return f == os.DevNull })
	read, readable := map[string]string{}, true
	for _, file := range files {
		content, err := readLimited(file)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", file, err)
		}
		ok, err := boundedVariables(content, read, known)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", file, err)
		}
		readable = readable && ok
	}
	if readable {
		return read, nil
	}
	vars, err := dotenv.GetEnvFromFile(known, files)
	if err != nil {
		return nil, maskLine(err)
	}
	return vars, nil
}

// maskLine cuts what the parser quotes from the file: it may be a secret.
func maskLine(err error) error {
	text, _, _ := strings.Cut(err.Error(), "\n")
	return errors.New(quotedRest.ReplaceAllString(text, "..."))
}

var quotedRest = regexp.MustCompile(`(?:"|\bvalue ').*`)

// variableDefault is the begin of a use that says what counts where the variable is not set, be it nothing.
var variableDefault = regexp.MustCompile(`(?i)\$\{([_a-z][_a-z0-9]*):?[-+?]`)

// boundedVariables reads a file of variables as the library will, and adds them to vars. It refuses one whose variables double one
// another until memory ends: the library is handed one statement at a time, and no more for the variables it uses than there is room
// for. Variables of known win over those of the file. Not ok: the library refuses the file, and says why.
func boundedVariables(content []byte, vars map[string]string, known ...environment) (ok bool, err error) {
	room, left := maxFileSize, 0 // for the values of the file, and for what one of them uses
	lookup := func(name string) (value string, ok bool) {
		for _, env := range append(known[:len(known):len(known)], vars) {
			if value, ok = env[name]; ok {
				break
			}
		}
		if left -= len(value); left < 0 {
			return "", true
		}
		return value, ok
	}
	line := 1
	for rest := strings.TrimPrefix(string(content), "\ufeff"); ; {
		begin := afterBlanks(rest)
		if line += strings.Count(rest[:len(rest)-len(begin)], "\n"); begin == "" {
			return true, nil
		}
		var one string
		one, rest = statement(begin)
		if tooManyUses(one) {
			return false, fmt.Errorf("line %d: too many variables in one value of %d bytes: take it apart", line, len(one))
		}
		left = room
		set, err := dotenv.UnmarshalWithLookup(one, lookup)
		for name, value := range set {
			vars[name] = value
			room -= len(value)
		}
		if left < 0 || room < 0 {
			return false, fmt.Errorf("line %d: the variables become larger than %d bytes", line, maxFileSize)
		}
		if err != nil {
			return false, nil
		}
		line += strings.Count(one, "\n")
	}
}

// tooManyUses says that a value has so many variables that the library, which reads the rest again for every brace in it, would take
// minutes. In double quotes any character may be written by its number.
func tooManyUses(value string) bool {
	braces := strings.Count(value, "${") + strings.Count(value, `$\`) + strings.Count(value, `\0044`)
	return braces > 1000 || braces*len(value) > 8<<20
}

// afterBlanks returns the text from its first statement on, without the blank lines and comments before it.
func afterBlanks(text string) string {
	for {
		if text = strings.TrimLeftFunc(text, unicode.IsSpace); !strings.HasPrefix(text, "#") {
			return text
		}
		_, text, _ = strings.Cut(text, "\n")
	}
}

// statement takes the first statement off a text that begins with one. Like the library it knows KEY=value, KEY: value and KEY, and
// values in quotes that go over lines.
func statement(text string) (first, rest string) {
	end := strings.IndexAny(text, "=:\n")
	if end < 0 {
		return text, ""
	}
	if rest = text[end+1:]; text[end] != '\n' {
		rest = strings.TrimLeft(rest, "\t\v\f\r \u0085\u00a0")
		if rest != "" && (rest[0] == '"' || rest[0] == '\'') {
			rest = afterQuotes(rest)
		} else {
			_, rest, _ = strings.Cut(rest, "\n")
		}
	}
	return text[:len(text)-len(rest)], rest
}

// afterQuotes returns what follows the quoted value that a text begins with, "" where the quotes are not closed.
func afterQuotes(text string) string {
	for i := 1; i < len(text); i++ {
		switch text[i] {
		case '\\':
			i++
		case text[0]:
			return text[i+1:]
		}
	}
	return ""
}

func controlCharacter(s string) string {
	for _, r := range s {
		if r < ' ' || r == 0x7f || (r >= 0x80 && r < 0xa0) || r == 0x2028 || r == 0x2029 {
			return fmt.Sprintf("%U", r)
		}
	}
	return ""
}

func nul(s string) bool { return strings.IndexByte(s, 0) >= 0 }

func cut(s string, n int) string {
	if len(s) <= n {
		return s
	}
	return strings.ToValidUTF8(s[:n], "") + "..."
}

func absolute(path, dir string) string {
	if filepath.IsAbs(path) {
		return filepath.Clean(path)
	}
	return filepath.Join(dir, path)
}
