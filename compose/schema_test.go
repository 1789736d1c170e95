package compose

import (
	"strings"
	"testing"

	"github.com/compose-spec/compose-go/v2/schema"
	"github.com/santhosh-tekuri/jsonschema/v6"
)

// TestSpecificationIsASchema holds the specification's schema against the schema of schemas, which a load does not.
func TestSpecificationIsASchema(t *testing.T) {
	doc, err := jsonschema.UnmarshalJSON(strings.NewReader(schema.Schema))
	if err != nil {
		t.Fatal(err)
	}
	compile := func(doc any) error {
		c := jsonschema.NewCompiler()
		if err := c.AddResource("file:///compose-spec.json", doc); err != nil {
			t.Fatal(err)
		}
		_, err := c.Compile("file:///compose-spec.json")
		return err
	}
	if err := compile(doc); err != nil {
		t.Error(err)
	}
	doc.(map[string]any)["properties"].(map[string]any)["services"].(map[string]any)["type"] = "mapping"
	if err := compile(doc); err == nil {
		t.Error("a type that there is none of is taken for one")
	}
}

func BenchmarkSpecification(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		if s := readSpecification(); s.err != nil {
			b.Fatal(s.err)
		}
	}
}
