package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"

	"trellis/compose"
)

// composeFile returns a project as a Compose file again: its JSON without what is Trellis' own, and with the attributes
// that the model only carries along back at their place.
func composeFile(project compose.Project) (map[string]any, error) {
	b, err := json.Marshal(project)
	if err != nil {
		return nil, fmt.Errorf("print the project: %w", err)
	}
	dec := json.NewDecoder(bytes.NewReader(b))
	dec.UseNumber()
	var file map[string]any
	if err := dec.Decode(&file); err != nil {
		return nil, fmt.Errorf("print the project: %w", err)
	}
	for _, own := range []string{"working_dir", "files", "env_files", "environment", "disabled_services", "places"} {
		delete(file, own)
	}
	for _, place := range []string{
		"", "services.*", "services.*.build", "services.*.networks.*", "services.*.deploy.resources.limits",
		"services.*.deploy.resources.reservations", "services.*.volumes.[]", "services.*.pre_start.[]", "networks.*", "secrets.*", "configs.*",
	} {
		at(file, fieldsOf(place), lift)
	}
	at(file, fieldsOf("services.*.volumes.[]"), nestMount)
	at(file, fieldsOf("services.*.build"), joinKeys)
	file = numbers(file).(map[string]any)
	for _, place := range []string{"limits", "reservations"} {
		at(file, fieldsOf("services.*.deploy.resources."+place), func(m map[string]any) {
			if bytes, ok := m["memory"].(int64); ok {
				m["memory"] = strconv.FormatInt(bytes, 10) // the specification wants text
			}
		})
	}
	return escaped(file).(map[string]any), nil
}

// fieldsOf takes a place apart: keys, * for any key, [] for any element of a list.
func fieldsOf(place string) []string {
	return strings.FieldsFunc(place, func(r rune) bool { return r == '.' })
}

// nestMount puts what a mount says of its kind where Compose has it.
func nestMount(m map[string]any) {
	if _, made := m["create_host_path"]; m["type"] == compose.MountBind && !made {
		m["create_host_path"] = false // unset it is made
	}
	for _, move := range [][3]string{
		{"create_host_path", "bind", "create_host_path"}, {"propagation", "bind", "propagation"}, {"subpath", "volume", "subpath"},
		{"nocopy", "volume", "nocopy"}, {"tmpfs_size", "tmpfs", "size"}, {"tmpfs_mode", "tmpfs", "mode"},
	} {
		value, there := m[move[0]]
		if !there {
			continue
		}
		delete(m, move[0])
		below, ok := m[move[1]].(map[string]any)
		if !ok {
			below = map[string]any{}
			m[move[1]] = below
		}
		below[move[2]] = value
	}
}

// joinKeys writes the keys of build.ssh as the specification has them: the library that reads files has "id: path" of them.
func joinKeys(build map[string]any) {
	keys, _ := build["ssh"].([]any)
	for i, key := range keys {
		if text, ok := key.(string); ok {
			keys[i] = strings.Replace(text, ": ", "=", 1)
		}
	}
}

// escaped returns node with every $ doubled: whoever reads the file takes variables for what they are, and these are
// values already.
func escaped(node any) any {
	switch node := node.(type) {
	case map[string]any:
		for key, value := range node {
			node[key] = escaped(value)
		}
	case []any:
		for i, value := range node {
			node[i] = escaped(value)
		}
	case string:
		return strings.ReplaceAll(node, "$", "$$")
	}
	return node
}

// lift moves what stands under "other" of a node up to where it belongs.
func lift(m map[string]any) {
	other, _ := m["other"].(map[string]any)
	delete(m, "other")
	for key, value := range other {
		if _, there := m[key]; !there {
			m[key] = value
		}
	}
}

// at calls fn for each mapping at path, of which * is any key and [] any element of a list.
func at(node any, path []string, fn func(map[string]any)) {
	if list, ok := node.([]any); ok && len(path) > 0 && path[0] == "[]" {
		for _, element := range list {
			at(element, path[1:], fn)
		}
		return
	}
	m, ok := node.(map[string]any)
	switch {
	case !ok:
	case len(path) == 0:
		fn(m)
	case path[0] == "*":
		for _, child := range m {
			at(child, path[1:], fn)
		}
	default:
		at(m[path[0]], path[1:], fn)
	}
}

// numbers returns node with JSON's numbers as Go's.
func numbers(node any) any {
	switch node := node.(type) {
	case map[string]any:
		for key, value := range node {
			node[key] = numbers(value)
		}
	case []any:
		for i, value := range node {
			node[i] = numbers(value)
		}
	case json.Number:
		if n, err := node.Int64(); err == nil {
			return n
		}
		f, _ := node.Float64()
		return f
	}
	return node
}
