package provider

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/hashicorp/terraform-plugin-framework/attr"
	"github.com/hashicorp/terraform-plugin-framework/datasource"
	datasources "github.com/hashicorp/terraform-plugin-framework/datasource/schema"
	"github.com/hashicorp/terraform-plugin-framework/provider"
	"github.com/hashicorp/terraform-plugin-framework/resource"
	resources "github.com/hashicorp/terraform-plugin-framework/resource/schema"
	"github.com/hashicorp/terraform-plugin-framework/types"
)

var update = flag.Bool("update", false, "write docs/ anew")

// described is an attribute of any kind of schema.
type described interface {
	GetType() attr.Type
	GetMarkdownDescription() string
	IsRequired() bool
	IsOptional() bool
	IsSensitive() bool
}

// TestDocsAreCurrent: docs/, in the form of the registry, says what the schemas say and shows what lies in examples/.
func TestDocsAreCurrent(t *testing.T) {
	ctx := context.Background()
	p := New("test")()
	var ps provider.SchemaResponse
	p.Schema(ctx, provider.SchemaRequest{}, &ps)
	pages := map[string]string{"index.md": page{
		kind: "Provider", name: "trellis", description: ps.Schema.MarkdownDescription, attributes: attributesOf(ps.Schema.Attributes), examples: []string{"provider/provider.tf"},
	}.text(t)}
	for _, make := range p.Resources(ctx) {
		r := make()
		var meta resource.MetadataResponse
		var s resource.SchemaResponse
		r.Metadata(ctx, resource.MetadataRequest{ProviderTypeName: "trellis"}, &meta)
		r.Schema(ctx, resource.SchemaRequest{}, &s)
		if diags := s.Schema.ValidateImplementation(ctx); diags.HasError() {
			t.Fatal(diags)
		}
		short := strings.TrimPrefix(meta.TypeName, "trellis_")
		at := "resources/" + meta.TypeName
		pages["resources/"+short+".md"] = page{
			kind: "Resource", name: meta.TypeName, description: s.Schema.MarkdownDescription, attributes: attributesOf(s.Schema.Attributes),
			examples: []string{at + "/resource.tf", at + "/import.tf", at + "/import.sh"},
		}.text(t)
	}
	for _, make := range p.DataSources(ctx) {
		d := make()
		var meta datasource.MetadataResponse
		var s datasource.SchemaResponse
		d.Metadata(ctx, datasource.MetadataRequest{ProviderTypeName: "trellis"}, &meta)
		d.Schema(ctx, datasource.SchemaRequest{}, &s)
		if diags := s.Schema.ValidateImplementation(ctx); diags.HasError() {
			t.Fatal(diags)
		}
		pages["data-sources/"+strings.TrimPrefix(meta.TypeName, "trellis_")+".md"] = page{
			kind: "Data Source", name: meta.TypeName, description: s.Schema.MarkdownDescription, attributes: attributesOf(s.Schema.Attributes),
			examples: []string{"data-sources/" + meta.TypeName + "/data-source.tf"},
		}.text(t)
	}
	for name, want := range pages {
		file := filepath.Join("..", "docs", name)
		if *update {
			if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(file, []byte(want), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		got, err := os.ReadFile(file)
		if diff := cmp.Diff(want, string(got)); err != nil || diff != "" {
			t.Errorf("%s is not what the schema says; go test ./provider -run DocsAreCurrent -update writes it: %v\n%s", file, err, diff)
		}
	}
	there, _ := filepath.Glob("../docs/*/*.md")
	if len(there)+1 != len(pages) {
		t.Errorf("docs/ has %d pages besides its index, and the provider %d", len(there), len(pages)-1)
	}
}

type page struct {
	kind, name, description string
	attributes              map[string]described
	examples                []string // files below examples/
}

func (p page) text(t *testing.T) string {
	var b bytes.Buffer
	first, _, _ := strings.Cut(p.description, ". ")
	fmt.Fprintf(&b, "---\npage_title: \"%s %s\"\nsubcategory: \"\"\ndescription: |-\n  %s\n---\n\n", p.name, p.kind, strings.TrimSuffix(first, ".")+".")
	fmt.Fprintf(&b, "# %s (%s)\n\n%s\n", p.name, p.kind, p.description)
	for _, name := range p.examples {
		text, err := os.ReadFile(filepath.Join("..", "examples", name))
		if err != nil {
			t.Fatal(err)
		}
		switch {
		case strings.HasSuffix(name, "import.tf"):
			fmt.Fprintf(&b, "\n## Import\n\nThe ID is `FILE[,OVERRIDE...][?KEY=VALUE&...]` with the keys `context`, `engine`, `env_file`, `environment`, `name`, `namespace`, `profile`, `project_directory` and `state_dir`, each as the attribute of that name. A comma, a question mark and a percent sign in a file's name are `%%2C`, `%%3F` and `%%25`. Variables are not part of it: until the first apply, `configuration` has values of `secret_variables` in clear where they do not look like secrets.\n\n```terraform\n%s```\n", text)
		case strings.HasSuffix(name, ".sh"):
			fmt.Fprintf(&b, "\n```shell\n%s```\n", text)
		default:
			fmt.Fprintf(&b, "\n## Example Usage\n\n```terraform\n%s```\n", text)
		}
	}
	b.WriteString("\n## Schema\n")
	writeAttributes(&b, "###", p.attributes)
	return b.String()
}

func writeAttributes(b *bytes.Buffer, heading string, all map[string]described) {
	parts := []struct {
		title string
		of    func(described) bool
	}{
		{"Required", described.IsRequired},
		{"Optional", described.IsOptional},
		{"Read-Only", func(a described) bool { return !a.IsRequired() && !a.IsOptional() }},
	}
	for _, part := range parts {
		first := true
		for _, name := range slices.Sorted(maps.Keys(all)) {
			a := all[name]
			if !part.of(a) {
				continue
			}
			if first {
				fmt.Fprintf(b, "\n%s %s\n\n", heading, part.title)
				first = false
			}
			kind := kindOf(a)
			if a.IsSensitive() {
				kind += ", Sensitive"
			}
			fmt.Fprintf(b, "- `%s` (%s)", name, kind)
			if text := a.GetMarkdownDescription(); text != "" {
				b.WriteString(" " + text)
			}
			b.WriteString("\n")
		}
	}
	for _, name := range slices.Sorted(maps.Keys(all)) {
		if below := nestedIn(all[name]); below != nil {
			fmt.Fprintf(b, "\n%s Nested Schema for `%s`\n", heading, name)
			writeAttributes(b, heading+"#", below)
		}
	}
}

func kindOf(a described) string {
	switch a.(type) {
	case resources.SingleNestedAttribute, datasources.SingleNestedAttribute:
		return "Attributes"
	case datasources.ListNestedAttribute:
		return "Attributes List"
	case datasources.MapNestedAttribute:
		return "Attributes Map"
	}
	return typeName(a.GetType())
}

func typeName(kind attr.Type) string {
	switch kind := kind.(type) {
	case types.ListType:
		return "List of " + typeName(kind.ElemType)
	case types.MapType:
		return "Map of " + typeName(kind.ElemType)
	}
	switch {
	case kind.Equal(types.BoolType):
		return "Boolean"
	case kind.Equal(types.Int64Type):
		return "Number"
	}
	return "String"
}

func nestedIn(a described) map[string]described {
	switch a := a.(type) {
	case resources.SingleNestedAttribute:
		return attributesOf(a.Attributes)
	case datasources.ListNestedAttribute:
		return attributesOf(a.NestedObject.Attributes)
	case datasources.MapNestedAttribute:
		return attributesOf(a.NestedObject.Attributes)
	}
	return nil
}

func attributesOf[A described](all map[string]A) map[string]described {
	out := map[string]described{}
	for name, a := range all {
		out[name] = a
	}
	return out
}
