package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"
	"go.yaml.in/yaml/v4"

	"trellis/compose"
	"trellis/errdefs"
)

func (p *program) exportCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "export FORMAT DIR",
		Short: "Write the project down for another tool",
		Long: `Export writes what Trellis makes of the project as files of another tool, which needs
no Trellis any more. What was written before is written anew, unless somebody has
changed it meanwhile.`,
		Example: `  trellis export compose out      the plain Compose file, for 'docker compose'
  trellis export kubernetes out   native objects, for 'kubectl apply -k out'
  trellis export grafana out      a dashboard for Grafana
  trellis export terraform out    a root for each environment, as Terraform code`,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
		Args: noSuchCommand,
	}
	cmd.AddCommand(p.exportComposeCommand(), p.exportKubernetesCommand(), p.exportGrafanaCommand(), p.exportTerraformCommand())
	return cmd
}

func (p *program) exportComposeCommand() *cobra.Command {
	var force bool
	cmd := &cobra.Command{
		Use:   "compose DIR",
		Short: "Write the resolved, plain Compose file, which 'docker compose' runs",
		Long: `Export compose writes DIR/compose.yaml: the project as it results from all files,
overrides, includes, profiles and variables, in its long form and without any
x-trellis. Paths are relative to DIR; contents of secrets are not part of it.`,
		Example: `  trellis export compose out && docker compose -f out/compose.yaml up
  trellis export compose out --environment staging`,
		Args: arguments(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error { return p.exportCompose(cmd.Context(), args[0], force) },
		ValidArgsFunction: func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
			return nil, cobra.ShellCompDirectiveFilterDirs
		},
	}
	cmd.Flags().BoolVar(&force, "force", false, "also over a file that is not as an export has written it")
	return p.project(cmd)
}

func (p *program) exportCompose(ctx context.Context, dir string, force bool) error {
	l, err := p.read(ctx)
	if err != nil {
		return err
	}
	p.warn(l.warnings)
	if err := containerised(l.project); err != nil {
		return err
	}
	if dir, err = filepath.Abs(dir); err != nil {
		return fmt.Errorf("export: %w", err)
	}
	text, err := plainCompose(l.project, dir)
	if err != nil {
		return err
	}
	path := filepath.Join(dir, "compose.yaml")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("export: %w", err)
	}
	if err := writeMade(path, madeBy("trellis export compose", text), force); err != nil {
		return err
	}
	p.progressf("wrote %s: %s", shortPath(path), plural(len(l.project.Services), "service"))
	return nil
}

// containerised refuses services that only the process driver can run.
func containerised(project compose.Project) error {
	var broken compose.Diagnostics
	for _, name := range project.ServiceNames() {
		svc := project.Services[name]
		if svc.Image != "" || svc.Build != nil || svc.Trellis.ImageID != "" {
			continue
		}
		path := compose.JoinPath("services", name)
		file, line, column := project.Position(path)
		broken = append(broken, compose.Diagnostic{
			File: shortPath(file), Line: line, Column: column, Path: path,
			Message: "runs as a process only: give it an image or a build to run it as a container",
		})
	}
	if len(broken) > 0 {
		return broken
	}
	return nil
}

// plainCompose returns the text of a project's Compose file without anything of Trellis, for the folder dir.
func plainCompose(project compose.Project, dir string) ([]byte, error) {
	file, err := composeFile(project)
	if err != nil {
		return nil, err
	}
	file = without(file, "x-trellis").(map[string]any)
	for _, section := range []string{"secrets.*", "configs.*"} {
		at(file, fieldsOf(section), func(m map[string]any) { delete(m, "ref") })
	}
	relocate(file, project, dir)
	return yamlOf(file)
}

// relocate makes a resolved Compose file one that lies in dir.
func relocate(file map[string]any, project compose.Project, dir string) {
	at(file, fieldsOf("services.*"), func(m map[string]any) { delete(m, "profiles") }) // those that were chosen are here
	for place, key := range map[string]string{
		"services.*.build": "context", "services.*.volumes.[]": "source", "services.*.develop.watch.[]": "path", "secrets.*": "file", "configs.*": "file",
		"services.*.x-trellis.process": "dir",
	} {
		at(file, fieldsOf(place), func(m map[string]any) {
			if path, ok := m[key].(string); ok && filepath.IsAbs(path) {
				m[key] = near(path, project.WorkingDir, dir)
			}
		})
	}
}

func yamlOf(file map[string]any) ([]byte, error) {
	var b bytes.Buffer
	enc := yaml.NewEncoder(&b)
	enc.SetIndent(2)
	if err := enc.Encode(file); err != nil {
		return nil, fmt.Errorf("export: %w", err)
	}
	return b.Bytes(), enc.Close()
}

// near is an absolute path as it is written in dir: relative, where it belongs to the project.
func near(path, project, dir string) string {
	if rel, err := filepath.Rel(project, path); err != nil || rel == ".." || strings.HasPrefix(rel, "../") {
		return path
	}
	rel, err := filepath.Rel(dir, path)
	if err != nil {
		return path
	}
	if rel == "." || rel == ".." || strings.HasPrefix(rel, "../") {
		return rel
	}
	return "./" + rel
}

// without returns node without a key, wherever it stands.
func without(node any, key string) any {
	switch node := node.(type) {
	case map[string]any:
		delete(node, key)
		for name, value := range node {
			node[name] = without(value, key)
		}
	case []any:
		for i, value := range node {
			node[i] = without(value, key)
		}
	}
	return node
}

// A generated file begins with a line that says who made it and what its rest is, so that a change of it is seen.
const madePrefix = "# Made by '"

func madeBy(command string, text []byte) []byte {
	return append([]byte(madePrefix+command+"': it is written anew by the next export, unless it was changed. "+sumOf(text)+"\n"), text...)
}

// madeByInMarkdown is madeBy for a text that is shown, and not its comments.
func madeByInMarkdown(command string, text []byte) []byte {
	made := madeBy(command, text)
	head := bytes.IndexByte(made, '\n')
	return append(fmt.Appendf(nil, "<!-- %s -->\n", made[:head]), text...)
}

func sumOf(text []byte) string {
	sum := sha256.Sum256(text)
	return "sha256:" + hex.EncodeToString(sum[:])
}

// asMade says whether a file is as an export has written it.
func asMade(text []byte) bool {
	head, rest, ok := bytes.Cut(text, []byte("\n"))
	if inner, markdown := bytes.CutPrefix(head, []byte("<!-- ")); markdown {
		head = bytes.TrimSuffix(inner, []byte(" -->"))
	}
	return ok && bytes.HasPrefix(head, []byte(madePrefix)) && bytes.HasSuffix(head, []byte(" "+sumOf(rest)))
}

// writeMade writes a generated file. One that somebody else has written, or changed, stays, unless force says otherwise.
func writeMade(path string, text []byte, force bool) error {
	same, err := mayWrite(path, text, force)
	if err != nil || same {
		return err
	}
	if err := replaceFile(path, text); err != nil {
		return fmt.Errorf("write %s: %w", shortPath(path), err)
	}
	return nil
}

// mayWrite fails where a file is somebody's, and says whether it is there already as it is to be.
func mayWrite(path string, text []byte, force bool) (same bool, err error) {
	now, err := os.ReadFile(path)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return false, nil
	case err != nil:
		return false, fmt.Errorf("export: %w", err)
	case bytes.Equal(now, text):
		return true, nil
	case !force && !asMade(now) && !asSealed(now):
		return false, withHint(plain{fmt.Errorf("%s was not written by an export, or was changed since: %w", shortPath(path), errdefs.ErrConflict)},
			"export to another folder, or repeat with --force to write over it")
	}
	return false, nil
}
