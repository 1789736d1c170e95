package api

import (
	"context"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

// watchman looks, and can do nothing else.
type watchman struct{ Watchman }

func (watchman) Door(context.Context) (Door, error) { return Door{URL: "http://127.0.0.1:1"}, nil }
func (watchman) Alerts(context.Context) (Alerts, error) {
	return Alerts{Alerts: []Alert{{Name: "Drifted"}}}, nil
}

// TestWatchHandlerOnlyLooks: what is asked of a whole control plane is not to be had there.
func TestWatchHandlerOnlyLooks(t *testing.T) {
	s := httptest.NewServer(WatchHandler(watchman{}))
	defer s.Close()
	for path, want := range map[string]int{
		"GET /v1/door": 200, "GET /v1/alerts": 200, "GET /v1/status": 404, "POST /v1/apply": 404, "POST /v1/down": 404, "POST /v1/override": 404,
		"POST /v1/exec": 404, "POST /v1/rollback": 404, "GET /v1/history": 404,
	} {
		method, path, _ := strings.Cut(path, " ")
		req, err := http.NewRequest(method, s.URL+path, strings.NewReader("{}"))
		if err != nil {
			t.Fatal(err)
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
		if resp.StatusCode != want {
			t.Errorf("%s %s: %s, want %d", method, path, resp.Status, want)
		}
	}
}
