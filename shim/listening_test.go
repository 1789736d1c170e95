package shim

import (
	"slices"
	"testing"
)

func TestListeningLine(t *testing.T) {
	for _, ports := range [][]int{nil, {80}, {80, 443, 65535}} {
		if got, ok := ParseListening(ListeningLine(ports)); !ok || !slices.Equal(got, ports) {
			t.Errorf("%v became %v, %v", ports, got, ok)
		}
	}
}

func FuzzListening(f *testing.F) {
	f.Add("listening 80 443")
	f.Add("listening 99999")
	f.Fuzz(func(t *testing.T, line string) {
		ports, ok := ParseListening(line)
		if !ok && ports != nil || slices.ContainsFunc(ports, func(p int) bool { return p < 0 || p > 65535 }) {
			t.Fatalf("%q: %v, %v", line, ports, ok)
		}
	})
}
