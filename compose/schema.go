package compose

import (
	"fmt"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/compose-spec/compose-go/v2/schema"
	"github.com/santhosh-tekuri/jsonschema/v6"
	"github.com/santhosh-tekuri/jsonschema/v6/kind"
	"github.com/xhit/go-str2duration/v2"
	"golang.org/x/text/language"
	"golang.org/x/text/message"
)

// specification is the JSON Schema of the Compose specification, compiled for all its errors and raw for the keys it
// knows.
type specification struct {
	compiled *jsonschema.Schema
	raw      map[string]any
	err      error
}

// spec is made once: it never changes, and takes some milliseconds.
var spec = sync.OnceValue(readSpecification)

func readSpecification() specification {
	doc, err := jsonschema.UnmarshalJSON(strings.NewReader(schema.Schema))
	if err != nil {
		return specification{err: err}
	}
	s := specification{raw: doc.(map[string]any)}
	c := jsonschema.NewCompiler()
	c.RegisterFormat(&jsonschema.Format{Name: "duration", Validate: func(v any) error {
		if text, ok := v.(string); ok {
			_, err := str2duration.ParseDuration(text)
			return err
		}
		return nil
	}})
	if s.err = c.AddResource(specAddress, doc); s.err == nil {
		s.compiled, s.err = c.Compile(specAddress)
	}
	return s
}

// specAddress is a whole address: a name alone would be resolved against the working directory, which may not make an
// address, as with a "%" in its name. What stands below this one the library does not hold against the schema of schemas:
// that took each command 8 ms, of a schema that never changes. TestSpecificationIsASchema does it.
const specAddress = "https://json-schema.org/compose-spec.json"

// validate reports everything in a document that the schema of the Compose specification forbids, and remembers the
// places, so that a second look can leave them out.
func (l *loading) validate(m *mark) {
	l.validateValue(m, m.plain(nil))
}

// validateBase validates a service that is extended: of the file it stands in, nothing else counts.
func (l *loading) validateBase(services *mark, section, name string) {
	base := services.fields[name]
	key := services.file() + "\x00" + section + "\x00" + name
	if base == nil || l.validated[key] {
		return
	}
	l.validated[key] = true
	one := &mark{src: services.src, kind: mappingMark, fields: map[string]*mark{name: base}}
	root := &mark{src: services.src, kind: mappingMark, fields: map[string]*mark{section: one}}
	l.validateValue(root, root.plain(nil))
}

func (l *loading) validateValue(m *mark, value any) {
	s := spec()
	if s.err != nil {
		l.errorAt(m.file(), 0, 0, "", "the schema of Compose cannot be read: %v", s.err)
		return
	}
	err := s.compiled.Validate(value)
	failed, ok := err.(*jsonschema.ValidationError)
	if !ok {
		if err != nil {
			l.errorAt(m.file(), 0, 0, "", "%v", err)
		}
		return
	}
	seen := map[string]bool{}
	for _, e := range leaves(failed) {
		for _, p := range s.problems(e) {
			if text := strings.Join(p.at, "\x00") + "\x00" + p.message; !seen[text] {
				seen[text] = true
				l.report(m, p)
			}
		}
	}
}

// problem is one thing that the schema forbids.
type problem struct {
	at      []string
	key     bool // it is the key that is wrong, not its value
	twice   bool // an element stands in a list twice
	message string
}

func (l *loading) report(m *mark, p problem) {
	path := ""
	for _, segment := range p.at {
		next := m.child(segment)
		if m.kind == listMark {
			next = m.child("[" + segment + "]")
			path += "[" + segment + "]"
		} else {
			path = JoinPath(path, segment)
		}
		if next == nil {
			break
		}
		m = next
	}
	switch {
	case p.key:
		l.errorKey(m, path, "%s", p.message)
		return
	case p.twice && (isKeyValues(p.at) || onceOnly(p.at)):
		line, col := m.place()
		l.warnAt(m.file(), line, col, path, "%s", p.message)
		return
	}
	l.errorMark(m, path, "%s", p.message)
}

// leaves returns the causes that say what is wrong. Where a value may have one of several forms, those of the form
// that it comes closest to.
func leaves(e *jsonschema.ValidationError) []*jsonschema.ValidationError {
	if len(e.Causes) == 0 {
		return []*jsonschema.ValidationError{e}
	}
	_, one := e.ErrorKind.(*kind.OneOf)
	_, some := e.ErrorKind.(*kind.AnyOf)
	var all, best []*jsonschema.ValidationError
	deepest, types := -1, true
	for _, c := range e.Causes {
		branch := leaves(c)
		all = append(all, branch...)
		depth := 0
		for _, leaf := range branch {
			d := 2 * len(leaf.InstanceLocation)
			if _, unknown := leaf.ErrorKind.(*kind.AdditionalProperties); unknown {
				d++
			}
			_, isType := leaf.ErrorKind.(*kind.Type)
			types = types && isType && len(leaf.InstanceLocation) == len(e.InstanceLocation)
			if !isType {
				d++
			}
			depth = max(depth, d)
		}
		if depth > deepest {
			deepest, best = depth, branch
		}
	}
	if !one && !some {
		return all
	}
	if !types {
		return best
	}
	merged := *all[0]
	want := &kind.Type{Got: all[0].ErrorKind.(*kind.Type).Got}
	for _, leaf := range all {
		want.Want = append(want.Want, leaf.ErrorKind.(*kind.Type).Want...)
	}
	merged.ErrorKind = want
	return []*jsonschema.ValidationError{&merged}
}

// problems says in plain words what a leaf of the schema's verdict means.
func (s specification) problems(e *jsonschema.ValidationError) []problem {
	at := e.InstanceLocation
	plain := func(format string, args ...any) []problem {
		return []problem{{at: at, message: fmt.Sprintf(format, args...)}}
	}
	switch k := e.ErrorKind.(type) {
	case *kind.FalseSchema:
		if len(at) == 0 {
			return plain("is not allowed")
		}
		return s.unknown(at[:len(at)-1], at[len(at)-1])
	case *kind.AdditionalProperties:
		var out []problem
		for _, name := range k.Properties {
			out = append(out, s.unknown(at, name)...)
		}
		return out
	case *kind.Type:
		return plain("must be a %s, not a %s", anyOf(k.Want), typeName(k.Got))
	case *kind.Required:
		return plain("%s is missing", strings.Join(k.Missing, ", "))
	case *kind.Enum:
		var want []string
		for _, w := range k.Want {
			want = append(want, fmt.Sprint(w))
		}
		got := fmt.Sprint(k.Got)
		return plain("%s is not known%s", quoted(got), didYouMean(got, want))
	case *kind.Const:
		return plain("must be %v", k.Want)
	case *kind.Pattern:
		return plain("%s has not the form that is asked for (%s)", quoted(k.Got), k.Want)
	case *kind.Format:
		if k.Want == "duration" {
			return plain("%s is not a duration: write a number with a unit, such as 10s or 1m30s", quoted(fmt.Sprint(k.Got)))
		}
		return plain("%s is not a valid %s", quoted(fmt.Sprint(k.Got)), k.Want)
	case *kind.Minimum:
		return plain("must be at least %s", k.Want.RatString())
	case *kind.Maximum:
		return plain("must be at most %s", k.Want.RatString())
	case *kind.UniqueItems:
		return []problem{{at: at, twice: true, message: fmt.Sprintf("elements %d and %d are the same: remove one of them", k.Duplicates[0]+1, k.Duplicates[1]+1)}}
	}
	return plain("%s", e.ErrorKind.LocalizedString(message.NewPrinter(language.English)))
}

func quoted(s string) string { return strconv.Quote(cut(s, 80)) }

// unknown says that a mapping has a key that the specification does not know, unless it does: a key is also called
// unevaluated where a sibling is wrong.
func (s specification) unknown(at []string, name string) []problem {
	known := s.keys(at)
	for _, k := range known {
		if k == name {
			return nil
		}
	}
	where := append(append([]string{}, at...), name)
	if len(at) == 1 && len(known) == 0 {
		return []problem{{at: where, key: true, message: "the name may hold only letters, digits and . _ -: rename it"}}
	}
	if strings.HasPrefix(name, "x-") {
		return []problem{{at: where, key: true, message: "the Compose specification allows no x- key here: move it to the node above"}}
	}
	hint := didYouMean(name, known)
	if len(at) == 2 && at[0] == "services" {
		if other := misplacedService[name]; other != "" {
			hint = "; did you mean " + other + "?"
		}
	}
	if hint == "" {
		hint = ": remove it, or call it x-" + name + " if it is a note of your own"
	}
	return []problem{{at: where, key: true, message: "unknown key" + hint}}
}

// misplacedService are keys that people write on a service and that Compose has elsewhere.
var misplacedService = map[string]string{
	"replicas": "deploy.replicas", "resources": "deploy.resources", "limits": "deploy.resources.limits",
	"memory": "deploy.resources.limits.memory", "update_config": "deploy.update_config", "env": "environment",
	"envs": "environment", "cmd": "command", "routes": "ports[].x-trellis.routes", "probe": "x-trellis.probe",
	"process": "x-trellis.process", "autoscale": "deploy.x-trellis.autoscale", "calls": "x-trellis.calls",
	"restart_policy": "deploy.restart_policy", "rollback_config": "deploy.rollback_config", "placement": "deploy.placement",
	"liveness": "healthcheck", "readiness": "healthcheck", "healthchecks": "healthcheck", "volume": "volumes",
}

func anyOf(want []string) string {
	var names []string
	for _, w := range want {
		if n := typeName(w); w != "null" && !slices.Contains(names, n) {
			names = append(names, n)
		}
	}
	if len(names) < 2 {
		return strings.Join(names, "")
	}
	return strings.Join(names[:len(names)-1], ", ") + " or " + names[len(names)-1]
}

func typeName(t string) string {
	switch t {
	case "object":
		return "mapping"
	case "array":
		return "list"
	case "integer":
		return "whole number"
	case "boolean":
		return "true or false"
	case "null":
		return "empty value"
	}
	return t
}

// misplaced reports x-trellis where it extends nothing, and keys that look like it.
func (l *loading) misplaced(m *mark, path string) {
	switch m.kind {
	case mappingMark:
		for _, k := range m.keys() {
			at := JoinPath(path, k)
			switch {
			case k == "x-trellis" && !extensible(path):
				l.errorKey(m.fields[k], at, "x-trellis does not stand here: it extends the project, a service, its deploy or one of its ports")
			case k == "x-trellis":
			case strings.HasPrefix(k, "x-") && k != "x-trellis" && extensible(path) && distance(k, "x-trellis", 3) < 3:
				line, col := m.fields[k].keyLine, m.fields[k].keyCol
				l.warnAt(m.fields[k].file(), line, col, at, "is ignored, as every x- key is; did you mean x-trellis?")
			case !strings.HasPrefix(k, "x-"):
				l.misplaced(m.fields[k], at)
			}
		}
	case listMark:
		for i, item := range m.items {
			l.misplaced(item, indexPath(path, i))
		}
	}
}

var extensiblePath = regexp.MustCompile(`^(services\.("(\\.|[^"])*"|[^."\[]+)(\.deploy|\.ports\[\d+\])?)?$`)

func extensible(path string) bool { return extensiblePath.MatchString(path) }

// extensions decodes every x-trellis of the merged tree.
func (l *loading) extensions(root *mark) {
	l.decode(root.at("x-trellis"), "x-trellis", reflect.ValueOf(&l.project).Elem())
	services := root.at("services")
	for _, name := range services.keys() {
		s, path := services.fields[name], JoinPath("services", name)
		var e ServiceExtension
		l.decode(s.at("x-trellis"), path+".x-trellis", reflect.ValueOf(&e).Elem())
		l.services[name] = e
		var d DeployExtension
		l.decode(s.at("deploy", "x-trellis"), path+".deploy.x-trellis", reflect.ValueOf(&d).Elem())
		l.deploys[name] = d
		ports := s.at("ports")
		if ports == nil {
			continue
		}
		for i, item := range ports.items {
			var p PortExtension
			l.decode(item.at("x-trellis"), indexPath(path+".ports", i)+".x-trellis", reflect.ValueOf(&p).Elem())
			l.ports[item] = p
		}
	}
}
