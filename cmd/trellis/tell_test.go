package main

import (
	"fmt"
	"strings"
	"testing"

	"trellis/compose"
)

// TestManyOfTheSameAreToldOnce: a message that is said of many places is written once, with the first of them and how many more.
func TestManyOfTheSameAreToldOnce(t *testing.T) {
	for n, want := range map[int]int{1: 1, 2: 2, 3: 4, mostPlaces: 1 + mostPlaces, 500: 2 + mostPlaces} {
		var all []compose.Diagnostic
		for i := range n {
			all = append(all, compose.Diagnostic{File: "compose.yaml", Line: i + 1, Column: 5, Message: "is wrong"})
		}
		var out strings.Builder
		(&program{}).tell(&out, "error:", all)
		text := out.String()
		if got := strings.Count(text, "\n"); got != want || strings.Count(text, "compose.yaml:1:5") != 1 {
			t.Errorf("%d places are told in %d lines, want %d:\n%s", n, got, want, text)
		}
		if more := n - mostPlaces; more > 0 && !strings.HasSuffix(text, fmt.Sprintf("  and %d more\n", more)) {
			t.Errorf("%d places end with\n%s", n, text[len(text)-40:])
		}
	}
}
