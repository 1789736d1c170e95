// Package base has the types of its namesake that Prometheus' description of its API is built of, and nothing that they
// do.
package base

import (
	yaml "github.com/pb33f/go-yaml"

	"github.com/pb33f/libopenapi/orderedmap"
)

type (
	// SchemaProxy stands for a schema.
	SchemaProxy struct{}

	// DynamicValue is one of two.
	DynamicValue[A, B any] struct {
		N int
		A A
		B B
	}

	// Schema describes a value.
	Schema struct {
		Type, Required                               []string
		Title, Description, Format, ContentMediaType string
		Properties                                   *orderedmap.Map[string, *SchemaProxy]
		Items, AdditionalProperties                  *DynamicValue[*SchemaProxy, bool]
		OneOf, AnyOf                                 []*SchemaProxy
		ContentSchema                                *SchemaProxy
		Enum                                         []*yaml.Node
		Default, Example                             *yaml.Node
		Minimum                                      *float64
		MinItems, MaxItems                           *int64
	}

	// Example is a value for example.
	Example struct {
		Summary, Description string
		Value                *yaml.Node
	}

	// Info is the head of a description.
	Info struct {
		Title, Description, Version string
		Contact                     *Contact
	}

	// Contact is whom to ask.
	Contact struct{ Name, URL string }

	// Tag groups operations.
	Tag struct{ Name, Summary, Description string }
)

// CreateSchemaProxy returns a schema's place.
func CreateSchemaProxy(*Schema) *SchemaProxy { return &SchemaProxy{} }

// CreateSchemaProxyRef returns a schema's place.
func CreateSchemaProxyRef(string) *SchemaProxy { return &SchemaProxy{} }
