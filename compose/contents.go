package compose

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"sort"
)

// maxContent is what one secret or config may hold: twice what Docker allows for secrets, so that nothing that runs
// there is refused.
const maxContent = 1 << 20

// Contents reads the content of every secret and config that has a source, keyed "secrets/NAME" and "configs/NAME".
// environ (KEY=value; nil: os.Environ()) is what sources of the kind environment are taken from, before the project's
// environment files. External ones have no content here. The error, of type Diagnostics, names every file and variable
// that could not be read, and holds no content.
func Contents(p Project, environ []string) (map[string][]byte, error) {
	if environ == nil {
		environ = os.Environ()
	}
	env := variables(environ)
	var problems Diagnostics
	if vars, err := readEnvFiles(p.EnvFiles, env); err != nil {
		problems = append(problems, Diagnostic{Message: fmt.Sprintf("the variables cannot be read: %v", err)})
	} else {
		env = env.under(vars)
	}
	out := map[string][]byte{}
	for _, section := range []struct {
		name   string
		values map[string]FileValue
	}{{"secrets", p.Secrets}, {"configs", p.Configs}} {
		names := make([]string, 0, len(section.values))
		for name := range section.values {
			names = append(names, name)
		}
		sort.Strings(names)
		for _, name := range names {
			v := section.values[name]
			if v.External || (v.File == "" && v.Environment == "" && v.Content == "") {
				continue
			}
			content, err := v.read(env)
			if err == nil && len(content) > maxContent {
				err = fmt.Errorf("has %d bytes: at most %d are allowed; mount it as a volume", len(content), maxContent)
			}
			if err != nil {
				d := Diagnostic{Path: JoinPath(section.name, name), Message: err.Error()}
				d.File, d.Line, d.Column = p.Positions.short(d.Path)
				problems = append(problems, d)
				continue
			}
			out[section.name+"/"+name] = content
		}
	}
	if len(problems) > 0 {
		return nil, problems
	}
	return out, nil
}

// RuleFiles is Contents of the configs that hold alert rules alone.
func RuleFiles(p Project, environ []string) (map[string][]byte, error) {
	if p.Trellis.Alerts == nil {
		return nil, nil
	}
	rules := p
	rules.Secrets, rules.Configs = nil, map[string]FileValue{}
	for _, name := range p.Trellis.Alerts.Rules {
		rules.Configs[name] = p.Configs[name]
	}
	return Contents(rules, environ)
}

func (v FileValue) read(env environment) ([]byte, error) {
	switch {
	case v.File != "":
		content, err := readLimited(v.File)
		if errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("the file %s does not exist: create it", v.File)
		}
		if err != nil {
			return nil, fmt.Errorf("the file %s cannot be read: %w", v.File, err)
		}
		return content, nil
	case v.Environment != "":
		value, ok := env[v.Environment]
		if !ok {
			return nil, fmt.Errorf("the variable %s is not set: set it in the environment or in .env", v.Environment)
		}
		return []byte(value), nil
	}
	return []byte(v.Content), nil
}
