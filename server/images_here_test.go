package server

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"trellis/errdefs"
	"trellis/holder"
	"trellis/image/registry"
)

// endsFile in the folder of images has the next process that would serve them end at once, as where another one is there.
const endsFile = "ends"

// TestMain has the test's own binary be the registry of this machine, or a holder, where it is started as that.
func TestMain(m *testing.M) {
	if len(os.Args) == 3 && os.Args[1] == "hold" {
		os.Exit(holder.Main(os.Args[1:]))
	}
	if len(os.Args) != 4 || os.Args[1] != "registry" {
		os.Exit(m.Run())
	}
	dir, log := os.Args[3], slog.New(slog.NewTextHandler(os.Stderr, nil))
	if os.Remove(filepath.Join(dir, endsFile)) == nil {
		log.Info("another one is there")
		os.Exit(0)
	}
	if err := ServeImages(context.Background(), dir, log); err != nil {
		log.Error("images cannot be pulled", "err", err)
		os.Exit(1)
	}
	os.Exit(0)
}

// here opens the registry of this machine, in a folder and at an address of the test's own: the tests of other packages choose ports
// at the same time. What serves it ends with the test.
func here(t *testing.T) *registry.Store {
	t.Helper()
	t.Setenv("XDG_STATE_HOME", t.TempDir())
	store, err := openRegistry()
	if err == nil {
		pid := os.Getpid()
		address := fmt.Sprintf("127.%d.%d.%d:5117", 1+pid>>16&0x7f, pid>>8&0xff, pid&0xff)
		err = errors.Join(store.Use("shop"), os.WriteFile(filepath.Join(store.Dir(), "address"), []byte(address), 0o600))
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := store.Release("shop"); err != nil {
			t.Error(err)
		}
		for end := time.Now().Add(20 * time.Second); ; time.Sleep(20 * time.Millisecond) {
			answers, err := store.Answers(context.Background())
			if err == nil && !answers {
				return
			}
			if time.Now().After(end) {
				t.Errorf("the registry goes on, and nobody uses it (%v)", err)
				return
			}
		}
	})
	return store
}

// TestClusterWithoutImages: a folder of images that cannot be opened is said, and keeps nobody from the cluster.
func TestClusterWithoutImages(t *testing.T) {
	clusterSays(t, nil)
	dir, err := imagesDir()
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.MkdirAll(filepath.Dir(dir), 0o700), os.WriteFile(dir, nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	var said strings.Builder
	_, closer, err := ConnectCluster(t.Context(), Location{Project: "shop", Cluster: &Cluster{}}, true, slog.New(slog.NewTextHandler(&said, nil)))
	if err != nil {
		t.Fatal(err)
	}
	if err := closer.Close(); err != nil {
		t.Error(err)
	}
	if !strings.Contains(said.String(), "images cannot be pulled from this machine") {
		t.Errorf("it is said %q", said.String())
	}
}

// TestEnsureRegistry: where the one that was there ends after all, another one is started; and what the first has said is kept.
func TestEnsureRegistry(t *testing.T) {
	store := here(t)
	if err := os.WriteFile(filepath.Join(store.Dir(), endsFile), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for range 2 { // the second time it is there
		if err := ensureRegistry(t.Context(), store); err != nil {
			t.Fatal(err)
		}
	}
	said, err := os.ReadFile(filepath.Join(store.Dir(), "registry.log"))
	if err != nil {
		t.Fatal(err)
	}
	if lines := strings.Split(strings.TrimSpace(string(said)), "\n"); len(lines) != 2 || !strings.Contains(lines[0], "another one is there") ||
		!strings.Contains(lines[1], "images can be pulled") {
		t.Errorf("the log says %q", said)
	}
}

// TestRegistryThatCannotStart is an error that says where its log is.
func TestRegistryThatCannotStart(t *testing.T) {
	store := here(t)
	address, err := store.Address(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() { // what has its port, and is no registry
		defer close(ended)
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			_ = conn.Close()
		}
	}()
	defer func() { _ = l.Close(); <-ended }()
	if err := ensureRegistry(t.Context(), store); !errors.Is(err, errdefs.ErrUnavailable) || !strings.Contains(err.Error(), "it ended (exit status 1); its log is "+filepath.Join(store.Dir(), "registry.log")) {
		t.Errorf("it is started with %v", err)
	}
}
