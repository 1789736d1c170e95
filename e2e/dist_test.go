//go:build e2e

package e2e

import (
	"bytes"
	"debug/buildinfo"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/txtar"
)

// archive builds the archive of this platform from the tree in dir and returns its name and its line of SHA256SUMS.
func archive(t *testing.T, dir string) (file, sum string) {
	t.Helper()
	out := t.TempDir()
	goos, goarch := goEnv(t, "GOOS"), goEnv(t, "GOARCH")
	cmd := exec.Command("scripts/dist.sh")
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "DIST="+out, "VERSION=v1", "SOURCE_DATE_EPOCH=1700000000", "PLATFORMS="+goos+"/"+goarch, "LEVEL=1")
	if b, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("dist.sh in %s: %v\n%s", dir, err, b)
	}
	b, err := os.ReadFile(filepath.Join(out, "SHA256SUMS"))
	if err != nil {
		t.Fatal(err)
	}
	return filepath.Join(out, "trellis-v1-"+goos+"-"+goarch+".tar.gz"), string(b)
}

func goEnv(t *testing.T, name string) string {
	t.Helper()
	b, err := exec.Command("go", "env", name).Output()
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(b))
}

// shell runs a script and returns what it printed.
func shell(t *testing.T, env []string, script string) string {
	t.Helper()
	cmd := exec.Command("bash", "-euo", "pipefail", "-c", script)
	cmd.Env = append(os.Environ(), env...)
	b, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", script, err, b)
	}
	return string(b)
}

func TestArchiveIsTheSameTwiceAndInstalls(t *testing.T) {
	t.Parallel()
	file, sum := archive(t, "..")
	elsewhere := t.TempDir()
	shell(t, []string{"TO=" + elsewhere}, `cd .. && git ls-files -z -co --exclude-standard | xargs -0 tar cf - | tar xf - -C "$TO"`)
	if _, again := archive(t, elsewhere); again != sum {
		t.Errorf("two builds from two folders differ:\n%s%s", sum, again)
	}

	prefix := t.TempDir()
	env := []string{"PREFIX=" + prefix, "ARCHIVE=" + file}
	shell(t, env, `tar xzf "$ARCHIVE" -C "$PREFIX" --strip-components 1`)
	if got := shell(t, env, `"$PREFIX/bin/trellis" version`); !strings.HasPrefix(got, "trellis v1, ") {
		t.Errorf("version: %s", got)
	}
	for name, has := range map[string]string{
		"share/man/man1/trellis-up.1": "trellis", "share/doc/trellis/README.md": "Trellis",
		"share/doc/trellis/LICENCES": "Mozilla Public License", // some of it asks that its source can be found
	} {
		if b, err := os.ReadFile(filepath.Join(prefix, name)); err != nil || !bytes.Contains(b, []byte(has)) {
			t.Errorf("%s: %d bytes without %q, %v", name, len(b), has, err)
		}
	}
	licensed(t, prefix)
}

// licensed says what of an installed release is missing among its licences.
func licensed(t *testing.T, prefix string) {
	t.Helper()
	program, err := buildinfo.ReadFile(filepath.Join(prefix, "bin/trellis"))
	if err != nil {
		t.Fatal(err)
	}
	licences, err := os.ReadFile(filepath.Join(prefix, "share/doc/trellis/LICENCES"))
	if err != nil {
		t.Fatal(err)
	}
	lines := map[string]bool{}
	for line := range strings.Lines(string(licences)) {
		lines[strings.TrimSpace(line)] = true
	}
	consists := []string{"Go " + runtime.Version() + " https://go.dev/dl/"}
	for _, module := range program.Deps {
		if module.Replace != nil {
			module = module.Replace
		}
		if !strings.HasPrefix(module.Path, "./") { // what stands in the project is the project's own
			consists = append(consists, module.Path+"@"+module.Version)
		}
	}
	if len(consists) < 100 {
		t.Errorf("the program consists of %v", consists)
	}
	for _, part := range consists {
		if !lines[part] {
			t.Errorf("LICENCES does not name %s", part)
		}
	}
	if !regexp.MustCompile(`(?m)^## react - \d`).Match(licences) {
		t.Error("LICENCES does not name react, of which the console is built")
	}
}

// TestLicencesOfWhatReplacesAModule: a module that another takes the place of is licensed as that one.
func TestLicencesOfWhatReplacesAModule(t *testing.T) {
	t.Parallel()
	version := strings.TrimSpace(shell(t, nil, "cd .. && go list -m -f '{{.Version}}' github.com/spf13/pflag"))
	dir := t.TempDir()
	if err := txtar.Write(txtar.Parse([]byte(strings.ReplaceAll(replacing, "VERSION", version))), dir); err != nil {
		t.Fatal(err)
	}
	got := shell(t, []string{"DIR=" + dir}, `mkdir "$DIR/scripts" && cp ../scripts/licences.sh "$DIR/scripts" && cp ../go.sum "$DIR" && "$DIR/scripts/licences.sh"`)
	if !strings.Contains(got, "\ngithub.com/spf13/pflag@"+version+"\n") || strings.Contains(got, "example.org") {
		t.Errorf("the licences are\n%.3000s", got)
	}
}

// replacing is a project of which a module is replaced by another, and one by a folder.
const replacing = `
-- go.mod --
module other

require (
	example.org/pflag v1.0.0
	example.org/own v1.0.0
)

replace (
	example.org/pflag => github.com/spf13/pflag VERSION
	example.org/own => ./own
)
-- own/go.mod --
module example.org/own
-- own/own.go --
package own
-- cmd/trellis/main.go --
package main

import (
	_ "example.org/own"
	_ "example.org/pflag"
)

func main() {}
-- cmd/trellis-shim/main.go --
package main

func main() {}
-- console/dist/licences.md --
`

// TestCompletionInRealBash presses the tabulator: the script is loaded by bash, and its function asked as bash asks it.
func TestCompletionInRealBash(t *testing.T) {
	p := newProject(t, map[string]string{"compose.yaml": "services: {web: {image: web}, worker: {image: worker}, db: {image: db}}\n"})
	for _, tc := range []struct{ line, want string }{
		{"trellis resta", "restart"},
		{"trellis restart w", "web worker"},
		{"trellis up --det", "--detach"},
		{"trellis completion z", "zsh"},
	} {
		words := strings.Fields(tc.line)
		script := `source <("$TRELLIS" completion bash)
trellis() { "$TRELLIS" "$@"; }
COMP_WORDS=($LINE) COMP_LINE=$LINE COMP_POINT=${#LINE} COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
__start_trellis
printf '%s\n' "${COMPREPLY[@]}"`
		cmd := exec.Command("bash", "-c", script)
		cmd.Dir = p.dir
		cmd.Env = append(os.Environ(), "TRELLIS="+built.trellis, "LINE="+tc.line)
		b, err := cmd.Output() // bash says on standard error that nobody has pressed the tabulator
		if err != nil {
			t.Errorf("%s: %v\n%s", tc.line, err, b)
		}
		var got []string
		for line := range strings.Lines(string(b)) {
			if f := strings.Fields(line); len(f) > 0 { // the rest of the line is what the word means
				got = append(got, f[0])
			}
		}
		if strings.Join(got, " ") != tc.want {
			t.Errorf("%s: %q completes to %q, want %q", tc.line, words[len(words)-1], got, tc.want)
		}
	}
}
