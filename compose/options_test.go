package compose

import (
	"context"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const one = "services: {web: {image: \"${IMAGE:-none}\"}}\n"

// TestWhatIsLoaded: which files, which variables, which name.
func TestWhatIsLoaded(t *testing.T) {
	type result struct {
		name, image string
		files       []string
	}
	tests := map[string]struct {
		files map[string]string
		opt   Options
		in    string // working directory
		want  result
	}{
		"compose.yaml": {files: map[string]string{"compose.yaml": one}, opt: Options{Name: "n"}, want: result{"n", "none", []string{"compose.yaml"}}},
		"first of several": {files: map[string]string{"docker-compose.yml": one, "compose.yml": one}, opt: Options{Name: "n"},
			want: result{"n", "none", []string{"compose.yml"}}},
		"override": {files: map[string]string{"compose.yaml": one, "compose.override.yaml": "services: {web: {image: over}}"}, opt: Options{Name: "n"},
			want: result{"n", "over", []string{"compose.yaml", "compose.override.yaml"}}},
		"above": {files: map[string]string{"compose.yaml": one, "a/b/x": ""}, in: "a/b", opt: Options{Name: "n"},
			want: result{"n", "none", []string{"compose.yaml"}}},
		"-f leaves the override out": {files: map[string]string{"compose.yaml": one, "compose.override.yaml": "services: {web: {image: over}}"},
			opt: Options{Name: "n", Files: []string{"compose.yaml"}}, want: result{"n", "none", []string{"compose.yaml"}}},
		"several -f": {files: map[string]string{"a.yaml": one, "b/b.yaml": "services: {web: {image: b}}"}, opt: Options{Name: "n", Files: []string{"a.yaml", "b/b.yaml"}},
			want: result{"n", "b", []string{"a.yaml", "b/b.yaml"}}},
		"COMPOSE_FILE": {files: map[string]string{"a.yaml": one, "b.yaml": "services: {web: {image: b}}"},
			opt: Options{Name: "n", Environ: []string{"COMPOSE_FILE=a.yaml:b.yaml"}}, want: result{"n", "b", []string{"a.yaml", "b.yaml"}}},
		"COMPOSE_FILE in .env": {files: map[string]string{"a.yaml": one, ".env": "COMPOSE_FILE=a.yaml\nIMAGE=dotenv"}, opt: Options{Name: "n"},
			want: result{"n", "dotenv", []string{"a.yaml"}}},
		".env":                     {files: map[string]string{"compose.yaml": one, ".env": "IMAGE=dotenv"}, opt: Options{Name: "n"}, want: result{"n", "dotenv", []string{"compose.yaml"}}},
		"the environment wins":     {files: map[string]string{"compose.yaml": one, ".env": "IMAGE=dotenv"}, opt: Options{Name: "n", Environ: []string{"IMAGE=env"}}, want: result{"n", "env", []string{"compose.yaml"}}},
		"--env-file replaces .env": {files: map[string]string{"compose.yaml": one, ".env": "IMAGE=dotenv", "o.env": "IMAGE=other"}, opt: Options{Name: "n", EnvFiles: []string{"o.env"}}, want: result{"n", "other", []string{"compose.yaml"}}},
		"COMPOSE_ENV_FILES": {files: map[string]string{"compose.yaml": one, ".env": "IMAGE=dotenv", "a.env": "IMAGE=first\nCOMPOSE_FILE=compose.yaml", "b.env": "IMAGE=second"},
			opt: Options{Name: "n", Environ: []string{"COMPOSE_ENV_FILES=a.env,b.env", "COMPOSE_DISABLE_ENV_FILE=1"}}, want: result{"n", "second", []string{"compose.yaml"}}},
		"--env-file before COMPOSE_ENV_FILES": {files: map[string]string{"compose.yaml": one, "a.env": "IMAGE=a", "b.env": "IMAGE=b"},
			opt: Options{Name: "n", EnvFiles: []string{"b.env"}, Environ: []string{"COMPOSE_ENV_FILES=a.env"}}, want: result{"n", "b", []string{"compose.yaml"}}},
		"no .env":               {files: map[string]string{"compose.yaml": one, ".env": "IMAGE=dotenv"}, opt: Options{Name: "n", Environ: []string{"COMPOSE_DISABLE_ENV_FILE=1"}}, want: result{"n", "none", []string{"compose.yaml"}}},
		"name of the file":      {files: map[string]string{"compose.yaml": "name: My_Shop\n" + one}, want: result{"my_shop", "none", []string{"compose.yaml"}}},
		"name with a variable":  {files: map[string]string{"compose.yaml": "name: shop-${IMAGE}\n" + one}, opt: Options{Environ: []string{"IMAGE=a"}}, want: result{"shop-a", "a", []string{"compose.yaml"}}},
		"COMPOSE_PROJECT_NAME":  {files: map[string]string{"compose.yaml": "name: shop\n" + one}, opt: Options{Environ: []string{"COMPOSE_PROJECT_NAME=env"}}, want: result{"env", "none", []string{"compose.yaml"}}},
		"-p wins":               {files: map[string]string{"compose.yaml": "name: shop\n" + one}, opt: Options{Name: "given", Environ: []string{"COMPOSE_PROJECT_NAME=env"}}, want: result{"given", "none", []string{"compose.yaml"}}},
		"name of the directory": {files: map[string]string{"My Shop.2/compose.yaml": one}, in: "My Shop.2", want: result{"myshop2", "none", []string{"My Shop.2/compose.yaml"}}},
		"environment": {files: map[string]string{"compose.yaml": "name: shop\n" + one, "compose.staging.yaml": "services: {web: {image: staging}}", "compose.override.yaml": "services: {web: {image: over}}"},
			opt: Options{Environment: "staging"}, want: result{"shop-staging", "staging", []string{"compose.yaml", "compose.override.yaml", "compose.staging.yaml"}}},
		"declared environment": {files: map[string]string{"compose.yaml": "name: shop\nx-trellis: {environments: {prod: {on: kubernetes}}}\n" + one},
			opt: Options{Environment: "prod"}, want: result{"shop-prod", "none", []string{"compose.yaml"}}},
		"copy":                             {files: map[string]string{"compose.yaml": "name: shop\n" + one}, opt: Options{Copy: "a1"}, want: result{"shop-a1", "none", []string{"compose.yaml"}}},
		"copy of a given":                  {files: map[string]string{"compose.yaml": one}, opt: Options{Name: "n", Copy: "a"}, want: result{"n-a", "none", []string{"compose.yaml"}}},
		"the project's name is a variable": {files: map[string]string{"compose.yaml": "name: shop\nservices: {web: {image: \"$COMPOSE_PROJECT_NAME\"}}"}, want: result{"shop", "shop", []string{"compose.yaml"}}},
		"files of a service that is not active": {files: map[string]string{"compose.yaml": "services: {web: {image: none}, dev: {image: x, profiles: [dev], env_file: missing.env, label_file: missing.labels}}"}, opt: Options{Name: "n"},
			want: result{"n", "none", []string{"compose.yaml"}}},
		"project directory": {files: map[string]string{"deploy/c.yaml": one, ".env": "IMAGE=top"}, opt: Options{Name: "n", Files: []string{"deploy/c.yaml"}, ProjectDirectory: "."}, want: result{"n", "top", []string{"deploy/c.yaml"}}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			dir := write(t, test.files)
			if test.opt.Environ == nil {
				test.opt.Environ = []string{}
			}
			test.opt.WorkingDir = filepath.Join(dir, test.in)
			p, _, err := Load(context.Background(), test.opt)
			if err != nil {
				t.Fatal(err)
			}
			got := result{p.Name, p.Services["web"].Image, nil}
			for _, f := range p.Files {
				rel, err := filepath.Rel(dir, f)
				if err != nil {
					t.Fatal(err)
				}
				got.files = append(got.files, filepath.ToSlash(rel))
			}
			if diff := cmp.Diff(test.want, got, cmp.AllowUnexported(result{})); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// TestWhatCannotBeLoaded: the options that are wrong themselves.
func TestWhatCannotBeLoaded(t *testing.T) {
	tests := map[string]struct {
		files map[string]string
		opt   Options
		want  string
	}{
		"no file":             {nil, Options{}, "there is no compose.yaml here or in a directory above"},
		"missing -f":          {nil, Options{Files: []string{"x.yaml"}}, "x.yaml: does not exist"},
		"directory":           {map[string]string{"d/x": ""}, Options{Files: []string{"d"}}, "is a directory"},
		"missing --env-file":  {map[string]string{"compose.yaml": one}, Options{EnvFiles: []string{"x.env"}}, "x.env"},
		"unknown environment": {map[string]string{"compose.yaml": "x-trellis: {environments: {staging: {}}}\n" + one}, Options{Environment: "stagin"}, "did you mean staging?"},
		"bad environment":     {map[string]string{"compose.yaml": one}, Options{Environment: "../x"}, "is not the name of an environment"},
		"bad copy":            {map[string]string{"compose.yaml": one}, Options{Copy: "../x"}, "is not the name of a copy"},
		"bad name":            {map[string]string{"compose.yaml": one}, Options{Name: "A B"}, "cannot be the project's name"},
		"file of a profile":   {map[string]string{"compose.yaml": "services: {web: {image: x, profiles: [a, dev], env_file: missing.env}}"}, Options{Profiles: []string{"dev"}}, "missing.env does not exist"},
		"file of all":         {map[string]string{"compose.yaml": "services: {web: {image: x, profiles: [a], env_file: missing.env}}"}, Options{Profiles: []string{"*"}}, "missing.env does not exist"},
		"empty":               {map[string]string{"compose.yaml": "# nothing\n"}, Options{}, "is empty"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			test.opt.WorkingDir, test.opt.Environ = write(t, test.files), []string{}
			_, _, err := Load(context.Background(), test.opt)
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("the error is %v, not %q", err, test.want)
			}
		})
	}
}

func TestProfiles(t *testing.T) {
	dir := write(t, map[string]string{"compose.yaml": `
services:
  web: {image: x}
  debug: {image: x, profiles: [debug], depends_on: [web]}
  test: {image: x, profiles: [test, ci]}
`})
	for _, test := range []struct {
		opt  Options
		want string
	}{
		{Options{}, "web"},
		{Options{Profiles: []string{"debug"}}, "debug web"},
		{Options{Environ: []string{"COMPOSE_PROFILES=ci, debug"}}, "debug test web"},
		{Options{Profiles: []string{"*"}}, "debug test web"},
	} {
		test.opt.WorkingDir = dir
		if test.opt.Environ == nil {
			test.opt.Environ = []string{}
		}
		p, _, err := Load(context.Background(), test.opt)
		if err != nil {
			t.Fatal(err)
		}
		if got := strings.Join(p.ServiceNames(), " "); got != test.want {
			t.Errorf("%v: %s, not %s", test.opt.Profiles, got, test.want)
		}
		if len(p.DisabledServices)+len(p.Services) != 3 || !slices.IsSorted(p.DisabledServices) {
			t.Errorf("left out: %v", p.DisabledServices)
		}
	}
}

// TestPositions: where the winning value stands, through override, include, extends, anchors and merge keys.
func TestPositions(t *testing.T) {
	dir := write(t, map[string]string{
		"compose.yaml": `name: places
x-base: &base
  image: from-anchor
  environment: &env {A: "1"}
include: [inc/more.yaml]
services:
  web:
    <<: *base
    ports: ["8080:80", "8443:443"]
    labels: [a=b, c=d]
    command: run
  child:
    extends: {file: inc/base.yaml, service: base}
    environment:
      <<: *env
      B: own
`,
		"compose.override.yaml": `services:
  web:
    ports:
      - {target: 80, name: http}
      - "9000:9000"
    labels: {c: over}
    environment: [A=over]
`,
		"inc/more.yaml": "services:\n  included:\n    image: inc\n",
		"inc/base.yaml": "services:\n  base:\n    image: base\n    user: nobody\n    environment: {A: base, C: base}\n",
	})
	p, _, err := Load(context.Background(), Options{WorkingDir: dir, Environ: []string{}})
	if err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{
		"services.web":                   "compose.override.yaml:2:3",
		"services.web.image":             "compose.yaml:3:10",
		"services.web.environment.A":     "compose.override.yaml:7:19",
		"services.web.labels.a":          "compose.yaml:10:14",
		"services.web.labels.c":          "compose.override.yaml:6:17",
		"services.web.ports[0]":          "compose.yaml:9:13",
		"services.web.ports[0].target":   "compose.yaml:9:13",
		"services.web.ports[1]":          "compose.yaml:9:24",
		"services.web.ports[3]":          "compose.override.yaml:5:9",
		"services.web.command":           "compose.yaml:11:14",
		"services.web.restart":           "compose.override.yaml:2:3", // not set: the node above
		"services.included.image":        "inc/more.yaml:3:12",
		"services.child.image":           "inc/base.yaml:3:12",
		"services.child.user":            "inc/base.yaml:4:11",
		"services.child.environment.A":   "compose.yaml:4:25",
		"services.child.environment.B":   "compose.yaml:16:10",
		"services.child.environment.C":   "inc/base.yaml:5:31",
		"services.nobody.image":          "compose.override.yaml:1:1",
		`services."web".labels."a"`:      "compose.yaml:10:14",
		"services.web.ports[99].x":       "compose.override.yaml:3:5",
		"networks.default":               "compose.override.yaml:1:1",
		"services.web.ports[2].target":   "compose.override.yaml:4:18",
		"services.web.environment.B.bad": "compose.override.yaml:7:5",
	} {
		file, line, col := p.Position(path)
		rel, err := filepath.Rel(dir, file)
		if err != nil {
			t.Fatal(err)
		}
		if got := (Diagnostic{File: rel, Line: line, Column: col}).String(); got != want+": " {
			t.Errorf("%s: %s, not %s", path, got, want)
		}
	}
	if file, line, col := (Project{}).Position("services.web"); file != "" || line != 0 || col != 0 {
		t.Errorf("a project without positions has one: %s:%d:%d", file, line, col)
	}
}
