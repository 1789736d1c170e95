package docker

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/moby/moby/api/types/container"

	"trellis/driver"
)

// TestStopThatCameLate: two stops at once, of which the second is heard after the kill. It asks for nothing that has not happened,
// and cuts the time short in which the engine may end the container no more than it makes it longer.
func TestStopThatCameLate(t *testing.T) {
	killed, ended := make(chan struct{}), make(chan struct{})
	state := t.TempDir()
	api := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		switch {
		case strings.HasSuffix(r.URL.Path, "/json"):
			json.NewEncoder(w).Encode(container.InspectResponse{
				ID: "c1", State: &container.State{Running: true}, Config: &container.Config{Labels: map[string]string{labelState: state}},
			})
		case strings.HasSuffix(r.URL.Path, "/kill"):
			w.WriteHeader(http.StatusNoContent)
			if r.URL.Query().Get("signal") == "SIGKILL" {
				close(killed)
			}
		case strings.HasSuffix(r.URL.Path, "/wait"):
			w.(http.Flusher).Flush()
			<-ended
			json.NewEncoder(w).Encode(container.WaitResponse{StatusCode: 137})
		}
	}))
	defer api.Close()
	d, err := New(Config{Host: "tcp://" + api.Listener.Addr().String(), StateDir: state, RuntimeDir: state, Shim: []string{"shim"}})
	if err != nil {
		t.Fatal(err)
	}
	const id = driver.ID("shop/deaf-1")
	stopped := make(chan error, 1)
	go func() { stopped <- d.Stop(t.Context(), id, 10*time.Millisecond) }()
	<-killed
	d.mu.Lock()
	d.stops[id].hurry <- time.Now().Add(-time.Second)
	d.mu.Unlock()
	select {
	case err := <-stopped:
		t.Errorf("stopped before the container had ended: %v", err)
	case <-time.After(100 * time.Millisecond):
		close(ended)
		if err := <-stopped; err != nil {
			t.Error(err)
		}
	}
}

// TestStopThatCannotBeWritten: a full disk has no room for the record. What fills it ends all the same, and its end is one
// that was asked for.
func TestStopThatCannotBeWritten(t *testing.T) {
	state := t.TempDir()
	if err := os.WriteFile(filepath.Join(state, "containers"), nil, 0o600); err != nil { // where the records go
		t.Fatal(err)
	}
	ended := make(chan struct{})
	api := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		switch {
		case strings.HasSuffix(r.URL.Path, "/json"):
			json.NewEncoder(w).Encode(container.InspectResponse{
				ID: "c1", State: &container.State{Running: true}, Config: &container.Config{Labels: map[string]string{labelState: state}},
			})
		case strings.HasSuffix(r.URL.Path, "/kill"):
			w.WriteHeader(http.StatusNoContent)
			close(ended)
		case strings.HasSuffix(r.URL.Path, "/wait"):
			w.(http.Flusher).Flush()
			<-ended
			json.NewEncoder(w).Encode(container.WaitResponse{StatusCode: 143})
		}
	}))
	defer api.Close()
	d, err := New(Config{Host: "tcp://" + api.Listener.Addr().String(), StateDir: state, RuntimeDir: state, Shim: []string{"shim"}})
	if err != nil {
		t.Fatal(err)
	}
	const id = driver.ID("shop/full-1")
	if err := d.Stop(t.Context(), id, time.Minute); err != nil {
		t.Fatal(err)
	}
	s := &container.State{ExitCode: 143, FinishedAt: time.Now().Format(time.RFC3339Nano)}
	if exit := exitOf(s, time.Time{}, d.record(id, "c1")); !exit.Asked {
		t.Errorf("exit %+v, want one that was asked for", exit)
	}
	if exit := exitOf(s, time.Time{}, d.record(id, "c2")); exit.Asked {
		t.Errorf("exit %+v of the container that follows, which nobody asked to stop", exit)
	}
}
