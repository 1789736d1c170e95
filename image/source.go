package image

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"trellis/errdefs"
)

// format is what changes when images are made otherwise.
const format = "1"

// forgotten is after what time a digest is forgotten that nobody asked for.
const forgotten = 90 * 24 * time.Hour

// Source is an image that has to be made before it is read. Making it is what costs: its digest is remembered, and a Source makes
// it once. It is not safe for concurrent use.
type Source struct {
	// Key stands for what the image is made of.
	Key string
	// Make makes it, or reads it from where it is.
	Make func(ctx context.Context) (v1.Image, error)

	made       v1.Image // nil before it was made
	remembered string   // the file that has its digest, "" where nobody has asked for it
}

// Digests remembers the digests of sources in a folder, which is made when there is one to remember.
type Digests string

// Of returns the digest of the image that a source makes; it makes it the first time.
func (d Digests) Of(ctx context.Context, s *Source) (v1.Hash, error) {
	// What another version of Go compresses may be other bytes.
	sum := sha256.Sum256(fmt.Appendf(nil, "%s %s %s", format, runtime.Version(), s.Key))
	file := filepath.Join(string(d), hex.EncodeToString(sum[:]))
	s.remembered = file
	if b, err := os.ReadFile(file); err == nil {
		if digest, err := v1.NewHash(string(b)); err == nil {
			now := time.Now()
			_ = os.Chtimes(file, now, now) // what is forgotten too early is made again
			return digest, nil
		}
	}
	_, digest, err := s.image(ctx)
	if err != nil {
		return v1.Hash{}, err
	}
	return digest, d.remember(file, digest)
}

func (d Digests) remember(file string, digest v1.Hash) error {
	if err := os.MkdirAll(string(d), 0o700); err != nil {
		return fmt.Errorf("remember an image: %w", err)
	}
	entries, err := os.ReadDir(string(d))
	if err != nil {
		return fmt.Errorf("remember an image: %w", err)
	}
	for _, e := range entries {
		if info, err := e.Info(); err == nil && time.Since(info.ModTime()) > forgotten {
			_ = os.Remove(filepath.Join(string(d), e.Name())) // it is made again when it is asked for
		}
	}
	if err := os.WriteFile(file, []byte(digest.String()), 0o600); err != nil { // half of one is none, and made again
		return fmt.Errorf("remember an image: %w", err)
	}
	return nil
}

// Made returns the image of a source whose digest is known. It is another one by now: ErrConflict, and what was remembered is
// forgotten.
func (s *Source) Made(ctx context.Context, digest v1.Hash) (v1.Image, error) {
	img, now, err := s.image(ctx)
	if err != nil {
		return nil, err
	}
	if now != digest {
		if err := os.Remove(s.remembered); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("forget an image: %w", err)
		}
		return nil, fmt.Errorf("%w: what the image is made of has changed: it was %s, and is %s", errdefs.ErrConflict, digest, now)
	}
	return img, nil
}

func (s *Source) image(ctx context.Context) (v1.Image, v1.Hash, error) {
	if s.made == nil {
		img, err := s.Make(ctx)
		if err != nil {
			return nil, v1.Hash{}, err
		}
		s.made = img
	}
	digest, err := s.made.Digest()
	if err != nil {
		return nil, v1.Hash{}, fmt.Errorf("make an image: %w", err)
	}
	return s.made, digest, nil
}
