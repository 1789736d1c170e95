// Package v3 has the types of its namesake that Prometheus' description of its API is built of. The description itself is
// never made.
package v3

import (
	yaml "github.com/pb33f/go-yaml"

	"github.com/pb33f/libopenapi/datamodel/high/base"
	"github.com/pb33f/libopenapi/orderedmap"
)

type (
	// Document is a description.
	Document struct {
		Version    string
		Info       *base.Info
		Servers    []*Server
		Tags       []*base.Tag
		Paths      *Paths
		Components *Components
	}

	// Server is where an API is.
	Server struct{ URL string }

	// Paths are the paths of an API.
	Paths struct {
		PathItems *orderedmap.Map[string, *PathItem]
	}

	// Components are what several operations share.
	Components struct {
		Schemas *orderedmap.Map[string, *base.SchemaProxy]
	}

	// PathItem is a path with its operations.
	PathItem struct{ Get, Put, Post, Delete, Options *Operation }

	// Operation is what may be asked.
	Operation struct {
		Tags                              []string
		Summary, Description, OperationId string
		Parameters                        []*Parameter
		RequestBody                       *RequestBody
		Responses                         *Responses
	}

	// Parameter is a part of a question.
	Parameter struct {
		Name, In, Description string
		Required, Explode     *bool
		Schema                *base.SchemaProxy
		Example               *yaml.Node
		Examples              *orderedmap.Map[string, *base.Example]
	}

	// RequestBody is what is sent.
	RequestBody struct {
		Description string
		Required    *bool
		Content     *orderedmap.Map[string, *MediaType]
	}

	// Responses are the answers.
	Responses struct {
		Codes   *orderedmap.Map[string, *Response]
		Default *Response
	}

	// Response is an answer.
	Response struct {
		Description string
		Content     *orderedmap.Map[string, *MediaType]
	}

	// MediaType is the form of a body.
	MediaType struct {
		Schema, ItemSchema *base.SchemaProxy
		Example            *yaml.Node
		Examples           *orderedmap.Map[string, *base.Example]
	}
)

// Render returns nothing: Trellis does not serve the description.
func (*Document) Render() ([]byte, error) { return nil, nil }
