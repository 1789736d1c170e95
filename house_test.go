// Package house holds the test of the house itself: who may import whom.
package house

import (
	"bufio"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"sort"
	"strconv"
	"strings"
	"testing"
)

const module = "trellis"

var row = regexp.MustCompile("^\\| *([0-9]+) *\\|((?: *`[^`]+`,?)+) *\\|")

// floors reads the table of docs/ARCHITECTURE.md: package to floor.
func floors(t *testing.T) map[string]int {
	t.Helper()
	f, err := os.Open("docs/ARCHITECTURE.md")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	table := map[string]int{}
	for s := bufio.NewScanner(f); s.Scan(); {
		m := row.FindStringSubmatch(s.Text())
		if m == nil {
			continue
		}
		floor, _ := strconv.Atoi(m[1])
		for _, name := range strings.Split(m[2], ",") {
			table[strings.Trim(name, " `")] = floor
		}
	}
	if len(table) < 5 {
		t.Fatalf("the table of docs/ARCHITECTURE.md has %d packages: it was not understood", len(table))
	}
	return table
}

// imports returns, for every package of the module, what it imports outside of its tests.
func imports(t *testing.T) map[string][]string {
	t.Helper()
	found := map[string]map[string]bool{}
	err := filepath.WalkDir(".", func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			if path != "." && (strings.HasPrefix(d.Name(), ".") || d.Name() == "testdata" || d.Name() == "node_modules") {
				return filepath.SkipDir
			}
			if path != "." {
				if _, err := os.Stat(filepath.Join(path, "go.mod")); err == nil {
					return filepath.SkipDir // a module of its own
				}
			}
			return nil
		}
		if !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return nil
		}
		file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.ImportsOnly)
		if err != nil {
			return err
		}
		pkg := filepath.ToSlash(filepath.Dir(path))
		if found[pkg] == nil {
			found[pkg] = map[string]bool{}
		}
		for _, spec := range file.Imports {
			name, _ := strconv.Unquote(spec.Path.Value)
			found[pkg][name] = true
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	sorted := map[string][]string{}
	for pkg, set := range found {
		sorted[pkg] = []string{}
		for name := range set {
			sorted[pkg] = append(sorted[pkg], name)
		}
		sort.Strings(sorted[pkg])
	}
	return sorted
}

func TestImportsGoDown(t *testing.T) {
	table, found := floors(t), imports(t)
	for pkg, names := range found {
		floor, ok := table[pkg]
		if !ok {
			t.Errorf("%s: not in the table of docs/ARCHITECTURE.md", pkg)
			continue
		}
		for _, name := range names {
			dep, inside := strings.CutPrefix(name, module+"/")
			if !inside {
				continue
			}
			if below, ok := table[dep]; !ok || below >= floor {
				t.Errorf("%s (floor %d) imports %s (floor %d)", pkg, floor, dep, below)
			}
		}
	}
	for pkg := range table {
		if _, ok := found[pkg]; !ok {
			t.Errorf("%s: in the table of docs/ARCHITECTURE.md, and no such package", pkg)
		}
	}
}

// TestSmallBinary keeps the program that lives beside every instance small: standard library and x/sys only.
func TestSmallBinary(t *testing.T) {
	found := imports(t)
	for _, pkg := range []string{"shim", "holder", "cmd/trellis-shim"} {
		for _, name := range found[pkg] {
			std := !strings.Contains(strings.Split(name, "/")[0], ".")
			own := name == module+"/shim" || name == module+"/holder"
			if strings.HasPrefix(name, module+"/") && !own || !std && !strings.HasPrefix(name, "golang.org/x/sys/") {
				t.Errorf("%s imports %s: only the standard library and x/sys may stand there", pkg, name)
			}
		}
	}
}
