package server

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
)

func TestCopies(t *testing.T) {
	at := func(project, dir, copy string, origins ...string) Location {
		l, err := Locate(project, dir, "")
		if err != nil {
			t.Fatal(err)
		}
		l.Copy, l.Origins = copy, origins
		return l
	}
	shop := at("shop", "/a", "", "/repo/.git//.")
	for name, test := range map[string]struct {
		other Location
		want  bool
	}{
		"itself":                             {shop, false},
		"another checkout":                   {at("shop", "/b", ""), true},
		"--copy":                             {at("shop-x", "/a", "x"), true},
		"--copy of another checkout":         {at("shop-x", "/b", "x"), true},
		"another name in the folder":         {at("blog", "/a", "", "/repo/.git//."), false},
		"another project":                    {at("blog", "/b", ""), false},
		"a worktree under its folder's name": {at("fix", "/wt/fix", "", "https://example.org/shop//.", "/repo/.git//."), true},
		"another folder of the repository":   {at("fix", "/wt/fix", "", "/repo/.git//blog"), false},
		"a name that only ends like a copy":  {at("shop-x", "/b", ""), false},
	} {
		t.Run(name, func(t *testing.T) {
			if got, back := copies(shop, test.other), copies(test.other, shop); got != test.want || back != test.want {
				t.Errorf("copies: %v, and the other way round %v, want %v", got, back, test.want)
			}
		})
	}
}

func TestOrigins(t *testing.T) {
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	git := func(args ...string) {
		t.Helper()
		cmd := exec.Command("git", append([]string{"-c", "user.name=x", "-c", "user.email=x@example.org", "-c", "commit.gpgsign=false"}, args...)...)
		cmd.Dir = dir
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("git %v: %v\n%s", args, err, out)
		}
	}
	git("init", "-q", "main")
	git("-C", "main", "commit", "-q", "--allow-empty", "-m", "first")
	git("-C", "main", "worktree", "add", "-q", "../wt/fix")
	git("clone", "-q", "main", "one")
	git("clone", "-q", filepath.Join(dir, "main"), "two")
	if err := os.MkdirAll(filepath.Join(dir, "main", "deploy"), 0o755); err != nil {
		t.Fatal(err)
	}
	shares := func(a, b string) bool {
		return slices.ContainsFunc(origins(filepath.Join(dir, a)), func(origin string) bool {
			return slices.Contains(origins(filepath.Join(dir, b)), origin)
		})
	}
	if !shares("main", "wt/fix") || !shares("one", "two") {
		t.Errorf("checkouts are not found to be of one repository: %q and %q, %q and %q", origins(filepath.Join(dir, "main")),
			origins(filepath.Join(dir, "wt/fix")), origins(filepath.Join(dir, "one")), origins(filepath.Join(dir, "two")))
	}
	if shares("main/deploy", "wt/fix") || shares("main", "one") {
		t.Error("another folder of the repository, or what it was cloned from, is taken for the same")
	}
	if got := origins(t.TempDir()); got != nil {
		t.Errorf("no repository has origins %q", got)
	}
}

// TestBlocks gives ten checkouts of one name blocks of loopback addresses, each its own, and the same again.
func TestBlocks(t *testing.T) {
	t.Setenv("XDG_STATE_HOME", t.TempDir())
	t.Setenv("XDG_RUNTIME_DIR", t.TempDir())
	root := t.TempDir()
	given := map[int]string{}
	for range 2 {
		for _, name := range []string{"a", "b", "c", "d", "e", "f", "g", "h", "i", "j"} {
			l, err := Locate("shop", filepath.Join(root, name), "")
			if err != nil {
				t.Fatal(err)
			}
			if err := l.prepare(); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { os.RemoveAll(l.RuntimeDir) })
			a, err := loadAddresses(l)
			if err != nil {
				t.Fatal(err)
			}
			block, err := a.block()
			if err != nil {
				t.Fatal(err)
			}
			if other, taken := given[block]; taken && other != name {
				t.Errorf("%s and %s have block %d", name, other, block)
			}
			given[block] = name
		}
	}
	if len(given) != 10 {
		t.Errorf("%d blocks for ten checkouts that asked twice", len(given))
	}
	if all, err := known(); err != nil || len(all) != 10 {
		t.Errorf("%d projects are known (%v), want ten", len(all), err)
	}
	if err := os.RemoveAll(filepath.Join(root, "a")); err != nil {
		t.Fatal(err)
	}
	if all, err := known(); err != nil || len(all) != 9 {
		t.Errorf("%d projects are known (%v) after the state of one is gone, want nine", len(all), err)
	}
}
