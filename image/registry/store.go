// Package registry is a small registry for clusters whose nodes are this machine: a folder of images that commands write
// to, and a server that lets the nodes pull what is in it.
//
// The folder is an OCI image layout, so that any tool for images reads it, and the only place where anything is kept: the
// server may be killed and started again at any time. Nobody can push to it over the network, and an image is found by its
// digest alone: who does not know that learns nothing.
package registry

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/partial"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"trellis/errdefs"
	"trellis/filelock"
)

// ownerKey is the annotation of an image in the index that says whose it is. An image of several owners is there as often.
const ownerKey = "dev.trellis.owner"

// layoutFile says that the folder is an OCI image layout.
const layoutFile = "oci-layout"

// tempPrefix is what the name of a file begins with that is not whole yet.
const tempPrefix = ".part-"

// Store is a folder of images, by owner. It is safe for concurrent use, also between processes.
type Store struct {
	dir string
	id  string // tells it from others
}

// Open opens the store in dir, and makes it if there is none.
func Open(dir string) (*Store, error) {
	for _, sub := range []string{"blobs/sha256", usersDir} {
		if err := os.MkdirAll(filepath.Join(dir, sub), 0o700); err != nil {
			return nil, fmt.Errorf("open the images in %s: %w", dir, err)
		}
	}
	real, err := filepath.EvalSymlinks(dir)
	if err != nil {
		return nil, fmt.Errorf("open the images in %s: %w", dir, err)
	}
	sum := sha256.Sum256([]byte(real))
	s := &Store{dir, hex.EncodeToString(sum[:8])}
	_, err = os.Stat(filepath.Join(dir, layoutFile))
	if errors.Is(err, fs.ErrNotExist) {
		err = s.write(layoutFile, strings.NewReader(`{"imageLayoutVersion":"1.0.0"}`))
	}
	if err != nil {
		return nil, fmt.Errorf("open the images in %s: %w", dir, err)
	}
	return s, nil
}

// Dir returns the folder of the store.
func (s *Store) Dir() string { return s.dir }

// Put keeps an image for an owner; on disk when it returns.
func (s *Store) Put(ctx context.Context, owner string, img v1.Image) error {
	fail := func(err error) error { return fmt.Errorf("keep an image: %w", err) }
	unlock, err := s.lock(ctx, "lock")
	if err != nil {
		return fail(err)
	}
	defer unlock()
	layers, err := img.Layers()
	if err != nil {
		return fail(err)
	}
	config, err := partial.ConfigLayer(img)
	if err != nil {
		return fail(err)
	}
	for _, l := range append(layers, config) {
		if err := ctx.Err(); err != nil {
			return fail(err)
		}
		if err := s.putBlob(l); err != nil {
			return fail(err)
		}
	}
	manifest, err := img.RawManifest()
	if err != nil {
		return fail(err)
	}
	described, err := partial.Descriptor(img)
	if err != nil {
		return fail(err)
	}
	if err := s.write(blobPath(described.Digest), strings.NewReader(string(manifest))); err != nil {
		return fail(err)
	}
	index, err := s.index()
	if err != nil {
		return fail(err)
	}
	if slices.ContainsFunc(index.Manifests, func(one v1.Descriptor) bool { return is(one, owner, described.Digest) }) {
		return nil
	}
	described.Annotations = map[string]string{ownerKey: owner}
	index.Manifests = append(index.Manifests, *described)
	return s.writeIndex(index)
}

// putBlob writes a part of an image, unless it is there. What is read is not what has that digest: ErrConflict.
func (s *Store) putBlob(l v1.Layer) error {
	digest, err := l.Digest()
	if err != nil {
		return err
	}
	size, err := l.Size()
	if err != nil {
		return err
	}
	if info, err := os.Stat(filepath.Join(s.dir, blobPath(digest))); err == nil && info.Size() == size {
		return nil
	}
	r, err := l.Compressed()
	if err != nil {
		return err
	}
	defer r.Close()
	return s.write(blobPath(digest), &checked{r: r, sum: sha256.New(), want: digest})
}

// checked ends with an error where what was read of it has not the digest that it is to have.
type checked struct {
	r    io.Reader
	sum  hash.Hash
	want v1.Hash
}

func (c *checked) Read(b []byte) (int, error) {
	n, err := c.r.Read(b)
	c.sum.Write(b[:n])
	if !errors.Is(err, io.EOF) {
		return n, err
	}
	if got := hex.EncodeToString(c.sum.Sum(nil)); got != c.want.Hex {
		return n, fmt.Errorf("%w: what the image is made of has changed: it was %s, and is sha256:%s", errdefs.ErrConflict, c.want, got)
	}
	return n, err
}

// Has says whether an owner has an image, and spares it from Keep for a while.
func (s *Store) Has(ctx context.Context, owner string, digest v1.Hash) (bool, error) {
	fail := func(err error) (bool, error) { return false, fmt.Errorf("look for an image: %w", err) }
	unlock, err := s.lock(ctx, "lock")
	if err != nil {
		return fail(err)
	}
	defer unlock()
	index, err := s.index()
	if err != nil {
		return fail(err)
	}
	if !slices.ContainsFunc(index.Manifests, func(one v1.Descriptor) bool { return is(one, owner, digest) }) {
		return false, nil
	}
	now := time.Now()
	err = os.Chtimes(filepath.Join(s.dir, blobPath(digest)), now, now)
	if errors.Is(err, fs.ErrNotExist) { // somebody has removed it
		return false, nil
	}
	if err != nil {
		return fail(err)
	}
	return true, nil
}

// is says whether an image in the index is the one of that digest, of that owner.
func is(one v1.Descriptor, owner string, digest v1.Hash) bool {
	return one.Digest == digest && one.Annotations[ownerKey] == owner
}

// keepYoung spares from Keep what was put or asked for a moment ago, by a deploy that has not written its revision: one may wait
// for another's end.
const keepYoung = time.Hour

// Keep forgets the images of an owner that keep does not say of, by digest, and removes what no image has any more. What was put
// or asked for within the last hour stays.
func (s *Store) Keep(ctx context.Context, owner string, keep func(digest string) bool) error {
	fail := func(err error) error { return fmt.Errorf("remove old images: %w", err) }
	unlock, err := s.lock(ctx, "lock")
	if err != nil {
		return fail(err)
	}
	defer unlock()
	index, err := s.index()
	if err != nil {
		return fail(err)
	}
	var left []v1.Descriptor
	for _, one := range index.Manifests {
		info, err := os.Stat(filepath.Join(s.dir, blobPath(one.Digest)))
		switch {
		case errors.Is(err, fs.ErrNotExist): // somebody has removed it
		case err != nil:
			return fail(err)
		case one.Annotations[ownerKey] != owner, keep(one.Digest.String()), time.Since(info.ModTime()) < keepYoung:
			left = append(left, one)
		}
	}
	if len(left) < len(index.Manifests) {
		index.Manifests = left
		if err := s.writeIndex(index); err != nil {
			return fail(err)
		}
	}
	if err := s.sweep(left); err != nil {
		return fail(err)
	}
	return nil
}

// sweep removes the blobs that none of the images has.
func (s *Store) sweep(images []v1.Descriptor) error {
	used := map[string]bool{}
	for _, one := range images {
		manifest, err := s.manifest(one.Digest)
		if err != nil {
			return err
		}
		used[one.Digest.Hex], used[manifest.Config.Digest.Hex] = true, true
		for _, layer := range manifest.Layers {
			used[layer.Digest.Hex] = true
		}
	}
	files, err := os.ReadDir(filepath.Join(s.dir, "blobs", "sha256"))
	if err != nil {
		return err
	}
	var errs []error
	for _, f := range files {
		if !used[f.Name()] {
			errs = append(errs, os.Remove(filepath.Join(s.dir, "blobs", "sha256", f.Name())))
		}
	}
	return errors.Join(errs...)
}

// manifest reads the manifest of an image that is here. Something else is: ErrInvalid.
func (s *Store) manifest(digest v1.Hash) (*v1.Manifest, error) {
	f, err := os.Open(filepath.Join(s.dir, blobPath(digest)))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	m, err := v1.ParseManifest(f)
	if err == nil && (m.SchemaVersion != 2 || m.Config.Digest.Hex == "") {
		err = errors.New("it is no image's")
	}
	if err != nil {
		return nil, fmt.Errorf("read manifest %s: %w: %w", f.Name(), errdefs.ErrInvalid, err)
	}
	return m, nil
}

// index returns what the layout has, an empty one where nothing was put yet.
func (s *Store) index() (v1.IndexManifest, error) {
	index := v1.IndexManifest{SchemaVersion: 2, MediaType: types.OCIImageIndex, Manifests: []v1.Descriptor{}}
	b, err := os.ReadFile(filepath.Join(s.dir, "index.json"))
	if errors.Is(err, fs.ErrNotExist) {
		return index, nil
	}
	if err != nil {
		return index, err
	}
	if err := json.Unmarshal(b, &index); err != nil {
		return index, fmt.Errorf("%s: %w: %w", filepath.Join(s.dir, "index.json"), errdefs.ErrInvalid, err)
	}
	return index, nil
}

func (s *Store) writeIndex(index v1.IndexManifest) error {
	b, err := json.Marshal(index)
	if err != nil {
		return err
	}
	return s.write("index.json", strings.NewReader(string(b)))
}

// write makes a file what r has: whoever looks finds all of it, or what was there before.
func (s *Store) write(name string, r io.Reader) error {
	path := filepath.Join(s.dir, name)
	temp, err := os.CreateTemp(filepath.Dir(path), tempPrefix+"*")
	if err != nil {
		return err
	}
	defer os.Remove(temp.Name())
	_, err = io.Copy(temp, r)
	if err = errors.Join(err, temp.Sync(), temp.Close()); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	if err := os.Rename(temp.Name(), path); err != nil {
		return err
	}
	return syncFolder(filepath.Dir(path)) // an index that names it comes after it
}

// syncFolder has the names of the files in a folder outlive a power loss.
func syncFolder(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

func blobPath(digest v1.Hash) string { return filepath.Join("blobs", digest.Algorithm, digest.Hex) }

// lock waits until no other process has the lock of that name.
func (s *Store) lock(ctx context.Context, name string) (unlock func(), err error) {
	return filelock.Lock(ctx, filepath.Join(s.dir, name))
}
