//go:build e2e

package e2e

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// block is a fenced block of a guide.
type block struct{ language, text string }

func blocksOf(t *testing.T, file string) []block {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var all []block
	open := false
	for line := range strings.Lines(string(b)) {
		language, fence := strings.CutPrefix(line, "```")
		switch {
		case fence && !open:
			all, open = append(all, block{language: strings.TrimSpace(language)}), true
		case fence:
			open = false
		case open:
			all[len(all)-1].text += line
		}
	}
	return all
}

// TestGuidesAreTrue types every command of every guide as it stands, in a copy of the examples: none may fail, and what
// a guide shows has to be printed, in this order.
func TestGuidesAreTrue(t *testing.T) {
	guides, err := filepath.Glob("../docs/guides/*.md")
	if err != nil || len(guides) < 5 {
		t.Fatalf("guides: %v, %v", guides, err)
	}
	for _, guide := range guides {
		name := strings.TrimSuffix(filepath.Base(guide), ".md")
		if name == "troubleshooting" {
			continue // a table, with a test of its own
		}
		t.Run(name, func(t *testing.T) {
			script := "set -eu\n"
			var shown []string
			for _, b := range blocksOf(t, guide) {
				switch b.language {
				case "sh":
					script += b.text
				case "text":
					shown = append(shown, strings.Split(strings.TrimRight(b.text, "\n"), "\n")...)
				}
			}
			out := typeInExamples(t, script)
			rest := out
			for _, line := range shown {
				at := said(strings.TrimLeft(line, " ")).FindStringIndex(rest)
				if at == nil {
					t.Fatalf("it shows\n\t%s\nand what was printed is\n%s", line, out)
				}
				rest = rest[at[1]:]
			}
		})
	}
}

// typeInExamples runs a script where the repository's examples are, with trellis in the path, and returns what it
// printed.
func typeInExamples(t *testing.T, script string) string {
	t.Helper()
	root, err := os.MkdirTemp(built.dir, "guide-")
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(root, "examples", "hello")
	copyTree(t, "../examples/hello", dir)
	t.Cleanup(func() {
		cmd := exec.Command(built.trellis, "down", "--now", "--volumes", "--yes")
		cmd.Dir = dir
		_ = cmd.Run() // of a guide that failed halfway
		_ = os.RemoveAll(root)
	})
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "bash", "-c", script)
	cmd.Dir = root
	cmd.Env = append(os.Environ(), "PATH="+built.dir+":"+os.Getenv("PATH"), "NO_COLOR=1", "LANG=C.UTF-8")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return string(out)
}
