package docker

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/network"
)

// TestNetworksThatAreNotRemovedAtOnce: a busy engine refuses for longer than it should to remove a network that nobody is in,
// or says that somebody is who is gone. It is asked until that is done; a network that somebody is in stays.
func TestNetworksThatAreNotRemovedAtOnce(t *testing.T) {
	for _, c := range []struct {
		name string
		in   map[string]network.EndpointResource
		left int32
	}{
		{"busy engine", nil, 0},
		{"busy engine that names who is gone", map[string]network.EndpointResource{"gone": {Name: "ours"}}, 0},
		{"somebody else's", map[string]network.EndpointResource{"c1": {Name: "theirs"}}, 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			var left atomic.Int32
			left.Store(1)
			free := time.Now().Add(countedFor + time.Second)
			api := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("Content-Type", "application/json")
				switch {
				case strings.HasSuffix(r.URL.Path, "/containers/gone/json"):
					w.WriteHeader(http.StatusNotFound)
					json.NewEncoder(w).Encode(map[string]string{"message": "No such container: gone"})
				case strings.Contains(r.URL.Path, "/containers/"):
					json.NewEncoder(w).Encode(container.InspectResponse{ID: "c1"})
				case r.Method == http.MethodGet:
					json.NewEncoder(w).Encode(network.Inspect{Network: network.Network{ID: "n1"}, Containers: c.in})
				case c.left > 0 || time.Now().Before(free):
					w.WriteHeader(http.StatusForbidden)
					json.NewEncoder(w).Encode(map[string]string{"message": "network shop_default has active endpoints"})
				default:
					left.Store(0)
					w.WriteHeader(http.StatusNoContent)
				}
			}))
			defer api.Close()
			dir := t.TempDir()
			d, err := New(Config{Host: "tcp://" + api.Listener.Addr().String(), StateDir: dir, RuntimeDir: dir, Shim: []string{"shim"}})
			if err != nil {
				t.Fatal(err)
			}
			began := time.Now()
			err = d.removeNetwork(t.Context(), "n1")
			if (err != nil) != (c.left > 0) || left.Load() != c.left {
				t.Errorf("%v, and %d is left", err, left.Load())
			}
			if took := time.Since(began); took < countedFor {
				t.Errorf("it was given up after %s", took)
			}
		})
	}
}

// TestNetworksThatStayAreTold: who takes the project down hears of the network that somebody else is in, until it is removed.
func TestNetworksThatStayAreTold(t *testing.T) {
	var used atomic.Bool
	used.Store(true)
	api := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		switch {
		case strings.HasSuffix(r.URL.Path, "/networks"):
			json.NewEncoder(w).Encode([]network.Summary{{Network: network.Network{ID: "n1", Name: "shop_default"}}})
		case r.Method == http.MethodDelete && used.Load():
			w.WriteHeader(http.StatusForbidden)
			json.NewEncoder(w).Encode(map[string]string{"message": "network shop_default has active endpoints (name:\"theirs\")"})
		case r.Method == http.MethodDelete:
			w.WriteHeader(http.StatusNoContent)
		case strings.Contains(r.URL.Path, "/containers/"):
			json.NewEncoder(w).Encode(container.InspectResponse{ID: "c1"})
		default:
			in := map[string]network.EndpointResource{"c1": {Name: "theirs"}}
			json.NewEncoder(w).Encode(network.Inspect{Network: network.Network{ID: "n1"}, Containers: in})
		}
	}))
	defer api.Close()
	dir := t.TempDir()
	d, err := New(Config{Host: "tcp://" + api.Listener.Addr().String(), StateDir: dir, RuntimeDir: dir, Shim: []string{"shim"}})
	if err != nil {
		t.Fatal(err)
	}
	if err := d.removeNetworks(t.Context(), "shop"); err != nil {
		t.Fatal(err)
	}
	left := strings.Join(d.Left(), "\n")
	for _, says := range []string{"shop_default stays", "theirs", "docker network rm shop_default"} {
		if !strings.Contains(left, says) {
			t.Errorf("%q does not say %q", left, says)
		}
	}
	used.Store(false)
	if err := d.removeNetworks(t.Context(), "shop"); err != nil || len(d.Left()) > 0 {
		t.Errorf("once it could be removed: %v, left %q", err, d.Left())
	}
}
