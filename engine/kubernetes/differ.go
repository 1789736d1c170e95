package kubernetes

import (
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strconv"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// keysOf are the fields by which elements of a list of the API are told apart, the first one that does it counts.
var keysOf = []string{"name", "mountPath", "containerPort", "port", "key"}

// differing calls fn for each place where have is not what want is. Paths are written as the API server writes them in
// conflicts: .spec.template.spec.containers[name="web"].image
func differing(path string, want, have any, fn func(path string, want, have any)) {
	if reflect.DeepEqual(want, have) {
		return
	}
	wm, wok := want.(map[string]any)
	hm, hok := have.(map[string]any)
	if wok && hok {
		for _, key := range slices.Sorted(maps.Keys(bothKeys(wm, hm))) {
			differing(path+"."+key, wm[key], hm[key], fn)
		}
		return
	}
	wl, wok := want.([]any)
	hl, hok := have.([]any)
	if key := keyOf(wl, hl); wok && hok && key != "" {
		w, h := keyed(key, wl), keyed(key, hl)
		for _, id := range slices.Sorted(maps.Keys(bothKeys(w, h))) {
			differing(path+id, w[id], h[id], fn)
		}
		return
	}
	fn(path, want, have)
}

// bothKeys has the keys of both maps.
func bothKeys(a, b map[string]any) map[string]any {
	out := maps.Clone(a)
	if out == nil {
		return b
	}
	maps.Copy(out, b)
	return out
}

// keyOf is the field that tells the elements of both lists apart, "" where there is none.
func keyOf(lists ...[]any) string {
	for _, key := range keysOf {
		if !slices.ContainsFunc(lists, func(list []any) bool { return len(keyed(key, list)) != len(list) }) {
			return key
		}
	}
	return ""
}

// keyed are the elements of a list by one of their fields, as a path has it: [name="web"]. Those without it are missing.
func keyed(key string, list []any) map[string]any {
	out := map[string]any{}
	for _, e := range list {
		if id := elementID(key, e); id != "" {
			out[id] = e
		}
	}
	return out
}

func elementID(key string, element any) string {
	m, _ := element.(map[string]any)
	switch v := m[key].(type) {
	case nil:
		return ""
	case string:
		return fmt.Sprintf("[%s=%q]", key, v)
	default:
		return fmt.Sprintf("[%s=%v]", key, v)
	}
}

// opened are the maps of a pod whose entries are told one by one; any other that nobody asked for is told as a whole.
var opened = []string{"resources", "limits", "requests"}

// added calls fn for each field of a pod template that another hand owns and that was not asked for, with its path, its JSON
// pointer and its owner. Who applies with server-side apply leaves it there: it is somebody else's. want and have are the pods'
// specs, owners the managedFields of the object.
func added(want, have any, owners []metav1.ManagedFieldsEntry, fn func(path, pointer string, value any, owner string)) {
	told := map[string]bool{}
	for _, entry := range owners {
		if entry.Manager == fieldManager || entry.Subresource != "" || entry.FieldsV1 == nil {
			continue
		}
		var fields map[string]any
		if json.Unmarshal(entry.FieldsV1.GetRawBytes(), &fields) != nil {
			continue // of another version than the one that there is
		}
		for _, key := range []string{"f:spec", "f:template", "f:spec"} {
			fields, _ = fields[key].(map[string]any)
		}
		addedIn(".spec.template.spec", "/spec/template/spec", fields, want, have, func(path, pointer string, value any) {
			if !told[pointer] {
				told[pointer] = true
				fn(path, pointer, value, entry.Manager)
			}
		})
	}
}

// addedIn walks the fields that somebody owns: "f:NAME" is a field of a map, "k:{...}" the element of a list with these keys.
func addedIn(path, pointer string, fields map[string]any, want, have any, fn func(path, pointer string, value any)) {
	hm, _ := have.(map[string]any)
	wm, _ := want.(map[string]any)
	hl, _ := have.([]any)
	wl, _ := want.([]any)
	for _, key := range slices.Sorted(maps.Keys(fields)) {
		below, _ := fields[key].(map[string]any)
		if name, ok := strings.CutPrefix(key, "f:"); ok {
			value, there := hm[name]
			asked, mine := wm[name]
			at, place := path+"."+name, pointer+"/"+escaped(name)
			switch {
			case !there:
			case mine || slices.Contains(opened, name) && len(below) > 0 || keyedList(below):
				addedIn(at, place, below, asked, value, fn)
			default:
				fn(at, place, value)
			}
			continue
		}
		text, ok := strings.CutPrefix(key, "k:")
		i := elementWith(text, hl)
		if !ok || i < 0 {
			continue
		}
		at, place := path+elementID(cmp.Or(keyOf(wl, hl), keysOf[0]), hl[i]), fmt.Sprintf("%s/%d", pointer, i)
		if mine := elementWith(text, wl); mine >= 0 {
			addedIn(at, place, below, wl[mine], hl[i], fn)
		} else {
			fn(at, place, hl[i])
		}
	}
}

// keyedList says whether fields are those of the elements of a list.
func keyedList(fields map[string]any) bool {
	for key := range fields {
		if strings.HasPrefix(key, "k:") {
			return true
		}
	}
	return false
}

// elementWith returns which element of a list has the keys that a JSON object says, -1 for none. What an element does not say
// is the server's default.
func elementWith(keys string, list []any) int {
	var want map[string]any
	if json.Unmarshal([]byte(keys), &want) != nil {
		return -1
	}
	return slices.IndexFunc(list, func(e any) bool {
		m, _ := e.(map[string]any)
		some := false
		for key, v := range want {
			is, there := m[key]
			if there && fmt.Sprint(is) != fmt.Sprint(v) {
				return false
			}
			some = some || there
		}
		return some
	})
}

// lastFirst orders JSON pointers so that what is removed does not move what is removed after it.
func lastFirst(a, b string) int {
	as, bs := strings.Split(a, "/"), strings.Split(b, "/")
	for i := range min(len(as), len(bs)) {
		x, xerr := strconv.Atoi(as[i])
		y, yerr := strconv.Atoi(bs[i])
		c := strings.Compare(as[i], bs[i])
		if xerr == nil && yerr == nil {
			c = cmp.Compare(x, y)
		}
		if c != 0 {
			return -c
		}
	}
	return cmp.Compare(len(bs), len(as))
}

// escaped is a key as a JSON pointer has it; RFC 6901.
func escaped(key string) string {
	return strings.ReplaceAll(strings.ReplaceAll(key, "~", "~0"), "/", "~1")
}
