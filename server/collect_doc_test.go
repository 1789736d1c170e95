package server

import (
	"embed"
	"io/fs"
	"maps"
	"os"
	"regexp"
	"slices"
	"testing"
)

// collectors are embedded, and not looked for in the folder: that changes with each build of the shim, and with it all that go test
// keeps of this package's results.
//
//go:embed collect*.go
var collectors embed.FS

// TestMetricsAreDocumented: docs/metrics.md names what is written, and nothing else.
func TestMetricsAreDocumented(t *testing.T) {
	names := func(pattern string, tree fs.FS, files ...string) map[string]bool {
		found := map[string]bool{}
		for _, file := range files {
			b, err := fs.ReadFile(tree, file)
			if err != nil {
				t.Fatal(err)
			}
			for _, m := range regexp.MustCompile(pattern).FindAllSubmatch(b, -1) {
				found[string(m[1])] = true
			}
		}
		return found
	}
	sources, err := fs.Glob(collectors, "*.go")
	if err != nil {
		t.Fatal(err)
	}
	written := names(`g\.(?:add|count)\("(trellis_\w+)"`, collectors, sources...)
	told := names("`(trellis_\\w+)`", os.DirFS("../docs"), "metrics.md")
	if len(written) < 30 {
		t.Errorf("only %d metrics are written: this says nothing", len(written))
	}
	for name := range written {
		if !told[name] {
			t.Errorf("nobody is told of %s", name)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(told)) {
		if !written[name] {
			t.Errorf("nobody writes %s", name)
		}
	}
}
