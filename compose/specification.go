package compose

import (
	"regexp"
	"sort"
	"strconv"
	"strings"
)

// keys returns the keys that the schema knows for the mapping at a place.
func (s specification) keys(at []string) []string {
	nodes := s.expand(s.raw, nil, 0)
	for _, segment := range at {
		var next []map[string]any
		for _, n := range nodes {
			next = append(next, s.below(n, segment)...)
		}
		nodes = next
	}
	set := map[string]bool{}
	for _, n := range nodes {
		if props, ok := n["properties"].(map[string]any); ok {
			for k := range props {
				set[k] = true
			}
		}
	}
	keys := make([]string, 0, len(set))
	for k := range set {
		keys = append(keys, k)
	}
	sort.Strings(keys)
	return keys
}

func (s specification) below(n map[string]any, segment string) []map[string]any {
	var out []map[string]any
	add := func(v any) {
		if m, ok := v.(map[string]any); ok {
			out = s.expand(m, out, 0)
		}
	}
	if props, ok := n["properties"].(map[string]any); ok {
		if p, ok := props[segment]; ok {
			add(p)
			return out
		}
	}
	if patterns, ok := n["patternProperties"].(map[string]any); ok {
		for pattern, p := range patterns {
			if matched, _ := regexp.MatchString(pattern, segment); matched {
				add(p)
			}
		}
	}
	add(n["additionalProperties"])
	if _, err := strconv.Atoi(segment); err == nil {
		add(n["items"])
	}
	return out
}

// expand returns n and all that it refers to or is composed of.
func (s specification) expand(n map[string]any, out []map[string]any, depth int) []map[string]any {
	if depth > 16 {
		return out
	}
	out = append(out, n)
	if ref, ok := n["$ref"].(string); ok {
		if defs, ok := s.raw["$defs"].(map[string]any); ok {
			if target, ok := defs[strings.TrimPrefix(ref, "#/$defs/")].(map[string]any); ok {
				out = s.expand(target, out, depth+1)
			}
		}
	}
	for _, composed := range []string{"allOf", "oneOf", "anyOf"} {
		list, _ := n[composed].([]any)
		for _, e := range list {
			if m, ok := e.(map[string]any); ok {
				out = s.expand(m, out, depth+1)
			}
		}
	}
	return out
}
