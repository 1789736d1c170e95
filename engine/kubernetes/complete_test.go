package kubernetes

import (
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"trellis/compose"
)

// meaningless are attributes that no object could show: what they do is done before, they are the file's own bookkeeping, or
// every value that a cluster does not complain of means the same.
var meaningless = regexp.MustCompile(`^(name|working_dir|places.*|files\[\d+\]|env_files.*|environment|disabled_services.*` +
	`|services\.[^.]+\.(profiles.*|build|develop|x-trellis\.(process|image_id)|networks(\.default)?|deploy)` +
	`|services\.[^.]+\.build\..*|services\.[^.]+\.develop\..*|services\.[^.]+\.x-trellis\.process\..*` +
	`|services\.[^.]+\.depends_on\.[^.]+\.required` + // of a service that is there
	`|services\.[^.]+\.volumes\[\d+\]\.(create_host_path|nocopy)|services\.[^.]+\.logging\.driver` +
	`|services\.agent\.ports\[0\]\.mode` + // has the network of its node
	`|networks|networks\.[^.]+(\.name|\.driver|\.attachable)?|volumes\.[^.]+(\.name)?` +
	`|(secrets|configs)\.[^.]+(\.name|\.file|\.environment|\.content|\.external)?` +
	`|x-trellis(\.load|\.environments)(\..*)?|x-trellis\.gateway\.policy\.auth)$`)

// TestNothingIsDroppedSilently takes every attribute away from every project in turn, and gives it another value: either the
// objects are others then, or something is said of it, or another thing is said.
func TestNothingIsDroppedSilently(t *testing.T) {
	files := projects(t)
	if len(files) < 12 {
		t.Fatalf("only %d projects", len(files))
	}
	for _, file := range files {
		t.Run(filepath.Base(filepath.Dir(file))+"/"+filepath.Base(file), func(t *testing.T) {
			t.Parallel()
			p := loaded(t, file)
			opt := full(t, p)
			if filepath.Base(file) == "front.compose.yaml" {
				_, opt = front(t)
			}
			said := map[string]bool{}
			for _, d := range append(compose.Check(p, compose.TargetKubernetes), Notes(p, opt)...) {
				said[strings.ReplaceAll(d.Path, `"`, "")] = true
				if d.Line == 0 {
					t.Errorf("no place: %v", d)
				}
			}
			text := string(mustJSON(p))
			before, reach := meaning(t, p, opt), reachable(p)
			n := 0
			for _, at := range leaves(text) {
				plain := strings.ReplaceAll(at.String(), `"`, "")
				if meaningless.MatchString(plain) || mentioned(said, plain) ||
					mentioned(said, strings.Replace(plain, "deploy.resources.limits.pids", "pids_limit", 1)) { // one attribute, said where it stands
					continue
				}
				n++
				shown := false
				for _, other := range at.others(text) {
					shown = shown || meaning(t, other, opt) != before || strings.Contains(plain, ".networks.") && reachable(other) == reach
				}
				if !shown {
					t.Errorf("%s: nothing shows it, and nothing is said of it", at)
				}
			}
			t.Logf("%d attributes shown", n)
		})
	}
}

// meaning is what a project is in a cluster, and what is said of it.
func meaning(t *testing.T, p compose.Project, opt Options) string {
	r := newRenderer(p, nil, opt)
	r.project()
	if r.refused != nil {
		return r.refused.Error()
	}
	var notes []string
	for _, n := range r.notes {
		notes = append(notes, n.Path+" "+n.Message)
	}
	slices.Sort(notes)
	return string(mustJSON(r.out)) + strings.Join(notes, "\n")
}

// reachable says who reaches whom.
func reachable(p compose.Project) string {
	r, out := newRenderer(p, nil, Options{}), ""
	for _, a := range p.ServiceNames() {
		for _, b := range p.ServiceNames() {
			out += fmt.Sprintln(a, b, r.mayReach(a, b, false))
		}
	}
	return out
}

// projects are files as public projects have them: those of testdata and those that the end-to-end tests run.
func projects(t testing.TB) []string {
	t.Helper()
	var all []string
	for _, pattern := range []string{"testdata/*.compose.yaml", "testdata/public/*/compose.yaml", "../../e2e/projects/*/compose.yaml"} {
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

// leaves are the ways to everything of a project that is no list and no map, or an empty one.
func leaves(text string) []way {
	var out []way
	var walk func(v any, at way)
	walk = func(v any, at way) {
		children := 0
		switch v := v.(type) {
		case map[string]any:
			for _, key := range slices.Sorted(maps.Keys(v)) {
				children++
				walk(v[key], append(at, key))
			}
		case []any:
			for i, e := range v {
				children++
				walk(e, append(at, i))
			}
		}
		if children == 0 && len(at) > 0 {
			out = append(out, slices.Clone(at))
		}
	}
	var tree any
	if json.Unmarshal([]byte(text), &tree) == nil {
		walk(tree, nil)
	}
	return out
}

// others are the project without the node at a way, and with another value there.
func (w way) others(text string) []compose.Project {
	var all []compose.Project
	for _, change := range []func(any) (any, bool){
		func(any) (any, bool) { return nil, false },
		func(v any) (any, bool) { return another(v), true },
	} {
		var tree any
		var p compose.Project
		if json.Unmarshal([]byte(text), &tree) == nil && json.Unmarshal(mustJSON(changed(tree, w, change)), &p) == nil {
			all = append(all, p)
		}
	}
	return all
}

// another is a value that means something else.
func another(v any) any {
	words := map[string]string{
		"tcp": "udp", "ingress": "host", "host": "ingress", "always": "no", "unless-stopped": "no", "no": "always",
		"service_started": "service_healthy", "service_healthy": "service_started", "start-first": "stop-first", "stop-first": "start-first",
		"dnsrr": "vip", "volume": "tmpfs", "bind": "tmpfs", "any": "none",
	}
	switch v := v.(type) {
	case bool:
		return !v
	case float64:
		return v + 1
	case string:
		if d, err := time.ParseDuration(v); err == nil {
			return (2 * d).String()
		}
		if n, err := strconv.Atoi(v); err == nil {
			return strconv.Itoa(n + 1)
		}
		return cmp.Or(words[v], v+"x")
	}
	return v
}

// changed is a tree with one node changed, or taken out.
func changed(v any, w way, change func(any) (any, bool)) any {
	if len(w) == 0 {
		return v
	}
	last := len(w) == 1
	switch v := v.(type) {
	case map[string]any:
		key := w[0].(string)
		if !last {
			v[key] = changed(v[key], w[1:], change)
		} else if to, keep := change(v[key]); keep {
			v[key] = to
		} else {
			delete(v, key)
		}
	case []any:
		i := w[0].(int)
		if !last {
			v[i] = changed(v[i], w[1:], change)
		} else if to, keep := change(v[i]); keep {
			v[i] = to
		} else {
			return slices.Delete(v, i, i+1)
		}
	}
	return v
}
