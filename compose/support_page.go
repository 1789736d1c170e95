package compose

import (
	"fmt"
	"strings"
)

// SupportMarkdown returns docs/compose-support.md.
func SupportMarkdown() string {
	var b strings.Builder
	b.WriteString(`# What becomes of each Compose attribute

This page is made from the support matrix in package compose (` + "`go test ./compose -run TestSupportPageIsCurrent -update`" + `); the same
data makes the warnings of ` + "`trellis check`" + ` and ` + "`trellis up`" + `. In a path, * stands for a name and [] for an index.

- **carried out**: does what the Compose specification says.
- **changed**: has an effect, but another one.
- **left**: has no effect. ` + "`--strict`" + ` makes this an error.

## Targets

| target | state |
|---|---|
`)
	targets := Targets()
	for _, t := range []string{TargetProcess, TargetDocker, TargetKubernetes} {
		state := "there: the table below"
		if targets[t] != "" {
			state = targets[t]
		}
		fmt.Fprintf(&b, "| %s | %s |\n", t, state)
	}
	counts := map[Carried]int{}
	matrix := Matrix()
	for _, s := range matrix {
		counts[s.Engines[TargetProcess].What]++
	}
	fmt.Fprintf(&b, "\n## process\n\n%d attributes: %d carried out, %d changed, %d left.\n\n| attribute | | how, or why not |\n|---|---|---|\n",
		len(matrix), counts[CarriedOut], counts[Changed], counts[Left])
	verdicts := newVerdicts()
	for _, s := range matrix {
		c := s.Engines[TargetProcess]
		if strings.HasPrefix(s.Path, "jobs.") || uninteresting(verdicts, s) {
			continue
		}
		fmt.Fprintf(&b, "| `%s` | %s | %s |\n", s.Path, c.What, c.How)
	}
	return b.String()
}

// uninteresting says that a row says only what the row above it said.
func uninteresting(v verdicts, s Support) bool {
	if strings.HasSuffix(s.Path, "*") || strings.HasSuffix(s.Path, "[]") {
		return true
	}
	up, ok := v.of(parent(s.Path))
	c := s.Engines[TargetProcess]
	return ok && up == (carry{c.What, c.How}) && c.What != CarriedOut
}
