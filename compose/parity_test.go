package compose

import (
	"context"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/compose-spec/compose-go/v2/loader"
	"github.com/compose-spec/compose-go/v2/types"
	"github.com/google/go-cmp/cmp"
	"github.com/sirupsen/logrus"
)

// moduleDir returns where a dependency's source lies.
func moduleDir(t *testing.T, module string) string {
	t.Helper()
	out, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", module).Output()
	dir := strings.TrimSpace(string(out))
	if err != nil || dir == "" {
		t.Fatalf("the source of %s is not in the module cache: %v", module, err)
	}
	return dir
}

// libraryFiles returns every YAML file that compose-go tests itself with.
func libraryFiles(t *testing.T) []string {
	t.Helper()
	var files []string
	err := filepath.WalkDir(moduleDir(t, "github.com/compose-spec/compose-go/v2"), func(path string, d fs.DirEntry, err error) error {
		if err == nil && (strings.HasSuffix(path, ".yaml") || strings.HasSuffix(path, ".yml")) && !strings.Contains(path, "/.") && !strings.Contains(path, "/ci/") {
			files = append(files, path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(files) < 50 {
		t.Fatalf("compose-go has only %d YAML files: they were not found", len(files))
	}
	return files
}

// native loads files as Docker Compose does.
func native(files ...string) (*types.Project, error) {
	logrus.SetOutput(io.Discard)
	details := types.ConfigDetails{WorkingDir: filepath.Dir(files[0]), Environment: types.Mapping{"HOME": "/root", "COMPOSE_PROJECT_NAME": "parity"}}
	for _, f := range files {
		content, err := os.ReadFile(f)
		if err != nil {
			return nil, err
		}
		details.ConfigFiles = append(details.ConfigFiles, types.ConfigFile{Filename: f, Content: content})
	}
	return loader.LoadWithContext(context.Background(), details, func(o *loader.Options) { o.SetProjectName("parity", true) })
}

// differences of opinion with compose-go about its own test files, by the end of their name; the value is part of
// what Load says.
var stricter = map[string]string{
	// Its project_directory is above the files given, where there is no repository.
	"loader/testdata/include/project-directory.yaml": "leads out of the project",
}

func TestLoadAgreesWithComposeGo(t *testing.T) {
	for _, file := range libraryFiles(t) {
		_, nativeErr := native(file)
		_, _, err := Load(context.Background(), Options{Files: []string{file}, Name: "parity", Environ: []string{"HOME=/root"}, EnvFiles: []string{os.DevNull}})
		switch {
		case nativeErr == nil && err != nil:
			known := ""
			for suffix, message := range stricter {
				if strings.HasSuffix(file, suffix) {
					known = message
				}
			}
			if known == "" || !strings.Contains(err.Error(), known) {
				t.Errorf("%s: compose-go takes it, Load does not:\n%v", file, err)
			}
		case nativeErr != nil && err == nil:
			t.Errorf("%s: Load takes it, compose-go does not: %v", file, nativeErr)
		}
	}
}

// TestMergedMarksLoadTheSame proves that marks are merged as compose-go merges values: what they come to is the same
// project.
func TestMergedMarksLoadTheSame(t *testing.T) {
	same := 0
	for _, file := range libraryFiles(t) {
		want, err := native(file)
		if err != nil {
			continue
		}
		l, err := newLoading(Options{Files: []string{file}, Name: "parity", Environ: []string{"HOME=/root"}, EnvFiles: []string{os.DevNull}})
		if err != nil {
			t.Fatal(err)
		}
		l.load(context.Background())
		if len(l.errors) > 0 {
			continue // TestLoadAgreesWithComposeGo speaks of it
		}
		if diff := mergedDiff(t, l, want); diff != "" {
			t.Errorf("%s: the merged marks say something else (-compose-go +marks):\n%s", file, diff)
			continue
		}
		same++
	}
	if same < 20 {
		t.Errorf("only %d files were compared", same)
	}
}

func mergedDiff(t *testing.T, l *loading, want *types.Project) string {
	t.Helper()
	rest, _ := l.without(l.root, "").(map[string]any)
	got, err := l.composeGo(context.Background(), types.ConfigDetails{WorkingDir: l.dir, Environment: l.mapping(),
		ConfigFiles: []types.ConfigFile{{Filename: l.first(), Config: rest}}}, false)
	if err != nil {
		return err.Error()
	}
	return cmp.Diff(plainProject(t, want), plainProject(t, got))
}

func plainProject(t *testing.T, p *types.Project) any {
	t.Helper()
	v := plainMap(p)
	if v == nil {
		t.Fatal("the library's project has no plain form")
	}
	return v
}
