package main

import (
	"os"
	"path/filepath"
	"regexp"
	"testing"
)

// TestEveryTestOfTheListIsThere: a test that was renamed would be missing from its fault without a word.
func TestEveryTestOfTheListIsThere(t *testing.T) {
	for _, f := range faults {
		for _, one := range f.tests {
			files, _ := filepath.Glob(filepath.Join("../..", one.pkg, "*_test.go"))
			if !declared(t, files, one.name) {
				t.Errorf("fault %d: %s has no %s", f.number, one.pkg, one.name)
			}
		}
	}
}

func declared(t *testing.T, files []string, name string) bool {
	t.Helper()
	function := regexp.MustCompile(`(?m)^func ` + name + `\(`)
	for _, file := range files {
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if function.Match(b) {
			return true
		}
	}
	return false
}

func TestVerdictsAreAdded(t *testing.T) {
	var r result
	for _, line := range []string{
		"    fault_test.go:40: verdict: 3 tried, 2 held, 1200 requests, 1 lost, seed 7\n", "other\n",
		"verdict: 1 tried, 1 held, 10 requests, 0 lost, seed 8\n",
	} {
		r.take(event{Action: "output", Output: line}, true)
	}
	r.take(event{Action: "fail"}, true)
	r.take(event{Action: "pass"}, false)
	if r.tried != 4 || r.held != 3 || r.requests != 1210 || r.lost != 1 || r.outcome != "pass" || len(r.seeds) != 2 {
		t.Errorf("%+v", r)
	}
}
