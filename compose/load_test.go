package compose

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.yaml.in/yaml/v4"
	"trellis/errdefs"
)

var update = flag.Bool("update", false, "write the expected results instead of comparing them")

// load loads a file of testdata from within testdata, with nothing of the machine's environment.
func load(t *testing.T, files ...string) (Project, []Diagnostic, error) {
	t.Helper()
	dir, err := filepath.Abs("testdata")
	if err != nil {
		t.Fatal(err)
	}
	return Load(context.Background(), Options{Files: files, WorkingDir: dir, Environ: []string{"HOME=/root", "SET=from-environment"}})
}

// golden compares text with a file, or writes it.
func golden(t *testing.T, file, got string) {
	t.Helper()
	if *update {
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatalf("%v (run with -update to write it)", err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("%s is not what it was (-want +got):\n%s", file, diff)
	}
}

func lines(list []Diagnostic) string {
	var b strings.Builder
	for _, d := range list {
		b.WriteString(d.String() + "\n")
	}
	return b.String()
}

// portable replaces the path of this checkout.
func portable(t *testing.T, s string) string {
	t.Helper()
	dir, err := filepath.Abs("testdata")
	if err != nil {
		t.Fatal(err)
	}
	s = regexp.MustCompile(`leads out of the project \([^)]*\)`).ReplaceAllString(s, "leads out of the project (ROOT)")
	return strings.NewReplacer(dir, "DIR", filepath.Dir(dir), "PARENT").Replace(s)
}

func indented(t *testing.T, p Project) string {
	t.Helper()
	out, err := json.MarshalIndent(p, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	return portable(t, string(out)) + "\n"
}

func matching(t *testing.T, pattern string, least int) []string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join("testdata", pattern))
	if err != nil || len(files) < least {
		t.Fatalf("%s: %d files, at least %d were expected (%v)", pattern, len(files), least, err)
	}
	for i := range files {
		files[i] = filepath.Base(files[i])
	}
	return files
}

// override returns the override that belongs to a file of testdata, with the file itself.
func withOverride(file string) []string {
	files := []string{file}
	over := strings.TrimSuffix(strings.TrimSuffix(file, ".good.yaml"), ".bad.yaml") + ".override.yaml"
	if _, err := os.Stat(filepath.Join("testdata", over)); err == nil {
		files = append(files, over)
	}
	return files
}

func TestGoodFiles(t *testing.T) {
	for _, file := range matching(t, "*.good.yaml", 5) {
		t.Run(file, func(t *testing.T) {
			p, warnings, err := load(t, withOverride(file)...)
			if err != nil {
				t.Fatal(err)
			}
			base := filepath.Join("testdata", strings.TrimSuffix(file, ".good.yaml"))
			golden(t, base+".json", indented(t, p))
			golden(t, base+".warnings", portable(t, lines(warnings)+lines(Check(p, TargetProcess))+lines(Notes(p))+"as containers:\n"+lines(Check(p, TargetDocker))))
		})
	}
}

func TestBadFiles(t *testing.T) {
	for _, file := range matching(t, "*.bad.yaml", 5) {
		t.Run(file, func(t *testing.T) {
			_, _, err := load(t, withOverride(file)...)
			var d Diagnostics
			if !errors.As(err, &d) {
				t.Fatalf("loaded without diagnostics: %v", err)
			}
			if errdefs.ExitCode(err) != errdefs.ExitUsage {
				t.Errorf("the error is of the kind %s", errdefs.Kind(err))
			}
			for _, e := range d {
				if e.File == "" || e.Line == 0 || e.Column == 0 || e.Message == "" {
					t.Errorf("no place: %#v", e)
				}
			}
			golden(t, filepath.Join("testdata", strings.TrimSuffix(file, ".bad.yaml")+".errors"), portable(t, lines(d)))
		})
	}
}

// TestRoundTrip proves that a revision, which is the JSON of a project, loses nothing.
func TestRoundTrip(t *testing.T) {
	var projects []Project
	for _, file := range matching(t, "*.good.yaml", 5) {
		p, _, err := load(t, withOverride(file)...)
		if err != nil {
			t.Fatal(err)
		}
		projects = append(projects, p)
	}
	for _, file := range libraryFiles(t) {
		if p, _, err := Load(context.Background(), Options{Files: []string{file}, Name: "parity", Environ: []string{}, EnvFiles: []string{os.DevNull}}); err == nil {
			projects = append(projects, p)
		}
	}
	for _, p := range projects {
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
			t.Errorf("%s: the JSON loses something (-project +after):\n%s", p.Files, cmp.Diff(p, back))
		}
		again, err := json.Marshal(back)
		if err != nil || !bytes.Equal(raw, again) {
			t.Errorf("%s: the JSON of the project read back is another one (%v)", p.Files, err)
		}
	}
}

// TestStrippedFileIsTheSameProject is the rule of no lock-in: without x-trellis the file is still a Compose file, and says
// the same but for it.
func TestStrippedFileIsTheSameProject(t *testing.T) {
	for _, file := range matching(t, "*.good.yaml", 5) {
		p, _, err := load(t, withOverride(file)...)
		if err != nil {
			t.Fatal(err)
		}
		opt := Options{ProjectDirectory: mustAbs(t), Name: p.Name, Environ: []string{"HOME=/root", "SET=from-environment"}}
		dir := t.TempDir()
		for _, f := range withOverride(file) {
			opt.Files = append(opt.Files, filepath.Join(dir, f))
			strip(t, filepath.Join("testdata", f), filepath.Join(dir, f), p)
		}
		q, _, err := Load(context.Background(), opt)
		if err != nil {
			t.Errorf("%s: without x-trellis it is refused:\n%v", file, err)
			continue
		}
		if diff := cmp.Diff(withoutTrellis(p), withoutTrellis(q)); diff != "" {
			t.Errorf("%s: without x-trellis it says something else (-with +without):\n%s", file, diff)
		}
		if _, err := native(opt.Files...); err != nil && !strings.Contains(err.Error(), "no such file") {
			t.Errorf("%s: compose-go refuses it without x-trellis: %v", file, err)
		}
	}
}

// strip copies a file without its x-trellis keys. Services that only a process can run get an image, the one thing that
// Compose asks for.
func strip(t *testing.T, from, to string, p Project) {
	t.Helper()
	content, err := os.ReadFile(from)
	if err != nil {
		t.Fatal(err)
	}
	var doc yaml.Node
	if err := yaml.Unmarshal(content, &doc); err != nil {
		t.Fatal(err)
	}
	var visit func(n *yaml.Node)
	visit = func(n *yaml.Node) {
		for i := 0; n.Kind == yaml.MappingNode && i+1 < len(n.Content); i += 2 {
			switch key := n.Content[i].Value; {
			case key == "x-trellis":
				n.Content = append(n.Content[:i:i], n.Content[i+2:]...)
				i -= 2
			case n.Content[i+1].Kind == yaml.MappingNode && p.Services[key].Trellis.Process != nil &&
				p.Services[key].Image == "" && p.Services[key].Build == nil && n.Content[i].Column == 3:
				n.Content[i+1].Content = append(n.Content[i+1].Content,
					&yaml.Node{Kind: yaml.ScalarNode, Value: "image"}, &yaml.Node{Kind: yaml.ScalarNode, Value: "placeholder"})
			}
		}
		for _, c := range n.Content {
			visit(c)
		}
	}
	visit(&doc)
	out, err := yaml.Marshal(&doc)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(to, out, 0o600); err != nil {
		t.Fatal(err)
	}
}

func mustAbs(t *testing.T) string {
	t.Helper()
	dir, err := filepath.Abs("testdata")
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

func withoutTrellis(p Project) Project {
	p.Trellis, p.Files, p.Environment = ProjectExtension{}, nil, ""
	services := map[string]Service{}
	for name, s := range p.Services {
		s.Trellis, s.Deploy.Trellis = ServiceExtension{}, DeployExtension{}
		if s.Image == "placeholder" {
			s.Image = ""
		}
		ports := make([]Port, 0, len(s.Ports))
		for _, port := range s.Ports {
			port.Trellis = PortExtension{}
			ports = append(ports, port)
		}
		s.Ports = ports
		services[name] = s
	}
	p.Services = services
	return p
}
