package compose

import (
	"fmt"
	"reflect"
	"sort"
	"time"

	"go.yaml.in/yaml/v4"
)

type markKind int

const (
	scalarMark markKind = iota
	mappingMark
	listMark
)

// mark is one value of the files and where it stands: the tree that positions, the checks of x-trellis and the second
// look at a broken file are made from. Marks are never changed after they are made, so merged trees share them.
type mark struct {
	src  *source
	kind markKind
	// line and col of the value; keyLine and keyCol of its key, 0 for elements of lists.
	line, col       int
	keyLine, keyCol int
	value           any // of a scalar: nil, bool, int, float64 or string, variables replaced
	variable        bool
	fields          map[string]*mark
	items           []*mark
	list            *yaml.Node // of an element: the list it was written in
	reset, override bool       // !reset and !override
}

func (m *mark) file() string { return m.src.path }

// place returns where an editor should jump to: the value of a scalar, the key of everything else.
func (m *mark) place() (line, col int) {
	if m.kind != scalarMark && m.keyLine > 0 {
		return m.keyLine, m.keyCol
	}
	return m.line, m.col
}

// child returns the mark of a path segment, nil where there is none.
func (m *mark) child(segment string) *mark {
	if m == nil {
		return nil
	}
	if m.kind == listMark {
		var i int
		if _, err := fmt.Sscanf(segment, "[%d]", &i); err == nil && i >= 0 && i < len(m.items) {
			return m.items[i]
		}
		return nil
	}
	return m.fields[segment]
}

// at follows keys.
func (m *mark) at(keys ...string) *mark {
	for _, k := range keys {
		if m == nil {
			return nil
		}
		m = m.fields[k]
	}
	return m
}

// text returns a scalar as a string, "" for anything else.
func (m *mark) text() string {
	if m == nil || m.kind != scalarMark || m.value == nil {
		return ""
	}
	return fmt.Sprint(m.value)
}

// keys returns the keys of a mapping, sorted.
func (m *mark) keys() []string {
	if m == nil {
		return nil
	}
	keys := make([]string, 0, len(m.fields))
	for k := range m.fields {
		keys = append(keys, k)
	}
	sort.Strings(keys)
	return keys
}

// plain returns the value as the YAML library would decode it, values that are reset left out.
func (m *mark) plain(scalar func(any) any) any {
	switch m.kind {
	case mappingMark:
		out := make(map[string]any, len(m.fields))
		for k, f := range m.fields {
			if !f.reset {
				out[k] = f.plain(scalar)
			}
		}
		return out
	case listMark:
		out := make([]any, 0, len(m.items))
		for _, item := range m.items {
			if !item.reset {
				out = append(out, item.plain(scalar))
			}
		}
		return out
	}
	if scalar != nil {
		return scalar(m.value)
	}
	return m.value
}

// size is how many values there are in m, itself included.
func (m *mark) size() int {
	n := 1
	for _, f := range m.fields {
		n += f.size()
	}
	for _, item := range m.items {
		n += item.size()
	}
	return n
}

func sameValue(a, b *mark) bool { return reflect.DeepEqual(a.plain(nil), b.plain(nil)) }

// with returns a copy of a mapping in which key is set to value; nil removes it.
func (m *mark) with(key string, value *mark) *mark {
	c := *m
	c.fields = make(map[string]*mark, len(m.fields)+1)
	for k, v := range m.fields {
		c.fields[k] = v
	}
	if value == nil {
		delete(c.fields, key)
	} else {
		c.fields[key] = value
	}
	return &c
}

// builder turns the nodes of one document into marks: aliases and merge keys resolved, variables replaced, limits held.
type builder struct {
	l     *loading
	src   *source
	open  map[*yaml.Node]bool // aliases that are being resolved
	nodes int
	full  bool // the document was refused
}

func (b *builder) fail(n *yaml.Node, path, format string, args ...any) {
	b.l.errorAt(b.src.path, n.Line, n.Column, path, format, args...)
}

// build returns the mark of a document, nil for an empty one or one that was refused.
func (l *loading) build(doc *yaml.Node, src *source) *mark {
	if l.tooMany {
		return nil
	}
	b := &builder{l: l, src: src, open: map[*yaml.Node]bool{}}
	n := doc
	if n.Kind == yaml.DocumentNode {
		if len(n.Content) == 0 {
			return nil
		}
		n = n.Content[0]
	}
	if n.Kind == yaml.ScalarNode && n.ShortTag() == "!!null" {
		return nil
	}
	if n.Kind != yaml.MappingNode {
		b.fail(n, "", "the file is a %s, not a mapping: start it with services:", kindName(n))
		return nil
	}
	m := b.node(n, "", 0)
	if l.built += b.nodes; l.built > maxBuilt {
		b.full = true
		if !l.tooMany {
			b.fail(n, "", "the files have more than %d values together, counted as often as they are included: they are refused", maxBuilt)
		}
		l.tooMany = true
	}
	if b.full {
		return nil
	}
	return m
}

func kindName(n *yaml.Node) string {
	switch n.Kind {
	case yaml.SequenceNode:
		return "list"
	case yaml.MappingNode:
		return "mapping"
	}
	return "single value"
}

func (b *builder) node(n *yaml.Node, path string, depth int) *mark {
	m := &mark{src: b.src, line: n.Line, col: n.Column}
	if b.full {
		return m
	}
	if b.nodes++; b.nodes > maxNodes {
		b.full = true
		b.fail(n, path, "the document has more than %d values once its aliases are expanded: it is refused", maxNodes)
		return m
	}
	if depth > maxDepth {
		b.full = true
		b.fail(n, path, "nested more than %d deep: it is refused", maxDepth)
		return m
	}
	switch n.Tag {
	case "!reset":
		m.reset = true
		return m
	case "!override":
		m.override = true
	}
	switch n.Kind {
	case yaml.AliasNode:
		if b.open[n.Alias] {
			b.full = true
			b.fail(n, path, "the alias *%s stands inside the value it refers to", n.Value)
			return m
		}
		b.open[n.Alias] = true
		defer delete(b.open, n.Alias)
		return b.node(n.Alias, path, depth)
	case yaml.MappingNode:
		m.kind = mappingMark
		b.mapping(m, n, path, depth)
	case yaml.SequenceNode:
		m.kind = listMark
		for i, c := range n.Content {
			item := *b.node(c, indexPath(path, i), depth+1)
			item.list = n
			m.items = append(m.items, &item)
		}
	default:
		b.scalar(m, n, path)
	}
	return m
}

func (b *builder) mapping(m *mark, n *yaml.Node, path string, depth int) {
	m.fields = make(map[string]*mark, len(n.Content)/2)
	first := make(map[string]*yaml.Node, len(n.Content)/2)
	var merged []*yaml.Node
	for i := 0; i+1 < len(n.Content); i += 2 {
		k, v := n.Content[i], n.Content[i+1]
		if k.Kind == yaml.AliasNode {
			k = k.Alias
		}
		if k.Kind != yaml.ScalarNode {
			b.fail(n.Content[i], path, "a %s cannot be a key: use a plain word", kindName(k))
			continue
		}
		if k.ShortTag() == "!!merge" {
			merged = append(merged, v)
			continue
		}
		key := k.Value
		at := JoinPath(path, key)
		if tag := k.ShortTag(); tag != "!!str" {
			b.fail(k, at, "the key %s is not a string: put it in quotes", key)
		}
		if seen := first[key]; seen != nil {
			b.fail(k, at, "the key stands here a second time (first in line %d): remove one of them", seen.Line)
			continue
		}
		first[key] = k
		if c := controlCharacter(key); c != "" {
			b.fail(k, at, "the key holds the control character %s: remove it", c)
			continue
		}
		f := *b.node(v, at, depth+1)
		f.keyLine, f.keyCol = n.Content[i].Line, n.Content[i].Column
		m.fields[key] = &f
	}
	for _, v := range merged {
		b.mergeKey(m, v, path, depth)
	}
}

// mergeKey adds what << brings and the mapping does not have itself.
func (b *builder) mergeKey(m *mark, v *yaml.Node, path string, depth int) {
	base := b.node(v, path, depth+1)
	from := []*mark{base}
	if base.kind == listMark {
		from = base.items
	}
	for _, f := range from {
		if f.kind != mappingMark {
			if !b.full {
				b.fail(v, path, "<< needs a mapping or a list of mappings")
			}
			return
		}
		for k, value := range f.fields {
			if _, own := m.fields[k]; !own {
				m.fields[k] = value
			}
		}
	}
}

func (b *builder) scalar(m *mark, n *yaml.Node, path string) {
	if len(n.Value) > maxScalarSize {
		b.fail(n, path, "the value has %d bytes: at most %d are read; put it in a file", len(n.Value), maxScalarSize)
		return
	}
	var v any
	if n.ShortTag() == "!!str" || n.Tag == "!override" {
		v = n.Value
	} else if err := n.Decode(&v); err != nil {
		b.fail(n, path, "%q cannot be read: %v", n.Value, err)
		return
	}
	if _, ok := v.(time.Time); ok {
		v = n.Value
	}
	if s, ok := v.(string); ok {
		if !b.src.literal {
			v, m.variable = b.l.substitute(s, b.src, n, path)
		}
		if c := nul(v.(string)); c {
			b.fail(n, path, "the value holds a NUL character, which no program can be given: remove it")
			v = ""
		}
	}
	m.value = v
}
