package docker

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

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
