package compose

import (
	"fmt"
	"reflect"
	"strconv"
	"strings"

	"github.com/compose-spec/compose-go/v2/types"
	"github.com/docker/go-units"
	"github.com/xhit/go-str2duration/v2"
)

// checkForms checks numbers, durations, sizes and switches of the whole tree against the types that compose-go will read
// them into: its schema allows any string there, and its own reading stops at the first that is wrong.
func (l *loading) checkForms() {
	forms := map[string]reflect.Type{}
	for _, a := range specAttributes() {
		forms[a.path] = a.typ
	}
	l.walkForms(l.root, "", "", forms)
}

func (l *loading) walkForms(m *mark, path, pattern string, forms map[string]reflect.Type) {
	switch m.kind {
	case mappingMark:
		for _, k := range m.keys() {
			if strings.HasPrefix(k, "x-") && !named(pattern) {
				continue
			}
			next := below(pattern, k)
			if _, known := forms[next]; known {
				l.walkForms(m.fields[k], JoinPath(path, k), next, forms)
			}
		}
	case listMark:
		for i, item := range m.items {
			l.walkForms(item, indexPath(path, i), pattern+"[]", forms)
		}
	default:
		if t := forms[pattern]; t != nil && m.value != nil {
			if want := badForm(m.value, t); want != "" {
				l.errorMark(m, path, "%s is not %s", quoted(m.text()), want)
			}
		}
	}
}

// badForm says what a value should be, "" where it is that.
func badForm(v any, t reflect.Type) string {
	text := fmt.Sprint(v)
	switch t {
	case reflect.TypeFor[types.Duration]():
		if _, err := str2duration.ParseDuration(text); err != nil || text == "" {
			return "a duration: write a number with a unit, such as 10s or 1m30s"
		}
		return ""
	case reflect.TypeFor[types.UnitBytes]():
		// What YAML takes for a number with a fraction, such as 1e9, compose-go leaves out without a word.
		_, fraction := v.(float64)
		if _, err := strconv.ParseInt(text, 10, 64); err == nil && !fraction {
			return ""
		}
		if n, err := units.RAMInBytes(text); err != nil || n < 0 || fraction {
			return "a size: write a number with a unit, such as 128M or 2g"
		}
		return ""
	case reflect.TypeFor[types.FileMode]():
		if _, err := strconv.ParseInt(text, 0, 64); err != nil {
			return "a file mode: write it in octal, such as 0440"
		}
		return ""
	case reflect.TypeFor[types.DeviceCount]():
		if text == "all" {
			return ""
		}
	case reflect.TypeFor[types.UlimitsConfig]():
		t = reflect.TypeFor[int]()
	}
	switch t.Kind() {
	case reflect.Bool:
		if !among("true false yes no on off y n", strings.ToLower(text)) {
			return "true or false"
		}
	case reflect.Int, reflect.Int64:
		if _, err := strconv.ParseInt(text, 0, 64); err != nil {
			return "a whole number"
		}
	case reflect.Uint64, reflect.Uint32, reflect.Uint16:
		if _, err := strconv.ParseUint(text, 0, 64); err != nil {
			return "a whole number that is not negative"
		}
	case reflect.Float32, reflect.Float64:
		if f, err := strconv.ParseFloat(text, 64); err != nil || f != f || f > 1e12 {
			return "a number"
		}
	}
	return ""
}
