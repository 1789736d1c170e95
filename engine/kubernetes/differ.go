package kubernetes

import (
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
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

// podLists are those of a pod in which an element that nobody asked for changes what runs.
var podLists = []string{"containers", "initContainers", "env", "volumes", "volumeMounts"}

// added calls fn for each element of such a list that have has and want has not, with its path and its JSON pointer. Who
// applies with server-side apply leaves it there: it is somebody else's.
func added(path, pointer string, want, have any, fn func(path, pointer string, value any)) {
	hm, _ := have.(map[string]any)
	wm, _ := want.(map[string]any)
	for _, key := range slices.Sorted(maps.Keys(hm)) {
		list, isList := hm[key].([]any)
		if !isList {
			if _, both := wm[key]; both {
				added(path+"."+key, pointer+"/"+escaped(key), wm[key], hm[key], fn)
			}
			continue
		}
		if !slices.Contains(podLists, key) {
			continue
		}
		mine, _ := wm[key].([]any)
		by := keyOf(mine, list)
		if by == "" {
			continue
		}
		known := keyed(by, mine)
		for i, e := range list {
			id := elementID(by, e)
			at, place := path+"."+key+id, fmt.Sprintf("%s/%s/%d", pointer, escaped(key), i)
			if one, ok := known[id]; ok {
				added(at, place, one, e, fn)
			} else {
				fn(at, place, e)
			}
		}
	}
}

// escaped is a key as a JSON pointer has it; RFC 6901.
func escaped(key string) string {
	return strings.ReplaceAll(strings.ReplaceAll(key, "~", "~0"), "/", "~1")
}
