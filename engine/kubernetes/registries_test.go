package kubernetes

import (
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"

	"trellis/errdefs"
)

func TestRegistryOfTheCluster(t *testing.T) {
	const path = "/api/v1/namespaces/kube-public/configmaps/local-registry-hosting"
	for text, want := range map[string]Hosting{
		"host: localhost:5000\nhelp: https://kind.sigs.k8s.io\n":               {Host: "localhost:5000"},
		"host: localhost:5000\nhostFromContainerRuntime: registry.test:5001\n": {Host: "localhost:5000", FromRuntime: "registry.test:5001"},
		"{}": {},
	} {
		s, client := cluster(t)
		s.objects[path] = map[string]any{"kind": "ConfigMap", "apiVersion": "v1", "data": map[string]any{"localRegistryHosting.v1": text}}
		if got, err := client.Hosting(t.Context()); err != nil || got != want {
			t.Errorf("%q is %+v, %v", text, got, err)
		}
	}
	s, client := cluster(t)
	if got, err := client.Hosting(t.Context()); err != nil || got != (Hosting{}) {
		t.Errorf("a cluster that announces nothing: %+v, %v", got, err)
	}
	s.objects[path] = map[string]any{"kind": "ConfigMap", "apiVersion": "v1", "data": map[string]any{"localRegistryHosting.v1": "host: [1"}}
	if _, err := client.Hosting(t.Context()); !errors.Is(err, errdefs.ErrInvalid) || !strings.Contains(err.Error(), "local-registry-hosting") {
		t.Errorf("of what is no YAML: %v", err)
	}
	s.before = func(w http.ResponseWriter, r *http.Request) bool {
		refused := r.URL.Path == path || r.URL.Path == "/api/v1/nodes"
		if refused {
			answer(w, http.StatusForbidden, "Forbidden", "not yours")
		}
		return refused
	}
	got, err := client.Hosting(t.Context())
	nodes, nerr := client.NodeAddresses(t.Context())
	if err != nil || nerr != nil || got != (Hosting{}) || nodes != nil {
		t.Errorf("who may not see them is told %+v, %v, %v, %v", got, err, nodes, nerr)
	}
}

func TestNodeAddresses(t *testing.T) {
	s, client := cluster(t)
	for name, address := range map[string]string{"a": "192.0.2.1", "b": "2001:db8::2"} {
		s.objects["/api/v1/nodes/"+name] = map[string]any{
			"kind": "Node", "apiVersion": "v1", "metadata": map[string]any{"name": name},
			"status": map[string]any{"addresses": []any{
				map[string]any{"type": "Hostname", "address": name}, map[string]any{"type": "InternalIP", "address": address},
			}},
		}
	}
	got, err := client.NodeAddresses(t.Context())
	if err != nil || !slices.Equal(got, []string{"192.0.2.1", "2001:db8::2"}) {
		t.Errorf("%v, %v", got, err)
	}
}

// TestPodsRunWhatWasMade: an image that was made of artefacts has its command and its folder itself; what the file says of a
// container's is not meant for it.
func TestPodsRunWhatWasMade(t *testing.T) {
	file := filepath.Join(t.TempDir(), "compose.yaml")
	if err := os.WriteFile(file, []byte(`name: shop
services:
  web:
    build: .
    command: [of, a, container]
    working_dir: /container
    x-trellis: {process: {artifacts: [bin/web], command: [bin/web]}}
`), 0o600); err != nil {
		t.Fatal(err)
	}
	p := loaded(t, file)
	const image = "registry.example.org/shop-web@sha256:aaaa"
	for _, artifact := range []string{"", strings.Repeat("a", 64)} {
		svc := p.Services["web"]
		svc.Trellis.ImageID = image
		process := *svc.Trellis.Process
		process.Artifact = artifact
		svc.Trellis.Process = &process
		p.Services["web"] = svc
		objects, err := Render(p, nil, Options{Revision: 1})
		if err != nil {
			t.Fatal(err)
		}
		c := objectsOf[*appsv1.Deployment](objects)[0].Spec.Template.Spec.Containers[0]
		if made := len(c.Command)+len(c.Args) == 0 && c.WorkingDir == ""; c.Image != image || made != (artifact != "") {
			t.Errorf("with artefact %q it runs %s: %q %q in %q", artifact, c.Image, c.Command, c.Args, c.WorkingDir)
		}
		for _, d := range Notes(p, Options{Revision: 1}) {
			if strings.HasSuffix(d.Path, ".build") {
				t.Errorf("of what was built it is said: %v", d)
			}
		}
	}
}
