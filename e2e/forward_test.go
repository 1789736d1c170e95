//go:build e2e

package e2e

import (
	"compress/gzip"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"
)

// TestTelemetryIsForwarded: metrics, traces and logs of a project reach the receiver that its file names, with the secret
// header, and none of its secrets.
func TestTelemetryIsForwarded(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	got := map[string][]byte{}
	receiver := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("X-Api-Key") != "sesame" {
			t.Errorf("%s without its header", r.URL.Path)
		}
		z, err := gzip.NewReader(r.Body)
		if err != nil {
			t.Error(err)
			return
		}
		body, _ := io.ReadAll(z)
		mu.Lock()
		defer mu.Unlock()
		got[r.URL.Path] = append(got[r.URL.Path], body...)
	}))
	defer receiver.Close()
	port := freePort(t)
	p := newProject(t, map[string]string{"key": "sesame\n", "compose.yaml": fmt.Sprintf(`x-trellis: {forward: {otlp: %q, headers: {x-api-key: key}}}
secrets:
  key: {file: key}
services:
  web:
    image: testapp
    ports: [{target: 80, published: "%d", app_protocol: http}]
    environment: {VERSION: v1}
    x-trellis: {process: {command: [%q]}, probe: {http: /}}
  talker:
    x-trellis: {process: {command: [sh, -c, "while :; do echo the word is sesame; sleep 0.2; done"]}}
`, receiver.URL, port, built.app)})
	p.run("up", "-d", "--yes")
	eventually(t, 60*time.Second, "all three arrive", func() string {
		get(t, url(port)+"/")
		mu.Lock()
		defer mu.Unlock()
		for path, want := range map[string]string{
			"/v1/metrics": "trellis_requests_total", "/v1/traces": "http.request.method", "/v1/logs": "the word is",
		} {
			if !strings.Contains(string(got[path]), want) {
				return path + " has no " + want
			}
		}
		return ""
	})
	mu.Lock()
	defer mu.Unlock()
	for path, body := range got {
		if strings.Contains(string(body), "sesame") {
			t.Errorf("%s gives a secret away", path)
		}
	}
}
