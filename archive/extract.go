package archive

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// Extract writes what an archive holds into dir, which has to be an empty directory that nobody else can write to. It
// checks all that Check does; on an error dir holds a part. Owners are set as allow says, where this process may.
func Extract(ctx context.Context, r io.Reader, dir string, allow Rule, limits Limits) (Head, error) {
	t := &target{dir: dir, root: os.Geteuid() == 0, waiting: map[string]pending{}}
	head, err := read(ctx, r, allow, limits, t)
	if t.file != nil {
		err = errors.Join(err, t.file.Close())
	}
	return head, err
}

// target is where an archive is written to. Every directory on the way to a member is one that this target has made:
// package archive's order sees to that.
type target struct {
	dir     string
	root    bool
	file    *os.File // being written
	waiting map[string]pending
}

// pending is a directory that gets its own mode and time once all that is in it is there.
type pending struct {
	m     Member
	owner bool
}

func (t *target) path(name string) string { return filepath.Join(t.dir, filepath.FromSlash(name)) }

func (t *target) open(m Member, owner bool) (err error) {
	switch m.Kind {
	case Dir:
		t.waiting[m.Name] = pending{m, owner}
		err = os.Mkdir(t.path(m.Name), 0o700)
	case Link:
		err = os.Symlink(m.Target, t.path(m.Name))
	default:
		t.file, err = os.OpenFile(t.path(m.Name), os.O_WRONLY|os.O_CREATE|os.O_EXCL|unix.O_NOFOLLOW, 0o600)
	}
	if err != nil {
		return fmt.Errorf("write %s: %w", m.Name, err)
	}
	return nil
}

func (t *target) write(piece []byte, hole bool) error {
	var err error
	if hole {
		_, err = t.file.Seek(int64(len(piece)), io.SeekCurrent)
	} else {
		_, err = t.file.Write(piece)
	}
	return err
}

// finish gives a member that is complete its owner, mode and time.
func (t *target) finish(m Member, owner bool) error {
	switch m.Kind {
	case Dir:
		return nil // later
	case File:
		err := t.file.Truncate(m.Size) // a hole at its end
		err = errors.Join(err, t.file.Close())
		t.file = nil
		if err != nil {
			return fmt.Errorf("write %s: %w", m.Name, err)
		}
	}
	return t.settle(m, owner)
}

// close finishes directories, innermost first.
func (t *target) close(names []string) error {
	for _, name := range names {
		p := t.waiting[name]
		delete(t.waiting, name)
		if err := t.settle(p.m, p.owner); err != nil {
			return err
		}
	}
	return nil
}

func (t *target) settle(m Member, owner bool) error {
	path := t.path(m.Name)
	var err error
	if owner && t.root {
		err = os.Lchown(path, m.UID, m.GID)
	}
	if err == nil && m.Kind != Link {
		err = unix.Chmod(path, m.Mode) // after the owner: changing that takes setuid away
	}
	if err == nil {
		err = setTime(path, m.Modified)
	}
	if err != nil {
		return fmt.Errorf("write %s: %w", m.Name, err)
	}
	return nil
}

func setTime(path string, at time.Time) error {
	ts, err := unix.TimeToTimespec(at)
	if err != nil {
		return err
	}
	return unix.UtimesNanoAt(unix.AT_FDCWD, path, []unix.Timespec{ts, ts}, unix.AT_SYMLINK_NOFOLLOW)
}
