package local

import (
	"strings"
	"testing"

	"trellis/driver"
)

// FuzzShortForms reads the short forms that the model leaves as text: whatever a file says, amounts are never negative, and
// nothing panics.
func FuzzShortForms(f *testing.F) {
	for _, seed := range []string{"10m", "1GiB", "/tmp:size=64m,mode=1777,ro", "-1", "99999999999g", ""} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		if n := bytesOf(text); n < 0 {
			t.Errorf("bytesOf(%q) = %d", text, n)
		}
		if m := tmpfsOf(text); m.Size < 0 || !strings.HasPrefix(text, m.Target) {
			t.Errorf("tmpfsOf(%q) = %+v", text, m)
		}
	})
}

// FuzzHookID takes IDs apart that others may have made.
func FuzzHookID(f *testing.F) {
	f.Add("web", 1, 0, "0000000a")
	f.Add("web-1-pre0", 12, 3, "")
	f.Fuzz(func(t *testing.T, service string, slot, index int, hash string) {
		if slot < 0 || index < 0 {
			return
		}
		id := hookID("p", service, slot, index, hash)
		if got, ok := hookIndex(id, "p", service, slot); !ok || got != index {
			t.Errorf("hookIndex(%s) = %d, %t; want %d", id, got, ok, index)
		}
		if _, ok := hookIndex(driver.ID("q"+string(id)), "p", service, slot); ok {
			t.Errorf("an ID of another project is taken for a hook: %s", id)
		}
	})
}
