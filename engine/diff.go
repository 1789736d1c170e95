package engine

import (
	"encoding/json"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"

	"trellis/compose"
)

// Diff returns what separates want from the project that have is the state of, in order of path. It is pure. Where
// nothing was applied, or it was deleted, everything is added. What only a later step fills in (the ref of a content, the
// digest of an artefact) is no difference while want does not have it.
func Diff(want compose.Project, have State) []Change {
	from := compose.Project{}
	if have.Desired != nil {
		from = *have.Desired
	}
	d := differ{want: want, from: from}
	d.services()
	d.section("networks", tree(from.Networks), tree(want.Networks))
	d.section("volumes", tree(from.Volumes), tree(want.Volumes))
	d.section("secrets", tree(from.Secrets), tree(want.Secrets))
	d.section("configs", tree(from.Configs), tree(want.Configs))
	d.walk("x-trellis", tree(from.Trellis), tree(want.Trellis))
	slices.SortStableFunc(d.changes, func(a, b Change) int { return strings.Compare(a.Path, b.Path) })
	if d.changes == nil {
		return []Change{}
	}
	return d.changes
}

type differ struct {
	want, from compose.Project
	changes    []Change
}

// services compares service by service, and looks into those that differ.
func (d *differ) services() {
	names := map[string]bool{}
	for _, services := range []map[string]compose.Service{d.want.Services, d.from.Services} {
		for name := range services {
			names[name] = true
		}
	}
	for _, name := range slices.Sorted(maps.Keys(names)) {
		from, was := d.from.Services[name]
		to, is := d.want.Services[name]
		path := compose.JoinPath("services", name)
		switch {
		case !was:
			d.add(Change{Path: path, Action: Add, To: tree(to)})
		case !is:
			d.add(Change{Path: path, Action: Remove, From: tree(from)})
		default:
			d.attributes(path, from, completed(from, to))
		}
	}
}

// attributes compares two definitions of a service field by field. Only what differs is written down as the file has it:
// that is what costs.
func (d *differ) attributes(path string, from, to compose.Service) {
	if reflect.DeepEqual(from, to) {
		return
	}
	a, b := reflect.ValueOf(from), reflect.ValueOf(to)
	differing := map[string]int{} // field by key
	for i := range a.NumField() {
		key, _, _ := strings.Cut(a.Type().Field(i).Tag.Get("json"), ",")
		if key != "-" && !reflect.DeepEqual(a.Field(i).Interface(), b.Field(i).Interface()) {
			differing[key] = i
		}
	}
	for _, key := range slices.Sorted(maps.Keys(differing)) {
		i := differing[key]
		d.field(compose.JoinPath(path, key), written(a.Field(i)), written(b.Field(i)))
	}
}

// written is a field as a tree, nil where its JSON leaves it out: every field of a service is left out when it is empty.
func written(v reflect.Value) any {
	switch v.Kind() {
	case reflect.Map, reflect.Slice, reflect.String:
		if v.Len() == 0 {
			return nil
		}
	default:
		if v.IsZero() {
			return nil
		}
	}
	return tree(v.Interface())
}

// completed returns to with the digests that a build has yet to fill in taken from from.
func completed(from, to compose.Service) compose.Service {
	a, b := from.Trellis.Process, to.Trellis.Process
	if a != nil && b != nil && b.Artifact == "" {
		p := *b
		p.Artifact = a.Artifact
		to.Trellis.Process = &p
	}
	if from.Image == to.Image && to.Trellis.ImageID == "" && b == nil {
		to.Trellis.ImageID = from.Trellis.ImageID
	}
	return to
}

// section compares a map of named things.
func (d *differ) section(name string, from, to any) {
	f, _ := from.(map[string]any)
	t, _ := to.(map[string]any)
	d.maps(name, f, t)
}

func (d *differ) maps(path string, from, to map[string]any) {
	keys := slices.Concat(slices.Collect(maps.Keys(from)), slices.Collect(maps.Keys(to)))
	slices.Sort(keys)
	for _, key := range slices.Compact(keys) {
		if key == "ref" && to[key] == nil && strings.Count(path, ".") == 1 {
			continue
		}
		if to == nil {
			d.walk(compose.JoinPath(path, key), from[key], nil)
			continue
		}
		d.field(compose.JoinPath(path, key), from[key], to[key])
	}
}

// field compares two JSON values at the path of something that is there before and after: what JSON leaves out of it then may be a zero
// that a file can say.
func (d *differ) field(path string, from, to any) {
	if to == nil && leaf(from) {
		if zero := compose.Zero(path); zero != nil {
			d.add(Change{Path: path, Action: Modify, From: from, To: zero})
			return
		}
	}
	d.walk(path, from, to)
}

// walk compares two JSON values at one path.
func (d *differ) walk(path string, from, to any) {
	switch {
	case reflect.DeepEqual(from, to):
		return
	case from == nil && leaf(to):
		d.add(Change{Path: path, Action: Add, To: to})
		return
	case to == nil && leaf(from):
		d.add(Change{Path: path, Action: Remove, From: from})
		return
	}
	fm, fIsMap := from.(map[string]any)
	tm, tIsMap := to.(map[string]any)
	fl, fIsList := from.([]any)
	tl, tIsList := to.([]any)
	switch {
	case (fIsMap || from == nil) && (tIsMap || to == nil) && (fIsMap || tIsMap):
		if d.whole(path) && (from == nil || to == nil) {
			d.add(Change{Path: path, Action: action(from, to), From: from, To: to})
			return
		}
		d.maps(path, fm, tm)
	case (fIsList || from == nil) && (tIsList || to == nil) && objects(fl) && objects(tl):
		d.lists(path, fl, tl)
	default:
		d.add(Change{Path: path, Action: action(from, to), From: from, To: to})
	}
}

// whole says whether what stands at a path is a named thing that is added and removed as one.
func (d *differ) whole(path string) bool {
	section, name, _ := strings.Cut(path, ".")
	switch section {
	case "networks", "volumes", "secrets", "configs":
		return name != "" && !strings.Contains(name, ".")
	}
	return false
}

// lists compares two lists of objects: those that stand for the same thing with each other, whatever their order.
func (d *differ) lists(path string, from, to []any) {
	used := make([]bool, len(from))
	for i, t := range to {
		at := slices.IndexFunc(from, func(f any) bool { return identity(path, f) == identity(path, t) })
		for at >= 0 && used[at] { // the same thing twice: in order
			next := slices.IndexFunc(from[at+1:], func(f any) bool { return identity(path, f) == identity(path, t) })
			if next < 0 {
				at = -1
				break
			}
			at += 1 + next
		}
		if at < 0 {
			d.add(Change{Path: fmt.Sprintf("%s[%d]", path, i), Action: Add, To: t})
			continue
		}
		used[at] = true
		d.walk(fmt.Sprintf("%s[%d]", path, i), from[at], t)
	}
	for i, f := range from {
		if !used[i] {
			d.add(Change{Path: fmt.Sprintf("%s[%d]", path, i), Action: Remove, From: f})
		}
	}
}

// identity returns what makes an element of a list the same thing as another.
func identity(path string, element any) string {
	m, _ := element.(map[string]any)
	var keys []string
	switch path[strings.LastIndexByte(path, '.')+1:] {
	case "ports":
		keys = []string{"target", "protocol"}
	case "volumes":
		keys = []string{"target"}
	case "secrets", "configs":
		keys = []string{"source", "target"}
	case "routes":
		keys = []string{"host", "path", "methods"}
	case "watch":
		keys = []string{"path", "action"}
	case "subscribes":
		keys = []string{"topic"}
	default:
		return "" // by position
	}
	var b strings.Builder
	for _, key := range keys {
		fmt.Fprintf(&b, "%v\x00", m[key])
	}
	return b.String()
}

func (d *differ) add(c Change) {
	c.Effect = d.effect(c)
	c.From, c.To = masked(c.Path, compose.InFile(c.Path, c.From)), masked(c.Path, compose.InFile(c.Path, c.To))
	d.changes = append(d.changes, c)
}

func action(from, to any) string {
	switch {
	case from == nil:
		return Add
	case to == nil:
		return Remove
	}
	return Modify
}

// leaf says whether v is a value rather than a structure that is walked into. An empty one says by being there: a service
// joins a network with it.
func leaf(v any) bool {
	switch v := v.(type) {
	case map[string]any:
		return len(v) == 0
	case []any:
		return len(v) == 0 || !objects(v)
	}
	return true
}

// objects says whether every element of a list is an object.
func objects(list []any) bool {
	for _, e := range list {
		if _, ok := e.(map[string]any); !ok {
			return false
		}
	}
	return true
}

func encode(v any) []byte {
	text, err := json.Marshal(v)
	if err != nil {
		panic(err) // a Project is plain data
	}
	return text
}

func decode(text []byte) any {
	var v any
	if err := json.Unmarshal(text, &v); err != nil {
		panic(err) // written by encode
	}
	return v
}

func tree(v any) any { return decode(encode(v)) }
