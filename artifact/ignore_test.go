package artifact

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// scanned writes files, scans, and returns the paths that were found.
func scanned(t *testing.T, files map[string]string, artifacts ...string) []string {
	t.Helper()
	dir := t.TempDir()
	for name, content := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	found, _, err := source{dir: dir, artifacts: artifacts}.scan(t.Context(), &folder{})
	if err != nil {
		t.Fatal(err)
	}
	var paths []string
	for _, e := range found {
		if base := filepath.Base(e.path); base != ".gitignore" && base != ".dockerignore" {
			paths = append(paths, e.path)
		}
	}
	return paths
}

func TestSourceTree(t *testing.T) {
	for name, c := range map[string]struct {
		files     map[string]string
		artifacts []string
		want      []string
	}{
		"version control and state": {
			files: map[string]string{".git/HEAD": "", "a/.git": "", ".trellis/p/state.db": "", "a/b": "", ".env": ""},
			want:  []string{".env", "a/b"},
		},
		"node_modules": {
			files: map[string]string{"node_modules/a": "", "x/node_modules/a": "", "x/y": ""},
			want:  []string{"x/y"},
		},
		"node_modules as artifact": {
			files:     map[string]string{"node_modules/a": "", "x/node_modules/a": ""},
			artifacts: []string{"node_modules"},
			want:      []string{"node_modules/a"},
		},
		"gitignore": {
			files: map[string]string{
				".gitignore": "# comment\n*.log\n!keep.log\n/bin/\nbuild\ndocs/*.txt\n\\#hash\na/**/z\nend/**\n",
				"x.log":      "", "keep.log": "", "sub/x.log": "", "bin/app": "", "sub/bin/app": "", "build/x": "", "sub/build": "",
				"docs/a.txt": "", "docs/deep/a.txt": "", "#hash": "", "a/z": "", "a/b/c/z": "", "a/b/y": "", "end/x/y": "",
			},
			want: []string{"a/b/y", "docs/deep/a.txt", "keep.log", "sub/bin/app"},
		},
		"settings in a gitignore": {
			files: map[string]string{
				".gitignore": ".env*\nout/\n", ".env.local": "", "sub/.env": "", "sub/.env.production.local": "", ".envrc": "", "out/.env": "", "x": "",
			},
			want: []string{".env.local", "sub/.env", "sub/.env.production.local", "x"},
		},
		"settings in a dockerignore": {
			files: map[string]string{".dockerignore": "**/.env*\nout\n", ".env.local": "", "sub/.env": "", ".envrc": "", "out/.env": "", "x": ""},
			want:  []string{".env.local", "sub/.env", "x"},
		},
		"nested gitignore": {
			files: map[string]string{
				".gitignore": "*.o\n", "sub/.gitignore": "!special.o\n/local\n",
				"a.o": "", "sub/b.o": "", "sub/special.o": "", "sub/local": "", "local": "", "sub/deep/local": "",
			},
			want: []string{"local", "sub/deep/local", "sub/special.o"},
		},
		"a folder's pattern spares files": {
			files: map[string]string{".gitignore": "tmp/\n", "tmp": ""},
			want:  []string{"tmp"},
		},
		"dockerignore": {
			files: map[string]string{
				".dockerignore": "docs\n*.md\n!README.md\n**/cache\nout/*\n!out/keep/this\n",
				"docs/x":        "", "sub/docs/x": "", "A.md": "", "README.md": "", "sub/A.md": "", "cache/x": "", "sub/cache/x": "",
				"out/a": "", "out/keep/this": "", "out/keep/that": "",
			},
			want: []string{"README.md", "out/keep/this", "sub/A.md", "sub/docs/x"},
		},
		"a dockerignore that lists what to take is not applied": {
			files: map[string]string{".dockerignore": "**\n!dist\n", "main.go": "", "dist/app": ""},
			want:  []string{"dist/app", "main.go"},
		},
		"malformed": {
			files: map[string]string{".gitignore": "[\n!\n/\n\\\n**\x00\n", ".dockerignore": "[a-\n!\n.\n..\n", "a": ""},
			want:  []string{"a"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			same(t, "files", scanned(t, c.files, c.artifacts...), c.want)
		})
	}
}

func FuzzIgnore(f *testing.F) {
	for _, line := range []string{"*.log", "!/a/**/b/", "**", "[!a]*", "\\ ", "a/**/**/**/**/b"} {
		f.Add(line, "a/b/c")
	}
	f.Add(strings.Repeat("**/a/", 50), strings.Repeat("a/", 200)+"b")
	f.Fuzz(func(t *testing.T, line, p string) {
		names := strings.Split(p, "/")
		for _, parse := range []func(string) (pattern, bool){parseGit, parseDocker} {
			q, ok := parse(line)
			if !ok {
				continue
			}
			if len(q.segments) == 0 {
				t.Errorf("%q has no segments", line)
			}
			matchPath(q.segments, names)
			ig := ignores{docker: []pattern{q}, git: []gitignore{{base: ".", patterns: []pattern{q}}}}
			ig.match(p, true)
		}
	})
}
