package state

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"trellis/errdefs"
)

const (
	keyFile    = "key"
	tempPrefix = "tmp-"
)

// Contents keeps the contents of secrets and configs outside of the revisions, which hold their refs. A ref is
// HMAC-SHA256 of the content under a random key that stays in the folder: who sees a ref, in a plan or an event, can
// not test guesses of a short secret against it. Files are 0400 in a 0700 folder and never change. All methods are safe
// for concurrent use, also between processes.
type Contents struct {
	dir string
	key []byte
}

// OpenContents opens the content store in dir, and makes it if there is none. A folder with contents but without its
// key is an error: nothing in it could be verified.
func OpenContents(dir string) (*Contents, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, fmt.Errorf("open contents %s: %w", dir, err)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("open contents %s: %w", dir, err)
	}
	if err := os.Chmod(dir, 0o700); err != nil {
		return nil, fmt.Errorf("open contents %s: %w", dir, err)
	}
	c := &Contents{dir: dir}
	if c.key, err = c.loadKey(); err != nil {
		return nil, fmt.Errorf("open contents %s: %w", dir, err)
	}
	return c, nil
}

func (c *Contents) loadKey() ([]byte, error) {
	path := filepath.Join(c.dir, keyFile)
	key, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		if err := c.makeKey(path); err != nil {
			return nil, err
		}
		key, err = os.ReadFile(path)
	}
	if err != nil {
		return nil, err
	}
	if len(key) != sha256.Size {
		return nil, fmt.Errorf("%s has %d bytes instead of %d: restore it from a backup", path, len(key), sha256.Size)
	}
	return key, nil
}

func (c *Contents) makeKey(path string) error {
	entries, err := os.ReadDir(c.dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if validRef(e.Name()) {
			if _, err := os.Stat(path); err == nil { // another process made it meanwhile
				return nil
			}
			return fmt.Errorf("%s is missing, and there are contents under it: restore it from a backup", path)
		}
	}
	key := make([]byte, sha256.Size)
	rand.Read(key)
	tmp, err := c.temp(key)
	if err != nil {
		return err
	}
	// A link fails where the name is taken: of two processes that make a key one wins, and both use its.
	err = os.Link(tmp, path)
	if errors.Is(err, fs.ErrExist) {
		err = nil
	}
	return errors.Join(err, os.Remove(tmp), syncDir(c.dir))
}

// Put keeps data and returns its ref. It is on disk when Put returns. The same data again: the same ref.
func (c *Contents) Put(data []byte) (ref string, err error) {
	ref = c.Ref(data)
	// A file that is there was complete when it got its name; Get notices one that was changed since.
	if _, err := c.Get(ref); err == nil {
		// Another process may have given it its name a moment ago, and not yet have the folder on disk.
		if err := syncDir(c.dir); err != nil {
			return "", fmt.Errorf("put content: %w", err)
		}
		return ref, nil
	}
	tmp, err := c.temp(data)
	if err != nil {
		return "", fmt.Errorf("put content: %w", err)
	}
	if err := os.Rename(tmp, filepath.Join(c.dir, ref)); err != nil {
		return "", fmt.Errorf("put content: %w", errors.Join(err, os.Remove(tmp)))
	}
	if err := syncDir(c.dir); err != nil {
		return "", fmt.Errorf("put content: %w", err)
	}
	return ref, nil
}

// temp writes data to a new file of the folder, 0400 and synced.
func (c *Contents) temp(data []byte) (name string, err error) {
	f, err := os.CreateTemp(c.dir, tempPrefix+"*")
	if err != nil {
		return "", err
	}
	_, err = f.Write(data)
	if err == nil {
		err = f.Chmod(0o400)
	}
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return "", errors.Join(err, os.Remove(f.Name()))
	}
	return f.Name(), nil
}

// Path returns the file that holds the content, which may not exist; "" for what cannot be a ref.
func (c *Contents) Path(ref string) string {
	if !validRef(ref) {
		return ""
	}
	return filepath.Join(c.dir, ref)
}

// Get returns the content. None: ErrNotFound. A file that does not hold what was put: an error that names it.
func (c *Contents) Get(ref string) ([]byte, error) {
	path := c.Path(ref)
	if path == "" {
		return nil, fmt.Errorf("read content: %w: %q is no ref", errdefs.ErrInvalid, ref)
	}
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("read content %s: %w", ref, errdefs.ErrNotFound)
	}
	if err != nil {
		return nil, fmt.Errorf("read content %s: %w", ref, err)
	}
	if !hmac.Equal([]byte(c.Ref(data)), []byte(ref)) {
		return nil, fmt.Errorf("read content %s: %s was changed since it was written: apply the project again", ref, path)
	}
	return data, nil
}

// Prune removes the contents whose ref is not in keep, and what a killed Put left unfinished. A content put while
// Prune runs may be removed: put after.
func (c *Contents) Prune(keep map[string]bool) error {
	entries, err := os.ReadDir(c.dir)
	if err != nil {
		return fmt.Errorf("prune contents: %w", err)
	}
	var errs []error
	for _, e := range entries {
		if ref := e.Name(); validRef(ref) && !keep[ref] || c.abandoned(e) {
			if err := os.Remove(filepath.Join(c.dir, ref)); err != nil && !errors.Is(err, fs.ErrNotExist) {
				errs = append(errs, err)
			}
		}
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("prune contents: %w", err)
	}
	return nil
}

// abandoned says whether e is a temporary file that nobody is writing any more.
func (c *Contents) abandoned(e fs.DirEntry) bool {
	if !strings.HasPrefix(e.Name(), tempPrefix) {
		return false
	}
	info, err := e.Info()
	return err == nil && time.Since(info.ModTime()) > time.Hour
}

// Ref returns the name under which Put keeps data, and writes nothing.
func (c *Contents) Ref(data []byte) string {
	mac := hmac.New(sha256.New, c.key)
	mac.Write(data)
	return hex.EncodeToString(mac.Sum(nil))
}

func validRef(ref string) bool {
	if len(ref) != 2*sha256.Size {
		return false
	}
	for _, r := range ref {
		if (r < '0' || r > '9') && (r < 'a' || r > 'f') {
			return false
		}
	}
	return true
}
