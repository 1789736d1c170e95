package compose

import (
	"encoding"
	"fmt"
	"reflect"
	"strconv"
	"strings"
)

// fromFiler is a value with a form of its own in the file.
type fromFiler interface{ fromFile(v any) error }

// decode reads m into target, strictly: every unknown key and every value of another type is an error at its place.
func (l *loading) decode(m *mark, path string, target reflect.Value) {
	if m == nil || m.reset || (m.kind == scalarMark && m.value == nil) {
		return
	}
	if f, ok := target.Addr().Interface().(fromFiler); ok {
		if m.kind != scalarMark {
			l.errorMark(m, path, "is a %s: write a single value", kindWord(m))
			return
		}
		if err := f.fromFile(m.value); err != nil {
			l.errorMark(m, path, "%v", err)
		}
		return
	}
	if u, ok := target.Addr().Interface().(encoding.TextUnmarshaler); ok {
		if m.kind != scalarMark {
			l.errorMark(m, path, "is a %s: write a single value", kindWord(m))
			return
		}
		if err := u.UnmarshalText([]byte(m.text())); err != nil {
			l.errorMark(m, path, "%v", err)
		}
		return
	}
	if l.decodeShort(m, path, target) {
		return
	}
	switch target.Kind() {
	case reflect.Interface:
		target.Set(reflect.ValueOf(m.plain(nil)))
	case reflect.Pointer:
		target.Set(reflect.New(target.Type().Elem()))
		l.decode(m, path, target.Elem())
	case reflect.Struct:
		l.decodeStruct(m, path, target)
	case reflect.Map:
		if m.kind != mappingMark {
			l.errorMark(m, path, "is a %s: write a mapping", kindWord(m))
			return
		}
		out := reflect.MakeMapWithSize(target.Type(), len(m.fields))
		for _, k := range m.keys() {
			v := reflect.New(target.Type().Elem()).Elem()
			l.decode(m.fields[k], JoinPath(path, k), v)
			out.SetMapIndex(reflect.ValueOf(k), v)
		}
		target.Set(out)
	case reflect.Slice:
		if _, text := reflect.New(target.Type().Elem()).Interface().(encoding.TextUnmarshaler); text && m.kind == scalarMark {
			m = &mark{src: m.src, kind: listMark, line: m.line, col: m.col, keyLine: m.keyLine, keyCol: m.keyCol, items: []*mark{m}}
		}
		if m.kind != listMark {
			l.errorMark(m, path, "is a %s: write a list", kindWord(m))
			return
		}
		out := reflect.MakeSlice(target.Type(), len(m.items), len(m.items))
		for i, item := range m.items {
			l.decode(item, indexPath(path, i), out.Index(i))
		}
		target.Set(out)
	default:
		if m.kind != scalarMark {
			l.errorMark(m, path, "is a %s: write a single value", kindWord(m))
			return
		}
		if err := decodeScalar(m, target); err != nil {
			l.errorMark(m, path, "%v", err)
		}
	}
}

// decodeShort reads the short forms of what else is a mapping or a list: a backup that is its command, a command that is
// a line for the shell.
func (l *loading) decodeShort(m *mark, path string, target reflect.Value) bool {
	switch at := target.Addr().Interface().(type) {
	case *Backup:
		if m.kind != mappingMark {
			l.decode(m, path, reflect.ValueOf(&at.Command).Elem())
			return true
		}
	case *Words:
		if m.kind == scalarMark {
			*at = Words{m.text()}
			return true
		}
	case *ShellCommand:
		if line, ok := m.value.(string); ok && m.kind == scalarMark {
			*at = ShellCommand{"/bin/sh", "-c", line}
			return true
		}
	}
	return false
}

func decodeScalar(m *mark, target reflect.Value) error {
	switch v := m.value; target.Kind() {
	case reflect.String:
		if _, ok := v.(bool); ok {
			return fmt.Errorf("%v is not a string: put it in quotes", v)
		}
		target.SetString(fmt.Sprint(v))
	case reflect.Bool:
		b, ok := v.(bool)
		if s, is := v.(string); is && m.variable {
			parsed, err := strconv.ParseBool(s)
			b, ok = parsed, err == nil
		}
		if !ok {
			return fmt.Errorf("%v is not true or false", v)
		}
		target.SetBool(b)
	case reflect.Int:
		i, ok := v.(int)
		if s, is := v.(string); is && m.variable {
			parsed, err := strconv.Atoi(s)
			i, ok = parsed, err == nil
		}
		if !ok {
			return fmt.Errorf("%v is not a whole number", v)
		}
		if i < 0 {
			return fmt.Errorf("%d is negative", i)
		}
		target.SetInt(int64(i))
	case reflect.Float64:
		f, err := strconv.ParseFloat(fmt.Sprint(v), 64)
		if _, is := v.(bool); err != nil || is {
			return fmt.Errorf("%v is not a number", v)
		}
		if !(f >= 0 && f < 1e15) {
			return fmt.Errorf("%v is not a number that makes sense here", v)
		}
		target.SetFloat(f)
	default:
		return fmt.Errorf("cannot hold %v", v)
	}
	return nil
}

// decodeStruct reads a mapping; keys whose field is not marked omitempty have to be there.
func (l *loading) decodeStruct(m *mark, path string, target reflect.Value) {
	if m.kind != mappingMark {
		l.errorMark(m, path, "is a %s: write a mapping of %s", kindWord(m), strings.Join(structKeys(target.Type()), ", "))
		return
	}
	fields := map[string]reflect.Value{}
	for i := range target.NumField() {
		f := target.Type().Field(i)
		if name := fileKey(f); name != "" {
			fields[name] = target.Field(i)
			if !strings.Contains(f.Tag.Get("json"), "omitempty") && m.fields[name] == nil {
				l.errorMark(m, path, "%s is missing", name)
			}
		}
	}
	for _, k := range m.keys() {
		f, ok := fields[k]
		switch {
		case ok && target.Type() == reflect.TypeFor[Probe]():
			l.decodeProbe(m.fields[k], JoinPath(path, k), k, target.Addr().Interface().(*Probe))
		case ok:
			l.decode(m.fields[k], JoinPath(path, k), f)
		default:
			l.errorKey(m.fields[k], JoinPath(path, k), "unknown key%s", didYouMean(k, structKeys(target.Type())))
		}
	}
}

// decodeProbe reads the short forms: tcp: 5432, grpc: true. What a variable stands for is text, and meant as what it looks like.
func (l *loading) decodeProbe(m *mark, path, key string, p *Probe) {
	value := m.value
	if text, ok := value.(string); ok && m.variable {
		if n, err := strconv.Atoi(text); err == nil {
			value = n
		} else if text == "true" || text == "false" {
			value = text == "true"
		}
	}
	switch v := value.(type) {
	case int:
		if key == "tcp" {
			p.TCP = true
			l.decode(m, path, reflect.ValueOf(&p.Port).Elem())
			return
		}
	case bool:
		if key == "grpc" {
			if v {
				p.GRPC = "-"
			}
			return
		}
	}
	l.decode(m, path, reflect.ValueOf(p).Elem().FieldByIndex(probeField(key)))
}

func probeField(key string) []int {
	t := reflect.TypeFor[Probe]()
	for i := range t.NumField() {
		if fileKey(t.Field(i)) == key {
			return t.Field(i).Index
		}
	}
	return nil
}

// fileKey returns the key of a field in the file, "" where the file cannot set it.
func fileKey(f reflect.StructField) string {
	name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
	if name == "-" || f.Tag.Get("trellis") == "internal" {
		return ""
	}
	return name
}

func structKeys(t reflect.Type) []string {
	var keys []string
	for i := range t.NumField() {
		if name := fileKey(t.Field(i)); name != "" {
			keys = append(keys, name)
		}
	}
	return keys
}

// didYouMean returns "; did you mean x?", or the list of what there is where that is short, or nothing.
func didYouMean(have string, known []string) string {
	best, least := "", len(have)/3+1
	for _, k := range known {
		if d := distance(strings.ToLower(have), k, least); d < least {
			best, least = k, d
		}
	}
	if best == "" && len(have) >= 3 {
		for _, k := range known {
			if strings.HasPrefix(k, have) || strings.HasPrefix(have, k) && len(k) > 3 {
				best = k
				break
			}
		}
	}
	switch {
	case best != "":
		return fmt.Sprintf("; did you mean %s?", best)
	case len(known) > 0 && len(known) <= 10:
		return ": it may be " + strings.Join(known, ", ")
	}
	return ""
}

// distance is how many letters have to be changed, added, left out or swapped to make b from a; limit where it is more.
func distance(a, b string, limit int) int {
	if len(a)-len(b) >= limit || len(b)-len(a) >= limit || len(a) > 128 {
		return limit
	}
	before, row := make([]int, len(b)+1), make([]int, len(b)+1)
	next := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := 1; i <= len(a); i++ {
		next[0] = i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			next[j] = min(row[j]+1, next[j-1]+1, row[j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				next[j] = min(next[j], before[j-2]+1)
			}
		}
		before, row, next = row, next, before
	}
	return row[len(b)]
}
