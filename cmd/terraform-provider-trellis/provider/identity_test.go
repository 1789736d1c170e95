package provider

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/hashicorp/terraform-plugin-framework/diag"

	"terraform-provider-trellis/cli"
)

// TestHowAProjectStands: a project that is not found for want of its files is looked for by its name, and does not run only where that can
// be known. Otherwise Terraform forgets it, and a destroy leaves it running.
func TestHowAProjectStands(t *testing.T) {
	const unreadable, unreachable, notHere, here = 64, 1, `{"project": "shop-staging", "revision": null}`, `{"project": "shop-staging", "revision": 7}`
	files := cli.Project{Files: []string{"compose.yaml"}}
	staging := cli.Project{Files: []string{"compose.yaml"}, Environment: "staging"}
	local := cli.Project{Files: []string{"compose.yaml"}, Environment: "staging", Engine: "local"}
	for name, test := range map[string]struct {
		project cli.Project
		code    int    // of a command that names the files
		byName  string // the answer to one that does not
		fails   bool
		runs    bool
	}{
		"the files are gone, and it runs":                     {files, unreadable, here, false, true},
		"the files are gone, and it does not run":             {files, unreadable, notHere, false, false},
		"the cluster does not answer":                         {files, unreachable, notHere, true, false},
		"the cluster of an environment does not answer":       {staging, unreachable, notHere, true, false},
		"an environment's files are gone, and it runs here":   {staging, unreadable, here, false, true},
		"an environment's files are gone, and it is not here": {staging, unreadable, notHere, true, false},
		"and it could be nowhere else":                        {local, unreadable, notHere, false, false},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "trellis")
			script := fmt.Sprintf("#!/bin/sh\ncase \"$*\" in *--file=*) echo 'error: it is so' >&2; exit %d;; esac\ncat <<'END'\n%s\nEND\n", test.code, test.byName)
			if err := os.WriteFile(path, []byte(script), 0o700); err != nil {
				t.Fatal(err)
			}
			s, _, err := status(t.Context(), &cli.Command{Path: path}, test.project, "shop-staging")
			if (err != nil) != test.fails || (s.Revision != nil) != test.runs {
				t.Errorf("%+v, %v: want it to fail: %v, and to run: %v", s, err, test.fails, test.runs)
			}
		})
	}
}

// TestWhyItFailed: an error has the places that a check of the same engine finds, or else what the command said.
func TestWhyItFailed(t *testing.T) {
	const check = `{"errors": [{"file": "compose.yaml", "line": 3, "column": 5, "path": "services.web.privileged", "message": "is not for you"}]}`
	for name, test := range map[string]struct {
		project cli.Project
		want    string
	}{
		"of this machine":             {cli.Project{Files: []string{"compose.yaml"}}, "compose.yaml:3:5 services.web.privileged: is not for you"},
		"of a cluster":                {cli.Project{Files: []string{"compose.yaml"}, Environment: "staging", Engine: "kubernetes"}, "compose.yaml:3:5 services.web.privileged: is not for you"},
		"of what an environment says": {cli.Project{Files: []string{"compose.yaml"}, Environment: "staging"}, "Cannot plan: web has no image"},
	} {
		t.Run(name, func(t *testing.T) {
			var diags diag.Diagnostics
			r := &project{command: answering(t, check)}
			r.failed(t.Context(), test.project, "Cannot plan", &cli.Failed{Args: []string{"plan"}, Code: 64, Output: "web has no image"}, &diags)
			if len(diags) != 1 || diags[0].Summary()+": "+diags[0].Detail() != test.want {
				t.Errorf("%v, want %q", diags, test.want)
			}
			if r.failed(t.Context(), test.project, "Cannot plan", errors.New("no program"), &diags); !strings.Contains(diags[1].Detail(), "no program") {
				t.Errorf("another error: %v", diags[1])
			}
		})
	}
}

// TestAnIDFindsTheSameProject, whatever the names of its files have in them; one that was written by hand may have a percent sign as it is.
func TestAnIDFindsTheSameProject(t *testing.T) {
	for id, want := range map[string]cli.Project{
		"compose.yaml":                       {Files: []string{"compose.yaml"}},
		"compose.yaml,more.yaml":             {Files: []string{"compose.yaml", "more.yaml"}},
		"a%2Cb.yaml,what%3F.yaml?name=shop":  {Files: []string{"a,b.yaml", "what?.yaml"}, Name: "shop"},
		"100%25.yaml,%252C.yaml":             {Files: []string{"100%.yaml", "%2C.yaml"}},
		"compose.yaml?profile=a%26b%2Cc":     {Files: []string{"compose.yaml"}, Profiles: []string{"a&b,c"}},
		"compose.yaml?project_directory=a+b": {Files: []string{"compose.yaml"}, Directory: "a b"},
	} {
		if got := idOf(want); got != id {
			t.Errorf("the id of %+v is %q, want %q", want, got, id)
		}
		if got, err := projectOf(id); err != nil || idOf(got) != id || !slices.Equal(got.Files, want.Files) || !slices.Equal(got.Profiles, want.Profiles) {
			t.Errorf("%q is %+v (%v), want %+v", id, got, err, want)
		}
	}
	if got, err := projectOf("a%20b,100%.yaml"); err != nil || !slices.Equal(got.Files, []string{"a%20b", "100%.yaml"}) {
		t.Errorf("by hand: %+v, %v", got, err)
	}
}
