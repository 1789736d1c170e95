package lazyregexp

import (
	"os"
	"testing"
)

// TestNew: what is no expression is found out in tests before it is used, and elsewhere by its first use.
func TestNew(t *testing.T) {
	panics := func(f func()) (panicked bool) {
		defer func() { panicked = recover() != nil }()
		f()
		return false
	}
	if !panics(func() { New("(") }) {
		t.Error("in a test ( is taken for an expression")
	}
	program := os.Args[0]
	os.Args[0] = "trellis"
	defer func() { os.Args[0] = program }()
	var broken *Regexp
	if panics(func() { broken = New("(") }) {
		t.Error("( is compiled before it is used")
	}
	if !panics(func() { broken.MatchString("") }) {
		t.Error("( is taken for an expression")
	}
	if r := New("a+(b)"); r.MatchString("ab") != true || r.FindStringSubmatch("xaab")[1] != "b" || r.ReplaceAllString("aab.ab", "$1") != "b.b" {
		t.Error("a+(b) means something else")
	}
}
