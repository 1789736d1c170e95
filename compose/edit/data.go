package edit

import (
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"unicode/utf8"

	"go.yaml.in/yaml/v4"
)

// A file as data is what its YAML means: map[string]any, []any and scalar, with aliases and merge keys carried out.

type scalar struct{ tag, value string }

func scalarOf(tag, value string) scalar {
	if tag == "!!null" {
		value = ""
	}
	return scalar{tag, value}
}

var errTooLarge = fmt.Errorf("holds more than %d values, aliases counted as often as they are used", maxNodes)

// plain returns what a node means.
func plain(n *yaml.Node, depth int, budget *int) (any, error) {
	if *budget--; *budget < 0 {
		return nil, errTooLarge
	}
	if depth > maxDepth {
		return nil, fmt.Errorf("is nested more than %d deep", maxDepth)
	}
	if n == nil {
		return scalar{tag: "!!null"}, nil
	}
	switch n.Kind {
	case yaml.AliasNode:
		return plain(n.Alias, depth+1, budget)
	case yaml.ScalarNode:
		return scalarOf(n.ShortTag(), n.Value), nil
	case yaml.SequenceNode:
		out := make([]any, len(n.Content))
		for i, c := range n.Content {
			v, err := plain(c, depth+1, budget)
			if err != nil {
				return nil, err
			}
			out[i] = v
		}
		return out, nil
	case yaml.MappingNode:
		return plainMap(n, depth, budget)
	}
	return nil, errors.New("holds something that is neither mapping, list nor value")
}

func plainMap(n *yaml.Node, depth int, budget *int) (any, error) {
	out, taken := map[string]any{}, map[string]any{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		k, v := n.Content[i], n.Content[i+1]
		for k.Kind == yaml.AliasNode {
			k = k.Alias
		}
		if k.Kind != yaml.ScalarNode {
			return nil, fmt.Errorf("has a key in line %d that is a mapping or list", k.Line)
		}
		value, err := plain(v, depth+1, budget)
		if err != nil {
			return nil, err
		}
		if isMerge(k) {
			if err := take(taken, value); err != nil {
				return nil, fmt.Errorf("line %d: %w", k.Line, err)
			}
			continue
		}
		if _, twice := out[k.Value]; twice {
			return nil, fmt.Errorf("has the key %q twice, in line %d again", k.Value, k.Line)
		}
		out[k.Value] = value
	}
	for k, v := range taken {
		if _, own := out[k]; !own {
			out[k] = v
		}
	}
	return out, nil
}

// take adds what a merge key takes over; what came first stays.
func take(into map[string]any, value any) error {
	switch v := value.(type) {
	case map[string]any:
		for k, x := range v {
			if _, known := into[k]; !known {
				into[k] = x
			}
		}
		return nil
	case []any:
		for _, x := range v {
			if _, ok := x.(map[string]any); !ok {
				return errors.New("<< takes over something that is no mapping")
			}
			if err := take(into, x); err != nil {
				return err
			}
		}
		return nil
	}
	return errors.New("<< takes over something that is no mapping")
}

// lookup returns what data has at a path.
func lookup(data any, steps []step) (any, bool) {
	for _, s := range steps {
		switch d := data.(type) {
		case map[string]any:
			v, ok := d[s.key]
			if !ok || s.index >= 0 {
				return nil, false
			}
			data = v
		case []any:
			if s.index < 0 || s.index >= len(d) {
				return nil, false
			}
			data = d[s.index]
		default:
			return nil, false
		}
	}
	return data, true
}

// with returns data with another value at a path. It shares what did not change.
func with(data any, steps []step, value any) (any, error) {
	if len(steps) == 0 {
		return value, nil
	}
	s := steps[0]
	if data == (scalar{tag: "!!null"}) {
		data = map[string]any{}
		if s.index == 0 {
			data = []any{}
		}
	}
	switch d := data.(type) {
	case map[string]any:
		if s.index >= 0 {
			return nil, fmt.Errorf("%s: is a mapping, not a list", s)
		}
		below, ok := d[s.key]
		if !ok {
			below = scalar{tag: "!!null"}
		}
		v, err := with(below, steps[1:], value)
		if err != nil {
			return nil, err
		}
		out := maps.Clone(d)
		out[s.key] = v
		return out, nil
	case []any:
		if s.index < 0 || s.index > len(d) {
			return nil, fmt.Errorf("%s: the list has %d entries", s, len(d))
		}
		var below any = scalar{tag: "!!null"}
		if s.index < len(d) {
			below = d[s.index]
		}
		v, err := with(below, steps[1:], value)
		if err != nil {
			return nil, err
		}
		return append(slices.Clone(d[:s.index]), append([]any{v}, d[min(s.index+1, len(d)):]...)...), nil
	}
	return nil, fmt.Errorf("%s would stand in a single value, which is neither a mapping nor a list: write that in its long form", s)
}

// without returns data without what stands at a path, which is there.
func without(data any, steps []step) any {
	s := steps[0]
	switch d := data.(type) {
	case map[string]any:
		out := maps.Clone(d)
		if len(steps) == 1 {
			delete(out, s.key)
		} else {
			out[s.key] = without(d[s.key], steps[1:])
		}
		return out
	case []any:
		out := slices.Clone(d)
		if len(steps) == 1 {
			return slices.Delete(out, s.index, s.index+1)
		}
		out[s.index] = without(d[s.index], steps[1:])
		return out
	}
	return data
}

// difference returns the first path at which two files differ as data, "" for none.
func difference(a, b any, at string) string {
	x, ok := a.(map[string]any)
	y, ok2 := b.(map[string]any)
	if !ok || !ok2 {
		if l, ok := a.([]any); ok {
			if m, ok := b.([]any); ok && len(l) == len(m) {
				for i := range l {
					if d := difference(l[i], m[i], fmt.Sprintf("%s[%d]", at, i)); d != "" {
						return d
					}
				}
				return ""
			}
		} else if s, ok := a.(scalar); ok && b == any(s) {
			return ""
		}
		if at == "" {
			return "the whole file"
		}
		return at
	}
	keys := slices.Concat(slices.Collect(maps.Keys(x)), slices.Collect(maps.Keys(y)))
	slices.Sort(keys)
	for _, k := range slices.Compact(keys) {
		below := k
		if at != "" {
			below = at + "." + k
		}
		v, ok := x[k]
		w, ok2 := y[k]
		if ok != ok2 {
			return below
		}
		if d := difference(v, w, below); d != "" {
			return d
		}
	}
	return ""
}

// normal returns a value in one of the forms that are rendered: nil, string, bool, int, float64, []any, Map.
func normal(v any, depth int) (any, error) {
	if depth > maxDepth {
		return nil, fmt.Errorf("the value is nested more than %d deep", maxDepth)
	}
	switch v := v.(type) {
	case nil, bool, int:
		return v, nil
	case string:
		if !utf8.ValidString(v) {
			return nil, errors.New("the value is not UTF-8")
		}
		return v, nil
	case float64:
		if math.IsNaN(v) || math.IsInf(v, 0) {
			return nil, errors.New("the value is no number")
		}
		return v, nil
	case []string:
		out := make([]any, len(v))
		for i, s := range v {
			out[i] = s
		}
		return normal(out, depth)
	case []any:
		out := make([]any, len(v))
		for i := range v {
			var err error
			if out[i], err = normal(v[i], depth+1); err != nil {
				return nil, err
			}
		}
		return out, nil
	case map[string]any:
		out := make(Map, 0, len(v))
		for _, k := range slices.Sorted(maps.Keys(v)) {
			out = append(out, Entry{k, v[k]})
		}
		return normal(out, depth)
	case Map:
		return normalMap(v, depth)
	}
	return nil, fmt.Errorf("a %T cannot be written", v)
}

func normalMap(m Map, depth int) (any, error) {
	out, seen := make(Map, len(m)), map[string]bool{}
	for i, e := range m {
		v, err := normal(e.Value, depth+1)
		if err != nil {
			return nil, err
		}
		if seen[e.Key] || !utf8.ValidString(e.Key) {
			return nil, fmt.Errorf("the key %q is there twice, or not UTF-8", e.Key)
		}
		seen[e.Key], out[i] = true, Entry{e.Key, v}
	}
	return out, nil
}

// plainOf returns what a normal value means, as plain does for a node.
func plainOf(v any) any {
	switch v := v.(type) {
	case string:
		return scalar{"!!str", v}
	case bool:
		return scalar{"!!bool", strconv.FormatBool(v)}
	case int:
		return scalar{"!!int", strconv.Itoa(v)}
	case float64:
		return scalar{"!!float", floatText(v)}
	case []any:
		out := make([]any, len(v))
		for i := range v {
			out[i] = plainOf(v[i])
		}
		return out
	case Map:
		out := make(map[string]any, len(v))
		for _, e := range v {
			out[e.Key] = plainOf(e.Value)
		}
		return out
	}
	return scalar{tag: "!!null"}
}
