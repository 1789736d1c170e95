package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"trellis/api"
	"trellis/compose"
	"trellis/engine"
	"trellis/errdefs"
	"trellis/lazyregexp"
)

func (p *program) diffCommand() *cobra.Command {
	var detailed bool
	var format *choice
	cmd := &cobra.Command{
		Use:   "diff A B",
		Short: "Compare two environments, or two revisions",
		Long: `Diff shows in Compose paths what separates A from B: environments as their files say
them, or applied revisions by their number. What follows from a project's name alone,
such as the names of its volumes, is no difference, so two environments differ in what
their override files say and in nothing else. 'base' is the file without any
environment; so is 'production', where no environment has that name. Revision 0 is the
project before the first deploy: empty.
Values that look like secrets are masked.`,
		Example: `  trellis diff staging production
  trellis diff base staging
  trellis diff 7 8                  revision 7 and revision 8
  trellis diff 0 8 --format json    all that revision 8 says`,
		Args: arguments(2, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			return p.diff(cmd.Context(), args[0], args[1], format.json(), detailed)
		},
		ValidArgsFunction: p.completeEnvironments,
	}
	cmd.Flags().BoolVar(&detailed, "detailed-exitcode", false, "exit 2 where they differ")
	format = formatFlag(cmd.Flags())
	return p.project(cmd)
}

// diffView is the JSON of diff. The effects are those of applying B where A is.
type diffView struct {
	From    string          `json:"from"`
	To      string          `json:"to"`
	Changes []engine.Change `json:"changes"`
}

func (p *program) diff(ctx context.Context, a, b string, asJSON, detailed bool) error {
	from, err := p.side(ctx, a)
	if err != nil {
		return err
	}
	to, err := p.side(ctx, b)
	if err != nil {
		return err
	}
	from, to = nameless(from), nameless(to)
	view := diffView{From: a, To: b, Changes: engine.Diff(to, engine.State{Desired: &from})}
	if asJSON {
		err = p.writeJSON(view)
	} else {
		err = writeDiff(p.stdout, p.styleOf(p.stdout), view)
	}
	if err == nil && detailed && len(view.Changes) > 0 {
		return exitError(errdefs.ExitObjective)
	}
	return err
}

// writeDiff prints what separates two projects. Nothing is carried out, so effects are left out.
func writeDiff(w io.Writer, s style, view diffView) error {
	if len(view.Changes) == 0 {
		_, err := fmt.Fprintf(w, "%s and %s are the same\n", view.From, view.To)
		return err
	}
	var b strings.Builder
	group := ""
	for _, c := range inGroups(view.Changes) {
		if g, _ := groupOf(c.Path); g != group {
			group = g
			b.WriteString(s.bold(g) + "\n")
		}
		c.Effect = ""
		b.WriteString(changeLine(s, c) + "\n")
	}
	fmt.Fprintf(&b, "\n%s from %s to %s\n", plural(len(view.Changes), "difference"), view.From, view.To)
	_, err := io.WriteString(w, b.String())
	return err
}

var revisionName = lazyregexp.New(`^r?[0-9]+$`)

// side returns one side of a comparison: a revision by its number, or an environment.
func (p *program) side(ctx context.Context, name string) (compose.Project, error) {
	if revisionName.MatchString(name) {
		return p.revision(ctx, name)
	}
	if name != "base" {
		l, err := p.loadAs(ctx, name)
		if err == nil || name != "production" || !unknownEnvironment(err, name) {
			p.warnOf(l, err)
			return l.project, err
		}
	}
	l, err := p.loadAs(ctx, "")
	p.warnOf(l, err)
	return l.project, err
}

// warnOf shows what the loader has to say where it failed; of what loads, 'trellis check' tells.
func (p *program) warnOf(l loaded, err error) {
	if err != nil {
		p.warn(l.warnings)
	}
}

// unknownEnvironment says whether a project could not be loaded because there is no such environment.
func unknownEnvironment(err error, name string) bool {
	var all compose.Diagnostics
	return errors.As(err, &all) && slices.ContainsFunc(all, func(d compose.Diagnostic) bool {
		return d.Path == "x-trellis.environments."+name
	})
}

func (p *program) revision(ctx context.Context, name string) (project compose.Project, err error) {
	number, err := strconv.ParseInt(strings.TrimPrefix(name, "r"), 10, 64)
	if err != nil {
		return project, usageError{fmt.Sprintf("%q is neither an environment nor the number of a revision", name), "trellis diff"}
	}
	if number == 0 {
		return project, nil
	}
	err = p.withControl(ctx, func(control api.Control, l location) error {
		revisions, err := control.History(ctx, 0)
		if err != nil {
			return err
		}
		for _, rev := range revisions {
			if rev.Number == number {
				project = rev.Project
				return nil
			}
		}
		return withHint(fmt.Errorf("revision %d of %s: %w", number, l.Project, errdefs.ErrNotFound), "'trellis history' lists the revisions")
	})
	return project, err
}

// nameless returns a project without what follows from its name alone.
func nameless(p compose.Project) compose.Project {
	volumes := map[string]compose.Volume{}
	for key, v := range p.Volumes {
		if v.Name == p.Name+"_"+key {
			v.Name = ""
		}
		volumes[key] = v
	}
	networks := map[string]compose.Network{}
	for key, n := range p.Networks {
		if n.Name == p.Name+"_"+key {
			n.Name = ""
		}
		networks[key] = n
	}
	p.Volumes, p.Networks = volumes, networks
	p.Secrets, p.Configs = unnamed(p.Secrets, p.Name), unnamed(p.Configs, p.Name)
	return p
}

func unnamed(all map[string]compose.FileValue, project string) map[string]compose.FileValue {
	out := map[string]compose.FileValue{}
	for key, v := range all {
		if v.Name == project+"_"+key {
			v.Name = ""
		}
		v.Ref = "" // which content it is, is a revision's to know
		out[key] = v
	}
	return out
}

// completeEnvironments offers the environments that the file declares.
func (p *program) completeEnvironments(_ *cobra.Command, given []string, _ string) ([]string, cobra.ShellCompDirective) {
	l, err := p.loadAs(context.Background(), "")
	if err != nil || len(given) > 1 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	names := []string{"base"}
	for name := range l.project.Trellis.Environments {
		names = append(names, name)
	}
	slices.Sort(names)
	return names, cobra.ShellCompDirectiveNoFileComp
}
