package compose

import (
	"encoding/json"
	"reflect"
	"slices"
	"strings"

	"go.yaml.in/yaml/v4"
)

// rest returns what of from (a struct or a map) is set under keys that are not in known.
func rest(from any, known []string) map[string]any {
	all := plainMap(from)
	if blkio, ok := all["blkio_config"]; ok {
		all["blkio_config"] = lowerKeys(blkio) // these types of the library have no tags
	}
	for k, v := range all {
		if slices.Contains(known, k) || emptyValue(v) {
			delete(all, k)
		}
	}
	if len(all) == 0 {
		return nil
	}
	return all
}

// plainMap returns the specification's form of a value of the library: by its JSON, or by its YAML where the library's
// JSON is broken, as that of build.ssh is.
func plainMap(from any) map[string]any {
	var all map[string]any
	if raw, err := json.Marshal(from); err == nil && json.Unmarshal(raw, &all) == nil {
		return all
	}
	raw, err := yaml.Marshal(from)
	if err != nil {
		return nil
	}
	var decoded map[string]any
	if yaml.Unmarshal(raw, &decoded) != nil {
		return nil
	}
	for k := range decoded {
		if strings.HasPrefix(k, "x-") {
			delete(decoded, k)
		}
	}
	if raw, err = json.Marshal(decoded); err != nil || json.Unmarshal(raw, &all) != nil {
		return nil
	}
	return all
}

func lowerKeys(v any) any {
	switch v := v.(type) {
	case map[string]any:
		out := map[string]any{}
		for k, e := range v {
			out[strings.ToLower(k)] = lowerKeys(e)
		}
		return out
	case []any:
		for i := range v {
			v[i] = lowerKeys(v[i])
		}
	}
	return v
}

func emptyValue(v any) bool {
	switch v := v.(type) {
	case nil:
		return true
	case string:
		return v == ""
	case []any:
		return len(v) == 0
	case map[string]any:
		for _, e := range v {
			if !emptyValue(e) {
				return false
			}
		}
		return true
	}
	return false
}

// jsonKeys returns the keys of a struct's JSON.
func jsonKeys(t reflect.Type, more ...string) []string {
	for i := range t.NumField() {
		if name, _, _ := strings.Cut(t.Field(i).Tag.Get("json"), ","); name != "" && name != "-" {
			more = append(more, name)
		}
	}
	return more
}
