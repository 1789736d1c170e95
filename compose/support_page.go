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

| target | |
|---|---|
`)
	for _, t := range Targets() {
		fmt.Fprintf(&b, "| %s | %s |\n", t, targetWords(t))
	}
	matrix := Matrix()
	for _, target := range Targets() {
		writeTarget(&b, matrix, target)
	}
	return b.String()
}

// targetWords say what a target is.
func targetWords(target string) string {
	switch target {
	case TargetProcess:
		return "services run as processes of this machine"
	case TargetDocker:
		return "services run as containers of this machine"
	}
	return "services run in a cluster, as `trellis export kubernetes` writes them; what depends on a value `trellis check --on kubernetes` says"
}

func writeTarget(b *strings.Builder, matrix []Support, target string) {
	counts := map[Carried]int{}
	for _, s := range matrix {
		counts[s.Engines[target].What]++
	}
	fmt.Fprintf(b, "\n## %s\n\n%d attributes: %d carried out, %d changed, %d left.\n\n| attribute | | how, or why not |\n|---|---|---|\n",
		target, len(matrix), counts[CarriedOut], counts[Changed], counts[Left])
	verdicts := newVerdicts(target)
	for _, s := range matrix {
		c := s.Engines[target]
		if strings.HasPrefix(s.Path, "jobs.") || uninteresting(verdicts, s.Path, c) {
			continue
		}
		fmt.Fprintf(b, "| `%s` | %s | %s |\n", s.Path, c.What, c.How)
	}
}

// uninteresting says that a row says only what the row above it said.
func uninteresting(v verdicts, path string, c Carry) bool {
	if strings.HasSuffix(path, "*") || strings.HasSuffix(path, "[]") {
		return true
	}
	up, ok := v.of(parent(path))
	return ok && up == (carry{c.What, c.How}) && c.What != CarriedOut
}
