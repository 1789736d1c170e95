package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"sort"
	"strings"

	"github.com/spf13/cobra"

	"trellis/api"
	"trellis/compose"
	"trellis/engine"
	"trellis/errdefs"
	"trellis/server"
)

func (p *program) planCommand() *cobra.Command {
	var out, registry string
	var detailed, strict, force, whole bool
	cmd := &cobra.Command{
		Use:   "plan",
		Short: "Show what 'up' would change, without changing it",
		Long: `Plan compares the file with what runs and prints the difference in Compose paths,
each with its effect: none, in-place (nothing restarts), rollout (replaced under
traffic, without loss), stop-first (stopped before the replacement starts) or
data-loss (a volume leaves the file: no service has its data any more, which stays
until somebody deletes it). What services run is built, because a changed artefact
is a change; images are not pulled, unless the plan is kept, and none is pushed.
Values that look like secrets are masked. As Markdown it is made to stand in a pull
request, with the consequences in words. As JSON with --whole it also has all that the
project will be, as changes of an empty one.`,
		Example: `  trellis plan                      look
  trellis plan -o change.plan       keep the plan, for 'trellis apply change.plan'
  trellis plan --detailed-exitcode  0: nothing to change, 2: changes, 1: failed
  trellis plan --format markdown    for the page of a pull request`,
		Args: arguments(0, 0),
	}
	cmd.Flags().StringVarP(&out, "out", "o", "", "write the plan to `FILE`, which only its owner can read")
	cmd.Flags().BoolVar(&detailed, "detailed-exitcode", false, "exit 2 where there are changes")
	cmd.Flags().BoolVar(&strict, "strict", false, "take warnings for errors")
	cmd.Flags().BoolVar(&force, "build", false, "build even where nothing changed")
	cmd.Flags().BoolVar(&whole, "whole", false, "with --format json, also what stays as it is")
	driver := driverFlag(cmd)
	registryFlag(cmd, &registry)
	format := formatFlag(cmd.Flags(), "markdown")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		ctx := cmd.Context()
		if err := mayBePlan(out); err != nil {
			return err
		}
		l, err := p.read(ctx)
		if err != nil {
			return err
		}
		on := onLocal
		if l.location.Cluster != nil {
			on = onKubernetes
			if out != "" { // what the kubeconfig calls the current context may be another one then
				if l.location.Cluster, err = server.ClusterNow(l.location); err != nil {
					return err
				}
			}
		}
		ready, err := p.prepare(ctx, l, on, prepareFlags{strict: strict, force: force, silent: format.value != "table", driver: driver.value, look: out == "", registry: registry})
		if err != nil {
			return err
		}
		defer ready.images.close()
		plan, live, err := p.plan(ctx, ready)
		if err != nil {
			return err
		}
		plan.Warnings = append([]compose.Diagnostic{}, ready.warnings...)
		if plan.Changes == nil {
			plan.Changes = []engine.Change{}
		}
		if out != "" {
			if err := p.savePlan(ctx, out, ready, plan, live); err != nil {
				return err
			}
		}
		switch format.value {
		case "json":
			view := planView{Plan: plan}
			if whole {
				view.Project, view.Wanted = l.project.Name, engine.Diff(asKept(nameless(ready.project)), engine.State{})
			}
			err = p.writeJSON(view)
		case "markdown":
			err = writeMarkdown(p.stdout, "Plan for "+l.project.Name, plan)
		default:
			err = writePlan(p.stdout, p.styleOf(p.stdout), l.project.Name, plan)
		}
		if err == nil && detailed && (len(plan.Changes) > 0 || plan.Again != "") {
			return exitError(errdefs.ExitObjective)
		}
		return err
	}
	return p.project(cmd)
}

// asKept returns a project as a revision has it: contents that stand in the file are kept beside it.
func asKept(p compose.Project) compose.Project {
	p.Configs = maps.Clone(p.Configs)
	for name, v := range p.Configs {
		v.Content = ""
		p.Configs[name] = v
	}
	return p
}

// planView is the JSON of plan.
type planView struct {
	api.Plan
	Project string          `json:"project,omitempty"`
	Wanted  []engine.Change `json:"wanted,omitempty"`
}

// plan returns what applying ready would change. live says that there is something it was compared with; without a
// control plane everything is new, and none is started to find that out.
func (p *program) plan(ctx context.Context, ready prepared) (plan api.Plan, live bool, err error) {
	control, closer, err := p.backend.Connect(ctx, ready.location)
	if errors.Is(err, errdefs.ErrNotFound) {
		return api.Plan{Changes: engine.Diff(ready.project, engine.State{Project: ready.project.Name})}, false, nil
	}
	if err != nil {
		return api.Plan{}, false, err
	}
	defer closer.Close()
	plan, err = control.Plan(ctx, api.ApplyRequest{Project: ready.project, Contents: ready.contents})
	return plan, true, err
}

// writePlan prints changes for people, service by service.
func writePlan(w io.Writer, s style, project string, plan api.Plan) error {
	changes := plan.Changes
	switch {
	case len(changes) == 0 && plan.Again != "":
		_, err := fmt.Fprintf(w, "%s: the file changes nothing, but %s: 'trellis up' carries it out again\n", project, plan.Again)
		return err
	case len(changes) == 0:
		_, err := fmt.Fprintf(w, "%s is up to date: nothing to change\n", project)
		return err
	}
	var b strings.Builder
	counts := map[string]int{}
	group := ""
	for _, c := range inGroups(changes) {
		counts[c.Action]++
		if g, _ := groupOf(c.Path); g != group {
			group = g
			b.WriteString(s.bold(g) + "\n")
		}
		b.WriteString(changeLine(s, c) + "\n")
	}
	fmt.Fprintf(&b, "\n%d to add, %d to change, %d to remove\n", counts[engine.Add], counts[engine.Modify], counts[engine.Remove])
	_, err := io.WriteString(w, b.String())
	return err
}

// inGroups returns changes with those of one service together.
func inGroups(changes []engine.Change) []engine.Change {
	sorted := append([]engine.Change{}, changes...)
	sort.SliceStable(sorted, func(i, j int) bool {
		a, _ := groupOf(sorted[i].Path)
		b, _ := groupOf(sorted[j].Path)
		return a < b
	})
	return sorted
}

// groupOf splits a path into what it belongs to ("services.web") and the rest.
func groupOf(path string) (group, rest string) {
	if parts := compose.SplitPath(path); len(parts) > 2 {
		group = compose.JoinPath(parts[0], parts[1])
		if rest, below := strings.CutPrefix(path, group+"."); below {
			return group, rest
		}
	}
	return path, ""
}

func changeLine(s style, c engine.Change) string {
	_, rest := groupOf(c.Path)
	sign, paint := "~", s.yellow
	switch c.Action {
	case engine.Add:
		sign, paint = "+", s.green
	case engine.Remove:
		sign, paint = "-", s.red
	}
	line := "  " + paint(sign)
	if rest != "" {
		line += " " + rest
	}
	from, to := wordsOf(c)
	switch {
	case c.Action == engine.Modify && from+to != "":
		line += "  " + from + " " + s.glyph("→", "->") + " " + to
	case c.Action == engine.Add && to != "":
		line += "  " + to
	case c.Action == engine.Remove && from != "":
		line += "  " + from
	}
	switch c.Effect {
	case engine.EffectDataLoss, engine.EffectStopFirst:
		return line + "  " + s.red("("+c.Effect+")")
	case "":
		return line
	}
	return line + "  " + s.dim("("+c.Effect+")")
}

// wordsOf writes what a change goes from and to, each in at most one short line.
func wordsOf(c engine.Change) (from, to string) {
	if _, rest := groupOf(c.Path); strings.HasPrefix(c.Path, "services.") && rest == "" {
		return serviceText(c.From), serviceText(c.To)
	}
	return valueText(c.From), valueText(c.To)
}

// valueText writes a value of a change in at most one short line.
func valueText(v any) string {
	if v == nil {
		return ""
	}
	var b strings.Builder
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return "?"
	}
	return style{}.fit(oneLine(strings.TrimSpace(b.String())), 60)
}

// serviceText says in a few words what a whole service is: what it runs, how often, and its doors.
func serviceText(v any) string {
	b, err := json.Marshal(v)
	var svc compose.Service
	if v == nil || err != nil || json.Unmarshal(b, &svc) != nil {
		return valueText(v)
	}
	var words []string
	switch process := svc.Trellis.Process; {
	case process != nil && len(process.Command) > 0:
		words = append(words, "runs "+style{}.fit(oneLine(strings.Join(process.Command, " ")), 40))
	case svc.Image != "":
		words = append(words, "image "+svc.Image)
	case svc.Build != nil:
		words = append(words, "built from "+cmp.Or(svc.Build.Dockerfile, "a Dockerfile"))
	}
	replicas := 1
	if n := svc.Deploy.Replicas; n != nil {
		replicas = *n
	}
	words = append(words, plural(replicas, "replica"))
	for _, port := range svc.Ports {
		words = append(words, fmt.Sprintf("port %s:%d", cmp.Or(port.Published, "any"), port.Target))
	}
	for _, m := range svc.Volumes {
		if m.Type == compose.MountVolume && m.Source != "" {
			words = append(words, "volume "+m.Source)
		}
	}
	return strings.Join(words, ", ")
}
