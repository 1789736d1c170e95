package compose

import (
	"context"
	"errors"
	"testing"

	"github.com/compose-spec/compose-go/v2/types"
	"github.com/google/go-cmp/cmp"
)

// TestFromLibrary: whatever compose-go says is put at the place that its text speaks of.
func TestFromLibrary(t *testing.T) {
	dir := write(t, map[string]string{"compose.yaml": `services:
  web:
    image: x
    ports: ["80:80"]
    build: {context: .}
    env_file: [{path: web.env, required: false}]
  my.web: {image: x}
`})
	for text, want := range map[string]string{
		"services.web.ports.[0]: invalid thing":                   "compose.yaml:4:13: services.web.ports[0]: invalid thing",
		"services.web.ports.0 invalid thing":                      "compose.yaml:4:13: services.web.ports[0]: invalid thing",
		"validating /x/compose.yaml: services.web.build is wrong": "compose.yaml:5:5: services.web.build: is wrong",
		`service "web" is wrong`:                                  `compose.yaml:2:3: services.web: service "web" is wrong`,
		`service "my.web" is wrong`:                               `compose.yaml:7:3: services."my.web": service "my.web" is wrong`,
		"decoding failed due to the following error(s):\n\n'services[web].ports[0].target' is no number": "compose.yaml:4:13: services.web.ports[0].target: is no number",
		"env file /somewhere/web.env not found: stat":                                                    "compose.yaml:6:23: services.web.env_file[0].path: env file /somewhere/web.env not found: stat",
		"something else": "compose.yaml:1:1: something else",
	} {
		l, err := newLoading(Options{WorkingDir: dir, Environ: []string{}})
		if err != nil {
			t.Fatal(err)
		}
		l.load(context.Background())
		if len(l.errors) > 0 {
			t.Fatal(lines(l.errors))
		}
		l.early = -1
		l.fromLibrary(errors.New(text))
		if diff := cmp.Diff(want+"\n", lines(l.finish(l.errors))); diff != "" {
			t.Error(diff)
		}
	}
}

// TestPanicOfTheLibraryIsAnError: a file that makes compose-go panic is refused like any other.
func TestPanicOfTheLibraryIsAnError(t *testing.T) {
	l, err := newLoading(Options{WorkingDir: write(t, map[string]string{"compose.yaml": one}), Environ: []string{}})
	if err != nil {
		t.Fatal(err)
	}
	details := types.ConfigDetails{ConfigFiles: []types.ConfigFile{{Filename: "x", Config: map[string]any{
		"services": map[string]any{"web": map[string]any{"environment": map[string]any{}, "volumes": []any{map[string]any{"target": 5}}}},
	}}}}
	if p, err := l.composeGo(context.Background(), details, true); err == nil || p != nil {
		t.Errorf("a project %v and the error %v", p, err)
	}
}

// TestDidYouMean: a suggestion helps or is not made.
func TestDidYouMean(t *testing.T) {
	keys := []string{"image", "ports", "environment", "env_file", "restart", "healthcheck", "depends_on", "command", "labels", "volumes", "deploy"}
	for have, want := range map[string]string{
		"imgae": "; did you mean image?", "prots": "; did you mean ports?", "Ports": "; did you mean ports?",
		"enviroment": "; did you mean environment?", "dependson": "; did you mean depends_on?", "health": "; did you mean healthcheck?",
		"volume": "; did you mean volumes?", "zzz": "", "x": "",
	} {
		if got := didYouMean(have, keys); got != want {
			t.Errorf("%s: %q, not %q", have, got, want)
		}
	}
	if got := didYouMean("zzz", keys[:3]); got != ": it may be image, ports, environment" {
		t.Errorf("few keys are not listed: %q", got)
	}
}
