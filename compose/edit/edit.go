// Package edit changes single values of a Compose file in its text. What is not meant stays as it is, byte for byte:
// comments, order, quoting, indentation, line ends.
//
// A change is first found by the places of the nodes around it, in the style that the file has there: block or flow,
// two spaces or four, lists indented or not. Then the new text is parsed, and both texts are compared as data, with
// aliases and merge keys carried out: if anything else than the wanted path changed, a service that takes over the
// same anchor for example, the change is refused and the text stays as it was. So a mistake here can cost an error, but
// never a file.
package edit

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"reflect"
	"strings"

	"go.yaml.in/yaml/v4"
)

// Map is a mapping whose order is kept.
type Map []Entry

// Entry is one key of a Map with its value.
type Entry struct {
	Key   string
	Value any
}

// MarshalJSON writes the mapping as a JSON object, in its order.
func (m Map) MarshalJSON() ([]byte, error) {
	b := []byte{'{'}
	for i, e := range m {
		if i > 0 {
			b = append(b, ',')
		}
		key, err := json.Marshal(e.Key)
		if err != nil {
			return nil, err
		}
		value, err := json.Marshal(e.Value)
		if err != nil {
			return nil, err
		}
		b = append(append(append(b, key...), ':'), value...)
	}
	return append(b, '}'), nil
}

// Error is a file that cannot be edited, or a change that cannot be made. It is of the kind errdefs.ErrInvalid.
type Error struct {
	File    string
	Line    int // from 1; 0 where no line can be named
	Column  int
	Path    string // of the change; "" for the file as a whole
	Message string
}

func (e *Error) Error() string {
	var b strings.Builder
	b.WriteString(e.File)
	if e.Line > 0 {
		fmt.Fprintf(&b, ":%d:%d", e.Line, e.Column)
	}
	b.WriteString(": ")
	if e.Path != "" {
		b.WriteString(e.Path + ": ")
	}
	b.WriteString(e.Message)
	return b.String()
}

// Invalid tells package errdefs the kind of e.
func (e *Error) Invalid() bool { return true }

// maxSize and maxNodes are what a file may have; those of package compose are not larger.
const (
	maxSize  = 4 << 20
	maxNodes = 100_000
	maxDepth = 64
)

// File is the text of one Compose file. It is not safe for concurrent use.
type File struct {
	name  string
	text  string
	root  *yaml.Node // nil: the document is empty
	data  any        // the document as data
	lines []int      // offset of each line, and the text's length
	style style
}

// style is how a file is written.
type style struct {
	step    int // how much a mapping is indented below its key
	dash    int // how much the dashes of a list are indented below its key
	newline string
}

// Parse reads the text of a file; name is for errors. A file of several documents, one that is no YAML, or one with
// line ends that are neither LF nor CRLF: *Error.
func Parse(name string, text []byte) (*File, error) {
	f := &File{name: name}
	if err := f.take(string(text)); err != nil {
		return nil, err
	}
	return f, nil
}

// Bytes returns the text as it is now.
func (f *File) Bytes() []byte { return []byte(f.text) }

// Has says whether the file writes something at a Compose path; what comes through an alias or a merge key counts.
func (f *File) Has(path string) bool {
	steps, err := parsePath(path)
	if err != nil {
		return false
	}
	_, ok := lookup(f.data, steps)
	return ok
}

// Len returns how many entries the list at a Compose path has, -1 where there is none.
func (f *File) Len(path string) int {
	steps, err := parsePath(path)
	if err != nil {
		return -1
	}
	v, _ := lookup(f.data, steps)
	if list, ok := v.([]any); ok {
		return len(list)
	}
	return -1
}

// Set gives a Compose path such as services.web.x-trellis.probe or services.web.ports[0].target a value: it replaces
// what is there, or adds it at the end of the mapping or list that it belongs to, with the mappings in between. The
// value is nil, a string, bool, int or float64, a []string, []any or map[string]any of values, or a Map. Where the change
// cannot be made, or would change anything else: *Error, and the text stays as it was.
func (f *File) Set(path string, value any) error {
	steps, err := parsePath(path)
	if err != nil {
		return f.refuse(path, nil, "%v", err)
	}
	value, err = normal(value, 0)
	if err != nil {
		return f.refuse(path, nil, "%v", err)
	}
	want, err := with(f.data, steps, plainOf(value))
	if err != nil {
		return f.refuse(path, nil, "%v", err)
	}
	if reflect.DeepEqual(want, f.data) {
		return nil
	}
	return f.change(path, steps, want, func(t trail, rest []step) ([]proposal, error) {
		if len(rest) == 0 {
			return f.replace(t, value)
		}
		return f.insert(t, rest, value)
	})
}

// Remove takes out what stands at a Compose path, with the comment behind it; the others stay. Nothing there: nil. A mapping or list whose
// last entry goes stays as an empty one. Errors as for Set.
func (f *File) Remove(path string) error {
	steps, err := parsePath(path)
	if err != nil {
		return f.refuse(path, nil, "%v", err)
	}
	if _, ok := lookup(f.data, steps); !ok {
		return nil
	}
	want := without(f.data, steps)
	return f.change(path, steps, want, func(t trail, rest []step) ([]proposal, error) {
		if len(rest) > 0 {
			return nil, f.refuse(path, t.node(f.root), "comes through a merge key (<<): remove it where it is written")
		}
		return f.remove(t)
	})
}

// proposal is one way to make a change: splices that do not overlap, in order.
type proposal []splice

type splice struct {
	start, end int
	text       string
}

// change makes a change in the first way after which the file is as wanted.
func (f *File) change(path string, steps []step, want any, find func(trail, []step) ([]proposal, error)) error {
	t, rest, err := f.walk(path, steps)
	if err != nil {
		return err
	}
	ways, err := find(t, rest)
	if err != nil {
		var e *Error
		if errors.As(err, &e) {
			e.Path = path
		}
		return err
	}
	var others *Error
	for _, way := range ways {
		next := &File{name: f.name}
		if err := next.take(apply(f.text, way)); err != nil {
			continue
		}
		if reflect.DeepEqual(next.data, want) {
			*f = *next
			return nil
		}
		if at := difference(want, next.data, ""); at != "" && others == nil {
			others = f.refuse(path, t.node(f.root), "cannot be changed alone: %s would change with it, through an anchor, an alias or a merge key", at)
		}
	}
	if others != nil {
		return others
	}
	return f.refuse(path, t.node(f.root), "cannot be changed in the way the file is written here: write this part in block style")
}

func apply(text string, way proposal) string {
	var b strings.Builder
	at := 0
	for _, s := range way {
		if s.start < at || s.end < s.start || s.end > len(text) {
			return "" // never equal to what is wanted
		}
		b.WriteString(text[at:s.start])
		b.WriteString(s.text)
		at = s.end
	}
	b.WriteString(text[at:])
	return b.String()
}

// refuse is the error of a change; at, if not nil, is where.
func (f *File) refuse(path string, at *yaml.Node, format string, args ...any) *Error {
	e := &Error{File: f.name, Path: path, Message: fmt.Sprintf(format, args...)}
	if at != nil {
		e.Line, e.Column = at.Line, at.Column
	}
	return e
}

// take reads text.
func (f *File) take(text string) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = f.refuse("", nil, "cannot be parsed as YAML: %v", r)
		}
	}()
	f.text, f.lines = text, []int{0}
	if len(text) > maxSize {
		return f.refuse("", nil, "has %d bytes: at most %d are read", len(text), maxSize)
	}
	for i := range len(text) {
		if text[i] == '\n' {
			f.lines = append(f.lines, i+1)
		}
	}
	f.lines = append(f.lines, len(text))
	if i := strings.IndexAny(strings.ReplaceAll(text, "\r\n", "\n"), "\r\u0085\u2028\u2029"); i >= 0 {
		return f.refuse("", nil, "holds line ends that are neither LF nor CRLF: write it with one of these")
	}
	if strings.HasPrefix(text, "\ufeff") {
		return f.refuse("", nil, "begins with a byte order mark: save it without")
	}
	decoder := yaml.NewDecoder(bytes.NewReader([]byte(text)))
	var doc, more yaml.Node
	if err := decoder.Decode(&doc); err != nil && !errors.Is(err, io.EOF) {
		return f.refuse("", nil, "%s", strings.TrimPrefix(err.Error(), "yaml: "))
	} else if err == nil && len(doc.Content) > 0 {
		f.root = doc.Content[0]
		if err := decoder.Decode(&more); !errors.Is(err, io.EOF) {
			return f.refuse("", &more, "holds more than one document: split it into files")
		}
	}
	if f.root != nil && f.root.Kind == yaml.ScalarNode && f.root.ShortTag() == "!!null" && f.root.Value == "" {
		f.root = nil
	}
	budget := maxNodes
	if f.data, err = plain(f.root, 0, &budget); err != nil {
		return f.refuse("", nil, "%v", err)
	}
	f.style = f.learn()
	return nil
}

// learn finds out how the file is written.
func (f *File) learn() style {
	s := style{newline: "\n"}
	if i := strings.IndexByte(f.text, '\n'); i > 0 && f.text[i-1] == '\r' {
		s.newline = "\r\n"
	}
	dash := -1
	var look func(n *yaml.Node)
	look = func(n *yaml.Node) {
		if n == nil || n.Style&yaml.FlowStyle != 0 {
			return
		}
		for i, c := range n.Content {
			if n.Kind == yaml.MappingNode && i%2 == 1 && c.Style&yaml.FlowStyle == 0 && c.Line > n.Content[i-1].Line {
				by := c.Column - n.Content[i-1].Column
				switch {
				case c.Kind == yaml.MappingNode && s.step == 0 && by > 0:
					s.step = by
				case c.Kind == yaml.SequenceNode && dash < 0 && by >= 0:
					dash = by
				}
			}
			look(c)
		}
	}
	look(f.root)
	if s.step == 0 {
		s.step = 2
	}
	if s.dash = dash; dash < 0 {
		s.dash = s.step
	}
	return s
}
