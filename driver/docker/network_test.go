//go:build linux

package docker

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"sync"
	"testing"

	"github.com/google/nftables"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/network"
	"golang.org/x/sys/unix"

	"trellis/driver"
	"trellis/netspace"
)

// networkEngine is as much of an engine as the holder of a network needs.
type networkEngine struct {
	mu      sync.Mutex
	labels  map[string]string // of the holder, nil until it is made
	running bool
	joined  map[string]*network.EndpointSettings
	sandbox string
	broken  int // how many times yet a network cannot be joined
}

var networkCall = regexp.MustCompile(`^/v[0-9.]+/(containers|networks)/([^/]+)(/[a-z]+)?$`)

func (e *networkEngine) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	e.mu.Lock()
	defer e.mu.Unlock()
	w.Header().Set("Content-Type", "application/json")
	fail := func(code int, text string) {
		w.WriteHeader(code)
		json.NewEncoder(w).Encode(map[string]string{"message": text})
	}
	call := networkCall.FindStringSubmatch(r.URL.Path)
	if call == nil {
		fail(http.StatusNotFound, r.URL.Path)
		return
	}
	switch call[1] + call[3] {
	case "containers/json":
		if e.labels == nil {
			fail(http.StatusNotFound, "no such container")
			return
		}
		json.NewEncoder(w).Encode(container.InspectResponse{
			ID: "h1", State: &container.State{Running: e.running}, Config: &container.Config{Labels: e.labels},
			NetworkSettings: &container.NetworkSettings{SandboxKey: e.sandbox, Networks: e.joined},
		})
	case "containers": // create
		var made struct {
			Labels           map[string]string
			NetworkingConfig network.NetworkingConfig
		}
		if err := json.NewDecoder(r.Body).Decode(&made); err != nil {
			fail(http.StatusBadRequest, err.Error())
			return
		}
		e.labels, e.joined = made.Labels, map[string]*network.EndpointSettings{}
		for name := range made.NetworkingConfig.EndpointsConfig {
			e.joined[name] = &network.EndpointSettings{NetworkID: "id of " + name}
		}
		json.NewEncoder(w).Encode(container.CreateResponse{ID: "h1"})
	case "containers/start":
		e.running = true
		w.WriteHeader(http.StatusNoContent)
	case "networks":
		json.NewEncoder(w).Encode(network.Inspect{Network: network.Network{Name: call[2], ID: "id of " + call[2]}})
	case "networks/connect":
		if e.broken > 0 {
			e.broken--
			fail(http.StatusInternalServerError, "no address is free")
			return
		}
		if e.joined[call[2]] != nil {
			fail(http.StatusForbidden, "it is there already")
			return
		}
		e.joined[call[2]] = &network.EndpointSettings{NetworkID: "id of " + call[2]}
	}
}

func newNetworkDriver(t *testing.T, e *networkEngine) *Driver {
	t.Helper()
	dir := t.TempDir()
	api := httptest.NewServer(e)
	t.Cleanup(api.Close)
	d, err := New(Config{Host: "tcp://" + api.Listener.Addr().String(), StateDir: dir, RuntimeDir: dir, Shim: []string{filepath.Join(dir, "shim")}})
	if err != nil {
		t.Fatal(err)
	}
	d.pause = "trellis-pause:test"
	return d
}

// TestHalfMadeNetwork: one of an instance's networks could not be joined. The next attempt finds the holder and goes on
// where the first one ended.
func TestHalfMadeNetwork(t *testing.T) {
	e := &networkEngine{broken: 1}
	d := newNetworkDriver(t, e)
	spec := driver.Spec{ID: "shop/web-1", Project: "shop", Service: "web", Image: "web", Slot: 1, Container: &driver.Container{
		Networks: []driver.Network{{Name: "shop_front", Key: "front"}, {Name: "shop_back", Key: "back"}, {Name: "db", Key: "db"}},
	}}
	if _, err := d.Prepare(t.Context(), spec); err == nil {
		t.Fatal("a network that could not be joined was no error")
	}
	for range 2 {
		if _, err := d.Prepare(t.Context(), spec); err != nil {
			t.Fatal(err)
		}
		if got, want := slices.Sorted(maps.Keys(e.joined)), []string{"db", "shop_back", "shop_front"}; !slices.Equal(got, want) || !e.running {
			t.Fatalf("joined %v, running %v; want %v", got, e.running, want)
		}
	}
}

// namespace returns the file of a network namespace that is there until the test ends.
func namespace(t *testing.T) string {
	t.Helper()
	made, ended, end := make(chan string), make(chan error, 1), make(chan struct{})
	t.Cleanup(func() { close(end) })
	go func() {
		ended <- netspace.OnThread(func() error { return unix.Unshare(unix.CLONE_NEWNET) }, func() error {
			made <- fmt.Sprintf("/proc/%d/task/%d/ns/net", os.Getpid(), unix.Gettid())
			<-end
			return nil
		})
	}()
	select {
	case path := <-made:
		return path
	case err := <-ended:
		t.Fatal(err)
		return ""
	}
}

// TestNamesOfARunningHolder: Trellis ended between the start of a holder and its redirection. The next attempt makes up
// for it, and one more changes nothing.
func TestNamesOfARunningHolder(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("network namespaces need root")
	}
	e := &networkEngine{running: true, sandbox: namespace(t)}
	d := newNetworkDriver(t, e)
	d.enter = true
	spec := driver.Spec{ID: "shop/web-1", Project: "shop", Service: "web", Image: "web", Slot: 1, Container: &driver.Container{
		Networks: []driver.Network{{Name: "shop_front", Key: "front"}},
	}}
	e.labels = d.labels(spec, roleNetwork)
	e.joined = map[string]*network.EndpointSettings{"shop_front": {}}
	for range 2 {
		if _, err := d.Prepare(t.Context(), spec); err != nil {
			t.Fatal(err)
		}
		rules := 0
		err := netspace.At(e.sandbox, func() error {
			c, err := nftables.New()
			if err != nil {
				return err
			}
			chains, err := c.ListChains()
			for _, chain := range chains {
				all, err := c.GetRules(chain.Table, chain)
				if err != nil {
					return err
				}
				rules += len(all)
			}
			return err
		})
		if err != nil || rules != 1 {
			t.Fatalf("%d rules, %v; want the one that leads names", rules, err)
		}
	}
}
