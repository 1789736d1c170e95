//go:build e2e

package e2e

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
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
// a guide shows has to be printed, block after block. Within a block two commands may have printed at the same time.
func TestGuidesAreTrue(t *testing.T) {
	t.Parallel()
	guides, err := filepath.Glob("../docs/guides/*.md")
	if err != nil || len(guides) < 5 {
		t.Fatalf("guides: %v, %v", guides, err)
	}
	for _, guide := range guides {
		name := strings.TrimSuffix(filepath.Base(guide), ".md")
		if slices.Contains([]string{"troubleshooting", "load", "docker", "kubernetes"}, name) {
			continue // they have tests of their own, or need an engine
		}
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			script, shown := readGuide(t, guide)
			showsAll(t, typeInExamples(t, script), shown)
		})
	}
}

// readGuide returns the commands of a guide as a script, and what it shows, block by block.
func readGuide(t *testing.T, file string) (script string, shown [][]string) {
	script = "set -eu\n"
	for _, b := range blocksOf(t, file) {
		switch b.language {
		case "sh":
			script += b.text
		case "text":
			shown = append(shown, strings.Split(strings.TrimRight(b.text, "\n"), "\n"))
		}
	}
	return script, shown
}

// showsAll fails where something that a guide shows was not printed, block after block.
func showsAll(t *testing.T, out string, shown [][]string) {
	t.Helper()
	rest := out
	for _, block := range shown {
		end := 0
		for _, line := range block {
			at := said(strings.TrimLeft(line, " ")).FindStringIndex(rest)
			if at == nil {
				t.Fatalf("it shows\n\t%s\nand what was printed is\n%s", line, out)
			}
			end = max(end, at[1])
		}
		rest = rest[end:]
	}
}

// typeInExamples runs a script where the repository's examples are, with trellis in the path, and returns what it
// printed. It has a network of its own, because every guide uses the same ports.
func typeInExamples(t *testing.T, script string) string {
	t.Helper()
	root, err := os.MkdirTemp(built.dir, "guide-")
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(root, "examples", "hello")
	copyTree(t, "../examples/hello", dir)
	t.Cleanup(func() {
		// Of a guide that failed halfway.
		cmd := exec.Command(built.trellis, "down", "--now", "--volumes", "--yes")
		cmd.Dir = dir
		_ = cmd.Run()
		_ = os.RemoveAll(root)
	})
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "unshare", "--net", "bash", "-c", "ip link set lo up\n"+script)
	cmd.Dir = root
	cmd.Env = append(os.Environ(), "PATH="+built.dir+":"+os.Getenv("PATH"), "NO_COLOR=1", "LANG=C.UTF-8")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return string(out)
}

// TestReadmeIsTrue types what README.md has for one's own application, against the smallest one there is.
func TestReadmeIsTrue(t *testing.T) {
	t.Parallel()
	script := "set -eu\ncp -R examples/hello yourapp\ntrap 'trellis down --now' EXIT\n"
	for _, b := range blocksOf(t, "../README.md") {
		if b.language == "sh" {
			script += b.text
		}
	}
	out := typeInExamples(t, script+`trellis plan
for c in logs events routes history "scale web=3" "restart web" "rollout status"; do trellis $c; done
trellis exec web sh -c 'echo reached in'
`)
	for _, want := range []string{"is well", "web r1  2/2 healthy", "nothing to change", "web  3/3 healthy", "reached in"} {
		if !strings.Contains(out, want) {
			t.Errorf("%q was not printed:\n%s", want, out)
		}
	}
}

// TestEvergreenNeedsNoRoot asks as an ordinary user what is missing for the demo as scripts/demo.sh starts it then.
func TestEvergreenNeedsNoRoot(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	dir := filepath.Join(s.dir, "evergreen")
	copyTree(t, "../examples/evergreen", dir)
	s.from = dir
	s.nobody().env = append(s.env, "EVERGREEN_DATA="+s.dir)
	if out, exit := s.typed("check"); exit == 0 || !strings.Contains(out, "needs root") {
		t.Errorf("its volumes are not told: exit code %d\n%s", exit, out)
	}
	if out, exit := s.typed("-f", "compose.yaml", "-f", "compose.user.yaml", "check"); exit != 0 {
		t.Errorf("exit code %d\n%s", exit, out)
	}
}
