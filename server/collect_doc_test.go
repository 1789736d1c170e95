package server

import (
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"testing"
)

// TestMetricsAreDocumented: docs/metrics.md names what is written, and nothing else.
func TestMetricsAreDocumented(t *testing.T) {
	names := func(pattern string, files ...string) map[string]bool {
		found := map[string]bool{}
		for _, file := range files {
			b, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			for _, m := range regexp.MustCompile(pattern).FindAllSubmatch(b, -1) {
				found[string(m[1])] = true
			}
		}
		return found
	}
	sources, err := filepath.Glob("collect*.go")
	if err != nil {
		t.Fatal(err)
	}
	written := names(`g\.(?:add|count)\("(trellis_\w+)"`, sources...)
	told := names("`(trellis_\\w+)`", "../docs/metrics.md")
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
