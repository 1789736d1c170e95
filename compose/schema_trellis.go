package compose

import (
	"embed"
	"encoding/json"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"reflect"
	"slices"
	"strings"

	"github.com/invopop/jsonschema"
)

// The comments of the extension's types are the descriptions in its schema.
//
//go:embed extension.go extension_ports.go
var extensionSources embed.FS

// Schema returns the JSON Schema of x-trellis, for editors. Its definitions Project, Service, Deploy and Port are the
// x-trellis of these nodes; the schema itself is a Compose file in which each stands at its place.
func Schema() []byte {
	comments := extensionComments()
	r := &jsonschema.Reflector{
		Anonymous:      true,
		DoNotReference: false,
		Mapper:         mapType,
		LookupComment: func(t reflect.Type, field string) string {
			if field == "" {
				return comments[t.Name()]
			}
			return comments[t.Name()+"."+field]
		},
	}
	defs := jsonschema.Definitions{}
	for name, t := range map[string]reflect.Type{
		"Project": reflect.TypeFor[ProjectExtension](), "Service": reflect.TypeFor[ServiceExtension](),
		"Deploy": reflect.TypeFor[DeployExtension](), "Port": reflect.TypeFor[PortExtension](),
	} {
		s := r.ReflectFromType(t)
		for k, d := range s.Definitions {
			defs[k] = d
		}
		defs[name] = defs[t.Name()]
		delete(defs, t.Name())
	}
	if p := defs["Process"]; p != nil {
		p.Properties.Delete("artifact") // filled in by a build
		p.Properties.Delete("watched")  // and by whoever watches
	}
	if s := defs["Service"]; s != nil {
		s.Properties.Delete("image_id") // filled in by a deploy
	}
	shortProbe(defs["Probe"])
	if b := defs["Backup"]; b != nil {
		defs["Backup"] = &jsonschema.Schema{Description: b.Description, OneOf: append(slices.Clone(shellCommand().OneOf), b)}
	}
	root := map[string]any{
		"$schema": "https://json-schema.org/draft/2020-12/schema", "$id": "x-trellis.schema.json",
		"title": "x-trellis in a Compose file", "type": "object",
		"properties": map[string]any{
			"x-trellis": ref("Project"),
			"services": map[string]any{"type": "object", "additionalProperties": map[string]any{
				"type": []string{"object", "null"},
				"properties": map[string]any{
					"x-trellis": ref("Service"),
					"deploy":    map[string]any{"type": []string{"object", "null"}, "properties": map[string]any{"x-trellis": ref("Deploy")}},
					"ports": map[string]any{"type": []string{"array", "null"}, "items": map[string]any{
						"properties": map[string]any{"x-trellis": ref("Port")}}},
				},
			}},
		},
		"$defs": defs,
	}
	out, err := json.MarshalIndent(root, "", "  ")
	if err != nil {
		return nil
	}
	return append(out, '\n')
}

func ref(name string) map[string]any { return map[string]any{"$ref": "#/$defs/" + name} }

// mapType gives values with a form of their own in the file their schema.
func mapType(t reflect.Type) *jsonschema.Schema {
	text := func(pattern string, examples ...any) *jsonschema.Schema {
		return &jsonschema.Schema{Type: "string", Pattern: pattern, Examples: examples}
	}
	switch t {
	case reflect.TypeFor[Duration]():
		return text(`^(\$\{.*|([0-9]+(\.[0-9]+)?(ns|us|µs|ms|s|m|h|d|w))+)$`, "250ms", "10s", "7d")
	case reflect.TypeFor[Rate]():
		return text(`^(\$\{.*|[0-9]+(\.[0-9]+)?/(s|m|h))$`, "50/s")
	case reflect.TypeFor[Size]():
		return &jsonschema.Schema{OneOf: []*jsonschema.Schema{text(`^(\$\{.*|[0-9]+(\.[0-9]+)? ?([kKmMgGtTpP]i?)?[bB]?)$`, "10MiB"), {Type: "integer"}}}
	case reflect.TypeFor[Words]():
		one := []*jsonschema.Schema{{Type: "string"}, {Type: "number"}, {Type: "boolean"}}
		return &jsonschema.Schema{AnyOf: append(one, &jsonschema.Schema{Type: "array", Items: &jsonschema.Schema{Type: "string"}})}
	case reflect.TypeFor[ShellCommand]():
		return shellCommand()
	case reflect.TypeFor[Share]():
		return &jsonschema.Schema{OneOf: []*jsonschema.Schema{text(`^(\$\{.*|[0-9]+(\.[0-9]+)?%?)$`, "99.9%"), {Type: "number", Minimum: "0", Maximum: "1"}}}
	}
	return nil
}

// shellCommand is a line for the shell, or a list.
func shellCommand() *jsonschema.Schema {
	one := uint64(1)
	return &jsonschema.Schema{OneOf: []*jsonschema.Schema{
		{Type: "string", MinLength: &one}, {Type: "array", Items: &jsonschema.Schema{Type: "string"}, MinItems: &one},
	}}
}

// shortProbe allows tcp: 5432 and grpc: true.
func shortProbe(s *jsonschema.Schema) {
	if s == nil {
		return
	}
	for _, short := range []struct{ key, long, short string }{{"tcp", "boolean", "integer"}, {"grpc", "string", "boolean"}} {
		if p, ok := s.Properties.Get(short.key); ok {
			s.Properties.Set(short.key, &jsonschema.Schema{Description: p.Description, OneOf: []*jsonschema.Schema{{Type: short.long}, {Type: short.short}}})
		}
	}
}

// extensionComments returns the comments of the extension's types and fields, by "Type" and "Type.Field".
func extensionComments() map[string]string {
	out := map[string]string{}
	for _, name := range []string{"extension.go", "extension_ports.go"} {
		commentsIn(out, name)
	}
	return out
}

// commentsIn adds the comments of one file of types.
func commentsIn(out map[string]string, name string) {
	source, err := extensionSources.ReadFile(name)
	if err != nil {
		panic(err) // it is part of the program
	}
	file, err := parser.ParseFile(token.NewFileSet(), name, source, parser.ParseComments)
	if err != nil {
		panic(fmt.Sprintf("%s: %v", name, err)) // it compiled
	}
	for _, decl := range file.Decls {
		g, ok := decl.(*ast.GenDecl)
		if !ok {
			continue
		}
		for _, s := range g.Specs {
			t, ok := s.(*ast.TypeSpec)
			if !ok {
				continue
			}
			out[t.Name.Name] = oneLine(g.Doc.Text())
			if st, ok := t.Type.(*ast.StructType); ok {
				for _, f := range st.Fields.List {
					for _, n := range f.Names {
						out[t.Name.Name+"."+n.Name] = oneLine(f.Doc.Text())
					}
				}
			}
		}
	}
}

func oneLine(s string) string { return strings.Join(strings.Fields(s), " ") }
