package compose

import (
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"github.com/compose-spec/compose-go/v2/format"
	"github.com/compose-spec/compose-go/v2/types"
)

// Marks are merged by the rules by which compose-go merges the values, so that the merged tree says where the winning
// value came from. TestMergedMarksLoadTheSame holds the two against each other.

// Paths that one pattern of the rules below names; "*" stands for one key.
const (
	keyValues  = "annotations build.args build.labels build.additional_contexts deploy.labels environment labels sysctls"
	replaced   = "command entrypoint healthcheck.test"
	sequences  = "dns dns_opt dns_search env_file label_file tmpfs"
	nameLists  = "depends_on networks models"
	commands   = "x-trellis.process.command x-trellis.backup x-trellis.backup.command x-trellis.backup.restore" // replaced where both are lists
	uniqueList = "cap_add cap_drop dns dns_opt dns_search links profiles tmpfs build.tags expose env_file"
)

// rule returns the part of a path below services.NAME or jobs.NAME, and whether it is there.
func rule(path []string) (string, bool) {
	if len(path) < 3 || (path[0] != "services" && path[0] != "jobs") {
		return "", false
	}
	return strings.Join(path[2:], "."), true
}

func among(list, name string) bool { return slices.Contains(strings.Fields(list), name) }

func isKeyValues(path []string) bool {
	if below, ok := rule(path); ok {
		return among(keyValues, below)
	}
	return len(path) == 3 && path[2] == "labels" && among("networks volumes secrets configs", path[0])
}

// onceOnly says that a list holds every element once, whatever the file says.
func onceOnly(path []string) bool {
	below, service := rule(path)
	return service && indexer(below) != nil
}

// normal returns m in the form in which it is merged at path.
func normal(m *mark, path []string) *mark {
	below, service := rule(path)
	switch {
	case m.reset:
		return m
	case isKeyValues(path) && m.kind == listMark:
		return keyed(m, true)
	case service && among(nameLists, below) && m.kind == listMark:
		return keyedNames(m, below == "depends_on")
	case service && below == "build" && m.kind == scalarMark && m.value != nil:
		return &mark{src: m.src, kind: mappingMark, line: m.line, col: m.col, keyLine: m.keyLine, keyCol: m.keyCol,
			fields: map[string]*mark{"context": m}}
	case service && among(sequences, below) && m.kind == scalarMark && m.value != nil:
		return &mark{src: m.src, kind: listMark, line: m.line, col: m.col, keyLine: m.keyLine, keyCol: m.keyCol,
			items: []*mark{m}}
	case service && below == "ports" && m.kind == listMark:
		return withItems(m, portItems(m.items))
	case service && m.kind == listMark && indexer(below) != nil:
		return withItems(m, uniqueItems(m.items, indexer(below)))
	}
	return m
}

func withItems(m *mark, items []*mark) *mark {
	c := *m
	c.items = items
	return &c
}

// keyed turns ["A=1", "B"] into {A: 1, B: null}; without values ["a"] into {a: null}.
func keyed(m *mark, values bool) *mark {
	c := *m
	c.kind, c.items, c.fields = mappingMark, nil, map[string]*mark{}
	for _, item := range m.items {
		if item.kind != scalarMark {
			return m
		}
		k, v, has := item.text(), "", false
		if values {
			k, v, has = strings.Cut(k, "=")
		}
		f := *item
		f.value, f.keyLine, f.keyCol = nil, item.line, item.col
		if has {
			f.value = v
		}
		c.fields[k] = &f
	}
	return &c
}

// keyedNames turns [a] into {a: null}; dependencies get the values that the short form stands for.
func keyedNames(m *mark, dependencies bool) *mark {
	k := keyed(m, false)
	if !dependencies || k.kind != mappingMark {
		return k
	}
	for name, f := range k.fields {
		d := *f
		d.kind = mappingMark
		d.fields = map[string]*mark{}
		for key, value := range map[string]any{"condition": "service_started", "required": true} {
			v := *f
			v.value, v.keyLine, v.keyCol, v.list = value, 0, 0, nil
			d.fields[key] = &v
		}
		k.fields[name] = &d
	}
	return k
}

// indexer returns what makes two elements of the list the same one, nil where none replaces another.
func indexer(below string) func(*mark) string {
	switch {
	case among(uniqueList, below):
		return func(m *mark) string {
			if m.kind == mappingMark {
				return m.at("path").text()
			}
			k, _, _ := strings.Cut(m.text(), "=")
			return k
		}
	case below == "volumes":
		return func(m *mark) string {
			if m.kind == mappingMark {
				return m.at("target").text()
			}
			v, err := format.ParseVolume(m.text())
			if err != nil {
				return m.text()
			}
			return v.Target
		}
	case below == "devices":
		return func(m *mark) string {
			if m.kind == mappingMark {
				return m.at("target").text()
			}
			parts := strings.Split(m.text(), ":")
			return parts[min(1, len(parts)-1)]
		}
	case below == "secrets", below == "configs":
		return func(m *mark) string {
			if t := m.at("target"); t != nil {
				return t.text()
			}
			if m.kind == mappingMark {
				return "/run/secrets/" + m.at("source").text()
			}
			return "/run/secrets/" + m.text()
		}
	}
	return nil
}

// uniqueItems keeps one element per key: the last, in the place of the first.
func uniqueItems(items []*mark, key func(*mark) string) []*mark {
	var out []*mark
	place := map[string]int{}
	for _, item := range items {
		k := key(item)
		if i, ok := place[k]; ok {
			out[i] = item
			continue
		}
		place[k] = len(out)
		out = append(out, item)
	}
	return out
}

// portItems takes short forms and ranges of ports apart, as compose-go orders them.
func portItems(items []*mark) []*mark {
	var out []*mark
	total := 0
	for _, item := range items {
		if item.kind != scalarMark || item.reset {
			out = append(out, item)
			continue
		}
		if total += rangeSize(item.text()); total > maxPorts {
			out = append(out, item)
			continue
		}
		ports, err := types.ParsePortConfig(item.text())
		if err != nil {
			out = append(out, item)
			continue
		}
		for _, p := range ports {
			out = append(out, portMark(item, p))
		}
	}
	return uniqueItems(out, portKey)
}

// rangeSize is how many ports a short form may stand for.
func rangeSize(text string) int {
	text, _, _ = strings.Cut(text[strings.LastIndexByte(text, ':')+1:], "/")
	lo, hi, _ := portRange(text)
	return max(hi-lo+1, 1)
}

func portMark(item *mark, p types.ServicePortConfig) *mark {
	m := &mark{src: item.src, kind: mappingMark, line: item.line, col: item.col, list: item.list, fields: map[string]*mark{}}
	set := func(key string, value any) {
		f := *item
		f.value, f.list = value, nil
		m.fields[key] = &f
	}
	set("target", int(p.Target))
	set("protocol", p.Protocol)
	set("mode", p.Mode)
	if p.Published != "" {
		set("published", p.Published)
	}
	if p.HostIP != "" {
		set("host_ip", p.HostIP)
	}
	return m
}

func portKey(m *mark) string {
	if m.kind != mappingMark {
		return m.text()
	}
	or := func(key, otherwise string) string {
		if f := m.fields[key]; f != nil {
			return f.text()
		}
		return otherwise
	}
	return or("host_ip", "0.0.0.0") + ":" + or("published", "") + ":" + or("target", "") + "/" + or("protocol", "tcp")
}

// merge returns over laid upon base at path. Neither is changed.
func (l *loading) merge(base, over *mark, path []string) *mark {
	switch {
	case over == nil:
		return base
	case base == nil, over.override, base.reset:
		return l.settle(over, path)
	case over.reset:
		return over
	}
	base, over = normal(base, path), normal(over, path)
	below, service := rule(path)
	switch {
	case service && (among(replaced, below) || among(commands, below) && base.kind == listMark && over.kind == listMark):
		return over
	case over.kind == scalarMark && over.value == nil:
		return base
	case base.kind == scalarMark && base.value == nil:
		return l.settle(over, path)
	case service && below == "logging" && otherDriver(base, over):
		return over
	case service && strings.HasPrefix(below, "ulimits."):
		if base.kind != over.kind {
			return over
		}
	}
	switch {
	case base.kind == mappingMark && over.kind == mappingMark:
		return l.mergeFields(base, over, path)
	case base.kind == listMark && over.kind == listMark:
		return l.mergeItems(base, over, path)
	case base.kind != over.kind && (base.kind != scalarMark || over.kind != scalarMark):
		line, col := over.place()
		bline, _ := base.place()
		l.errorAt(over.file(), line, col, pathOf(path), "a %s cannot be merged with the %s in %s:%d: write both the same way, or put !override before this one",
			kindWord(over), kindWord(base), shorten(base.file(), l.cwd), bline)
		return over
	}
	return over
}

func kindWord(m *mark) string { return [...]string{"single value", "mapping", "list"}[m.kind] }

func otherDriver(base, over *mark) bool {
	b, o := base.at("driver"), over.at("driver")
	return b != nil && o != nil && b.text() != o.text()
}

func (l *loading) mergeFields(base, over *mark, path []string) *mark {
	c := *over
	c.fields = make(map[string]*mark, len(base.fields)+len(over.fields))
	for k, f := range base.fields {
		c.fields[k] = f
	}
	for k, f := range over.fields {
		merged := l.merge(base.fields[k], f, append(path[:len(path):len(path)], k))
		if merged.reset {
			delete(c.fields, k)
			continue
		}
		c.fields[k] = merged
	}
	return &c
}

// mergeItems adds what a list does not hold yet. Each value is compared with each, here and in compose-go once more, so
// how often is bounded for the project as a whole.
func (l *loading) mergeItems(base, over *mark, path []string) *mark {
	if l.compared += base.size()*len(over.items) + over.size()*len(base.items); l.compared > maxCompared {
		if !l.comparedTooOften {
			l.errorMark(over, pathOf(path), "too many values in lists that are merged: write this list in one place, or put !override before it")
		}
		l.comparedTooOften = true
		return over
	}
	c := *over
	c.items = slices.Clone(base.items)
	var have []any
	for _, item := range base.items {
		have = append(have, item.plain(nil))
	}
	for _, item := range over.items {
		value := item.plain(nil)
		if !slices.ContainsFunc(have, func(other any) bool { return reflect.DeepEqual(other, value) }) {
			c.items, have = append(c.items, item), append(have, value)
		}
	}
	below, service := rule(path)
	switch {
	case service && below == "ports":
		c.items = uniqueItems(c.items, portKey)
	case service && indexer(below) != nil:
		c.items = uniqueItems(c.items, indexer(below))
	}
	return &c
}

// settle brings a tree that is not merged with anything into the form that merge would give it.
func (l *loading) settle(m *mark, path []string) *mark {
	m = normal(m, path)
	if m.kind != mappingMark || len(path) > 8 {
		return m
	}
	c := *m
	c.override = false
	c.fields = make(map[string]*mark, len(m.fields))
	for k, f := range m.fields {
		if !f.reset {
			c.fields[k] = l.settle(f, append(path[:len(path):len(path)], k))
		}
	}
	return &c
}

// pathOf writes keys as a Compose path.
func pathOf(keys []string) string {
	path := ""
	for _, k := range keys {
		if strings.HasPrefix(k, "[") {
			path += k
			continue
		}
		if i, err := strconv.Atoi(k); err == nil && path != "" && strings.HasSuffix(path, "s") {
			path = fmt.Sprintf("%s[%d]", path, i)
			continue
		}
		path = JoinPath(path, k)
	}
	return path
}
