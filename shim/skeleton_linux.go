package shim

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// target returns an O_PATH descriptor of the mount point at path, made if it is not there, and its path without
// symbolic links. Links are followed where root made them: /var/run is one; a service's own are not.
func (v *view) target(path string, isDir bool) (int, string, error) {
	for range 40 {
		fd, at, rest, err := walk(path)
		if err != nil {
			return -1, "", err
		}
		if len(rest) == 0 {
			err := kind(fd, isDir)
			if err != nil {
				unix.Close(fd)
				return -1, "", err
			}
			return fd, at, nil
		}
		if !v.writable(at) {
			unix.Close(fd)
			if err := v.skeleton(at); err != nil {
				return -1, "", err
			}
			path = filepath.Join(append([]string{at}, rest...)...)
			continue
		}
		err = v.fill(fd, at, rest, isDir)
		unix.Close(fd)
		if err != nil {
			return -1, "", err
		}
		path = filepath.Join(append([]string{at}, rest...)...)
	}
	return -1, "", errors.New("too many symbolic links")
}

func kind(fd int, isDir bool) error {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return err
	}
	switch is := st.Mode&unix.S_IFMT == unix.S_IFDIR; {
	case isDir && !is:
		return errors.New("the source is a directory, what is there is not")
	case !isDir && is:
		return errors.New("the source is a file, what is there is a directory")
	}
	return nil
}

// walk goes down path as far as it exists: a descriptor of where it ends, its path, and the names that are missing.
func walk(path string) (int, string, []string, error) {
	links := 0
again:
	fd, err := unix.Open("/", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, "", nil, err
	}
	at := "/"
	names := strings.FieldsFunc(filepath.Clean(path), func(r rune) bool { return r == '/' })
	for i, name := range names {
		next, err := unix.Openat(fd, name, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
		if errors.Is(err, unix.ENOENT) {
			return fd, at, names[i:], nil
		}
		if err != nil {
			unix.Close(fd)
			return -1, "", nil, fmt.Errorf("open %s: %w", filepath.Join(at, name), err)
		}
		var st unix.Stat_t
		if err := unix.Fstat(next, &st); err != nil {
			unix.Close(fd)
			unix.Close(next)
			return -1, "", nil, err
		}
		if st.Mode&unix.S_IFMT == unix.S_IFLNK {
			link, err := readlink(next)
			unix.Close(fd)
			unix.Close(next)
			links++
			switch {
			case err != nil:
				return -1, "", nil, err
			case st.Uid != 0:
				return -1, "", nil, fmt.Errorf("%s is a symbolic link that root did not make", filepath.Join(at, name))
			case links > 40:
				return -1, "", nil, errors.New("too many symbolic links")
			case !filepath.IsAbs(link):
				link = filepath.Join(at, link)
			}
			path = filepath.Join(append([]string{link}, names[i+1:]...)...)
			goto again
		}
		unix.Close(fd)
		fd, at = next, filepath.Join(at, name)
	}
	return fd, at, nil, nil
}

func readlink(fd int) (string, error) {
	buf := make([]byte, unix.PathMax)
	n, err := unix.Readlinkat(fd, "", buf)
	if err != nil {
		return "", err
	}
	return string(buf[:n]), nil
}

// writable says whether mount points may be made in the directory at: it is the instance's own, or on a skeleton.
func (v *view) writable(at string) bool {
	if v.made[at] {
		return true
	}
	return slices.ContainsFunc(v.own, func(own string) bool {
		return at == own || strings.HasPrefix(at, own+"/")
	})
}

// fill makes the missing names below the directory fd: directories, and the last one a file if the mount is one.
func (v *view) fill(fd int, at string, names []string, isDir bool) error {
	cur, err := unix.Dup(fd)
	if err != nil {
		return err
	}
	defer func() { unix.Close(cur) }()
	onSkeleton := v.made[at]
	for i, name := range names {
		at = filepath.Join(at, name)
		if i == len(names)-1 && !isDir {
			f, err := unix.Openat(cur, name, unix.O_CREAT|unix.O_EXCL|unix.O_WRONLY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o644)
			if err != nil {
				return fmt.Errorf("make mount point %s: %w", at, err)
			}
			unix.Close(f)
			return nil
		}
		if err := unix.Mkdirat(cur, name, 0o755); err != nil && !errors.Is(err, unix.EEXIST) {
			return fmt.Errorf("make mount point %s: %w", at, err)
		}
		next, err := unix.Openat(cur, name, unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
		if err != nil {
			return fmt.Errorf("make mount point %s: %w", at, err)
		}
		unix.Close(cur)
		cur = next
		if onSkeleton {
			v.made[at] = true
		}
	}
	return nil
}

// skeleton covers the directory at path by a tmpfs that shows everything that was in it.
func (v *view) skeleton(path string) error {
	old, err := unix.Open(path, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(old)
	var st unix.Stat_t
	if err := unix.Fstat(old, &st); err != nil {
		return err
	}
	room := filepath.Join(v.dir, SkeletonDir)
	data := fmt.Sprintf("mode=%o,uid=%d,gid=%d", st.Mode&0o7777, st.Uid, st.Gid)
	if err := unix.Mount("tmpfs", room, "tmpfs", 0, data); err != nil {
		return fmt.Errorf("mount tmpfs for %s: %w", path, err)
	}
	// Unbindable while it is filled: the copies of what lies above it leave it out.
	if err := unix.Mount("", room, "", unix.MS_UNBINDABLE, ""); err != nil {
		return err
	}
	if err := show(old, path, room); err != nil {
		return fmt.Errorf("show the entries of %s: %w", path, err)
	}
	if err := unix.Mount("", room, "", unix.MS_PRIVATE, ""); err != nil {
		return err
	}
	if path == "/" {
		err = changeRoot(room)
	} else {
		err = unix.Mount(room, self(old), "", unix.MS_MOVE, "")
	}
	if err != nil {
		return fmt.Errorf("cover %s: %w", path, err)
	}
	v.made[path] = true
	v.skeletons = append(v.skeletons, path)
	v.covered = append(v.covered, cover(path, st))
	return nil
}

// show makes every entry of the directory old appear in room.
func show(old int, path, room string) error {
	list, err := os.ReadDir(self(old))
	if err != nil {
		return err
	}
	if len(list) > maxSkeleton {
		return fmt.Errorf("%d entries are too many, at most %d", len(list), maxSkeleton)
	}
	for _, e := range list {
		if err := showEntry(old, e.Name(), filepath.Join(room, e.Name())); err != nil {
			if missing(err) {
				continue // it went while we looked
			}
			return fmt.Errorf("%s: %w", filepath.Join(path, e.Name()), err)
		}
	}
	return nil
}

func showEntry(old int, name, to string) error {
	fd, err := unix.Openat(old, name, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return err
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFLNK:
		link, err := readlink(fd)
		if err != nil {
			return err
		}
		if err := unix.Symlink(link, to); err != nil {
			return err
		}
		return unix.Lchown(to, int(st.Uid), int(st.Gid))
	case unix.S_IFDIR:
		err = unix.Mkdir(to, 0o755)
	default:
		var f int
		if f, err = unix.Open(to, unix.O_CREAT|unix.O_EXCL|unix.O_WRONLY|unix.O_CLOEXEC, 0o600); err == nil {
			unix.Close(f)
		}
	}
	if err != nil {
		return err
	}
	return unix.Mount(self(fd), to, "", unix.MS_BIND|unix.MS_REC, "")
}

// changeRoot makes room the root of the mount namespace.
func changeRoot(room string) error {
	if err := unix.Chdir(room); err != nil {
		return err
	}
	err := unix.PivotRoot(".", ".")
	if errors.Is(err, unix.EINVAL) { // an initial ramdisk as the root
		if err := unix.Mount(".", "/", "", unix.MS_MOVE, ""); err != nil {
			return err
		}
		if err := unix.Chroot("."); err != nil {
			return err
		}
		return unix.Chdir("/")
	}
	if err != nil {
		return err
	}
	if err := unix.Unmount(".", unix.MNT_DETACH); err != nil {
		return err
	}
	return unix.Chdir("/")
}
