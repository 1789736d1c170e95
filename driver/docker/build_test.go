package docker

import (
	"encoding/base64"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/moby/moby/api/types/registry"

	"trellis/compose"
)

// TestBuilderBefore: where BuildKit needs a client beside it the builder before it is asked. Where the build has failed it is not:
// that one knows less, and what it says would stand in place of what is wrong.
func TestBuilderBefore(t *testing.T) {
	t.Setenv("DOCKER_BUILDKIT", "")
	for said, want := range map[string][]string{
		"no active sessions": {"2", "1"},
		"no active session for x: context deadline exceeded":                                                {"2", "1"},
		"could not access local files without session":                                                      {"2", "1"},
		`process "/bin/sh -c go build ./cmd/session" did not complete successfully: exit code: 1`:           {"2"},
		`failed to compute cache key: failed to calculate checksum of ref x: "/session/main.go": not found`: {"2"},
	} {
		t.Run(said, func(t *testing.T) {
			var asked []string
			api := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("Builder-Version", "2")
				if !strings.HasSuffix(r.URL.Path, "/build") {
					return
				}
				_, _ = io.Copy(io.Discard, r.Body)
				asked = append(asked, r.URL.Query().Get("version"))
				json.NewEncoder(w).Encode(map[string]any{"errorDetail": map[string]string{"message": said}})
			}))
			defer api.Close()
			dir := t.TempDir()
			if err := os.WriteFile(filepath.Join(dir, "Dockerfile"), []byte("FROM scratch"), 0o600); err != nil {
				t.Fatal(err)
			}
			e, err := Open("tcp://" + api.Listener.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			defer e.Close()
			err = e.build(t.Context(), "shop-session", compose.Service{Build: &compose.Build{Context: dir}}, ImageOptions{})
			if err == nil || !strings.Contains(err.Error(), said) {
				t.Errorf("error %v, want %s", err, said)
			}
			if !slices.Equal(asked, want) {
				t.Errorf("asked builders %q, want %q", asked, want)
			}
		})
	}
}

// TestBuildWithCredentials: a Dockerfile may begin with an image of any registry that somebody has logged in to, by whatever keeps that.
func TestBuildWithCredentials(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string, mode os.FileMode) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), mode); err != nil {
			t.Fatal(err)
		}
	}
	write("Dockerfile", "FROM registry.example.org/base", 0o600)
	write("config.json", `{"auths": {"registry.example.org": {"auth": "`+base64.StdEncoding.EncodeToString([]byte("anna:secret"))+`"}, "broken.example.org": {"auth": "?"}},
		"credHelpers": {"helped.example.org": "it", "unknown.example.org": "it", "other.example.org": "missing"}}`, 0o600)
	write("docker-credential-it", "#!/bin/sh\nread -r name\n[ \"$name\" = helped.example.org ] && echo '{\"Username\": \"bob\", \"Secret\": \"pw\"}'\n", 0o700)
	t.Setenv("DOCKER_CONFIG", dir)
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	var got map[string]registry.AuthConfig
	api := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasSuffix(r.URL.Path, "/build") {
			text, _ := base64.URLEncoding.DecodeString(r.Header.Get("X-Registry-Config"))
			_ = json.Unmarshal(text, &got)
		}
		_, _ = io.Copy(io.Discard, r.Body)
	}))
	defer api.Close()
	e, err := Open("tcp://" + api.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	if err := e.build(t.Context(), "shop-web", compose.Service{Build: &compose.Build{Context: dir}}, ImageOptions{}); err != nil {
		t.Fatal(err)
	}
	want := map[string]registry.AuthConfig{
		"registry.example.org": {ServerAddress: "registry.example.org", Username: "anna", Password: "secret"},
		"helped.example.org":   {ServerAddress: "helped.example.org", Username: "bob", Password: "pw"},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("credentials %v, want %v", got, want)
	}
	write("config.json", `{"credsStore": "all"}`, 0o600)
	write("docker-credential-all", "#!/bin/sh\nif [ \"$1\" = list ]; then echo '{\"stored.example.org\": \"eve\"}'; else echo '{\"Username\": \"eve\", \"Secret\": \"pw\"}'; fi\n", 0o700)
	stored := map[string]registry.AuthConfig{"stored.example.org": {ServerAddress: "stored.example.org", Username: "eve", Password: "pw"}}
	if got := allCredentials(); !reflect.DeepEqual(got, stored) {
		t.Errorf("credentials of the store %v, want %v", got, stored)
	}
}
