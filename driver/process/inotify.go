//go:build linux

package process

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// inotify waits for changes of directories without holding a thread.
type inotify struct {
	file *os.File
	buf  []byte
	at   []byte // events that were read and not yet given
}

// change is one event of a directory.
type change struct {
	watch int32
	mask  uint32
	name  string
}

func newInotify() (*inotify, error) {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if errors.Is(err, unix.EMFILE) {
		return nil, errInstances
	}
	if err != nil {
		return nil, fmt.Errorf("inotify: %w", err)
	}
	return &inotify{file: os.NewFile(uintptr(fd), "inotify"), buf: make([]byte, 16<<10)}, nil
}

// errWatches is what the kernel calls no space on the device, and errInstances one meaning of its too many open files.
var (
	errWatches   = errors.New("this user watches as many files as may be: raise fs.inotify.max_user_watches (sysctl)")
	errInstances = errors.New("this user has as many inotify instances as may be, or this process as many files open: raise fs.inotify.max_user_instances (sysctl), or its limit of files")
)

// watch begins to watch a directory and returns its number.
func (n *inotify) watch(path string, mask uint32) (int32, error) {
	raw, err := n.file.SyscallConn()
	if err != nil {
		return 0, err
	}
	var wd int
	var failed error
	err = raw.Control(func(fd uintptr) {
		wd, failed = unix.InotifyAddWatch(int(fd), path, mask|unix.IN_ONLYDIR)
	})
	if errors.Is(failed, unix.ENOSPC) {
		failed = errWatches
	}
	if failed != nil {
		return 0, &os.PathError{Op: "watch", Path: path, Err: failed}
	}
	return int32(wd), err
}

// next returns the next event; ok is false when none came before the deadline. One that is there comes whatever the deadline:
// Go does not even look where it has passed.
func (n *inotify) next(deadline time.Time) (c change, ok bool, err error) {
	for len(n.at) < unix.SizeofInotifyEvent {
		if soon := time.Now().Add(time.Millisecond); !deadline.IsZero() && deadline.Before(soon) {
			deadline = soon
		}
		if err := n.file.SetReadDeadline(deadline); err != nil {
			return c, false, err
		}
		got, err := n.file.Read(n.buf)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return c, false, nil
		}
		if err != nil {
			return c, false, err
		}
		n.at = n.buf[:got]
	}
	c, n.at = parseChange(n.at)
	return c, true, nil
}

func parseChange(b []byte) (change, []byte) {
	c := change{watch: int32(binary.NativeEndian.Uint32(b)), mask: binary.NativeEndian.Uint32(b[4:])}
	size := int64(binary.NativeEndian.Uint32(b[12:]))
	b = b[unix.SizeofInotifyEvent:]
	if size > int64(len(b)) {
		return c, nil
	}
	name, _, _ := bytes.Cut(b[:size], []byte{0})
	c.name = string(name)
	return c, b[size:]
}

// unwatch ends the watch of a directory, which may be gone.
func (n *inotify) unwatch(number int32) {
	if raw, err := n.file.SyscallConn(); err == nil {
		_ = raw.Control(func(fd uintptr) { _, _ = unix.InotifyRmWatch(int(fd), uint32(number)) })
	}
}

func (n *inotify) close() { n.file.Close() }
