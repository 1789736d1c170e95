package load_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"trellis/compose"
	"trellis/load"
)

// TestScenarioFiles reads testdata/scenario: *.good.yaml are scenarios, and what is wrong with *.bad.yaml stands in its
// comments: "#! :line:column: path: message".
func TestScenarioFiles(t *testing.T) {
	for _, pattern := range []string{"*.good.yaml", "*.bad.yaml"} {
		files, err := filepath.Glob(filepath.Join("testdata/scenario", pattern))
		if err != nil || len(files) == 0 {
			t.Fatalf("%s: no files", pattern)
		}
		for _, file := range files {
			t.Run(filepath.Base(file), func(t *testing.T) {
				content, err := os.ReadFile(file)
				if err != nil {
					t.Fatal(err)
				}
				var want []string
				for _, line := range strings.Split(string(content), "\n") {
					if text, ok := strings.CutPrefix(line, "#! "); ok {
						want = append(want, text)
					}
				}
				_, err = load.ReadScenario(file)
				var got []string
				if err != nil {
					for _, line := range strings.Split(err.Error(), "\n") {
						got = append(got, strings.TrimPrefix(line, file))
					}
				}
				if diff := cmp.Diff(want, got); diff != "" {
					t.Errorf("diagnostics (-want +got):\n%s", diff)
				}
			})
		}
	}
}

func TestScenarioThatCannotBeRead(t *testing.T) {
	for content, want := range map[string]string{
		"":               "s.yaml: is empty",
		"{":              "not valid YAML",
		"[1]":            "s.yaml:1:1: the file is a list, not a mapping",
		"steps: 3":       "s.yaml:1:8: steps: is a single value: write a list",
		"variables: {}":  "steps is missing",
		"a: 1\n---\nb: ": "s.yaml:2:1: is a second document",
	} {
		_, err := load.ParseScenario("s.yaml", []byte(content))
		var d compose.Diagnostics
		if !errors.As(err, &d) || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: error %v, want one with %q", content, err, want)
		}
	}
	if _, err := load.ReadScenario("testdata/scenario/none.yaml"); err == nil || !strings.Contains(err.Error(), "none.yaml: cannot be read: no such file") {
		t.Errorf("error %v", err)
	}
}

// FuzzParseScenario: any file gives a scenario or errors that can be printed, in bounded time.
func FuzzParseScenario(f *testing.F) {
	files, _ := filepath.Glob("testdata/scenario/*.yaml")
	for _, file := range files {
		content, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(string(content))
	}
	f.Fuzz(func(t *testing.T, content string) {
		if len(content) > 32<<10 {
			return
		}
		begun := time.Now()
		_, err := load.ParseScenario("s.yaml", []byte(content))
		if took := time.Since(begun); took > 20*time.Second {
			t.Errorf("it took %v", took)
		}
		var d compose.Diagnostics
		if err != nil && !errors.As(err, &d) {
			t.Fatalf("no Diagnostics: %v", err)
		}
		for _, one := range d {
			if strings.ContainsAny(one.String(), "\x00\x1b\n\r") {
				t.Errorf("not printable: %q", one.String())
			}
		}
	})
}
