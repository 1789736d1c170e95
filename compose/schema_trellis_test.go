package compose

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"go.yaml.in/yaml/v4"
)

func extensionSchema(t *testing.T) *jsonschema.Schema {
	t.Helper()
	doc, err := jsonschema.UnmarshalJSON(strings.NewReader(string(Schema())))
	if err != nil {
		t.Fatal(err)
	}
	c := jsonschema.NewCompiler()
	if err := c.AddResource("x-trellis.json", doc); err != nil {
		t.Fatal(err)
	}
	s, err := c.Compile("x-trellis.json")
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// TestSchemaAgreesWithLoad holds the schema that editors use against the files: what loads is valid, and what is wrong
// under x-trellis is not.
func TestSchemaAgreesWithLoad(t *testing.T) {
	s := extensionSchema(t)
	validate := func(file string) error {
		content, err := os.ReadFile(filepath.Join("testdata", file))
		if err != nil {
			t.Fatal(err)
		}
		var v any
		// Tags of Compose's own are no part of the value.
		if err := yaml.Unmarshal([]byte(strings.NewReplacer("!override", "", "!reset", "").Replace(string(content))), &v); err != nil {
			t.Fatal(err)
		}
		return s.Validate(v)
	}
	for _, file := range append(matching(t, "*.good.yaml", 5), "joined.override.yaml") {
		if err := validate(file); err != nil {
			t.Errorf("%s loads, and the schema says: %v", file, err)
		}
	}
	for _, file := range []string{"trellis.bad.yaml", "everything.bad.yaml"} {
		if validate(file) == nil {
			t.Errorf("%s has errors under x-trellis that the schema does not see", file)
		}
	}
}

// TestSchemaDescribesEveryKey is for those who read it in an editor.
func TestSchemaDescribesEveryKey(t *testing.T) {
	comments := extensionComments()
	for _, at := range extensionPoints() {
		if comments[at.typ.Name()] == "" {
			t.Errorf("%s has no comment", at.typ.Name())
		}
	}
	raw := string(Schema())
	for _, want := range []string{"Rate is how fast the bucket fills", "A number stands for the port", `"x-trellis"`} {
		if !strings.Contains(raw, want) {
			t.Errorf("the schema does not say %q", want)
		}
	}
}
