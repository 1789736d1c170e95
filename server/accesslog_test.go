package server

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"
)

// TestAccessLogIsBounded: two writers of one log share a file, whoever of them begins a new one.
func TestAccessLogIsBounded(t *testing.T) {
	path := filepath.Join(t.TempDir(), "access.log")
	a, b := &accessLog{path: path, most: 64 << 10}, &accessLog{path: path, most: 64 << 10}
	line := append(bytes.Repeat([]byte("x"), 1<<10-1), '\n')
	for range 70 {
		for _, w := range []*accessLog{a, b} {
			if _, err := w.Write(line); err != nil {
				t.Fatal(err)
			}
		}
	}
	for name, want := range map[string]int64{path: 12 << 10, path + ".1": 64 << 10} {
		if st, err := os.Stat(name); err != nil || st.Size() != want || st.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v %v, want %d bytes", name, st, err, want)
		}
	}
	os.Remove(path)
	if _, err := a.Write(line); err != nil {
		t.Fatal(err)
	}
	if st, err := os.Stat(path); err != nil || st.Size() != 1<<10 {
		t.Error("it is not begun anew after somebody removed it")
	}
}
