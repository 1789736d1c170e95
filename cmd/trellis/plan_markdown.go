package main

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"trellis/api"
	"trellis/engine"
)

// consequences say in words what an effect means for what runs, in the order in which they matter.
var consequences = []struct{ effect, words string }{
	{engine.EffectDataLoss, "no service has its data any more, which stays until somebody deletes it"},
	{engine.EffectStopFirst, "stopped before the replacement starts"},
	{engine.EffectRollout, "replaced under traffic, without loss"},
	{engine.EffectInPlace, "carried out on what runs, nothing restarts"},
	{engine.EffectNone, "nothing that runs is touched"},
}

func consequenceOf(effect string) string {
	for _, c := range consequences {
		if c.effect == effect {
			return c.words
		}
	}
	return effect
}

// writeMarkdown prints changes for the page of a pull request: first what they do to what runs, then each with its old
// and its new value, then what there is to warn of.
func writeMarkdown(w io.Writer, title string, plan api.Plan) error {
	changes, warnings := plan.Changes, plan.Warnings
	var b strings.Builder
	fmt.Fprintf(&b, "### %s\n\n", title)
	switch {
	case len(changes) == 0 && plan.Again != "":
		fmt.Fprintf(&b, "The file changes nothing, but %s: it is carried out again.\n", plan.Again)
	case len(changes) == 0:
		b.WriteString("Nothing to change.\n")
	default:
		counts, touched := map[string]int{}, map[string]map[string]bool{}
		for _, c := range changes {
			counts[c.Action]++
			if touched[c.Effect] == nil {
				touched[c.Effect] = map[string]bool{}
			}
			group, _ := groupOf(c.Path)
			touched[c.Effect][group] = true
		}
		fmt.Fprintf(&b, "%d to add, %d to change, %d to remove.\n\n", counts[engine.Add], counts[engine.Modify], counts[engine.Remove])
		for _, c := range consequences {
			if len(touched[c.effect]) == 0 || c.effect == engine.EffectNone {
				continue
			}
			var all []string
			for _, group := range slices.Sorted(maps.Keys(touched[c.effect])) {
				all = append(all, code(group))
			}
			words := strings.ToUpper(c.words[:1]) + c.words[1:]
			if c.effect == engine.EffectDataLoss || c.effect == engine.EffectStopFirst {
				words = "⚠ **" + words + "**"
			}
			fmt.Fprintf(&b, "- %s: %s\n", words, strings.Join(all, ", "))
		}
		b.WriteString("\n| | Path | Before | After | Consequence |\n|---|---|---|---|---|\n")
		for _, c := range inGroups(changes) {
			from, to := wordsOf(c)
			fmt.Fprintf(&b, "| %s | %s | %s | %s | %s |\n", c.Action, cell(c.Path), cell(from), cell(to), consequenceOf(c.Effect))
		}
	}
	if len(warnings) > 0 {
		fmt.Fprintf(&b, "\n<details><summary>%s</summary>\n\n", plural(len(warnings), "warning"))
		for _, d := range warnings {
			fmt.Fprintf(&b, "- %s\n", code(oneLine(d.String())))
		}
		b.WriteString("\n</details>\n")
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// cell is a text as code in a cell of a table, nothing for nothing.
func cell(text string) string {
	if text == "" {
		return ""
	}
	return strings.ReplaceAll(code(text), "|", `\|`)
}

// code is a text as code: what it holds means nothing to Markdown.
func code(text string) string {
	run, longest := 0, 0
	for _, r := range text {
		if r == '`' {
			run++
			longest = max(longest, run)
		} else {
			run = 0
		}
	}
	fence := strings.Repeat("`", longest+1)
	if longest > 0 {
		return fence + " " + text + " " + fence
	}
	return fence + text + fence
}
