package artifact

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/gob"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"trellis/filelock"
)

const (
	indexDir   = ".index"
	tempPrefix = ".tmp-"
)

// folder is what is remembered of one source folder. It is a cache: whatever of it is lost costs a build at most.
type folder struct {
	// Stats are the hashes of files by what stat says about them.
	Stats map[string]statEntry
	// Outputs are the files that builds left, and with which content.
	Outputs map[string]sum
	// Doubtful are files that came while a build ran that had run here before; see classify.
	Doubtful map[string]sum
	// Made are the files and folders that builds made among those that are left out of the tree.
	Made []string
	// Last is the key of the last complete run of each build (buildKey.id), Ended when that ended, in nanoseconds.
	Last  map[string]string
	Ended map[string]int64

	changed bool // Outputs and what follows them, since it was loaded
}

type sum = [sha256.Size]byte

// folderFile is where a source folder is remembered.
func (s *Store) folderFile(dir string) string {
	h := sha256.Sum256([]byte(dir))
	return filepath.Join(s.dir, indexDir, "folders", hex.EncodeToString(h[:16]))
}

// loadFolder returns what is remembered, nothing where it cannot be read.
func loadFolder(path string) *folder {
	f := &folder{}
	if b, err := os.ReadFile(path); err == nil {
		if err := gob.NewDecoder(bytes.NewReader(b)).Decode(f); err != nil {
			f = &folder{}
		}
	}
	f.Stats, f.Outputs, f.Last, f.Ended = orEmpty(f.Stats), orEmpty(f.Outputs), orEmpty(f.Last), orEmpty(f.Ended)
	return f
}

func orEmpty[V any](m map[string]V) map[string]V {
	if m == nil {
		return map[string]V{}
	}
	return m
}

// save remembers the folder, with the stats of the files that are there.
func (s *Store) save(src source, f *folder, t tree) error {
	if !f.refresh(t) {
		return nil
	}
	var b bytes.Buffer
	if err := gob.NewEncoder(&b).Encode(f); err != nil {
		return fmt.Errorf("remember %s: %w", src.dir, err)
	}
	if err := writeFile(s.folderFile(src.dir), b.Bytes()); err != nil {
		return fmt.Errorf("remember %s: %w", src.dir, err)
	}
	return nil
}

// classify finds out what the build left: files that are new, and files that it changed among the artifacts or among
// what builds left before. steady says that no source changed or came while it ran; otherwise nobody knows what it has read.
// again says that it has run here before: a new file in a place of its own is then as likely somebody's source. It is the build's
// after all if the next run changes it.
func (f *folder) classify(src source, before, after tree, again bool) (steady bool) {
	was := make(map[string]entry, len(before))
	for _, e := range before {
		was[e.path] = e
	}
	steady = true
	outputs, doubtful := map[string]sum{}, map[string]sum{}
	places := f.outputFolders(before)
	for _, e := range after {
		old, existed := was[e.path]
		left, known := f.Outputs[e.path]
		wasOutput := known && existed && left == old.sum
		doubted, doubt := f.Doubtful[e.path]
		changed := !existed || old.sum != e.sum || old.kind != e.kind
		switch {
		case !changed && !wasOutput:
			if doubt && doubted == e.sum {
				doubtful[e.path] = e.sum
			}
		case !changed, wasOutput, src.isArtifact(e.path), existed && doubt && doubted == old.sum:
			outputs[e.path] = e.sum
		case !existed && (!again || known || places(e.path)):
			outputs[e.path] = e.sum
		case !existed:
			doubtful[e.path] = e.sum
			steady = false
		default:
			steady = false
		}
		delete(was, e.path)
	}
	for path, e := range was { // removed by the build
		if f.Outputs[path] != e.sum && !src.isArtifact(path) {
			steady = false
		}
	}
	f.Outputs, f.Doubtful, f.changed = outputs, doubtful, true
	return steady
}

// outputFolders returns what says of a path that it lies in a folder in which there was nothing but what builds left.
func (f *folder) outputFolders(t tree) func(string) bool {
	only := map[string]bool{}
	for _, e := range t {
		left, ok := f.Outputs[e.path]
		ok = ok && left == e.sum
		for dir := path.Dir(e.path); dir != "."; dir = path.Dir(dir) {
			before, known := only[dir]
			only[dir] = ok && (before || !known)
		}
	}
	return func(p string) bool {
		for dir := path.Dir(p); dir != "."; dir = path.Dir(dir) {
			if is, known := only[dir]; known {
				return is
			}
		}
		return false
	}
}

// noteMade notes what a build made of what is left out of the tree; what is gone was perhaps removed by it.
func (f *folder) noteMade(before, after []string) {
	known := map[string]bool{}
	for _, p := range before {
		known[p] = true
	}
	for _, p := range f.Made {
		known[p] = false
	}
	f.Made = slices.DeleteFunc(after, func(p string) bool { return known[p] })
}

// complete says that everything is there that builds left.
func (f *folder) complete(t tree, left []string) bool {
	there := make(map[string]bool, len(t)+len(left))
	for _, e := range t {
		there[e.path] = true
	}
	for _, p := range left {
		there[p] = true
	}
	for p := range f.Outputs {
		if !there[p] {
			return false
		}
	}
	return !slices.ContainsFunc(f.Made, func(p string) bool { return !there[p] })
}

// resultFile is where the digest of a build's artifacts is written down. The list of artifacts belongs to it, so that
// services can share a build.
func (s *Store) resultFile(key string, src source) string {
	h := sha256.New()
	fmt.Fprintf(h, "%s %q", key, src.artifacts)
	return filepath.Join(s.dir, indexDir, "results", hex.EncodeToString(h.Sum(nil)))
}

// result returns the digest that was remembered, if it is still kept.
func (s *Store) result(key string, src source) (string, bool) {
	b, err := os.ReadFile(s.resultFile(key, src))
	digest := strings.TrimSpace(string(b))
	if err != nil || !validDigest(digest) {
		return "", false
	}
	// Prune looks at this time. Failing, the artifact is gone or somebody else's to keep.
	now := time.Now()
	if err := os.Chtimes(s.Path(digest), now, now); err != nil {
		return "", false
	}
	return digest, true
}

func (s *Store) remember(key string, src source, digest string) error {
	if digest == "" {
		return nil
	}
	if err := writeFile(s.resultFile(key, src), []byte(digest+"\n")); err != nil {
		return fmt.Errorf("remember the result: %w", err)
	}
	return nil
}

// forget removes the index of artifacts that are gone.
func (s *Store) forget() error {
	dir := filepath.Join(s.dir, indexDir, "results")
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	var errs []error
	for _, e := range entries {
		path := filepath.Join(dir, e.Name())
		b, err := os.ReadFile(path)
		if err != nil {
			continue
		}
		digest := strings.TrimSpace(string(b))
		if _, err := os.Stat(s.Path(digest)); validDigest(digest) && err == nil {
			continue
		}
		if info, err := e.Info(); err == nil && time.Since(info.ModTime()) > keepYoung {
			errs = append(errs, os.Remove(path))
		}
	}
	return errors.Join(errs...)
}

// writeFile replaces a file in one step. It need not survive a power loss: what it says is checked when it is used.
func writeFile(path string, data []byte) error {
	f, err := os.CreateTemp(filepath.Dir(path), tempPrefix)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	return nil
}

// lockFolder waits until no store builds in dir. Where folders cannot be locked, builds for several stores are not kept
// apart.
func lockFolder(ctx context.Context, dir string) (unlock func(), err error) {
	f, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	unlock, err = filelock.Open(ctx, f)
	if errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.ENOLCK) || errors.Is(err, unix.EBADF) {
		return func() {}, nil
	}
	return unlock, err
}
