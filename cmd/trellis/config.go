package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"go.yaml.in/yaml/v4"

	"trellis/compose"
)

func (p *program) configCommand() *cobra.Command {
	var services, quiet bool
	format := &choice{value: "yaml", allowed: []string{"yaml", "json"}}
	cmd := &cobra.Command{
		Use:   "config",
		Short: "Print the project as it is understood",
		Long: `Config prints the Compose file that results from all files, overrides, includes,
profiles and variables, in its long form. It contacts nothing and changes
nothing. Contents of secrets are never part of it.`,
		Example: `  trellis config
  trellis config -f compose.yaml -f compose.prod.yaml
  trellis config --services`,
		Args: arguments(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			l, err := p.read(cmd.Context())
			if err != nil {
				return err
			}
			p.warn(l.warnings)
			switch {
			case quiet:
				return nil
			case services:
				for _, name := range l.project.ServiceNames() {
					fmt.Fprintln(p.stdout, name)
				}
				return nil
			}
			file, err := composeFile(l.project)
			if err != nil {
				return err
			}
			if format.value == "json" {
				return p.writeJSON(file)
			}
			enc := yaml.NewEncoder(p.stdout)
			enc.SetIndent(2)
			if err := enc.Encode(file); err != nil {
				return fmt.Errorf("print the project: %w", err)
			}
			return enc.Close()
		},
	}
	cmd.Flags().BoolVar(&services, "services", false, "only the services' names, one a line")
	cmd.Flags().BoolVarP(&quiet, "quiet", "q", false, "print nothing: only check that the files can be read")
	cmd.Flags().Var(format, "format", "`FORMAT` of the output: yaml or json")
	return p.project(cmd)
}

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
	for _, own := range []string{"working_dir", "files", "disabled_services"} {
		delete(file, own)
	}
	for _, place := range []string{
		"services.*", "services.*.build", "services.*.networks.*", "services.*.deploy.resources.limits",
		"services.*.deploy.resources.reservations", "networks.*",
	} {
		at(file, strings.Split(place, "."), lift)
	}
	file = numbers(file).(map[string]any)
	for _, place := range []string{"limits", "reservations"} {
		at(file, strings.Split("services.*.deploy.resources."+place, "."), func(m map[string]any) {
			if bytes, ok := m["memory"].(int64); ok {
				m["memory"] = strconv.FormatInt(bytes, 10) // the specification wants text
			}
		})
	}
	return file, nil
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

// at calls fn for each mapping at path, of which * is any key.
func at(node any, path []string, fn func(map[string]any)) {
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
