//go:build e2e

package e2e

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"trellis/compose"
	"trellis/engine/kubernetes"
)

// theFiles are the checks of kube-score about what a file decides and Trellis leaves as it is: what a service may use of its
// node and which image it is, whom it runs as, what it writes to. Beside each, why nothing is filled in.
var theFiles = map[string]string{
	"container-resources":                               "a limit that nobody measured ends programs",
	"container-ephemeral-storage-request-and-limit":     "the same",
	"container-image-tag":                               "the image is the file's",
	"container-image-pull-policy":                       "pull_policy is the file's",
	"container-security-context-user-group-id":          "user is the file's, or the image's",
	"container-security-context-readonlyrootfilesystem": "read_only is the file's: programs write where they like",
	"container-security-context-privileged":             "privileged is the file's",
	"pod-networkpolicy":                                 "until a service has calls everyone may call everyone",
	"pod-probes":                                        "a service without a healthcheck and a port has nothing to ask",
	"pod-probes-identical":                              "a liveness probe is there where the file asks for it, and is its healthcheck",
}

// oursToo are those of them that hold for pods of Trellis' own as well.
var oursToo = map[string]string{
	"container-image-pull-policy": "an image is pinned, and nodes without a way to the registry have it already",
	"pod-networkpolicy":           "everybody calls the data plane, and it calls every service",
	"pod-probes":                  "the look for drift is a Job",
}

// scored is a part of what kube-score says of an object, in its second version of JSON.
type scored struct {
	Name   string `json:"object_name"`
	Object struct {
		Labels map[string]string `json:"labels"`
	} `json:"object_meta"`
	Checks []struct {
		Check struct {
			ID string `json:"id"`
		} `json:"check"`
		Grade    int  `json:"grade"` // 1: critical
		Skipped  bool `json:"skipped"`
		Comments []struct {
			Path    string `json:"path"` // the container
			Summary string `json:"summary"`
		} `json:"comments"`
	} `json:"checks"`
}

// tool builds a program that a module of tools pins, and returns its path.
func tool(t testing.TB, module, pkg string) string {
	t.Helper()
	program := filepath.Join(t.TempDir(), filepath.Base(pkg))
	build := exec.Command("go", "build", "-trimpath", "-buildvcs=false", "-o", program, pkg)
	build.Dir, build.Env = "../tools/"+module, append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build %s: %v\n%s", pkg, err, out)
	}
	return program
}

// TestKubeScore: kube-score finds nothing critical in what Trellis fills in by itself: in pods of its own nothing at all, in
// those of services, and the containers that it puts beside them, nothing that is not the file's to say.
func TestKubeScore(t *testing.T) {
	t.Parallel()
	program := tool(t, "kubescore", "github.com/zegl/kube-score/cmd/kube-score")
	files, err := filepath.Glob("../engine/kubernetes/testdata/*.compose.yaml")
	if err != nil || len(files) < 3 {
		t.Fatalf("%v, %v", files, err)
	}
	public, err := filepath.Glob("../engine/kubernetes/testdata/public/*/compose.yaml")
	if err != nil || len(public) < 6 {
		t.Fatalf("%v, %v", public, err)
	}
	var own int
	for _, file := range append(append(files, public...), "../examples/evergreen/compose.yaml") {
		p, _, err := compose.Load(t.Context(), compose.Options{Files: []string{file}})
		if err != nil {
			t.Fatal(err)
		}
		images := map[string]string{}
		for name, svc := range p.Services {
			if svc.Image == "" {
				images[name] = "registry.example.org/" + name + "@sha256:" + strings.Repeat("a", 64)
			}
		}
		objects, err := kubernetes.Render(p, nil, kubernetes.Options{
			Images: images, Namespace: "ns", Revision: 1, Image: "registry.example.org/trellis:1",
			Gates: kubernetes.Gates{Wait: "busybox:1.37", Ask: "registry.example.org/kubectl:1.36"},
		})
		if err != nil {
			t.Fatal(err)
		}
		var all bytes.Buffer
		for _, o := range objects {
			text, err := kubernetes.YAML(o)
			if err != nil {
				t.Fatal(err)
			}
			all.WriteString("---\n")
			all.Write(text)
		}
		cmd := exec.Command(program, "score", "--kubernetes-version", "v1.33", "--ignore-container-cpu-limit", "-o", "json", "-")
		cmd.Stdin = &all
		out, _ := cmd.Output() // it exits with 1 where something is critical
		var verdict []scored
		if err := json.Unmarshal(out, &verdict); err != nil {
			t.Fatalf("kube-score of %s: %v\n%.500s", file, err, out)
		}
		for _, o := range verdict {
			ours := strings.Contains(o.Name, "/trellis-")
			if ours {
				own++
			}
			for _, check := range o.Checks {
				if check.Grade != 1 || check.Skipped {
					continue
				}
				for _, comment := range check.Comments {
					beside := slices.Contains([]string{"wait", "ask"}, comment.Path)
					allowed := theFiles
					if ours || beside {
						allowed = oursToo
					}
					if allowed[check.Check.ID] == "" {
						t.Errorf("%s: %s: %s: %s %s", file, o.Name, check.Check.ID, comment.Path, comment.Summary)
					}
				}
			}
		}
	}
	if own == 0 {
		t.Error("nothing of Trellis' own was judged: this says nothing")
	}
}
