package registry

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/validate"

	"trellis/errdefs"
)

// serverEnv has the test's own binary serve the store in the folder that it names.
const serverEnv = "REGISTRY_TEST_DIR"

func TestMain(m *testing.M) {
	if dir := os.Getenv(serverEnv); dir != "" {
		s, err := Open(dir)
		if err == nil {
			err = s.Serve(context.Background(), slog.New(slog.NewTextHandler(os.Stderr, nil)))
		}
		if err != nil {
			_, _ = os.Stderr.WriteString(err.Error() + "\n")
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func opened(t *testing.T) *Store {
	t.Helper()
	s, err := Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// served opens a store that is used and has an address of its own: the tests of other packages choose ports at the same time.
func served(t *testing.T) *Store {
	t.Helper()
	s, pid := opened(t), os.Getpid()
	own := fmt.Sprintf("127.%d.%d.%d:%d", 1+pid>>16&0x7f, pid>>8&0xff, pid&0xff, firstPort)
	if err := errors.Join(s.write(addressFile, strings.NewReader(own)), s.Use("shop")); err != nil {
		t.Fatal(err)
	}
	return s
}

func put(t *testing.T, s *Store, owner string) (v1.Image, v1.Hash) {
	t.Helper()
	img, err := random.Image(1000, 2)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Put(t.Context(), owner, img); err != nil {
		t.Fatal(err)
	}
	digest, err := img.Digest()
	if err != nil {
		t.Fatal(err)
	}
	return img, digest
}

// pull reads an image whole, as a node does.
func pull(t *testing.T, address string, digest v1.Hash) error {
	t.Helper()
	reference, err := name.NewDigest(address+"/shop-web@"+digest.String(), name.Insecure)
	if err != nil {
		t.Fatal(err)
	}
	img, err := remote.Image(reference, remote.WithContext(t.Context()))
	if err != nil {
		return err
	}
	return validate.Image(img)
}

// start starts the store's server in a process of its own, and waits until it answers.
func start(t *testing.T, s *Store) *exec.Cmd {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), serverEnv+"="+s.dir)
	cmd.Stderr = t.Output()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		ok, err := s.Answers(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if ok {
			return cmd
		}
		if time.Now().After(end) {
			t.Fatal("the server does not answer")
		}
	}
}

// TestImagesOutliveTheServer: what was put is there after the server was killed, at the same address; and it ends when nobody
// uses it any more.
func TestImagesOutliveTheServer(t *testing.T) {
	s := served(t)
	_, first := put(t, s, "shop")
	address, err := s.Address(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	server := start(t, s)
	_, second := put(t, s, "shop") // while it serves
	for range 2 {
		for _, digest := range []v1.Hash{first, second} {
			if err := pull(t, address, digest); err != nil {
				t.Errorf("pull %s: %v", digest, err)
			}
		}
		if err := server.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		_ = server.Wait()
		if ok, err := s.Answers(t.Context()); ok || err != nil {
			t.Errorf("a killed server answers: %v, %v", ok, err)
		}
		server = start(t, s)
		if again, err := s.Address(t.Context()); err != nil || again != address {
			t.Errorf("the address is %s, and was %s (%v)", again, address, err)
		}
	}
	other := exec.Command(os.Args[0])
	other.Env = append(os.Environ(), serverEnv+"="+s.dir)
	if out, err := other.CombinedOutput(); err != nil {
		t.Errorf("a second server: %v: %s", err, out)
	}
	if err := s.Release("shop"); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- server.Wait() }()
	select {
	case err := <-ended:
		if err != nil {
			t.Errorf("the server ended with %v", err)
		}
	case <-time.After(20 * time.Second):
		t.Error("the server goes on, and nobody uses it")
	}
}

// TestUsedAgain: a server that is about to end, and waits for a pull, goes on where somebody uses it meanwhile.
func TestUsedAgain(t *testing.T) {
	s := served(t)
	img, err := random.Image(64<<20, 1) // more than the sockets take
	if err == nil {
		err = s.Put(t.Context(), "shop", img)
	}
	if err != nil {
		t.Fatal(err)
	}
	layers, err := img.Layers()
	if err != nil {
		t.Fatal(err)
	}
	blob, err := layers[0].Digest()
	if err != nil {
		t.Fatal(err)
	}
	address, err := s.Address(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	server := start(t, s)
	r, err := http.Get("http://" + address + "/v2/shop/blobs/" + blob.String())
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Release("shop"); err != nil {
		t.Fatal(err)
	}
	answers := func(want bool) {
		t.Helper()
		for end := time.Now().Add(20 * time.Second); ; time.Sleep(10 * time.Millisecond) {
			got, err := s.Answers(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if got == want {
				return
			}
			if time.Now().After(end) {
				t.Fatalf("it answers: %v, want %v", got, want)
			}
		}
	}
	answers(false)
	if err := s.Use("shop"); err != nil {
		t.Fatal(err)
	}
	_ = r.Body.Close()
	answers(true)
	if err := s.Release("shop"); err != nil {
		t.Fatal(err)
	}
	if err := server.Wait(); err != nil {
		t.Errorf("the server ended with %v", err)
	}
}

// TestWhatIsRefused: nobody pushes over the network, finds out what there is, or asks under a name from elsewhere.
func TestWhatIsRefused(t *testing.T) {
	s := opened(t)
	img, digest := put(t, s, "shop")
	server := httptest.NewServer(s.Handler())
	defer server.Close()
	layers, err := img.Layers()
	if err != nil {
		t.Fatal(err)
	}
	blob, err := layers[0].Digest()
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		method, path, host string
		want               int
	}{
		{"GET", "/v2/", "", 200},
		{"GET", "/v2/", "localhost:5117", 200},
		{"GET", "/v2/", "[::1]:5117", 200},
		{"GET", "/v2/", "rebound.example:5117", 403},
		{"GET", "/v2/a/b/blobs/" + blob.String(), "", 200},
		{"HEAD", "/v2/a/manifests/" + digest.String(), "", 200},
		{"GET", "/v2/a/manifests/latest", "", 404},
		{"GET", "/v2/a/manifests/" + blob.String(), "", 404},
		{"GET", "/v2/a/blobs/sha256:" + strings.Repeat("0", 64), "", 404},
		{"GET", "/v2/a/blobs/sha256:../../../index.json", "", 404},
		{"GET", "/v2/_catalog", "", 404},
		{"GET", "/v2/a/tags/list", "", 404},
		{"GET", "/", "", 404},
		{"PUT", "/v2/a/manifests/" + digest.String(), "", 405},
		{"POST", "/v2/a/blobs/uploads/", "", 405},
		{"DELETE", "/v2/a/manifests/" + digest.String(), "", 405},
	} {
		req, err := http.NewRequestWithContext(t.Context(), c.method, server.URL+c.path, nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Host = c.host
		r, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		_ = r.Body.Close()
		if r.StatusCode != c.want {
			t.Errorf("%s %s of %q is answered %d, want %d", c.method, c.path, c.host, r.StatusCode, c.want)
		}
	}
}

// TestAddressWhileAnImageIsPut: who only asks where the server is does not wait for whoever writes an image.
func TestAddressWhileAnImageIsPut(t *testing.T) {
	s := opened(t)
	want, err := s.Address(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	unlock, err := s.lock(t.Context(), "lock")
	if err != nil {
		t.Fatal(err)
	}
	defer unlock()
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	if got, err := s.Address(ctx); err != nil || got != want {
		t.Errorf("%q, %v, want %q", got, err, want)
	}
}

// TestUseIsOneUser: at no time is there a file among the users that would be left by one who is killed.
func TestUseIsOneUser(t *testing.T) {
	s := opened(t)
	used := make(chan error, 1)
	go func() {
		var errs []error
		for range 300 {
			errs = append(errs, s.Use("shop"))
		}
		used <- errors.Join(errs...)
	}()
	for {
		users, err := os.ReadDir(filepath.Join(s.dir, usersDir))
		if err != nil || len(users) > 1 || len(users) == 1 && users[0].Name() != "shop" {
			t.Errorf("the users are %v (%v)", users, err)
			if err := <-used; err != nil {
				t.Error(err)
			}
			return
		}
		select {
		case err := <-used:
			if err != nil {
				t.Error(err)
			}
			return
		default:
		}
	}
}

// TestSomethingElseAnswers: another program at the store's address is not taken for it.
func TestSomethingElseAnswers(t *testing.T) {
	s := opened(t)
	address, err := s.Address(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	server := &httptest.Server{Listener: l, Config: &http.Server{Handler: opened(t).Handler()}}
	server.Start()
	defer server.Close()
	if ok, err := s.Answers(t.Context()); ok || !errors.Is(err, errdefs.ErrConflict) {
		t.Errorf("%v, %v", ok, err)
	}
	if err := s.Serve(t.Context(), slog.New(slog.DiscardHandler)); !errors.Is(err, errdefs.ErrUnavailable) {
		t.Errorf("serve: %v", err)
	}
}
