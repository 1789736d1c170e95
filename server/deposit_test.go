package server

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	remoteregistry "github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/random"
	registries "github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/validate"

	"trellis/artifact"
	"trellis/compose"
	"trellis/engine"
	"trellis/errdefs"
	"trellis/image"
	"trellis/image/registry"
	"trellis/state"
)

// clusterSays makes the kubeconfig lead to an API server that has some objects, by path, and nodes.
func clusterSays(t *testing.T, objects map[string]any, nodes ...string) {
	t.Helper()
	var items []any
	for _, address := range nodes {
		items = append(items, map[string]any{
			"metadata": map[string]any{"name": address},
			"status":   map[string]any{"addresses": []any{map[string]any{"type": "InternalIP", "address": address}}},
		})
	}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		switch r.URL.Path {
		case "/api":
			fmt.Fprint(w, `{"kind": "APIGroupDiscoveryList", "items": [{"metadata": {"name": ""}, "versions": [{"version": "v1", "resources": [
				{"resource": "configmaps", "responseKind": {"kind": "ConfigMap"}, "scope": "Namespaced"}, {"resource": "nodes", "responseKind": {"kind": "Node"}, "scope": "Cluster"},
				{"resource": "secrets", "responseKind": {"kind": "Secret"}, "scope": "Namespaced"}, {"resource": "pods", "responseKind": {"kind": "Pod"}, "scope": "Namespaced"}]}]}]}`)
		case "/apis":
			fmt.Fprint(w, `{"kind": "APIGroupDiscoveryList", "items": []}`)
		case "/api/v1/nodes":
			_ = json.NewEncoder(w).Encode(map[string]any{"kind": "NodeList", "apiVersion": "v1", "items": items})
		default:
			if o := objects[r.URL.Path]; o != nil {
				_ = json.NewEncoder(w).Encode(o)
				return
			}
			w.WriteHeader(http.StatusNotFound)
			fmt.Fprint(w, `{"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": 404, "reason": "NotFound"}`)
		}
	}))
	t.Cleanup(server.Close)
	file := filepath.Join(t.TempDir(), "kubeconfig")
	text := fmt.Sprintf(`{apiVersion: v1, kind: Config, current-context: it, clusters: [{name: it, cluster: {server: %q}}],
contexts: [{name: it, context: {cluster: it, user: it}}], users: [{name: it, user: {token: t}}]}`, server.URL)
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("KUBECONFIG", file)
	t.Setenv("XDG_STATE_HOME", t.TempDir())
}

// ownAddress is an address of this machine.
func ownAddress(t *testing.T) string {
	t.Helper()
	own, err := net.InterfaceAddrs()
	if err != nil || len(own) == 0 {
		t.Fatalf("this machine has no address: %v", err)
	}
	return own[0].(*net.IPNet).IP.String()
}

// TestWhichRegistry: the one that somebody names, or else the one that the cluster announces, or else this machine's own where
// all nodes are this machine, or else an error that names the ways out.
func TestWhichRegistry(t *testing.T) {
	const hosting = "/api/v1/namespaces/kube-public/configmaps/local-registry-hosting"
	announced := map[string]any{hosting: map[string]any{"kind": "ConfigMap", "apiVersion": "v1", "data": map[string]any{
		"localRegistryHosting.v1": "host: localhost:5000\nhostFromContainerRuntime: registry:5000\n",
	}}}
	own := ownAddress(t)
	for name, c := range map[string]struct {
		named   string
		objects map[string]any
		nodes   []string
		want    image.Registry
		fails   string
	}{
		"named":     {named: "registry.example.org/team", objects: announced, nodes: []string{own}, want: image.Registry{Push: "registry.example.org/team", Pull: "registry.example.org/team"}},
		"announced": {objects: announced, nodes: []string{own}, want: image.Registry{Push: "localhost:5000", Pull: "registry:5000"}},
		"here":      {nodes: []string{own, own}},
		"elsewhere": {nodes: []string{own, "192.0.2.7"}, fails: "name one with --registry"},
		"unseen":    {fails: "name one with --registry"},
		"no name":   {named: "team", fails: "want HOST[:PORT][/PREFIX]"},
	} {
		t.Run(name, func(t *testing.T) {
			clusterSays(t, c.objects, c.nodes...)
			d, err := OpenDeposit(Location{Project: "shop", Cluster: &Cluster{}}, c.named)
			if err != nil {
				t.Fatal(err)
			}
			got, err := d.shelf(t.Context())
			switch {
			case c.fails != "":
				if err == nil || !strings.Contains(err.Error(), c.fails) {
					t.Errorf("%+v, %v", got, err)
				}
			case err != nil:
				t.Error(err)
			case name == "here":
				if got.store == nil || !strings.HasPrefix(got.Pull, "127.0.0.1:") || got.Push != got.Pull {
					t.Errorf("%+v", got)
				}
			case got.Registry != c.want || got.store != nil:
				t.Errorf("%+v, want %+v", got, c.want)
			}
		})
	}
}

// TestKeepImages: what neither a revision nor the data plane has any more is removed, and what belongs to others is not.
func TestKeepImages(t *testing.T) {
	objects := map[string]any{}
	clusterSays(t, objects, ownAddress(t))
	d, err := OpenDeposit(Location{Project: "shop", Cluster: &Cluster{}}, "")
	if err != nil {
		t.Fatal(err)
	}
	at, err := d.shelf(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	put := func(store *registry.Store, owner string) v1.Hash {
		img, err := random.Image(100, 1)
		if err == nil {
			err = store.Put(t.Context(), owner, img)
		}
		if err != nil {
			t.Fatal(err)
		}
		digest, err := img.Digest()
		if err != nil {
			t.Fatal(err)
		}
		return digest
	}
	neighbour, err := OpenDeposit(Location{Project: "blog", Cluster: &Cluster{Namespace: d.client.Namespace}}, "")
	if err != nil {
		t.Fatal(err)
	}
	old, now, self, other := put(at.store, d.owner), put(at.store, d.owner), put(at.store, d.owner), put(at.store, neighbour.owner)
	svc := compose.Service{Name: "web"}
	svc.Trellis.ImageID = at.Target("shop-web", now).Reference
	revisions := []state.Revision{{Project: compose.Project{Services: map[string]compose.Service{"web": svc, "db": {Image: "db:17"}}}}}
	objects["/api/v1/namespaces/"+d.client.Namespace+"/configmaps/trellis-shop"] = map[string]any{
		"kind": "ConfigMap", "apiVersion": "v1", "data": map[string]any{"image": "made " + at.Target("trellis", self).Reference},
	}
	age(t, at.store)
	if err := d.Keep(t.Context(), revisions); err != nil {
		t.Fatal(err)
	}
	for digest, want := range map[v1.Hash]bool{old: false, now: true, self: true} {
		if got, err := at.store.Has(t.Context(), d.owner, digest); err != nil || got != want {
			t.Errorf("%s: %v, %v, want %v", digest, got, err, want)
		}
	}
	if got, err := at.store.Has(t.Context(), neighbour.owner, other); err != nil || !got {
		t.Errorf("an image of another project in the namespace: %v, %v", got, err)
	}
}

// TestReleaseImages: whoever finds that a project is gone lets go of its images, but for what the cluster may still go back to, and of
// nobody else's.
func TestReleaseImages(t *testing.T) {
	objects := map[string]any{}
	clusterSays(t, objects, ownAddress(t))
	shop, blog := Location{Project: "shop", Cluster: &Cluster{Namespace: "both"}}, Location{Project: "blog", Cluster: &Cluster{Namespace: "both"}}
	if err := ReleaseImages(t.Context(), shop); err != nil {
		t.Errorf("where there never were any: %v", err)
	}
	store, err := openRegistry()
	if err != nil {
		t.Fatal(err)
	}
	owners, digests := map[string]string{}, map[string]v1.Hash{}
	for _, l := range []Location{shop, blog} {
		d, err := OpenDeposit(l, "")
		if err != nil {
			t.Fatal(err)
		}
		img, err := random.Image(100, 1)
		if err == nil {
			err = errors.Join(store.Use(d.owner), store.Put(t.Context(), d.owner, img))
		}
		if err != nil {
			t.Fatal(err)
		}
		owners[l.Project] = d.owner
		if digests[l.Project], err = img.Digest(); err != nil {
			t.Fatal(err)
		}
	}
	noted := func(image string) {
		objects["/api/v1/namespaces/both/configmaps/trellis-shop"] = map[string]any{"kind": "ConfigMap", "apiVersion": "v1", "data": map[string]any{"image": image}}
	}
	for _, c := range []struct {
		image string
		stays bool
	}{{"made 127.0.0.1:5117/trellis@" + digests["shop"].String(), true}, {"", false}} {
		noted(c.image)
		age(t, store)
		if err := ReleaseImages(t.Context(), shop); err != nil {
			t.Fatal(err)
		}
		if store.Used(owners["shop"]) || !store.Used(owners["blog"]) {
			t.Errorf("they are used: %v, %v", store.Used(owners["shop"]), store.Used(owners["blog"]))
		}
		for project, want := range map[string]bool{"shop": c.stays, "blog": true} {
			if got, err := store.Has(t.Context(), owners[project], digests[project]); err != nil || got != want {
				t.Errorf("with %q the image of %s is there: %v, %v, want %v", c.image, project, got, err, want)
			}
		}
	}
}

// TestDownReleases: a deploy that came to nothing is taken back by the connection that it began with, and so are its images.
func TestDownReleases(t *testing.T) {
	clusterSays(t, map[string]any{"/api/v1/namespaces/shop/pods": map[string]any{"kind": "PodList", "apiVersion": "v1", "items": []any{}}})
	l := Location{Project: "shop", Cluster: &Cluster{Namespace: "shop"}}
	control, closer, err := ConnectCluster(t.Context(), l, true, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	defer closer.Close()
	if err := control.Down(t.Context(), engine.DeleteOptions{}); err != nil {
		t.Errorf("where there never were any images: %v", err)
	}
	d, err := OpenDeposit(l, "")
	if err != nil {
		t.Fatal(err)
	}
	store, err := openRegistry()
	if err == nil {
		err = store.Use(d.owner)
	}
	if err == nil {
		err = control.Down(t.Context(), engine.DeleteOptions{})
	}
	if err != nil || store.Used(d.owner) {
		t.Errorf("they are used: %v (%v)", store.Used(d.owner), err)
	}
}

// age makes it as if all images had been put long ago.
func age(t *testing.T, store *registry.Store) {
	t.Helper()
	then := time.Now().Add(-24 * time.Hour)
	files, err := filepath.Glob(filepath.Join(store.Dir(), "blobs", "sha256", "*"))
	for _, f := range files {
		err = errors.Join(err, os.Chtimes(f, then, then))
	}
	if err != nil {
		t.Fatal(err)
	}
}

// TestImagesOfServices: artefacts upon a base and by themselves get a name by their content without anything being put anywhere,
// and are then where the name says.
func TestImagesOfServices(t *testing.T) {
	clusterSays(t, nil)
	server := httptest.NewServer(remoteregistry.New(remoteregistry.Logger(log.New(io.Discard, "", 0))))
	defer server.Close()
	host := strings.TrimPrefix(server.URL, "http://")
	base, err := random.Image(100, 1)
	if err != nil {
		t.Fatal(err)
	}
	tag, err := name.NewTag(host + "/node:22")
	if err == nil {
		err = registries.Write(tag, base)
	}
	if err != nil {
		t.Fatal(err)
	}
	l := Location{Project: "shop", StateDir: t.TempDir(), Cluster: &Cluster{}}
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "server.mjs"), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	store, err := artifact.Open(l.Artifacts())
	if err != nil {
		t.Fatal(err)
	}
	process := compose.Process{Dir: dir, Artifacts: []string{"server.mjs"}, Command: []string{"node", "server.mjs"}, Base: tag.String()}
	if process.Artifact, _, err = store.Build(t.Context(), artifact.Request{Project: "shop", Service: "web", Process: process}); err != nil {
		t.Fatal(err)
	}
	web := compose.Service{Name: "web", Trellis: compose.ServiceExtension{Process: &process}}
	d, err := OpenDeposit(l, host+"/team")
	if err != nil {
		t.Fatal(err)
	}
	reference, err := d.Of(t.Context(), web)
	if err != nil {
		t.Fatal(err)
	}
	if again, err := d.Of(t.Context(), web); err != nil || again != reference || !strings.HasPrefix(reference, host+"/team/shop-web@sha256:") {
		t.Errorf("%s, then %s (%v)", reference, again, err)
	}
	pull := func() error {
		of, err := name.NewDigest(reference)
		if err != nil {
			return err
		}
		img, err := registries.Image(of)
		if err != nil {
			return err
		}
		return validate.Image(img)
	}
	if err := pull(); err == nil {
		t.Error("what was only named is in the registry")
	}
	put := 0
	if err := d.Put(t.Context(), func(string) { put++ }); err != nil || put != 1 {
		t.Errorf("%d images were put (%v)", put, err)
	}
	if err := pull(); err != nil {
		t.Error(err)
	}
	alone := process
	alone.Base = ""
	web.Trellis.Process = &alone
	if _, err := d.Of(t.Context(), web); !errors.Is(err, errdefs.ErrUnsupported) || !strings.Contains(err.Error(), "node is not among its artifacts") {
		t.Errorf("without a base: %v", err)
	}
}
