package kubernetes

import (
	"errors"
	"flag"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apiversion "k8s.io/apimachinery/pkg/util/version"

	"trellis/compose"
	"trellis/engine"
	"trellis/errdefs"
)

var update = flag.Bool("update", false, "write the golden files anew")

func shop(t *testing.T) compose.Project {
	t.Helper()
	return loaded(t, "testdata/shop.compose.yaml")
}

func loaded(t testing.TB, files ...string) compose.Project {
	t.Helper()
	p, _, err := compose.Load(t.Context(), compose.Options{Files: files})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func renderAs(t *testing.T, p compose.Project, live []Object, revision int64) []Object {
	t.Helper()
	images := map[string]string{"api": "registry.example.org/shop/api@sha256:aaaa"}
	objects, err := Render(p, live, Options{Namespace: "shop-test", Revision: revision, Images: images, Image: "registry.example.org/trellis:1"})
	if err != nil {
		t.Fatal(err)
	}
	return objects
}

// TestGolden renders the projects of testdata. Each is beside what it is in a cluster, and what is said of it.
func TestGolden(t *testing.T) {
	files, err := filepath.Glob("testdata/*.compose.yaml")
	if err != nil || len(files) < 3 {
		t.Fatalf("%v, %v", files, err)
	}
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			p := loaded(t, file)
			opt := full(t, p)
			if filepath.Base(file) == "shop.compose.yaml" {
				opt = Options{
					Namespace: "shop-test", Revision: 7, Images: map[string]string{"api": "registry.example.org/shop/api@sha256:aaaa"},
					Image: "registry.example.org/trellis:1",
				}
			}
			if filepath.Base(file) == "front.compose.yaml" {
				_, opt = front(t)
			}
			objects, err := Render(p, nil, opt)
			if err != nil {
				t.Fatal(err)
			}
			valid(t, objects)
			var out strings.Builder
			for _, n := range Notes(p, opt) {
				fmt.Fprintf(&out, "# %s:%d:%d: %s %s\n", filepath.Base(n.File), n.Line, n.Column, n.Path, strings.ReplaceAll(n.Message, p.WorkingDir, "."))
			}
			for _, o := range objects {
				out.WriteString("---\n" + string(text(t, o)))
			}
			golden(t, strings.Replace(file, ".compose.", ".objects.", 1), out.String())
		})
	}
}

func golden(t *testing.T, file, now string) {
	t.Helper()
	if *update {
		if err := os.WriteFile(file, []byte(now), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(string(want), now); d != "" {
		t.Errorf("rendered (-golden +now), -update writes it anew:\n%s", d)
	}
}

func text(t testing.TB, o Object) []byte {
	t.Helper()
	b, err := YAML(o)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// deployments are those of services.
func deployments(all []Object) []*appsv1.Deployment {
	return slices.DeleteFunc(objectsOf[*appsv1.Deployment](all), func(d *appsv1.Deployment) bool { return d.Labels[labelComponent] != "" })
}

// full are options that have everything there is to render.
func full(t testing.TB, p compose.Project) Options {
	t.Helper()
	folders, err := ReadFolders(p)
	if err != nil {
		t.Fatal(err)
	}
	contents, err := compose.Contents(p, os.Environ())
	if err != nil {
		t.Fatal(err)
	}
	return Options{
		Namespace: "ns", Standalone: true, Contents: contents, Folders: folders, GatewayClass: "example",
		Gates: Gates{Wait: "busybox:1.37", Ask: "registry.example.org/kubectl:1.36"}, Version: apiversion.MustParseGeneric(ExportedFor),
	}
}

// TestRenderingAgainChangesNothing: whoever applies the same project again as a later revision replaces no pod and moves
// no port; a change of one service is a change of that service's pods alone.
func TestRenderingAgainChangesNothing(t *testing.T) {
	p := shop(t)
	first := renderAs(t, p, nil, 7)
	if d := cmp.Diff(first, renderAs(t, p, first, 8)); d != "" {
		t.Errorf("the same project as a later revision (-first +second):\n%s", d)
	}
	p.Services = maps.Clone(p.Services)
	worker := p.Services["worker"]
	worker.Environment = map[string]string{"LEVEL": "debug"}
	p.Services["worker"] = worker
	third := renderAs(t, p, first, 9)
	for i, d := range deployments(third) {
		same := cmp.Equal(d, deployments(first)[i])
		if isWorker := d.Name == "worker"; same == isWorker {
			t.Errorf("deployment %s: same is %v", d.Name, same)
		}
		want := map[bool]int64{true: 9, false: 7}[d.Name == "worker"]
		if got := revisionOf(d.Spec.Template.ObjectMeta); got != want {
			t.Errorf("pods of %s are of revision %d, want %d", d.Name, got, want)
		}
	}
}

// TestAnotherNumberReplacesNoPod: replicas come and go, from one to more too, and those that are there stay as they are.
func TestAnotherNumberReplacesNoPod(t *testing.T) {
	p := shop(t)
	first := renderAs(t, p, nil, 7)
	for name, svc := range p.Services {
		if svc.Deploy.Trellis.Autoscale == nil {
			svc.Deploy.Replicas = pointer(4 - engine.Replicas(svc))
			p.Services[name] = svc
		}
	}
	changed := 0
	for i, d := range deployments(renderAs(t, p, first, 8)) {
		before := deployments(first)[i]
		if d := cmp.Diff(before.Spec.Template, d.Spec.Template); d != "" {
			t.Errorf("pods of %s (-before +after):\n%s", before.Name, d)
		}
		if !cmp.Equal(before.Spec.Replicas, d.Spec.Replicas) {
			changed++
		}
	}
	if changed == 0 {
		t.Error("no number changed: this says nothing")
	}
}

// TestPortsOfTheDataPlaneStay although services come and go before them in the order of names.
func TestPortsOfTheDataPlaneStay(t *testing.T) {
	p := shop(t)
	first := renderAs(t, p, nil, 1)
	before := givenOut(first)
	p.Services = maps.Clone(p.Services)
	p.Services["aaa"] = compose.Service{Image: "x", Expose: []string{"1", "2"}}
	delete(p.Services, "queue")
	after := givenOut(renderAs(t, p, first, 2))
	seen := map[int32]bool{}
	for port, n := range after {
		if was, had := before[port]; had && was != n {
			t.Errorf("%v moved from %d to %d", port, was, n)
		}
		if seen[n] {
			t.Errorf("port %d is given out twice", n)
		}
		seen[n] = true
	}
	if len(after) != 4 {
		t.Errorf("%d ports, want 4: %v", len(after), after)
	}
}

// TestRefused: what cannot run in a cluster at all is named, all of it, and nothing is made.
func TestRefused(t *testing.T) {
	bad := compose.Project{Name: "bad", Services: map[string]compose.Service{
		"one": {}, "two": {Build: &compose.Build{Context: "."}}, "good": {Image: "x:1"},
	}}
	objects, err := Render(bad, nil, Options{Revision: 1})
	if !errors.Is(err, errdefs.ErrUnsupported) {
		t.Fatalf("%v, want ErrUnsupported", err)
	}
	for _, want := range []string{"services.one.image", "services.two.image"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("nothing is said of %s:\n%v", want, err)
		}
	}
	if strings.Contains(err.Error(), "services.good") || len(objects) > 0 {
		t.Errorf("%v, and %d objects", err, len(objects))
	}
}

func TestSelectorsFindTheirPods(t *testing.T) {
	objects := renderAs(t, shop(t), nil, 1)
	for _, d := range deployments(objects) {
		for key, value := range d.Spec.Selector.MatchLabels {
			if d.Spec.Template.Labels[key] != value {
				t.Errorf("%s: its selector does not find its pods", d.Name)
			}
		}
	}
	names := []string{}
	for _, s := range objectsOf[*corev1.Service](objects) {
		names = append(names, s.Name)
	}
	if want := []string{"api", "api-direct", "api-public", "queue", "queue-direct", "worker", "trellis-shop"}; !slices.Equal(names, want) {
		t.Errorf("services %v, want %v", names, want)
	}
}

// TestStandalone: without a data plane the Services of a project lead to its instances, at the ports that they listen on.
func TestStandalone(t *testing.T) {
	objects, err := Render(shop(t), nil, Options{Standalone: true, Images: map[string]string{"api": "x"}})
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range objectsOf[*corev1.Service](objects) {
		if s.Spec.Selector[labelService] != s.Labels[labelService] {
			t.Errorf("service %s selects %v", s.Name, s.Spec.Selector)
		}
		for _, p := range s.Spec.Ports {
			if p.TargetPort.IntVal != p.Port {
				t.Errorf("service %s: port %d leads to %d", s.Name, p.Port, p.TargetPort.IntVal)
			}
		}
	}
}
