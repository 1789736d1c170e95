package process

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"

	"trellis/shim"
)

// makeVolume makes the directory of a volume as the property of user, the one who mounts it first; "" is root. One that
// is there is not touched. It comes into being whole: what a crash leaves has another name, and is used again.
func (d *Driver) makeVolume(name, user string) error {
	d.making.Lock()
	defer d.making.Unlock()
	path := d.VolumeDir(name)
	if _, err := os.Lstat(path); err == nil || !isMissing(err) {
		return err
	}
	if err := os.MkdirAll(d.VolumeDir(""), 0o755); err != nil {
		return err
	}
	raw := d.VolumeDir(".new-" + name) // no name of a volume begins with a dot
	if err := os.Mkdir(raw, 0o755); err != nil && !errors.Is(err, os.ErrExist) {
		return err
	}
	uid, gid := 0, 0
	if user != "" {
		var err error
		if uid, gid, err = shim.Owner(user); err != nil {
			return errors.Join(err, os.Remove(raw))
		}
	}
	if err := os.Lchown(raw, uid, gid); err != nil {
		return err
	}
	err := unix.Renameat2(unix.AT_FDCWD, raw, unix.AT_FDCWD, path, unix.RENAME_NOREPLACE)
	if errors.Is(err, unix.EEXIST) { // another program was faster
		return os.Remove(raw)
	}
	return err
}
