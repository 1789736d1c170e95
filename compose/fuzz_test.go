package compose

import (
	"context"
	"encoding/json"
	"errors"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/compose-spec/compose-go/v2/dotenv"

	"trellis/cputime"
)

// FuzzLoad: any file gives a project that survives its own JSON or errors that name a place, and never a panic, a
// message that could move the cursor, or more than a few seconds.
func FuzzLoad(f *testing.F) {
	for _, pattern := range []string{"*.good.yaml", "*.bad.yaml"} {
		files, err := filepath.Glob(filepath.Join("testdata", pattern))
		if err != nil || len(files) == 0 {
			f.Fatalf("no seeds: %v", err)
		}
		for _, file := range files {
			content, err := os.ReadFile(file)
			if err != nil {
				f.Fatal(err)
			}
			f.Add(string(content), "services: {web: {ports: [{target: 80}]}}")
		}
	}
	f.Fuzz(func(t *testing.T, content, over string) {
		if len(content)+len(over) > 64<<10 {
			return
		}
		dir := t.TempDir()
		files := []string{filepath.Join(dir, "compose.yaml"), filepath.Join(dir, "compose.override.yaml")}
		for i, text := range []string{content, over} {
			if err := os.WriteFile(files[i], []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		start := cputime.Used(t)
		p, warnings, err := Load(context.Background(), Options{Files: files, WorkingDir: dir, Environ: []string{"SET=a"}})
		if took := cputime.Used(t) - start; took > 20*time.Second {
			t.Errorf("it took %v of a processor", took)
		}
		var d Diagnostics
		if err != nil && !errors.As(err, &d) {
			t.Fatalf("no Diagnostics: %v", err)
		}
		for _, e := range append(d, warnings...) {
			if strings.Contains(e.Message, "internal error") {
				t.Errorf("it panicked: %v", e)
			}
			if strings.ContainsAny(e.String(), "\x00\x1b\n\r") {
				t.Errorf("not printable: %q", e.String())
			}
		}
		if err != nil {
			return
		}
		raw, err := json.Marshal(p)
		if err != nil {
			t.Fatal(err)
		}
		var back Project
		if err := json.Unmarshal(raw, &back); err != nil {
			t.Fatal(err)
		}
		p.Positions = Positions{}
		if !reflect.DeepEqual(p, back) {
			t.Errorf("the JSON loses something:\n%#v\n%#v", p, back)
		}
		Check(p, TargetLocal)
	})
}

// FuzzEnvFile: a file of variables is refused or read, in bounded size.
func FuzzEnvFile(f *testing.F) {
	f.Add("A=1\nB=${A}$A\n")
	f.Add("A='x\ny'\nexport B=\"${A:-z}\"\n# c\n")
	f.Add(laughs(30))
	f.Add("\ufeff# a\n\nA: 1\nB : \"x\\\"\ny $A\"C='$B'\nexport D\nA\nE=a #b\nF=\n=x\n\"")
	f.Add(escapedLaughs(3) + numberedLaughs(3))
	f.Fuzz(func(t *testing.T, content string) {
		if len(content) > 64<<10 {
			return
		}
		file := filepath.Join(t.TempDir(), ".env")
		if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		vars, err := readEnvFiles([]string{file}, environment{"A": "known"})
		if err != nil {
			return
		}
		if want, err := dotenv.GetEnvFromFile(environment{"A": "known"}, []string{file}); err != nil || !maps.Equal(vars, want) {
			t.Errorf("it is read as %q, and the library reads %q, %v", vars, want, err)
		}
		total := 0
		for k, v := range vars {
			total += len(k) + len(v)
		}
		if total > 4*maxFileSize {
			t.Errorf("the variables have %d bytes", total)
		}
	})
}

// FuzzPath: a Compose path taken apart and put together is the same keys.
func FuzzPath(f *testing.F) {
	f.Add("services", "a.b", "x[0]")
	f.Add("", "\"", "\\\n")
	f.Fuzz(func(t *testing.T, a, b, c string) {
		want := []string{a, b, c}
		got := SplitPath(JoinPath(JoinPath(JoinPath("", a), b), c))
		for i := range want {
			want[i] = strings.ToValidUTF8(want[i], "\uFFFD")
			if i < len(got) {
				got[i] = strings.ToValidUTF8(got[i], "\uFFFD")
			}
		}
		if !reflect.DeepEqual(got, want) {
			t.Errorf("%q became %q", want, got)
		}
	})
}
