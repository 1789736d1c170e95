package registry

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"golang.org/x/sync/errgroup"

	"trellis/errdefs"
)

const (
	// usersDir has a file for each owner whose images may be pulled at any time.
	usersDir = "users"
	// addressFile is where the server listens: it stands in the names of images, and so is kept.
	addressFile = "address"
	// storeHeader tells which store answers.
	storeHeader = "Trellis-Store"
)

// firstPort and the hundred after it are tried in turn for a store that has no address yet. They are none of those that
// kernels give to outgoing connections.
const firstPort = 5117

// beat is how often a server looks whether anybody still uses it.
const beat = 200 * time.Millisecond

// patience is how long a server that ends waits for pulls that are under way.
const patience = 10 * time.Second

// Address returns HOST:PORT of the store's server, whether or not it runs. The first call chooses a port that is free.
func (s *Store) Address(ctx context.Context) (string, error) {
	if address, err := s.address(); err != nil || address != "" { // who writes an image has the lock for long
		return address, err
	}
	unlock, err := s.lock(ctx, "lock")
	if err != nil {
		return "", fmt.Errorf("choose an address for the registry: %w", err)
	}
	defer unlock()
	if address, err := s.address(); err != nil || address != "" {
		return address, err
	}
	for port := firstPort; port <= firstPort+100; port++ {
		address := net.JoinHostPort("127.0.0.1", strconv.Itoa(port))
		if l, err := net.Listen("tcp", address); err == nil {
			_ = l.Close()
			return address, s.write(addressFile, strings.NewReader(address))
		}
	}
	return "", fmt.Errorf("choose an address for the registry: %w: every port from %d to %d is taken", errdefs.ErrUnavailable, firstPort, firstPort+100)
}

// address returns the address that was chosen, "" where none was.
func (s *Store) address() (string, error) {
	b, err := os.ReadFile(filepath.Join(s.dir, addressFile))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("read the address of the registry: %w", err)
	}
	return string(b), nil
}

// Use says that the images of an owner have to be there to be pulled, also after this machine was started again.
func (s *Store) Use(owner string) error {
	// In place: a file on the way would be one more user, and stay one where this process is killed.
	f, err := os.OpenFile(filepath.Join(s.dir, usersDir, url.PathEscape(owner)), os.O_CREATE|os.O_WRONLY, 0o600)
	if err == nil {
		err = errors.Join(f.Sync(), f.Close(), syncFolder(filepath.Join(s.dir, usersDir)))
	}
	if err != nil {
		return fmt.Errorf("use the registry: %w", err)
	}
	return nil
}

// Used says whether the images of an owner have to be there.
func (s *Store) Used(owner string) bool {
	_, err := os.Stat(filepath.Join(s.dir, usersDir, url.PathEscape(owner)))
	return err == nil
}

// Release says that nothing runs any more that would pull images of an owner. The images stay; the server ends with the
// last who uses it.
func (s *Store) Release(owner string) error {
	err := os.Remove(filepath.Join(s.dir, usersDir, url.PathEscape(owner)))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("release the registry: %w", err)
	}
	return nil
}

// Answers says whether the store's server answers at its address. Something else does: ErrConflict.
func (s *Store) Answers(ctx context.Context) (bool, error) {
	address, err := s.Address(ctx)
	if err != nil {
		return false, err
	}
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+address+"/v2/", nil)
	if err != nil {
		return false, err
	}
	direct := &http.Transport{DisableKeepAlives: true} // no proxy
	r, err := (&http.Client{Transport: direct}).Do(req)
	if err != nil {
		return false, nil
	}
	_ = r.Body.Close()
	if r.Header.Get(storeHeader) != s.id {
		return false, fmt.Errorf("%w: something else answers at %s, where the registry of this machine is to be: end it ('ss -ltnp' shows what it is)",
			errdefs.ErrConflict, address)
	}
	return true, nil
}

// Serve lets images be pulled until ctx is done or nobody uses them any more. Another process does already: nil. The address
// is taken: ErrUnavailable.
func (s *Store) Serve(ctx context.Context, log *slog.Logger) error {
	locked, cancel := context.WithTimeout(ctx, time.Second) // the one before may be about to end
	defer cancel()
	unlock, err := s.lock(locked, "serving")
	if errors.Is(err, context.DeadlineExceeded) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("serve images: %w", err)
	}
	defer unlock()
	address, err := s.Address(ctx)
	if err != nil {
		return err
	}
	for {
		if err := s.serveUsed(ctx, address, log); err != nil || ctx.Err() != nil || !s.inUse() {
			return err
		}
	}
}

// serveUsed serves at an address until ctx is done or nobody uses the images. Somebody may again by the time that it returns, and have
// seen it answer.
func (s *Store) serveUsed(ctx context.Context, address string, log *slog.Logger) error {
	l, err := net.Listen("tcp", address)
	if err != nil {
		return fmt.Errorf("serve images: %w: %w", errdefs.ErrUnavailable, err)
	}
	log.InfoContext(ctx, "images can be pulled", "address", address, "folder", s.dir)
	server := &http.Server{
		Handler: s.Handler(), ReadHeaderTimeout: 10 * time.Second, IdleTimeout: time.Minute,
		ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelWarn),
	}
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		if err := server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			return fmt.Errorf("serve images: %w", err)
		}
		return nil
	})
	g.Go(func() error {
		s.unused(ctx)
		end, cancel := context.WithTimeout(context.WithoutCancel(ctx), patience)
		defer cancel()
		return cmp.Or(server.Shutdown(end), server.Close())
	})
	return g.Wait()
}

// inUse says whether anybody uses the images.
func (s *Store) inUse() bool {
	users, err := os.ReadDir(filepath.Join(s.dir, usersDir))
	return err == nil && len(users) > 0
}

// unused returns when ctx is done, or nobody uses the images.
func (s *Store) unused(ctx context.Context) {
	begin := time.Now()
	for {
		if !s.inUse() && time.Since(begin) > time.Second {
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(beat):
		}
	}
}

// Handler lets images be pulled: the part of the OCI distribution specification that nodes use. Only callers that mean this
// machine by a name of its loopback are answered, so that no page in a browser gets anything.
func (s *Store) Handler() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set(storeHeader, s.id)
		w.Header().Set("Docker-Distribution-Api-Version", "registry/2.0")
		switch {
		case !loopback(r.Host):
			refuse(w, http.StatusForbidden, "DENIED", "this registry is for the nodes of clusters on this machine")
		case r.Method != http.MethodGet && r.Method != http.MethodHead:
			refuse(w, http.StatusMethodNotAllowed, "UNSUPPORTED", "images are only pulled from here: 'trellis up' puts them here")
		case r.URL.Path == "/v2/" || r.URL.Path == "/v2":
			w.Header().Set("Content-Type", "application/json")
			_, _ = w.Write([]byte("{}"))
		default:
			s.serve(w, r)
		}
	})
}

// serve answers /v2/NAME/manifests/DIGEST and /v2/NAME/blobs/DIGEST.
func (s *Store) serve(w http.ResponseWriter, r *http.Request) {
	parts := strings.Split(r.URL.Path, "/")
	if len(parts) < 5 || parts[1] != "v2" || parts[len(parts)-2] != "manifests" && parts[len(parts)-2] != "blobs" {
		refuse(w, http.StatusNotFound, "NOT_FOUND", "there is nothing of that name")
		return
	}
	kind, reference := parts[len(parts)-2], parts[len(parts)-1]
	unknown := map[string]string{"manifests": "MANIFEST_UNKNOWN", "blobs": "BLOB_UNKNOWN"}[kind]
	digest, err := v1.NewHash(reference)
	if err != nil || digest.Algorithm != "sha256" {
		refuse(w, http.StatusNotFound, unknown, "images are found by their digests here, not by tags")
		return
	}
	content := "application/octet-stream"
	if kind == "manifests" {
		manifest, err := s.manifest(digest)
		if err != nil {
			refuse(w, http.StatusNotFound, unknown, "there is no image of that digest")
			return
		}
		content = string(cmp.Or(manifest.MediaType, types.OCIManifestSchema1)) // OCI's need not say it
	}
	f, err := os.Open(filepath.Join(s.dir, blobPath(digest)))
	if err != nil {
		refuse(w, http.StatusNotFound, unknown, "there is nothing of that digest")
		return
	}
	defer f.Close()
	w.Header().Set("Content-Type", content)
	w.Header().Set("Docker-Content-Digest", digest.String())
	w.Header().Set("Etag", `"`+digest.String()+`"`)
	http.ServeContent(w, r, "", time.Time{}, f)
}

// loopback says whether host is a name of this machine's loopback.
func loopback(host string) bool {
	if name, _, err := net.SplitHostPort(host); err == nil {
		host = name
	}
	ip := net.ParseIP(strings.Trim(host, "[]"))
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

// refuse answers as the specification says errors are.
func refuse(w http.ResponseWriter, status int, code, message string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(map[string]any{"errors": []map[string]string{{"code": code, "message": message}}})
}
