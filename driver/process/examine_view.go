//go:build linux

package process

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"trellis/driver"
	"trellis/shim"
)

// rootOf is the file system as a running instance sees it.
type rootOf struct {
	pid int
	fd  int
}

func openRoot(pid int) (rootOf, error) {
	fd, err := unix.Open(fmt.Sprintf("/proc/%d/root", pid), unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	return rootOf{pid, fd}, err
}

func (r rootOf) Close() { unix.Close(r.fd) }

// open opens a path as the instance does: its links lead to where they lead there.
func (r rootOf) open(path string, flags uint64) (int, error) {
	return unix.Openat2(r.fd, filepath.Join(".", path), &unix.OpenHow{
		Flags: flags | unix.O_CLOEXEC, Resolve: unix.RESOLVE_IN_ROOT,
	})
}

// maxRead is how much of a file is looked at: secrets and configs are smaller.
const maxRead = 16 << 20

func (r rootOf) read(path string) ([]byte, error) {
	fd, err := r.open(path, unix.O_RDONLY|unix.O_NONBLOCK) // what is there may be a pipe now
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(fd), path)
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, maxRead))
}

// place is what stands at a path: which file, and on which mount.
type place struct {
	device, inode uint64
	mode          uint32
	mount         string // its number
}

func (r rootOf) at(path string) (place, error) {
	fd, err := r.open(path, unix.O_PATH)
	if err != nil {
		return place{}, err
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return place{}, err
	}
	info, err := os.ReadFile("/proc/self/fdinfo/" + strconv.Itoa(fd))
	if err != nil {
		return place{}, err
	}
	p := place{device: st.Dev, inode: st.Ino, mode: st.Mode & 0o7777}
	for line := range strings.Lines(string(info)) {
		if number, ok := strings.CutPrefix(line, "mnt_id:"); ok {
			p.mount = strings.TrimSpace(number)
		}
	}
	return p, nil
}

// readOnlyMounts returns the numbers of the mounts of an instance that cannot be written.
func (r rootOf) readOnlyMounts() (map[string]bool, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/mountinfo", r.pid))
	return parseReadOnly(string(b)), err
}

// parseReadOnly reads a mountinfo: the numbers of the mounts whose own options, or those of their file system, say ro.
func parseReadOnly(text string) map[string]bool {
	all := map[string]bool{}
	for line := range strings.Lines(text) {
		before, after, _ := strings.Cut(line, " - ")
		left, right := strings.Fields(before), strings.Fields(after)
		if len(left) < 6 || len(right) < 3 {
			continue
		}
		all[left[0]] = left[5] == "ro" || strings.HasPrefix(left[5], "ro,") || right[2] == "ro" || strings.HasPrefix(right[2], "ro,")
	}
	return all
}

// examineView compares what an instance sees at the paths of its files and of its first so many mounts with what was put
// there.
func examineView(pid int, spec shim.Spec, mounts int) ([]driver.Deviation, error) {
	root, err := openRoot(pid)
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ESRCH) {
		return nil, nil // it has just ended
	}
	if err != nil {
		return nil, fmt.Errorf("look into it: %w", err)
	}
	defer root.Close()
	readOnly, err := root.readOnlyMounts()
	if err != nil {
		return nil, nil // it has just ended: Alive tells
	}
	var all []driver.Deviation
	for _, m := range spec.Mounts[:min(mounts, len(spec.Mounts))] {
		all = append(all, root.mounted(m, spec.ReadOnly, readOnly)...)
	}
	for _, f := range spec.Files {
		all = append(all, root.held(f)...)
	}
	return all, nil
}

// mounted compares one mount.
func (r rootOf) mounted(m shim.Mount, rootReadOnly bool, readOnly map[string]bool) []driver.Deviation {
	gone := func(message string) []driver.Deviation {
		return []driver.Deviation{{Field: driver.DeviatesMount, Key: m.Target, Want: "mounted", Message: message}}
	}
	at, err := r.at(m.Target)
	if err != nil {
		return gone("there is nothing at " + m.Target + " any more")
	}
	above, err := r.at(filepath.Dir(filepath.Clean(m.Target)))
	if err == nil && above.mount == at.mount {
		return gone("nothing is mounted at " + m.Target + " any more")
	}
	writable := true // by who may
	if m.Kind != shim.Tmpfs {
		source := filepath.Join(m.Source, m.Subpath)
		var st unix.Stat_t
		if err := unix.Stat(source, &st); err != nil || st.Dev != at.device || st.Ino != at.inode {
			return gone("what is mounted at " + m.Target + " is not " + source + " any more: it was removed or replaced")
		}
		var fs unix.Statfs_t
		writable = unix.Statfs(source, &fs) == nil && fs.Flags&unix.ST_RDONLY == 0
	}
	// A source that cannot be written itself makes no difference, nor does a root that is read-only as a whole.
	if now := readOnly[at.mount]; now != m.ReadOnly && (!now || writable && !rootReadOnly) {
		return []driver.Deviation{{Field: driver.DeviatesAccess, Key: m.Target, Want: m.ReadOnly, Have: now}}
	}
	return nil
}

// held compares one secret or config.
func (r rootOf) held(f shim.File) []driver.Deviation {
	want, err := os.ReadFile(f.Source)
	if err != nil {
		return nil // it is not there to compare with
	}
	have, err := r.read(f.Target)
	if err != nil {
		return []driver.Deviation{{Field: driver.DeviatesFile, Key: f.Target, Want: "content", Message: "there is nothing at " + f.Target + " any more"}}
	}
	var all []driver.Deviation
	if !bytes.Equal(want, have) {
		all = append(all, driver.Deviation{
			Field: driver.DeviatesFile, Key: f.Target, Want: "content", Have: "another content", Message: "the content at " + f.Target + " was changed",
		})
	}
	if at, err := r.at(f.Target); err == nil && at.mode != f.Mode&0o7777 {
		all = append(all, driver.Deviation{Field: driver.DeviatesMode, Key: f.Target, Want: octal(f.Mode & 0o7777), Have: octal(at.mode)})
	}
	return all
}

func octal(mode uint32) string { return fmt.Sprintf("%04o", mode) }
