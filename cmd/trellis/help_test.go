package main

import (
	"regexp"
	"strings"
	"testing"

	"github.com/spf13/cobra"
)

// everyCommand returns the commands that help shows, nested ones too, but not those that cobra adds.
func everyCommand(root *cobra.Command) []*cobra.Command {
	var all []*cobra.Command
	for _, cmd := range root.Commands() {
		if cmd.Name() != "help" && !cmd.Hidden {
			all = append(append(all, cmd), everyCommand(cmd)...)
		}
	}
	return all
}

// exampleEnd is where the command of an example ends: at the next one, a redirection, a comment, or what explains it.
var exampleEnd = regexp.MustCompile(`\s{2,}| && | \|\|? | >>? | < |\s#`)

func TestEveryCommandIsInAGroupAndHasExamples(t *testing.T) {
	root := newProgram(newFake(t.TempDir())).root()
	groups := map[string]bool{}
	for _, g := range root.Groups() {
		groups[g.ID] = true
	}
	if len(groups) != 5 {
		t.Errorf("%d groups, and help is made for five", len(groups))
	}
	for _, cmd := range everyCommand(root) {
		t.Run(strings.ReplaceAll(cmd.CommandPath(), " ", "/"), func(t *testing.T) {
			if cmd.Parent() == root && !groups[cmd.GroupID] {
				t.Errorf("it is in no group: %q", cmd.GroupID)
			}
			if cmd.Short == "" || cmd.Long == "" || strings.HasSuffix(cmd.Short, ".") {
				t.Errorf("it needs one line without a full stop (%q), and a text that says more", cmd.Short)
			}
			if cmd.Example == "" && !cmd.HasSubCommands() {
				t.Error("it has no example")
			}
			for line := range strings.Lines(cmd.Example) {
				if strings.Contains(line, "trellis ") {
					typed(t, strings.TrimRight(line, "\n"))
				}
			}
		})
	}
}

// typed fails if an example could not be typed as it stands: its command and its flags have to be there.
func typed(t *testing.T, line string) {
	t.Helper()
	if !strings.HasPrefix(line, "  ") {
		t.Errorf("an example is indented by two spaces: %q", line)
	}
	text := line[strings.Index(line, "trellis ")+len("trellis "):]
	if end := exampleEnd.FindStringIndex(text); end != nil {
		text = text[:end[0]]
	}
	text = strings.TrimSuffix(strings.TrimSuffix(text, ")"), `\`)
	root := newProgram(newFake(t.TempDir())).root()
	cmd, rest, err := root.Find(strings.Fields(strings.ReplaceAll(text, "'", "")))
	if err != nil || cmd == root {
		t.Errorf("%q: no such command: %v", line, err)
		return
	}
	if err := cmd.ParseFlags(rest); err != nil {
		t.Errorf("%q: %v", line, err)
	}
}
