package state

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"trellis/errdefs"
)

func openContents(t *testing.T, dir string) *Contents {
	t.Helper()
	c, err := OpenContents(dir)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestContents(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "contents")
	c := openContents(t, dir)
	refs := map[string]string{}
	for _, data := range []string{"", "hunter2", strings.Repeat("x", 1<<20), "hunter2"} {
		ref, err := c.Put([]byte(data))
		if err != nil {
			t.Fatal(err)
		}
		if known, ok := refs[data]; ok && known != ref {
			t.Errorf("same data, another ref: %s and %s", known, ref)
		}
		refs[data] = ref
	}
	c = openContents(t, dir)
	for data, ref := range refs {
		got, err := c.Get(ref)
		if err != nil || string(got) != data {
			t.Errorf("Get(%s): %d bytes, %v", ref, len(got), err)
		}
		info, err := os.Stat(c.Path(ref))
		if err != nil || info.Mode() != 0o400 {
			t.Errorf("%s: %v, %v", c.Path(ref), info.Mode(), err)
		}
	}
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != len(refs)+1 {
		t.Errorf("%d files for %d contents and a key: %v", len(entries), len(refs), err)
	}
	if info, err := os.Stat(dir); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("folder: %v, %v", info.Mode(), err)
	}
	other, err := openContents(t, t.TempDir()).Put([]byte("hunter2"))
	if err != nil || other == refs["hunter2"] {
		t.Errorf("two stores give the same ref: it can be guessed (%v)", err)
	}
	if err := c.Prune(map[string]bool{refs[""]: true}); err != nil {
		t.Fatal(err)
	}
	_, err = c.Get(refs["hunter2"])
	is(t, "a pruned content", err, errdefs.ErrNotFound)
	if _, err := c.Get(refs[""]); err != nil {
		t.Error(err)
	}
}

func TestContentsRefuse(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "contents")
	c := openContents(t, dir)
	for _, ref := range []string{"", "key", "../state.db", strings.Repeat("a", 63) + "/", strings.Repeat("A", 64)} {
		if c.Path(ref) != "" {
			t.Errorf("Path(%q) = %s", ref, c.Path(ref))
		}
		_, err := c.Get(ref)
		is(t, "Get", err, errdefs.ErrInvalid)
	}
	ref, err := c.Put([]byte("right"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(c.Path(ref), 0o600); err != nil {
		t.Fatal(err)
	}
	write(t, c.Path(ref), []byte("wrong"))
	if _, err := c.Get(ref); err == nil || errors.Is(err, errdefs.ErrNotFound) {
		t.Errorf("a changed file: %v", err)
	}
	if again, err := c.Put([]byte("right")); err != nil || again != ref {
		t.Errorf("Put over a changed file: %s, %v", again, err)
	}
	if got, err := c.Get(ref); err != nil || string(got) != "right" {
		t.Errorf("after it: %s, %v", got, err)
	}
	if err := os.Remove(filepath.Join(dir, "key")); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenContents(dir); err == nil || !strings.Contains(err.Error(), "key is missing") {
		t.Errorf("contents without their key: %v", err)
	}
}

func TestContentsConcurrent(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "contents")
	var mu sync.Mutex
	refs := map[string]int{}
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			c, err := OpenContents(dir) // the key is made by one of them
			if err != nil {
				t.Error(err)
				return
			}
			ref, err := c.Put([]byte("same"))
			if err == nil {
				_, err = c.Get(ref)
			}
			if err != nil {
				t.Error(err)
			}
			mu.Lock()
			defer mu.Unlock()
			refs[ref]++
		})
	}
	all.Wait()
	if len(refs) != 1 {
		t.Errorf("refs: %v", refs)
	}
}
