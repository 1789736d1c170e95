package image

import (
	"context"
	"debug/elf"
	"errors"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/validate"

	"trellis/errdefs"
)

// TestTargets: where an image goes, and what a cluster calls it.
func TestTargets(t *testing.T) {
	digest, err := v1.NewHash("sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef")
	if err != nil {
		t.Fatal(err)
	}
	at := "@" + digest.String()
	for text, want := range map[string]Target{
		"registry.example.org/team/":   {"registry.example.org/team/shop-web:trellis-0123456789abcdef", "registry.example.org/team/shop-web" + at},
		"localhost:5000":               {"localhost:5000/shop-web:trellis-0123456789abcdef", "localhost:5000/shop-web" + at},
		"localhost":                    {"localhost/shop-web:trellis-0123456789abcdef", "localhost/shop-web" + at},
		"team":                         {},
		"":                             {},
		"https://registry.example.org": {},
		"registry.example.org/Team":    {},
		"registry.example.org/a:1":     {},
	} {
		r, err := ParseRegistry(text)
		if want == (Target{}) {
			if !errors.Is(err, errdefs.ErrInvalid) {
				t.Errorf("registry %q: %v", text, err)
			}
			continue
		}
		if got := r.Target("shop-web", digest); err != nil || got != want {
			t.Errorf("registry %q: %+v, %v, want %+v", text, got, err, want)
		}
	}
	for image, want := range map[string]Target{
		"ghcr.io/team/web:1.2": {"ghcr.io/team/web:1.2", "ghcr.io/team/web" + at},
		"ghcr.io/team/web":     {"ghcr.io/team/web:trellis-0123456789abcdef", "ghcr.io/team/web" + at},
		"team/web:1":           {"docker.io/team/web:1", "docker.io/team/web" + at},
		"team/web" + at:        {},
		"web:":                 {},
	} {
		got, err := Named(image, digest)
		if want == (Target{}) != errors.Is(err, errdefs.ErrInvalid) || got != want {
			t.Errorf("image %q: %+v, %v, want %+v", image, got, err, want)
		}
	}
	r := Registry{Push: "localhost:5001", Pull: "registry:5000"}
	if got := r.Target("web", digest); got.Reference != "registry:5000/web"+at || !strings.HasPrefix(got.push, "localhost:5001/web:") {
		t.Errorf("of two names: %+v", got)
	}
}

// TestPush: an image is made and pushed once, not even made where it is there, and never another one than was named.
func TestPush(t *testing.T) {
	server := httptest.NewServer(registry.New(registry.Logger(log.New(io.Discard, "", 0))))
	defer server.Close()
	r, err := ParseRegistry(strings.TrimPrefix(server.URL, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	made := 0
	dir := files(t, map[string][]byte{"bin/web": program(elf.EM_X86_64, "")})
	source := func() *Source {
		return &Source{Key: "web", Make: func(context.Context) (v1.Image, error) {
			made++
			return Build(Program{Dir: dir, Command: []string{"bin/web"}})
		}}
	}
	digests := Digests(filepath.Join(t.TempDir(), "images"))
	from := source()
	digest, err := digests.Of(t.Context(), from)
	if err != nil {
		t.Fatal(err)
	}
	to := r.Target("shop-web", digest)
	for _, want := range []bool{true, false} {
		if again, err := digests.Of(t.Context(), from); err != nil || again != digest {
			t.Fatalf("the digest is %s, then %s (%v)", digest, again, err)
		}
		if pushed, err := Push(t.Context(), to, digest, from); err != nil || pushed != want || made != 1 {
			t.Errorf("pushed: %v, %v, want %v; it was made %d times", pushed, err, want, made)
		}
		from = source() // as of the next command
	}
	reference, err := name.NewDigest(to.Reference)
	if err != nil {
		t.Fatal(err)
	}
	img, err := remote.Image(reference)
	if err != nil {
		t.Fatal(err)
	}
	if err := validate.Image(img); err != nil {
		t.Error(err)
	}
	elsewhere := r.Target("elsewhere", digest)
	if err := os.WriteFile(filepath.Join(dir, "more"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Push(t.Context(), elsewhere, digest, source()); !errors.Is(err, errdefs.ErrConflict) {
		t.Errorf("what is another image by now: %v", err)
	}
	if err := os.Remove(filepath.Join(dir, "more")); err != nil {
		t.Fatal(err)
	}
	server.Close()
	if _, err := Push(t.Context(), elsewhere, digest, source()); !errors.Is(err, errdefs.ErrUnavailable) {
		t.Errorf("without a registry: %v", err)
	}
}

// TestPushIsRefused: whoever may not write is told how to store credentials; a registry that fails otherwise says why itself.
func TestPushIsRefused(t *testing.T) {
	t.Setenv("DOCKER_CONFIG", t.TempDir())
	dir := files(t, map[string][]byte{"bin/web": program(elf.EM_X86_64, "")})
	p := Program{Dir: dir, Command: []string{"bin/web"}}
	from := &Source{Key: "web", Make: func(context.Context) (v1.Image, error) { return Build(p) }}
	digest := digestOf(t, p)
	for answer, login := range map[int]bool{http.StatusUnauthorized: true, http.StatusForbidden: true, http.StatusInsufficientStorage: false} {
		// A registry for each answer: a push that failed may still have requests under way.
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path != "/v2/" {
				w.WriteHeader(answer)
			}
		}))
		t.Cleanup(server.Close)
		at := strings.TrimPrefix(server.URL, "http://")
		r, err := ParseRegistry(at)
		if err != nil {
			t.Fatal(err)
		}
		pushed, err := Push(t.Context(), r.Target("shop-web", digest), digest, from)
		if pushed || !errors.Is(err, errdefs.ErrUnavailable) || strings.Contains(err.Error(), "'docker login "+at+"'") != login {
			t.Errorf("answered %d: %v, %v", answer, pushed, err)
		}
	}
}
