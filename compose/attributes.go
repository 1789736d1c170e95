package compose

import (
	"reflect"
	"sort"
	"strings"

	"github.com/compose-spec/compose-go/v2/types"
)

// attribute is one key that a file may set: "services.*.ports[].target", where * stands for a name and [] for an index.
type attribute struct {
	path string
	typ  reflect.Type
}

// specAttributes returns every attribute of the Compose specification that compose-go knows, by looking at its types,
// sorted by path. An attribute that a new version learns appears here without anyone adding it.
func specAttributes() []attribute {
	var out []attribute
	walkAttributes("", reflect.TypeFor[types.Project](), "yaml", &out, 0)
	walkAttributes("include[]", reflect.TypeFor[types.IncludeConfig](), "yaml", &out, 0)
	out = append(out, attribute{"version", reflect.TypeFor[string]()})
	sort.Slice(out, func(i, j int) bool { return out[i].path < out[j].path })
	return out
}

// trellisAttributes returns every key under x-trellis, by the node it stands on.
func trellisAttributes() []attribute {
	var out []attribute
	for _, at := range extensionPoints() {
		path := "x-trellis"
		if at.path != "" {
			path = at.path + ".x-trellis"
		}
		walkAttributes(path, at.typ, "json", &out, 0)
	}
	sort.Slice(out, func(i, j int) bool { return out[i].path < out[j].path })
	return out
}

// extensionPoints are the nodes that x-trellis may stand on.
func extensionPoints() []attribute {
	return []attribute{
		{"", reflect.TypeFor[ProjectExtension]()},
		{"services.*", reflect.TypeFor[ServiceExtension]()},
		{"services.*.deploy", reflect.TypeFor[DeployExtension]()},
		{"services.*.ports[]", reflect.TypeFor[PortExtension]()},
	}
}

func walkAttributes(path string, t reflect.Type, tag string, out *[]attribute, depth int) {
	for i := range t.NumField() {
		f := t.Field(i)
		key, options, _ := strings.Cut(f.Tag.Get(tag), ",")
		inline := f.Anonymous && strings.Contains(options, "inline")
		switch {
		case inline:
			walkAttributes(path, f.Type, tag, out, depth)
			continue
		case key == "-", strings.HasPrefix(key, "#"), strings.Contains(options, "inline"), f.Tag.Get("trellis") == "internal", !f.IsExported():
			continue
		case key == "":
			key = strings.ToLower(f.Name)
		}
		at := key
		if path != "" {
			at = path + "." + key
		}
		if at == "services.*.name" || at == "jobs.*.name" {
			continue // compose-go's own: the key under services
		}
		addAttribute(at, f.Type, tag, out, depth)
	}
}

func addAttribute(path string, t reflect.Type, tag string, out *[]attribute, depth int) {
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	switch {
	case depth > 8:
	case t.Kind() == reflect.Struct:
		*out = append(*out, attribute{path, t})
		walkAttributes(path, t, tag, out, depth+1)
	case t.Kind() == reflect.Map && structElem(t):
		*out = append(*out, attribute{path, t})
		addAttribute(path+".*", t.Elem(), tag, out, depth+1)
	case t.Kind() == reflect.Slice && structElem(t):
		*out = append(*out, attribute{path, t})
		addAttribute(path+"[]", t.Elem(), tag, out, depth+1)
	default:
		*out = append(*out, attribute{path, t})
	}
}

func structElem(t reflect.Type) bool {
	e := t.Elem()
	for e.Kind() == reflect.Pointer {
		e = e.Elem()
	}
	return e.Kind() == reflect.Struct
}
