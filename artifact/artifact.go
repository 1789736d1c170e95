// Package artifact builds what processes run, once per content, and keeps the results by the digest of their content.
//
// A build is asked for by its key: the hash of the source tree, the command line and the part of the environment that
// steers it. Known keys run nothing. What a build leaves behind is no source: a file that is as the last build of its
// folder left it does not count into the key, whether it is a declared artifact or not. What a build reads outside of
// its folder is not seen; Force is for that.
//
// A result is a read-only folder named by its digest: instances run in it, and a revision that names it can be brought
// back as long as it is kept.
package artifact

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"trellis/compose"
	"trellis/errdefs"
	"trellis/filelock"
)

// Store keeps artifacts in one folder. It is safe for concurrent use, also between processes: in one source folder one
// build runs at a time, of whatever store, and whoever waited for it in the same store uses its result.
type Store struct {
	dir string
}

// Request asks for the artifacts of one service.
type Request struct {
	Project string
	Service string
	// Process has Dir (absolute), Build and Artifacts. Without Build the artifacts are taken as they are; without
	// Artifacts the digest is "".
	Process compose.Process
	// Env is the environment of the build ("KEY=value"). Its part that counts into the key: the variables that Build
	// names, and those that steer compilers, package managers and bundlers (GO*, CC, CFLAGS, NODE_ENV, VITE_*, ...).
	Env []string
	// Output takes what the build prints, as it comes; nil: nobody.
	Output io.Writer
	// Force builds in any case.
	Force bool
}

// keepYoung spares from Prune what was built or asked for a while ago, by a deploy that has not written its revision: it may
// wait for other builds and for images.
const keepYoung = time.Hour

// Open opens the store in dir, and makes it if there is none.
func Open(dir string) (*Store, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, fmt.Errorf("open artifacts %s: %w", dir, err)
	}
	for _, sub := range []string{"", indexDir, filepath.Join(indexDir, "results"), filepath.Join(indexDir, "folders")} {
		// Readable by others: instances may run as other users. What leads to dir decides who gets here.
		if err := os.MkdirAll(filepath.Join(dir, sub), 0o755); err != nil {
			return nil, fmt.Errorf("open artifacts %s: %w", dir, err)
		}
	}
	return &Store{dir: dir}, nil
}

// Path returns the folder of an artifact, which may not exist; "" for what cannot be a digest. Inside, files lie as
// they did relative to Process.Dir.
func (s *Store) Path(digest string) string {
	if !validDigest(digest) {
		return ""
	}
	return filepath.Join(s.dir, digest)
}

func validDigest(digest string) bool {
	b, err := hex.DecodeString(digest)
	return err == nil && len(b) == sha256.Size && strings.ToLower(digest) == digest
}

// Build returns the digest of the service's artifacts and keeps them, on disk when it returns. cached says that the
// build did not have to run. A build that fails: an error with the last 40 lines of its output. Artifacts that are
// missing, outside of Dir, neither file, folder nor link, or links that lead out of the artifacts: ErrInvalid.
// Cancelling ctx ends the build with all of its processes.
func (s *Store) Build(ctx context.Context, req Request) (digest string, cached bool, err error) {
	digest, cached, err = s.build(ctx, req)
	if err != nil {
		return "", false, fmt.Errorf("build %s: %w", req.Service, err)
	}
	return digest, cached, nil
}

func (s *Store) build(ctx context.Context, req Request) (digest string, cached bool, err error) {
	src, err := newSource(s.dir, req.Process)
	if err != nil {
		return "", false, err
	}
	unlockFolder, err := lockFolder(ctx, src.dir)
	if err != nil {
		return "", false, fmt.Errorf("wait for another build in %s: %w", src.dir, err)
	}
	defer unlockFolder()
	unlock, err := filelock.Lock(ctx, s.folderFile(src.dir)+".lock")
	if err != nil {
		return "", false, fmt.Errorf("wait for another build in %s: %w", src.dir, err)
	}
	defer unlock()
	f := loadFolder(s.folderFile(src.dir))
	if req.Process.Build == "" {
		return s.take(ctx, src, f)
	}
	before, left, err := src.scan(ctx, f)
	if err != nil {
		return "", false, err
	}
	k := buildKey{command: req.Process.Build, env: steering(req.Process.Build, req.Env)}
	key := k.sum(before, f.Outputs)
	if !req.Force {
		if len(src.artifacts) == 0 {
			// Nothing is kept: the folder itself has to be of that build.
			if f.Last[k.id()] == key && f.complete(before, left) {
				return "", true, s.save(src, f, before)
			}
		} else if digest, ok := s.result(key, src); ok {
			return digest, true, s.save(src, f, before)
		} else if f.Last[k.id()] == key && src.untouched(f.Ended[k.id()]) {
			// Built for a service with other artifacts, or the result was pruned; what it left may be gone.
			if digest, err := s.collect(ctx, src); err == nil {
				return digest, true, errors.Join(s.remember(key, src, digest), s.save(src, f, before))
			}
		}
	}
	return s.run(ctx, req, src, f, k, before, left)
}

// run runs the build and keeps its result; leftBefore is what was left out of the tree before.
func (s *Store) run(ctx context.Context, req Request, src source, f *folder, k buildKey, before tree, leftBefore []string) (string, bool, error) {
	// Should the build be cut off, nobody may take what it left for a result.
	delete(f.Last, k.id())
	f.changed = true
	if err := s.save(src, f, before); err != nil {
		return "", false, err
	}
	if err := runCommand(ctx, src.dir, req.Process.Build, req.Env, req.Output); err != nil {
		return "", false, err
	}
	ended := time.Now()
	after, left, err := src.scan(ctx, f)
	if err != nil {
		return "", false, err
	}
	_, again := f.Ended[k.id()]
	steady := f.classify(src, before, after, again)
	f.noteMade(leftBefore, left)
	digest := ""
	if len(src.artifacts) > 0 {
		if digest, err = s.collect(ctx, src); err != nil {
			return "", false, err
		}
	}
	if steady {
		key := k.sum(after, f.Outputs)
		f.Last[k.id()], f.Ended[k.id()] = key, ended.UnixNano()
		if err := s.remember(key, src, digest); err != nil {
			return "", false, err
		}
	}
	return digest, false, s.save(src, f, after)
}

// take keeps artifacts that nobody builds.
func (s *Store) take(ctx context.Context, src source, f *folder) (string, bool, error) {
	if len(src.artifacts) == 0 {
		return "", true, nil
	}
	now, err := src.scanArtifacts(ctx, f)
	if err != nil {
		return "", false, err
	}
	key := buildKey{}.sum(now, nil)
	if digest, ok := s.result(key, src); ok {
		return digest, true, s.save(src, f, now)
	}
	digest, err := s.collect(ctx, src)
	if err != nil {
		return "", false, err
	}
	return digest, false, errors.Join(s.remember(key, src, digest), s.save(src, f, now))
}

// Prune removes the artifacts that are not in keep, but for those of the last hour.
func (s *Store) Prune(keep map[string]bool) error {
	entries, err := os.ReadDir(s.dir)
	if err != nil {
		return fmt.Errorf("prune artifacts: %w", err)
	}
	var errs []error
	for _, e := range entries {
		name := e.Name()
		left := strings.HasPrefix(name, tempPrefix)
		if !left && (!validDigest(name) || keep[name]) {
			continue
		}
		age := keepYoung
		if left {
			age = 24 * time.Hour // of a build that was killed; one that is under way is younger
		}
		if info, err := e.Info(); err == nil && time.Since(info.ModTime()) > age {
			errs = append(errs, s.discard(name))
		}
	}
	errs = append(errs, s.forget())
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("prune artifacts: %w", err)
	}
	return nil
}

// discard takes the folder's name away first, so that nobody finds half of it.
func (s *Store) discard(name string) error {
	path := filepath.Join(s.dir, name)
	if !strings.HasPrefix(name, tempPrefix) {
		gone, err := os.MkdirTemp(s.dir, tempPrefix)
		if err != nil {
			return err
		}
		// Moving a folder writes to it.
		if err := errors.Join(os.Chmod(path, 0o755), os.Rename(path, filepath.Join(gone, name))); err != nil {
			return errors.Join(err, os.Remove(gone))
		}
		path = gone
	}
	return removeReadOnly(path)
}

// removeReadOnly removes a tree with folders that cannot be written.
func removeReadOnly(path string) error {
	err := filepath.WalkDir(path, func(p string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() {
			return os.Chmod(p, 0o755)
		}
		return err
	})
	return errors.Join(err, os.RemoveAll(path))
}

// buildKey is what a build depends on besides the source tree.
type buildKey struct {
	command string
	env     []string
}

// id names the build within its folder.
func (k buildKey) id() string {
	h := sha256.New()
	fmt.Fprintf(h, "%q %q", k.command, k.env)
	return hex.EncodeToString(h.Sum(nil))
}

// sum returns the key for a tree, without the files that are as a build left them.
func (k buildKey) sum(t tree, outputs map[string]sum) string {
	h := sha256.New()
	fmt.Fprintf(h, "%s\n", k.id())
	for _, e := range t {
		if left, ok := outputs[e.path]; !ok || left != e.sum {
			fmt.Fprintf(h, "%q %c %x\n", e.path, e.kind, e.sum)
		}
	}
	return hex.EncodeToString(h.Sum(nil))
}

// steering returns the variables of env that count into a build's key, sorted.
func steering(command string, env []string) []string {
	prefixes := []string{
		"GO", "CGO_", "CARGO_", "RUST", "NPM_CONFIG_", "npm_config_", "PIP_", "PYTHON", "JAVA_", "MAVEN_", "GRADLE_", "DOTNET_",
		// What the bundlers of web pages write into them.
		"VITE_", "NEXT_PUBLIC_", "REACT_APP_", "VUE_APP_", "GATSBY_", "PUBLIC_",
	}
	names := []string{"CC", "CXX", "AR", "LD", "CFLAGS", "CPPFLAGS", "CXXFLAGS", "LDFLAGS", "MAKEFLAGS", "NODE_ENV", "NODE_OPTIONS", "TARGETARCH", "TARGETOS"}
	var out []string
	for _, kv := range env {
		name, _, _ := strings.Cut(kv, "=")
		// Where Go caches and what it prints changes nothing of what it builds.
		if slices.Contains([]string{"GOCACHE", "GOMODCACHE", "GOPATH", "GOTMPDIR", "GOTRACEBACK", "GORACE", "GOCOVERDIR"}, name) {
			continue
		}
		if slices.Contains(names, name) || namedIn(command, name) ||
			slices.ContainsFunc(prefixes, func(p string) bool { return strings.HasPrefix(name, p) }) {
			out = append(out, kv)
		}
	}
	slices.Sort(out)
	return out
}

// namedIn says whether a shell command line refers to the variable.
func namedIn(command, name string) bool {
	if name == "" {
		return false
	}
	for rest := command; ; {
		i := strings.Index(rest, name)
		if i < 0 {
			return false
		}
		before, after := rest[:i], rest[i+len(name):]
		if (strings.HasSuffix(before, "$") || strings.HasSuffix(before, "${")) && (after == "" || !isWord(after[0])) {
			return true
		}
		rest = after
	}
}

func isWord(c byte) bool {
	return c == '_' || c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z'
}

// newSource checks what a request says about its folder.
func newSource(store string, p compose.Process) (source, error) {
	if !filepath.IsAbs(p.Dir) {
		return source{}, fmt.Errorf("%w: the folder %q is not an absolute path", errdefs.ErrInvalid, p.Dir)
	}
	dir, err := filepath.EvalSymlinks(p.Dir)
	if err != nil {
		return source{}, fmt.Errorf("%w: the folder to build in: %w", errdefs.ErrInvalid, err)
	}
	if info, err := os.Stat(dir); err != nil || !info.IsDir() {
		return source{}, fmt.Errorf("%w: %s is not a folder", errdefs.ErrInvalid, p.Dir)
	}
	if resolved, err := filepath.EvalSymlinks(store); err == nil {
		store = resolved
	}
	src := source{dir: dir, store: store}
	for _, a := range p.Artifacts {
		clean := filepath.Clean(a)
		if !filepath.IsLocal(clean) {
			return source{}, fmt.Errorf("%w: the artifact %q is outside of %s", errdefs.ErrInvalid, a, p.Dir)
		}
		src.artifacts = append(src.artifacts, filepath.ToSlash(clean))
	}
	slices.Sort(src.artifacts)
	src.artifacts = slices.Compact(src.artifacts)
	return src, nil
}
