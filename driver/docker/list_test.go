package docker

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"trellis/driver"
	kinds "trellis/errdefs"
)

// TestListOfAnEngineThatHangs: it has as long as its caller gives it, whoever else waits for the engine's first answer. The loop waits
// for the list, and with it everything of the other drivers. Once the engine answers it is listed.
func TestListOfAnEngineThatHangs(t *testing.T) {
	asked, answer := make(chan struct{}, 16), make(chan struct{})
	api := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		select {
		case asked <- struct{}{}:
		default:
		}
		<-answer
		if strings.HasSuffix(r.URL.Path, "/containers/json") {
			w.Header().Set("Content-Type", "application/json")
			_, _ = w.Write([]byte("[]"))
		}
	}))
	defer api.Close()
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "containers"), 0o700); err != nil {
		t.Fatal(err)
	}
	d, err := New(Config{Host: "tcp://" + api.Listener.Addr().String(), StateDir: dir, RuntimeDir: dir, Shim: []string{"shim"}})
	if err != nil {
		t.Fatal(err)
	}
	watching, endWatch := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- d.Watch(watching, "shop", func(driver.ID) {}) }()
	<-asked
	for range 3 {
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		listed := make(chan error, 1)
		go func() {
			_, err := d.List(ctx, "shop")
			listed <- err
		}()
		select {
		case err := <-listed:
			if !errors.Is(err, kinds.ErrUnavailable) || !strings.Contains(err.Error(), "it hangs") {
				t.Errorf("error %v, want one that says that it hangs", err)
			}
		case <-time.After(5 * time.Second):
			close(answer)
			t.Fatal("the list waits for the engine, and not for as long as it was given")
		}
		cancel()
	}
	close(answer)
	if _, err := d.List(t.Context(), "shop"); err != nil {
		t.Errorf("the engine answers again: %v", err)
	}
	endWatch()
	<-ended
}
