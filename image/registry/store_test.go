package registry

import (
	"errors"
	"io"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/partial"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/google/go-containerregistry/pkg/v1/validate"

	"trellis/errdefs"
)

// TestTheStoreIsALayout: any tool for images reads it.
func TestTheStoreIsALayout(t *testing.T) {
	s := opened(t)
	_, digest := put(t, s, "shop")
	index, err := layout.ImageIndexFromPath(s.dir)
	if err != nil {
		t.Fatal(err)
	}
	img, err := index.Image(digest)
	if err != nil {
		t.Fatal(err)
	}
	if err := validate.Image(img); err != nil {
		t.Error(err)
	}
}

// TestOpenAgain: a store that is there is opened without anything of it being written, and is the same one by any path.
func TestOpenAgain(t *testing.T) {
	s := opened(t)
	before, err := os.Stat(filepath.Join(s.dir, layoutFile))
	if err != nil {
		t.Fatal(err)
	}
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(s.dir, link); err != nil {
		t.Fatal(err)
	}
	again, err := Open(link)
	if err != nil {
		t.Fatal(err)
	}
	if after, err := os.Stat(filepath.Join(s.dir, layoutFile)); err != nil || !os.SameFile(before, after) {
		t.Errorf("what says that it is a layout was written again (%v)", err)
	}
	if again.id != s.id || opened(t).id == s.id {
		t.Errorf("%s is %s by a link; another store is %s", s.id, again.id, opened(t).id)
	}
}

// unnamed is an image whose manifest does not say of what type it is, as OCI allows.
type unnamed struct{ v1.Image }

func (i unnamed) Manifest() (*v1.Manifest, error) {
	m, err := i.Image.Manifest()
	if err != nil {
		return nil, err
	}
	m = m.DeepCopy()
	m.MediaType = ""
	return m, nil
}

func (i unnamed) RawManifest() ([]byte, error)      { return partial.RawManifest(i) }
func (i unnamed) Digest() (v1.Hash, error)          { return partial.Digest(i) }
func (i unnamed) Size() (int64, error)              { return partial.Size(i) }
func (unnamed) MediaType() (types.MediaType, error) { return types.OCIManifestSchema1, nil }

// TestManifestWithoutAType is pulled as any other.
func TestManifestWithoutAType(t *testing.T) {
	s := opened(t)
	of, err := random.Image(100, 1)
	if err != nil {
		t.Fatal(err)
	}
	putAndPull(t, s, unnamed{of})
}

// putAndPull puts an image and pulls it.
func putAndPull(t *testing.T, s *Store, img v1.Image) {
	t.Helper()
	digest, err := img.Digest()
	if err == nil {
		err = s.Put(t.Context(), "shop", img)
	}
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(s.Handler())
	defer server.Close()
	if err := pull(t, strings.TrimPrefix(server.URL, "http://"), digest); err != nil {
		t.Error(err)
	}
}

// changing is a layer that has another content by the time that it is read.
type changing struct{ v1.Layer }

func (changing) Compressed() (io.ReadCloser, error) {
	return io.NopCloser(strings.NewReader("another content")), nil
}

// TestPutWhatChanges: what is another content by now is not kept by the name of the one before, and may be put again.
func TestPutWhatChanges(t *testing.T) {
	s := opened(t)
	layer, err := random.Layer(100, types.OCILayer)
	if err != nil {
		t.Fatal(err)
	}
	with := func(l v1.Layer) v1.Image {
		img, err := mutate.AppendLayers(empty.Image, l)
		if err != nil {
			t.Fatal(err)
		}
		return img
	}
	if err := s.Put(t.Context(), "shop", with(changing{layer})); !errors.Is(err, errdefs.ErrConflict) {
		t.Errorf("it was put with %v", err)
	}
	if left, err := os.ReadDir(filepath.Join(s.dir, "blobs", "sha256")); err != nil || len(left) > 0 {
		t.Errorf("%d files are left (%v)", len(left), err)
	}
	putAndPull(t, s, with(layer))
}

// age makes it as if all that was put had been put long ago.
func age(t *testing.T, s *Store) {
	t.Helper()
	then := time.Now().Add(-2 * keepYoung)
	files, err := filepath.Glob(filepath.Join(s.dir, "blobs", "sha256", "*"))
	for _, f := range files {
		err = errors.Join(err, os.Chtimes(f, then, then))
	}
	if err != nil {
		t.Fatal(err)
	}
}

// images returns how many images an owner has.
func images(t *testing.T, s *Store, owner string) (n int) {
	t.Helper()
	index, err := s.index()
	if err != nil {
		t.Fatal(err)
	}
	for _, one := range index.Manifests {
		if one.Annotations[ownerKey] == owner {
			n++
		}
	}
	return n
}

func none(string) bool { return false }

// TestKeep: an image goes when the last owner has let go of it, with its layers, and nothing else does.
func TestKeep(t *testing.T) {
	s := opened(t)
	shared, both := put(t, s, "a")
	if err := s.Put(t.Context(), "b", shared); err != nil {
		t.Fatal(err)
	}
	_, old := put(t, s, "a")
	_, now := put(t, s, "a")
	if err := os.WriteFile(filepath.Join(s.dir, "blobs", "sha256", tempPrefix+"1"), []byte("of one that was killed"), 0o600); err != nil {
		t.Fatal(err)
	}
	age(t, s)
	if err := s.Keep(t.Context(), "a", func(d string) bool { return d == now.String() }); err != nil {
		t.Fatal(err)
	}
	if a, b := images(t, s, "a"), images(t, s, "b"); a != 1 || b != 1 {
		t.Errorf("a has %d images, b %d", a, b)
	}
	server := httptest.NewServer(s.Handler())
	defer server.Close()
	address := strings.TrimPrefix(server.URL, "http://")
	for digest, there := range map[v1.Hash]bool{now: true, both: true, old: false} {
		if err := pull(t, address, digest); (err == nil) != there {
			t.Errorf("pull %s: %v", digest, err)
		}
	}
	if err := errors.Join(s.Keep(t.Context(), "a", none), s.Keep(t.Context(), "b", none)); err != nil {
		t.Fatal(err)
	}
	if left, err := os.ReadDir(filepath.Join(s.dir, "blobs", "sha256")); err != nil || len(left) > 0 {
		t.Errorf("%d files are left (%v)", len(left), err)
	}
}

// TestKeepYoung: what another deploy has put or asked for, and has not yet written down, stays.
func TestKeepYoung(t *testing.T) {
	s := opened(t)
	_, asked := put(t, s, "shop")
	_, old := put(t, s, "shop")
	age(t, s)
	_, young := put(t, s, "shop")
	if there, err := s.Has(t.Context(), "shop", asked); err != nil || !there {
		t.Errorf("it has %s: %v, %v", asked, there, err)
	}
	if err := s.Keep(t.Context(), "shop", none); err != nil {
		t.Fatal(err)
	}
	for digest, want := range map[v1.Hash]bool{asked: true, young: true, old: false} {
		if got, err := s.Has(t.Context(), "shop", digest); err != nil || got != want {
			t.Errorf("it has %s: %v, %v, want %v", digest, got, err, want)
		}
	}
}

// TestHas: an image is its owner's alone, and one whose manifest somebody has removed is not there.
func TestHas(t *testing.T) {
	s := opened(t)
	img, digest := put(t, s, "a")
	for range 2 {
		for owner, want := range map[string]bool{"a": true, "b": false} {
			if got, err := s.Has(t.Context(), owner, digest); err != nil || got != want {
				t.Errorf("%s has it: %v, %v, want %v", owner, got, err, want)
			}
		}
		if err := os.Remove(filepath.Join(s.dir, blobPath(digest))); err != nil {
			t.Fatal(err)
		}
		if got, err := s.Has(t.Context(), "a", digest); err != nil || got {
			t.Errorf("without its manifest it is there: %v, %v", got, err)
		}
		if err := s.Keep(t.Context(), "b", none); err != nil || images(t, s, "a") != 0 {
			t.Errorf("without its manifest nothing else is removed, or it is kept: %v", err)
		}
		if err := s.Put(t.Context(), "a", img); err != nil {
			t.Fatal(err)
		}
	}
}
