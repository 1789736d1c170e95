package main

import (
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// usage prints how a command is written: examples, root's groups of commands, a command's own flags, and after them those
// that say which project is meant.
func (p *program) usage(cmd *cobra.Command) error {
	var b strings.Builder
	line := cmd.UseLine()
	if !cmd.HasParent() {
		line = "trellis [flags] COMMAND"
	}
	fmt.Fprintf(&b, "Usage:\n  %s\n", line)
	if cmd.HasExample() {
		fmt.Fprintf(&b, "\nExamples:\n%s\n", cmd.Example)
	}
	for _, group := range cmd.Groups() {
		fmt.Fprintf(&b, "\n%s\n", group.Title)
		for _, c := range cmd.Commands() {
			if c.GroupID == group.ID && (c.IsAvailableCommand() || c.Name() == "help") {
				fmt.Fprintf(&b, "  %-11s %s\n", c.Name(), c.Short)
			}
		}
	}
	own, project := pflag.NewFlagSet("", pflag.ContinueOnError), pflag.NewFlagSet("", pflag.ContinueOnError)
	cmd.LocalFlags().VisitAll(func(f *pflag.Flag) {
		if isProjectFlag(f.Name) {
			project.AddFlag(f)
		} else if f.Name != "help" {
			own.AddFlag(f)
		}
	})
	columns, _ := sizeOf(p.stdout)
	for _, section := range []struct {
		title string
		flags *pflag.FlagSet
	}{{"Flags:", own}, {"Which project (all commands about one take these):", project}} {
		if section.flags.HasAvailableFlags() {
			usages := section.flags.FlagUsagesWrapped(max(min(columns, 120), 60))
			fmt.Fprintf(&b, "\n%s\n%s\n", section.title, strings.TrimRight(usages, "\n"))
		}
	}
	if !cmd.HasParent() {
		b.WriteString("\n'trellis COMMAND --help' explains a command, with examples.\n")
	}
	_, err := io.WriteString(p.stdout, b.String())
	return err
}
