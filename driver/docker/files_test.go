package docker

import (
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"

	"trellis/driver"
	kinds "trellis/errdefs"
)

// TestSecretsOfAnInstanceThatCannotBeMade: nobody knows of it, so nobody would remove them.
func TestSecretsOfAnInstanceThatCannotBeMade(t *testing.T) {
	api := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(http.StatusNotFound)
		json.NewEncoder(w).Encode(map[string]string{"message": "no such thing"})
	}))
	defer api.Close()
	dir := t.TempDir()
	secret := filepath.Join(dir, "password")
	if err := os.WriteFile(secret, []byte("hunter2"), 0o600); err != nil {
		t.Fatal(err)
	}
	d, err := New(Config{Host: "tcp://" + api.Listener.Addr().String(), StateDir: dir, RuntimeDir: dir, Shim: []string{"shim"}})
	if err != nil {
		t.Fatal(err)
	}
	err = d.Start(t.Context(), driver.Spec{
		ID: "shop/web-1-00000001", Project: "shop", Service: "web", Slot: 1, Image: "gone", HostNetwork: true,
		Files: []driver.File{{Source: secret, Target: "/run/secrets/password", Secret: true}},
	})
	if !errors.Is(err, kinds.ErrNotFound) {
		t.Fatalf("started without an image: %v", err)
	}
	if left, err := filepath.Glob(filepath.Join(dir, "files", "*", "*")); err != nil || len(left) > 0 {
		t.Errorf("left: %v, %v", left, err)
	}
}
