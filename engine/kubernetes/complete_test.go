package kubernetes

import (
	"encoding/json"
	"fmt"
	"maps"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"trellis/compose"
)

// meaningless are attributes that no object could show: what they do is done before, or they are the file's own bookkeeping.
var meaningless = regexp.MustCompile(`^(name|working_dir|files|env_files|environment|disabled_services` +
	`|services\.[^.]+\.(profiles|build|develop|x-trellis\.(process|image_id)|networks(\.default)?|deploy)` +
	`|services\.[^.]+\.build\..*|services\.[^.]+\.develop\..*|services\.[^.]+\.x-trellis\.process\..*` +
	`|services\.[^.]+\.depends_on\.[^.]+(\.required)?` + // of a service that is there
	`|services\.[^.]+\.volumes\[\d+\]\.create_host_path|services\.[^.]+\.volumes\[\d+\]\.nocopy` +
	`|networks\.[^.]+(\.name)?|volumes\.[^.]+(\.name)?|secrets\.[^.]+(\.name|\.file|\.environment)?|configs\.[^.]+(\.name|\.file|\.environment|\.content)?` +
	`|x-trellis(\.load|\.environments)(\..*)?|x-trellis\.gateway\.policy\.auth)$`)

// TestNothingIsDroppedSilently takes every attribute away from every project in turn: either the objects are others then,
// or something is said of it.
func TestNothingIsDroppedSilently(t *testing.T) {
	files := projects(t)
	if len(files) < 12 {
		t.Fatalf("only %d projects", len(files))
	}
	for _, file := range files {
		t.Run(filepath.Base(filepath.Dir(file))+"/"+filepath.Base(file), func(t *testing.T) {
			p := loaded(t, file)
			opt := full(t, p)
			objects, err := Render(p, nil, opt)
			if err != nil {
				t.Fatal(err)
			}
			valid(t, objects)
			said := map[string]bool{}
			for _, d := range append(compose.Check(p, compose.TargetKubernetes), Notes(p, opt)...) {
				said[strings.ReplaceAll(d.Path, `"`, "")] = true
				if d.Line == 0 {
					t.Errorf("no place: %v", d)
				}
			}
			whole := string(mustJSON(p))
			before := string(mustJSON(objects))
			n := 0
			for _, path := range paths(whole) {
				plain := strings.ReplaceAll(path.String(), `"`, "")
				if meaningless.MatchString(plain) || mentioned(said, plain) {
					continue
				}
				n++
				other, ok := path.removed(whole)
				if !ok {
					continue
				}
				after, err := Render(other, nil, opt)
				if err == nil && string(mustJSON(after)) == before {
					t.Errorf("%s: nothing shows it, and nothing is said of it", path)
				}
			}
			t.Logf("%d attributes shown", n)
		})
	}
}

// projects are files as public projects have them: those of testdata and those that the end-to-end tests run.
func projects(t testing.TB) []string {
	t.Helper()
	var all []string
	for _, pattern := range []string{"testdata/*.compose.yaml", "testdata/public/*/compose.yaml", "../../e2e/projects/*/compose.yaml", "../../examples/*/compose.yaml"} {
		found, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, found...)
	}
	return all
}

// mentioned says whether something is said of an attribute, of what it is in, or of everything in it.
func mentioned(said map[string]bool, path string) bool {
	for s := range said {
		if s == path || strings.HasPrefix(path, s+".") || strings.HasPrefix(path, s+"[") || strings.HasPrefix(s, path+".") || strings.HasPrefix(s, path+"[") {
			return true
		}
	}
	return false
}

// way is the way to a node of a tree: keys are strings, indexes numbers.
type way []any

func (w way) String() string {
	out := ""
	for _, step := range w {
		switch step := step.(type) {
		case int:
			out += fmt.Sprintf("[%d]", step)
		case string:
			if step != "other" { // the model's own word
				out = compose.JoinPath(out, step)
			}
		}
	}
	return out
}

// paths are the ways to every attribute of a project.
func paths(text string) []way {
	var out []way
	var walk func(v any, at way)
	walk = func(v any, at way) {
		if len(at) > 0 {
			out = append(out, slices.Clone(at))
		}
		switch v := v.(type) {
		case map[string]any:
			for _, key := range slices.Sorted(maps.Keys(v)) {
				walk(v[key], append(at, key))
			}
		case []any:
			for i, e := range v {
				walk(e, append(at, i))
			}
		}
	}
	var tree any
	if json.Unmarshal([]byte(text), &tree) == nil {
		walk(tree, nil)
	}
	return out
}

// removed is the project without the node at a way; false where it means the same.
func (w way) removed(text string) (compose.Project, bool) {
	var tree any
	if json.Unmarshal([]byte(text), &tree) != nil {
		return compose.Project{}, false
	}
	tree = without(tree, w)
	var p, was compose.Project
	if json.Unmarshal(mustJSON(tree), &p) != nil || json.Unmarshal([]byte(text), &was) != nil {
		return compose.Project{}, false
	}
	return p, !reflect.DeepEqual(p, was)
}

func without(v any, w way) any {
	switch v := v.(type) {
	case map[string]any:
		if len(w) == 1 {
			delete(v, w[0].(string))
			return v
		}
		v[w[0].(string)] = without(v[w[0].(string)], w[1:])
	case []any:
		if len(w) == 1 {
			return slices.Delete(v, w[0].(int), w[0].(int)+1)
		}
		v[w[0].(int)] = without(v[w[0].(int)], w[1:])
	}
	return v
}
