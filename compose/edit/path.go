package edit

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v4"
)

// step is one part of a path: a key of a mapping, or an index of a list.
type step struct {
	key   string
	index int // -1: key is meant
}

func (s step) String() string {
	if s.index >= 0 {
		return fmt.Sprintf("[%d]", s.index)
	}
	return s.key
}

// parsePath reads a Compose path: keys with dots between, indexes in brackets, keys with dots or brackets in double
// quotes.
func parsePath(path string) ([]step, error) {
	var steps []step
	for rest := path; rest != ""; {
		if len(steps) > 0 && rest[0] == '.' {
			rest = rest[1:]
		} else if len(steps) > 0 && rest[0] != '[' {
			return nil, fmt.Errorf("%q is not a path: a dot is missing before %q", path, rest)
		}
		switch {
		case rest == "":
			return nil, fmt.Errorf("%q is not a path: it ends with a dot", path)
		case rest[0] == '[':
			digits, after, ok := strings.Cut(rest[1:], "]")
			n, err := strconv.ParseUint(digits, 10, 31)
			if !ok || err != nil {
				return nil, fmt.Errorf("%q is not a path: %q is no index", path, rest)
			}
			steps, rest = append(steps, step{"", int(n)}), after
		case rest[0] == '"':
			quoted, err := strconv.QuotedPrefix(rest)
			if err != nil {
				return nil, fmt.Errorf("%q is not a path: a quote is not closed", path)
			}
			key, _ := strconv.Unquote(quoted)
			steps, rest = append(steps, step{key, -1}), rest[len(quoted):]
		default:
			end := strings.IndexAny(rest, ".[")
			if end < 0 {
				end = len(rest)
			}
			if end == 0 {
				return nil, fmt.Errorf("%q is not a path: a key is empty", path)
			}
			steps, rest = append(steps, step{rest[:end], -1}), rest[end:]
		}
		if len(steps) > maxDepth {
			return nil, fmt.Errorf("the path has more than %d parts", maxDepth)
		}
	}
	if len(steps) == 0 {
		return nil, errors.New("the path is empty")
	}
	return steps, nil
}

// hop is one step that the file has: the mapping or list, and what stands in it.
type hop struct {
	in    *yaml.Node
	index int        // of value in in.Content
	key   *yaml.Node // nil in a list
	value *yaml.Node
}

// trail leads from the root to a node.
type trail []hop

// node returns what the trail leads to.
func (t trail) node(root *yaml.Node) *yaml.Node {
	if len(t) == 0 {
		return root
	}
	return t[len(t)-1].value
}

// flow says that the end of the trail stands inside of brackets.
func (t trail) flow() bool {
	for _, h := range t {
		if h.in.Style&yaml.FlowStyle != 0 {
			return true
		}
	}
	return false
}

// walk follows steps as far as the file has them, and returns those that are left.
func (f *File) walk(path string, steps []step) (t trail, rest []step, err error) {
	n := f.root
	for i, s := range steps {
		if n != nil && n.Kind == yaml.AliasNode {
			return nil, nil, f.refuse(path, n, "stands in what *%s takes over from line %d, with all else that takes it over: write it out here, or change it there", n.Value, n.Alias.Line)
		}
		if n == nil {
			return t, steps[i:], nil
		}
		h, ok := child(n, s)
		if !ok {
			if m := merged(n, s); m != nil && i < len(steps)-1 {
				return nil, nil, f.refuse(path, m, "stands in what << takes over: write %s out here, or change it there", s)
			}
			return t, steps[i:], nil
		}
		t, n = append(t, h), h.value
	}
	return t, nil, nil
}

// child returns what a mapping or list itself has at a step.
func child(n *yaml.Node, s step) (hop, bool) {
	switch {
	case n.Kind == yaml.MappingNode && s.index < 0:
		for i := 0; i+1 < len(n.Content); i += 2 {
			if k := n.Content[i]; k.Kind == yaml.ScalarNode && k.Value == s.key && !isMerge(k) {
				return hop{n, i + 1, k, n.Content[i+1]}, true
			}
		}
	case n.Kind == yaml.SequenceNode && s.index >= 0 && s.index < len(n.Content):
		return hop{n, s.index, nil, n.Content[s.index]}, true
	}
	return hop{}, false
}

// merged returns the merge key through which a mapping has a key, nil for none.
func merged(n *yaml.Node, s step) *yaml.Node {
	if n.Kind != yaml.MappingNode || s.index >= 0 {
		return nil
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		if !isMerge(n.Content[i]) {
			continue
		}
		budget := maxNodes
		data, err := plain(&yaml.Node{Kind: yaml.MappingNode, Content: n.Content[i : i+2]}, 0, &budget)
		if _, ok := lookup(data, []step{s}); err == nil && ok {
			return n.Content[i]
		}
	}
	return nil
}

func isMerge(k *yaml.Node) bool {
	return k.Kind == yaml.ScalarNode && k.Value == "<<" && (k.Tag == "" || k.Tag == "!" || k.ShortTag() == "!!merge")
}
