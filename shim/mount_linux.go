package shim

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// view builds what an instance sees, in a mount namespace of its own. Nothing is ever made on the host for it: where
// the directory of a target lacks an entry, the directory is covered by a tmpfs that shows every entry it had (a
// skeleton), and the mount point is made there. Only inside the instance's own volumes and binds are mount points made
// for real, as container engines do.
type view struct {
	dir       string          // instance directory
	own       []string        // targets mounted so far
	made      map[string]bool // directories on a skeleton's tmpfs
	skeletons []string
	covered   []covered // by them
}

// entry is one path to be mounted.
type entry struct {
	target string
	source int // O_PATH descriptor, -1 for a tmpfs
	isDir  bool
	mount  Mount
	file   *File
	// detached says that source is a mount of its own, which has no place yet.
	detached bool
}

// maxSkeleton is how many entries a directory may have to be shown by a skeleton.
const maxSkeleton = 16384

func mountAll(spec Spec, dir string) ([]covered, error) {
	if err := unix.Mount("", "/", "", unix.MS_SLAVE|unix.MS_REC, ""); err != nil {
		return nil, fmt.Errorf("keep mounts private: %w", err)
	}
	for _, path := range spec.Mask {
		for range 8 { // whoever mounted there twice hid the first, not more
			if unix.Unmount(path, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW) != nil {
				break
			}
		}
	}
	v := &view{dir: dir, made: map[string]bool{}}
	entries := plan(spec)
	for _, e := range entries {
		first, _, _ := strings.Cut(strings.TrimPrefix(e.target, "/"), "/")
		if _, err := os.Lstat("/" + first); missing(err) {
			if err := v.skeleton("/"); err != nil {
				return nil, fmt.Errorf("make room for %s: %w", e.target, err)
			}
			break
		}
	}
	// Sources are found before any mount can hide them, and before the root's being read-only can reach them.
	if err := v.open(spec, entries); err != nil {
		return nil, err
	}
	if spec.ReadOnly {
		if err := v.readOnlyRoot(); err != nil {
			return nil, err
		}
	}
	for _, e := range entries {
		if err := v.mount(e); err != nil {
			return nil, fmt.Errorf("mount %s: %w", e.target, err)
		}
		if e.source >= 0 {
			unix.Close(e.source)
		}
	}
	return v.covered, v.finish(spec)
}

// plan returns the entries of spec, parents before children.
func plan(spec Spec) []entry {
	var all []entry
	for _, m := range spec.Mounts {
		all = append(all, entry{target: filepath.Clean(m.Target), source: -1, isDir: true, mount: m})
	}
	for i := range spec.Files {
		all = append(all, entry{target: filepath.Clean(spec.Files[i].Target), source: -1, file: &spec.Files[i]})
	}
	if spec.ShmSize > 0 {
		all = append(all, entry{target: "/dev/shm", source: -1, isDir: true,
			mount: Mount{Kind: Tmpfs, Target: "/dev/shm", Size: spec.ShmSize, Mode: 0o1777}})
	}
	slices.SortStableFunc(all, func(a, b entry) int { return cmp.Compare(a.target, b.target) })
	return all
}

// open opens the sources of entries and puts the content of files on a tmpfs.
func (v *view) open(spec Spec, entries []entry) error {
	for i := range entries {
		e := &entries[i]
		var err error
		switch {
		case e.file != nil || e.mount.Kind == Tmpfs:
			continue
		case e.mount.Kind == Bind:
			err = e.openBind()
		case e.mount.Kind == Volume:
			err = e.openVolume()
		default:
			err = fmt.Errorf("kind %q is not known", e.mount.Kind)
		}
		if err == nil && spec.ReadOnly {
			err = e.detach()
		}
		if err != nil {
			return fmt.Errorf("mount %s: %w", e.target, err)
		}
	}
	if len(spec.Files) == 0 {
		return nil
	}
	room := filepath.Join(v.dir, FilesDir)
	if err := unix.Mount("tmpfs", room, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=0700"); err != nil {
		return fmt.Errorf("mount tmpfs for files: %w", err)
	}
	for i := range entries {
		if e := &entries[i]; e.file != nil {
			fd, err := e.file.place(filepath.Join(room, strconv.Itoa(i)))
			if err != nil {
				return fmt.Errorf("file %s: %w", e.target, err)
			}
			e.source = fd
		}
	}
	return nil
}

// detach makes a mount of the source, to be put at the target later.
func (e *entry) detach() error {
	fd, err := unix.OpenTree(e.source, "", unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_EMPTY_PATH|unix.AT_RECURSIVE)
	if err != nil {
		return fmt.Errorf("copy the mount of %s: %w", e.mount.Source, err)
	}
	unix.Close(e.source)
	e.source, e.detached = fd, true
	return nil
}

func (e *entry) openBind() error {
	fd, err := unix.Open(e.mount.Source, unix.O_PATH|unix.O_CLOEXEC, 0)
	if errors.Is(err, unix.ENOENT) && e.mount.CreateSource {
		if err := os.MkdirAll(e.mount.Source, 0o755); err != nil {
			return err
		}
		fd, err = unix.Open(e.mount.Source, unix.O_PATH|unix.O_CLOEXEC, 0)
	}
	if err != nil {
		return fmt.Errorf("bind source %s: %w", e.mount.Source, err)
	}
	return e.take(fd)
}

// openVolume opens a volume's directory, or a path below it that cannot lead out of it.
func (e *entry) openVolume() error {
	fd, err := unix.Open(e.mount.Source, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("volume %s: %w", e.mount.Source, err)
	}
	if e.mount.Subpath == "" {
		return e.take(fd)
	}
	sub, err := unix.Openat2(fd, e.mount.Subpath, &unix.OpenHow{
		Flags:   unix.O_PATH | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_MAGICLINKS | unix.RESOLVE_NO_SYMLINKS,
	})
	unix.Close(fd)
	if err != nil {
		return fmt.Errorf("volume %s: subpath %s: %w", e.mount.Source, e.mount.Subpath, err)
	}
	return e.take(sub)
}

func (e *entry) take(fd int) error {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		unix.Close(fd)
		return err
	}
	e.source, e.isDir = fd, st.Mode&unix.S_IFMT == unix.S_IFDIR
	return nil
}

// place writes the file's content to path and returns a descriptor of it.
func (f *File) place(path string) (int, error) {
	b, err := os.ReadFile(f.Source)
	if err != nil {
		return -1, err
	}
	out, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return -1, err
	}
	defer out.Close()
	if _, err := out.Write(b); err != nil {
		return -1, err
	}
	uid, gid := 0, 0
	if f.UID != "" {
		who, err := lookup(f.UID, nil)
		if err != nil {
			return -1, err
		}
		uid, gid = who.uid, who.gid
	}
	if f.GID != "" {
		group, _ := os.ReadFile("/etc/group")
		if gid, err = groupID(string(group), f.GID); err != nil {
			return -1, err
		}
	}
	if err := out.Chown(uid, gid); err != nil {
		return -1, err
	}
	if err := unix.Fchmod(int(out.Fd()), f.Mode&0o7777); err != nil {
		return -1, err
	}
	return unix.Open(path, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
}

// mount mounts e at its target.
func (v *view) mount(e entry) error {
	if e.target == "/" {
		return errors.New("the root cannot be a target")
	}
	at, path, err := v.target(e.target, e.isDir)
	if err != nil {
		return err
	}
	defer unix.Close(at)
	if e.source < 0 {
		data := "mode=" + strconv.FormatUint(uint64(cmp.Or(e.mount.Mode, 0o1777)), 8)
		if e.mount.Size > 0 {
			data += ",size=" + strconv.FormatInt(e.mount.Size, 10)
		}
		flags := uintptr(unix.MS_NOSUID | unix.MS_NODEV)
		if e.mount.ReadOnly {
			flags |= unix.MS_RDONLY
		}
		err = unix.Mount("tmpfs", self(at), "tmpfs", flags, data)
	} else if err = e.place(at); err == nil && (e.mount.ReadOnly || e.file != nil) {
		err = v.readOnly(path)
	}
	if err != nil {
		return err
	}
	v.own = append(v.own, path)
	return nil
}

// place puts the source at the mount point at.
func (e *entry) place(at int) error {
	if e.detached {
		return unix.MoveMount(e.source, "", at, "", unix.MOVE_MOUNT_F_EMPTY_PATH|unix.MOVE_MOUNT_T_EMPTY_PATH)
	}
	return unix.Mount(self(e.source), self(at), "", unix.MS_BIND|unix.MS_REC, "")
}

func self(fd int) string { return "/proc/self/fd/" + strconv.Itoa(fd) }

// readOnly makes what is mounted at path, and below it, read-only.
func (v *view) readOnly(path string) error {
	fd, err := unix.Open(path, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	err = unix.MountSetattr(fd, "", unix.AT_EMPTY_PATH|unix.AT_RECURSIVE, &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY})
	if errors.Is(err, unix.ENOSYS) { // before Linux 5.12
		var st unix.Statfs_t
		if err := unix.Fstatfs(fd, &st); err != nil {
			return err
		}
		kept := uintptr(st.Flags) & (unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC | unix.MS_NOATIME | unix.MS_NODIRATIME)
		err = unix.Mount("", self(fd), "", unix.MS_REMOUNT|unix.MS_BIND|unix.MS_RDONLY|kept, "")
	}
	if err != nil {
		return fmt.Errorf("make it read-only: %w", err)
	}
	return nil
}

// readOnlyRoot makes everything read-only but what a container's read_only leaves, /proc and /dev, and for now the
// skeleton that mount points are still made on.
func (v *view) readOnlyRoot() error {
	set := unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY}
	if err := unix.MountSetattr(unix.AT_FDCWD, "/", unix.AT_RECURSIVE, &set); err != nil {
		return fmt.Errorf("make the root read-only: %w", err)
	}
	clear := unix.MountAttr{Attr_clr: unix.MOUNT_ATTR_RDONLY}
	for _, path := range []string{"/proc", "/dev"} {
		err := unix.MountSetattr(unix.AT_FDCWD, path, unix.AT_RECURSIVE, &clear)
		if err != nil && !errors.Is(err, unix.EINVAL) { // not a mount point: part of the root
			return fmt.Errorf("make %s writable: %w", path, err)
		}
	}
	for _, path := range v.skeletons {
		if err := unix.MountSetattr(unix.AT_FDCWD, path, 0, &clear); err != nil {
			return fmt.Errorf("make %s writable: %w", path, err)
		}
	}
	return nil
}

// finish hides what served to build the view.
func (v *view) finish(spec Spec) error {
	if len(spec.Files) > 0 {
		if err := unix.Unmount(filepath.Join(v.dir, FilesDir), unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err != nil {
			return fmt.Errorf("hide the files' tmpfs: %w", err)
		}
	}
	if spec.ReadOnly {
		for _, path := range v.skeletons {
			err := unix.MountSetattr(unix.AT_FDCWD, path, 0, &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY})
			if err != nil {
				return fmt.Errorf("make %s read-only: %w", path, err)
			}
		}
	}
	for _, path := range spec.Mask {
		err := unix.Mount("tmpfs", path, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_RDONLY, "mode=0700,size=4k")
		if err != nil && !errors.Is(err, unix.ENOENT) {
			return fmt.Errorf("hide %s: %w", path, err)
		}
	}
	return nil
}
