package main

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"github.com/xhit/go-str2duration/v2"
)

// projectFlags say which project a command means. They stand before or after the command's name.
type projectFlags struct {
	files       []string
	directory   string
	name        string
	profiles    []string
	envFiles    []string
	state       string
	environment string
	on          string
	context     string
	namespace   string
	copy        string
}

// someCopy is the copy that --copy without a name means.
const someCopy = "copy"

// add defines the flags; short adds -f, which means --follow to some commands.
func (f *projectFlags) add(fs *pflag.FlagSet, short bool) {
	letter := ""
	if short {
		letter = "f"
	}
	fs.VarP((*list)(&f.files), "file", letter, "Compose `FILE`; repeat for overrides (default compose.yaml here or above)")
	fs.StringVar(&f.directory, "project-directory", f.directory, "resolve relative paths against `DIR` (default: of the first file)")
	fs.StringVarP(&f.name, "project-name", "p", f.name, "project `NAME` (default: the file's, or the directory's)")
	fs.Var((*list)(&f.profiles), "profile", "activate a Compose `PROFILE`; repeatable")
	fs.Var((*list)(&f.envFiles), "env-file", "read variables from `FILE` instead of .env; repeatable")
	fs.StringVar(&f.state, "state", f.state, "keep state in `DIR` (default .trellis/NAME beside the file)")
	fs.StringVar(&f.environment, "environment", f.environment, "environment `E`: adds compose.E.yaml and runs as NAME-E")
	fs.StringVar(&f.context, "context", f.context, "with a cluster, the kubeconfig's `CONTEXT` (default: the environment's, or its current one)")
	fs.StringVar(&f.namespace, "namespace", f.namespace, "with a cluster, the `NAMESPACE` (default: the environment's, or the context's)")
	if fs.Lookup("on") == nil { // check has one of its own
		fs.StringVar(&f.on, "on", f.on, "`ENGINE` that runs it: local or kubernetes (default: the environment's, or local)")
	}
	fs.StringVar(&f.copy, "copy", f.copy, "a copy that runs beside the others, as PROJECT-`NAME` (alone: PROJECT-"+someCopy+")")
	fs.Lookup("copy").NoOptDefVal = someCopy
}

// project adds the project flags to a command.
func (p *program) project(cmd *cobra.Command) *cobra.Command {
	p.flags.add(cmd.Flags(), cmd.Flags().ShorthandLookup("f") == nil)
	return cmd
}

// isProjectFlag says whether a flag is one of those that say which project is meant.
func isProjectFlag(name string) bool {
	var flags projectFlags
	set := pflag.NewFlagSet("", pflag.ContinueOnError)
	flags.add(set, false)
	return set.Lookup(name) != nil
}

// list is a flag that may be repeated, also on both sides of the command's name.
type list []string

func (l *list) Set(s string) error { *l = append(*l, s); return nil }
func (l *list) Type() string       { return "string" }
func (l *list) String() string     { return strings.Join(*l, ",") }

// choice is a flag with a fixed set of values.
type choice struct {
	value   string
	allowed []string
}

func (c *choice) Set(s string) error {
	for _, a := range c.allowed {
		if s == a {
			c.value = s
			return nil
		}
	}
	return fmt.Errorf("want %s%s", strings.Join(c.allowed, " or "), didYouMean(s, c.allowed))
}
func (c *choice) Type() string   { return strings.Join(c.allowed, "|") }
func (c *choice) String() string { return c.value }

// formatFlag adds --format table|json, and more where a command has more, and returns where its value will be.
func formatFlag(fs *pflag.FlagSet, more ...string) *choice {
	c := &choice{value: "table", allowed: append([]string{"table", "json"}, more...)}
	last := len(c.allowed) - 1
	fs.Var(c, "format", "`FORMAT` of the output: "+strings.Join(c.allowed[:last], ", ")+" or "+c.allowed[last])
	return c
}

func (c *choice) json() bool { return c.value == "json" }

// span is a duration flag; a bare number is seconds, as in Compose.
type span time.Duration

func (d *span) Set(s string) error {
	if n, err := strconv.ParseFloat(s, 64); err == nil && n >= 0 && n < 1e9 {
		*d = span(n * float64(time.Second))
		return nil
	}
	v, err := str2duration.ParseDuration(s) // days and weeks too, as in the file
	if err != nil || v < 0 || s == "" {
		return fmt.Errorf("want a duration such as 90s or 5m")
	}
	*d = span(v)
	return nil
}
func (d *span) Type() string   { return "duration" }
func (d *span) String() string { return time.Duration(*d).String() }

// atMost is a bound of how much is shown: 0 or more.
type atMost int

func (n *atMost) Set(s string) error {
	v, err := strconv.Atoi(s)
	if err != nil || v < 0 {
		return errors.New("want a number, 0 or more")
	}
	*n = atMost(v)
	return nil
}
func (n *atMost) Type() string   { return "int" }
func (n *atMost) String() string { return strconv.Itoa(int(*n)) }

// moment reads a time: RFC 3339, or a duration before now.
func moment(s string, now time.Time) (time.Time, error) {
	if s == "" {
		return time.Time{}, nil
	}
	if d, err := str2duration.ParseDuration(s); err == nil && d >= 0 { // days and weeks too, as in the file
		return now.Add(-d), nil
	}
	for _, layout := range []string{time.RFC3339Nano, "2006-01-02T15:04:05", "2006-01-02"} {
		if t, err := time.ParseInLocation(layout, s, time.Local); err == nil {
			return t, nil
		}
	}
	return time.Time{}, fmt.Errorf("time %q: want a duration before now such as 10m, or a time such as 2026-11-23T15:04:05Z", s)
}

// joinCopy makes "--copy NAME" one argument, because a flag that may stand without a value takes none from the next one.
// After the name of the command it is looked for among the flags alone: what comes later may be another program's.
func joinCopy(root *cobra.Command, args []string) []string {
	for i, arg := range args {
		switch {
		case arg == "--copy" && i+1 < len(args) && !strings.HasPrefix(args[i+1], "-") && !isCommand(root, args[i+1]):
			joined := append(slices.Clone(args[:i]), arg+"="+args[i+1])
			return append(joined, args[i+2:]...)
		case arg == "--":
			return args
		case i > 0 && !strings.HasPrefix(arg, "-") && !strings.HasPrefix(args[i-1], "-") && takesProgram(root, args[:i]):
			return args
		}
	}
	return args
}

func isCommand(root *cobra.Command, word string) bool {
	return slices.ContainsFunc(root.Commands(), func(c *cobra.Command) bool { return c.Name() == word || c.HasAlias(word) })
}

// takesProgram says whether words name a command that runs another program's command line.
func takesProgram(root *cobra.Command, words []string) bool {
	cmd, _, err := root.Find(words)
	return err == nil && (cmd.Name() == "exec" || cmd.Name() == "run")
}
