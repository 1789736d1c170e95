package compose

import (
	"os"
	"path/filepath"
	"reflect"
)

// Document is a YAML file beside the Compose files that is read as strictly as x-trellis is: unknown keys, values of
// another type and keys that are missing are errors at their place. Its $ signs are text.
type Document struct {
	loading *loading
	broken  bool
}

// ReadDocument reads the file at path; a file that cannot be read gives a Document whose Err says so.
func ReadDocument(path string) *Document {
	d := newDocument(path)
	content, err := readLimited(path)
	if err != nil {
		d.broken = true
		d.loading.errorAt(path, 0, 0, "", "cannot be read: %v", err)
		return d
	}
	d.parse(path, content)
	return d
}

// ParseDocument reads content; name stands in its errors.
func ParseDocument(name string, content []byte) *Document {
	d := newDocument(name)
	d.parse(name, content)
	return d
}

func newDocument(name string) *Document {
	l := &loading{bad: map[place]bool{}, early: -1}
	l.files = []string{name}
	l.cwd, _ = os.Getwd() // only shortens the names in messages
	if name != "" && filepath.IsAbs(name) {
		l.files[0] = filepath.Clean(name)
	}
	return &Document{loading: l}
}

func (d *Document) parse(name string, content []byte) {
	l := d.loading
	docs, problem := parseYAML(name, content)
	switch {
	case problem != nil:
		l.errors = append(l.errors, *problem)
	case len(docs) == 0:
		l.errorAt(name, 0, 0, "", "is empty")
	case len(docs) > 1:
		l.errorAt(name, docs[1].Line, docs[1].Column, "", "is a second document: only one is read; remove the line ---")
	default:
		l.root = l.build(docs[0], &source{path: name, literal: true})
		if l.root == nil && len(l.errors) == 0 {
			l.errorAt(name, 0, 0, "", "is empty")
		}
	}
	d.broken = len(l.errors) > 0
}

// Decode fills target, a pointer to a struct with the json tags of the keys; those without omitempty are needed. A type
// with UnmarshalText reads a single value itself, and a list of such may be written as one.
func (d *Document) Decode(target any) {
	if !d.broken {
		d.loading.decode(d.loading.root, "", reflect.ValueOf(target).Elem())
	}
}

// Errorf adds an error at a path such as steps[0].path, unless there is one already.
func (d *Document) Errorf(path, format string, args ...any) {
	if !d.broken {
		d.loading.errorPath(path, format, args...)
	}
}

// Err returns all errors as Diagnostics, in order of place, or nil.
func (d *Document) Err() error {
	if len(d.loading.errors) == 0 {
		return nil
	}
	return d.loading.told()
}

// DidYouMean returns "; did you mean x?" for the one of known that is most like have, or a list of what there is where
// that is short, or nothing.
func DidYouMean(have string, known []string) string { return didYouMean(have, known) }
