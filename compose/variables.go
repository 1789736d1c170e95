package compose

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

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
	// The library reads the rest of a value again for every brace in it.
	if braces := strings.Count(text, "${"); braces > 1000 || braces*len(text) > 8<<20 {
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
	for _, file := range files {
		content, err := readLimited(file)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", file, err)
		}
		if err := boundedVariables(content, known); err != nil {
			return nil, fmt.Errorf("%s: %w", file, err)
		}
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

var variableUse = regexp.MustCompile(`\$\{?([A-Za-z_][A-Za-z0-9_]*)`)

// boundedVariables refuses a file whose variables double one another until memory ends. It is an upper bound made
// before the library reads the file.
func boundedVariables(content []byte, known environment) error {
	size := map[string]int{}
	total, key, open := 0, "", byte(0)
	for i, line := range strings.Split(string(content), "\n") {
		value := line
		if name, rest, ok := strings.Cut(line, "="); ok && open == 0 {
			key = strings.TrimSpace(strings.TrimPrefix(strings.TrimSpace(name), "export "))
			value = strings.TrimSpace(rest)
			size[key] = 0
			if value != "" && (value[0] == '"' || value[0] == '\'') {
				open = value[0]
				value = value[1:]
			}
		}
		if open != 0 && strings.IndexByte(value, open) >= 0 {
			open = 0
		}
		n := len(value)
		for _, use := range variableUse.FindAllStringSubmatch(value, -1) {
			n += size[use[1]] + len(known[use[1]])
			if n > maxFileSize {
				break
			}
		}
		size[key] += n
		if total += n; total > maxFileSize {
			return fmt.Errorf("line %d: the variables become larger than %d bytes", i+1, maxFileSize)
		}
	}
	return nil
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
