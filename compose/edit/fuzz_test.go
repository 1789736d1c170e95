package edit

import (
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"go.yaml.in/yaml/v4"
)

// FuzzEdit holds the promise of the package against any file: what was there stays byte for byte around one inserted
// piece, a change is the wanted one and no other, doing it again does nothing, undoing it gives the data back, and an
// error leaves the text alone.
func FuzzEdit(f *testing.F) {
	files, err := filepath.Glob("../testdata/*.yaml")
	if err != nil || len(files) == 0 {
		f.Fatal("no seeds", err)
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(string(text), "services.web.x-trellis.probe.http", "/healthz")
		f.Add(string(text), "services.web.image", "x # y")
	}
	f.Add("a: {b: [1, 'it''s', \"]\"], c: x y} # z\r\n", "a.b[3]", "x")
	f.Add("- - a\n  - b: |\n      c\n", "[0][1].b", "x\ny\n")
	f.Add("a: &x !!map\n  b: >-\n    c\n# d\n", "a.e", ": ")
	f.Fuzz(func(t *testing.T, text, path, value string) {
		file, err := Parse("f", []byte(text))
		if err != nil {
			return
		}
		was, had := file.data, file.Has(path)
		if err := file.Set(path, value); err != nil {
			if string(file.Bytes()) != text {
				t.Fatalf("refused with %v, and the text changed to %q", err, file.Bytes())
			}
			return
		}
		after := string(file.Bytes())
		var any1 any
		if err := yaml.Unmarshal([]byte(after), &any1); err != nil {
			t.Fatalf("the new text is no YAML: %v\n%s", err, after)
		}
		steps, _ := parsePath(path)
		if got, ok := lookup(file.data, steps); !ok || got != any(scalar{"!!str", value}) {
			t.Fatalf("%s is %v, want %q", path, got, value)
		}
		if !had && !onePiece(text, after) {
			t.Fatalf("more than one piece came in:\n%q\n%q", text, after)
		}
		if err := file.Set(path, value); err != nil || string(file.Bytes()) != after {
			t.Fatalf("again: %v, %q", err, file.Bytes())
		}
		if _, there := lookup(was, steps[:len(steps)-1]); had || !there {
			return
		}
		if err := file.Remove(path); err == nil && !reflect.DeepEqual(file.data, was) && !wasEmpty(was, steps) {
			t.Fatalf("undone, it is %q, not as in %q", file.Bytes(), text)
		}
	})
}

// onePiece says that after is before with one piece inserted, or with an empty value filled in.
func onePiece(before, after string) bool {
	for _, empty := range []string{"", "{}", "[]", "null", "~", "Null", "NULL"} {
		for at := 0; at <= len(before)-len(empty); at++ {
			if !strings.HasPrefix(after, before[:at]) {
				break
			}
			if strings.HasPrefix(before[at:], empty) && strings.HasSuffix(after[at:], before[at+len(empty):]) {
				return true
			}
		}
	}
	return spacesAside(before, after)
}

// spacesAside allows the two places where an empty value is filled in with a block: behind its key, and below.
func spacesAside(before, after string) bool {
	before = strings.NewReplacer("{}", "", "[]", "", "null", "", "~", "", " ", "").Replace(before)
	for _, line := range strings.Split(before, "\n") {
		if !strings.Contains(strings.ReplaceAll(after, " ", ""), strings.TrimSuffix(line, "\r")) {
			return false
		}
	}
	return true
}

// wasEmpty says that what the path stands in was nothing at all before, and not an empty mapping or list.
func wasEmpty(data any, steps []step) bool {
	v, _ := lookup(data, steps[:len(steps)-1])
	_, isScalar := v.(scalar)
	return isScalar
}
