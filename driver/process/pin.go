//go:build linux

package process

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"trellis/driver"
	"trellis/netspace"
)

// pinNamespace makes a network namespace that lives as long as its path is mounted.
func (d *Driver) pinNamespace(path string) error {
	if isNamespace(path) {
		return nil
	}
	// The file is made while the room stands: a room with something in it is not taken away.
	err := locked(func() error {
		if err := makeRoom(d.netnsDir()); err != nil {
			return err
		}
		f, err := os.OpenFile(path, os.O_CREATE|os.O_RDONLY|unix.O_NOFOLLOW, 0o600)
		if err != nil {
			return err
		}
		return f.Close()
	})
	if err != nil {
		return err
	}
	return inNewNamespace(func() error {
		lo, err := netlink.LinkByName("lo")
		if err == nil {
			err = netlink.LinkSetUp(lo)
		}
		if err != nil {
			return fmt.Errorf("set up loopback: %w", err)
		}
		// As container engines have it: any user may listen on any port of a namespace of one service.
		if err := os.WriteFile("/proc/sys/net/ipv4/ip_unprivileged_port_start", []byte("0"), 0); err != nil {
			d.log.Warn("low ports stay with root", "project", d.cfg.Project, "err", err)
		}
		if err := netspace.RedirectNames(driver.NamesNetwork, driver.NamesListener); err != nil {
			return err
		}
		if err := unix.Mount("/proc/thread-self/ns/net", path, "", unix.MS_BIND, ""); err != nil {
			return fmt.Errorf("pin the network namespace: %w", err)
		}
		return nil
	})
}

// inNewNamespace calls f on a thread that has a new network namespace.
func inNewNamespace(f func() error) error {
	return netspace.OnThread(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("make a network namespace: %w", err)
		}
		return nil
	}, f)
}

// makeRoom makes the directory of namespaces a private mount point, so that one unmount drops them all from the view of
// an instance, which would keep the other instances' namespaces alive. The caller holds the machine's lock: of two that
// mount at once, the later would hide the earlier's namespaces.
func makeRoom(dir string) error {
	if mounted(dir) {
		return nil
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	if err := unix.Mount(dir, dir, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("mount %s: %w", dir, err)
	}
	if err := unix.Mount("", dir, "", unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("mount %s: %w", dir, err)
	}
	return nil
}

// stackLimit is more often than anybody mounts on one directory.
const stackLimit = 64

// clearRoom takes the room of namespaces away if it is empty, however often it was mounted. The caller holds the
// machine's lock.
func clearRoom(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) > 0 {
		return nil // not there, or in use
	}
	for range stackLimit {
		if !mounted(dir) {
			break
		}
		if err := unmount(dir); err != nil {
			return fmt.Errorf("unmount %s: %w", dir, err)
		}
	}
	_ = unix.Rmdir(dir) // refused while something is in it
	return nil
}

// unpin lets go of the namespace at path. One that a second mount of the room hides is left while that mount has
// namespaces of its own; the next List tries again. The caller holds the machine's lock.
func unpin(path string) error {
	for range stackLimit {
		if err := unmount(path); err != nil {
			return fmt.Errorf("unpin %s: %w", path, err)
		}
		err := os.Remove(path)
		if err == nil || isMissing(err) {
			return nil
		}
		if !errors.Is(err, unix.EBUSY) {
			return err
		}
		if peeled, err := peel(filepath.Dir(path)); !peeled || err != nil {
			return err
		}
	}
	return nil
}

// peel takes away the uppermost mount of dir if no namespace is pinned on it.
func peel(dir string) (bool, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return false, err
	}
	for _, e := range entries {
		if isNamespace(filepath.Join(dir, e.Name())) {
			return false, nil
		}
	}
	if !mounted(dir) {
		return false, nil
	}
	if err := unmount(dir); err != nil {
		return false, fmt.Errorf("unmount %s: %w", dir, err)
	}
	return true, nil
}

// unmount takes away what is mounted at path; nothing there is no error.
func unmount(path string) error {
	err := unix.Unmount(path, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOENT) {
		return nil
	}
	return err
}

// mounted says whether something is mounted at path. The kernel is asked about the path as it resolves it: a list of
// mounts has no links in it, and writes some characters otherwise.
func mounted(path string) bool {
	var st unix.Statx_t
	if err := unix.Statx(unix.AT_FDCWD, path, unix.AT_SYMLINK_NOFOLLOW, 0, &st); err != nil {
		return false
	}
	if st.Attributes_mask&unix.STATX_ATTR_MOUNT_ROOT != 0 {
		return st.Attributes&unix.STATX_ATTR_MOUNT_ROOT != 0
	}
	return listedAsMount(path)
}

// listedAsMount is mounted for kernels before 5.8.
func listedAsMount(path string) bool {
	b, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return false
	}
	if resolved, err := filepath.EvalSymlinks(path); err == nil {
		path = resolved
	}
	path = strings.ReplaceAll(path, " ", `\040`)
	for line := range strings.Lines(string(b)) {
		if f := strings.Fields(line); len(f) > 4 && f[4] == path {
			return true
		}
	}
	return false
}

func isNamespace(path string) bool {
	var st unix.Statfs_t
	return unix.Statfs(path, &st) == nil && st.Type == nsfsMagic
}
