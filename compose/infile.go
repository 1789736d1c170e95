package compose

import (
	"math"
	"reflect"
	"strconv"
	"strings"
)

// InFile returns v, a value that the JSON of a Project has at a Compose path, as a file writes it: a share is "10%" and not 0.1. What
// stands below v is written so too; v is changed in no place.
func InFile(path string, v any) any {
	t, _ := typeAt(path)
	return inFile(t, v)
}

// Zero returns what it means that the JSON of a Project has nothing at a Compose path, as a file writes it: false for what is switched on
// there, "0%" for the share of a shift. nil: something else than a zero, such as no limit, or what an image says.
func Zero(path string) any {
	t, f := typeAt(path)
	switch {
	case f.Tag.Get("trellis") == "zero":
		return inFile(t, float64(0))
	case t != nil && t.Kind() == reflect.Bool && f.Type == t && f.Tag.Get("trellis") != "internal":
		return false
	}
	return nil
}

func inFile(t reflect.Type, v any) any {
	for t != nil && t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	switch v := v.(type) {
	case float64:
		if t == reflect.TypeFor[Share]() {
			return strconv.FormatFloat(math.Round(v*1e12)/1e10, 'f', -1, 64) + "%"
		}
	case map[string]any:
		all := make(map[string]any, len(v))
		for key, below := range v {
			next, _ := step(t, key)
			all[key] = inFile(next, below)
		}
		return all
	case []any:
		all := make([]any, len(v))
		for i, below := range v {
			next, _ := step(t, "[0]")
			all[i] = inFile(next, below)
		}
		return all
	}
	return v
}

// typeAt returns the type of what stands at a Compose path, and the field that holds it, where one does. nil: the model has no type for it.
func typeAt(path string) (t reflect.Type, field reflect.StructField) {
	t = reflect.TypeFor[Project]()
	for _, segment := range SplitPath(path) {
		t, field = step(t, segment)
	}
	return t, field
}

// step is one step of typeAt.
func step(t reflect.Type, segment string) (below reflect.Type, field reflect.StructField) {
	for t != nil && t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	switch {
	case t == nil:
	case t.Kind() == reflect.Map, t.Kind() == reflect.Slice && strings.HasPrefix(segment, "["):
		return t.Elem(), field
	case t.Kind() == reflect.Struct:
		for i := range t.NumField() {
			if f := t.Field(i); segment == strings.Split(f.Tag.Get("json"), ",")[0] && segment != "-" {
				return f.Type, f
			}
		}
	}
	return nil, field
}
