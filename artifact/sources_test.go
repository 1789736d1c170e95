package artifact

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
)

func put(t *testing.T, path, content string) {
	t.Helper()
	if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(content), 0o644)); err != nil {
		t.Fatal(err)
	}
}

func TestSkip(t *testing.T) {
	dir := t.TempDir()
	put(t, filepath.Join(dir, ".gitignore"), "/log\n*.o\n")
	put(t, filepath.Join(dir, "lib/.gitignore"), "gen/\n!keep.o\n")
	put(t, filepath.Join(dir, ".dockerignore"), "docs\n")
	skip := Skip(dir, []string{"web/node_modules"})
	for path, want := range map[string]bool{
		"main.go": false, "log": true, "sub/log": false, "a.o": true, "lib/keep.o": false, "lib/x.o": true, "docs": true,
		"node_modules": true, "web/node_modules": false, "lib/gen": true, "gen": false,
	} {
		folder := filepath.Ext(path) == ""
		if got := skip(path, folder); got != want {
			t.Errorf("%s: left out %v, want %v", path, got, want)
		}
	}
}

func TestCopyTo(t *testing.T) {
	s, err := Open(filepath.Join(t.TempDir(), "artifacts"))
	if err != nil {
		t.Fatal(err)
	}
	digest := "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
	from, to := s.Path(digest), filepath.Join(t.TempDir(), "watched", "web")
	put(t, filepath.Join(from, "public/index.html"), "one")
	put(t, filepath.Join(from, "bin/app"), "program")
	if err := errors.Join(os.Chmod(filepath.Join(from, "bin/app"), 0o555), os.Symlink("index.html", filepath.Join(from, "public/link")),
		os.Chmod(filepath.Join(from, "public/index.html"), 0o444)); err != nil {
		t.Fatal(err)
	}
	if err := s.CopyTo(digest, to); err != nil {
		t.Fatal(err)
	}
	put(t, filepath.Join(to, "public/index.html"), "synced")
	put(t, filepath.Join(to, "left/behind"), "x")
	if err := errors.Join(os.Remove(filepath.Join(to, "public/link")), os.Mkdir(filepath.Join(to, "public/link"), 0o755)); err != nil {
		t.Fatal(err)
	}
	if s.Holds(digest, "public/index.html", filepath.Join(to, "public/index.html")) || s.Holds(digest, "../x", from) || s.Holds("", "x", from) {
		t.Error("the artifact is said to hold what it does not")
	}
	if err := s.CopyTo(digest, to); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(filepath.Join(to, "public/link"))
	if err != nil || string(b) != "one" || !s.Holds(digest, "public/index.html", filepath.Join(to, "public/index.html")) {
		t.Errorf("the copy made anew has %q (%v)", b, err)
	}
	if info, err := os.Stat(filepath.Join(to, "bin/app")); err != nil || info.Mode().Perm() != 0o755 {
		t.Errorf("the program: %v %v", info, err)
	}
	if _, err := os.Stat(filepath.Join(to, "left")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("what is no part of it stays: %v", err)
	}
	if err := s.CopyTo("../x", to); err == nil {
		t.Error("a copy of what is no digest")
	}
}
