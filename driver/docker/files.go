package docker

import (
	"archive/tar"
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/moby/moby/client"

	"trellis/driver"
)

// Secrets and configs are copied into the runtime directory, which is memory on most machines, with the owner and mode
// that the instance is to see, and mounted from there one by one. They are written again before each start: a reboot
// empties the directory.

func (d *Driver) filesDir(id driver.ID) string {
	return filepath.Join(d.cfg.RuntimeDir, "files", containerName(id))
}

func (d *Driver) filePath(id driver.ID, i int) string {
	return filepath.Join(d.filesDir(id), strconv.Itoa(i))
}

// owner is a user of an instance by number.
type owner struct{ uid, gid int }

const (
	secretMode = 0o400
	configMode = 0o444
)

// writeFiles writes the secrets and configs of an instance; those that name no owner belong to who.
func (d *Driver) writeFiles(spec driver.Spec, who owner) error {
	if len(spec.Files) == 0 {
		return nil
	}
	if err := os.MkdirAll(d.filesDir(spec.ID), 0o700); err != nil {
		return fmt.Errorf("write secrets and configs: %w", err)
	}
	for i, f := range spec.Files {
		if err := d.writeFile(d.filePath(spec.ID, i), f, who); err != nil {
			return fmt.Errorf("write the content of %s: %w", f.Target, err)
		}
	}
	return nil
}

func (d *Driver) writeFile(path string, f driver.File, who owner) error {
	content, err := os.ReadFile(f.Source)
	if err != nil {
		return err
	}
	mode := os.FileMode(f.Mode)
	if mode == 0 {
		mode = configMode
		if f.Secret {
			mode = secretMode
		}
	}
	if uid, err := strconv.Atoi(f.UID); err == nil {
		who.uid = uid
	}
	if gid, err := strconv.Atoi(f.GID); err == nil {
		who.gid = gid
	}
	// In place: a running container has this file mounted.
	if err := os.WriteFile(path, content, 0o600); err != nil {
		return err
	}
	if os.Geteuid() != 0 {
		mode |= 0o444 // nobody but root can give it to the instance's user; the folder keeps others of this machine out
	} else if err := os.Chown(path, who.uid, who.gid); err != nil {
		return err
	}
	return os.Chmod(path, mode)
}

// userOf returns the numbers of the user that a container runs as: the file's, or else the image's.
func (d *Driver) userOf(ctx context.Context, id, user string) owner {
	name, group, _ := strings.Cut(user, ":")
	who := owner{}
	uid, err := strconv.Atoi(name)
	if err == nil {
		who.uid = uid
	}
	if name != "" {
		byName, found := d.passwd(ctx, id, name)
		if found {
			who = byName
		}
	}
	if gid, err := strconv.Atoi(group); err == nil {
		who.gid = gid
	}
	return who
}

// passwd looks for a user, by name or number, in the /etc/passwd of a container.
func (d *Driver) passwd(ctx context.Context, id, user string) (owner, bool) {
	got, err := d.engine.api.CopyFromContainer(ctx, id, client.CopyFromContainerOptions{SourcePath: "/etc/passwd"})
	if err != nil {
		return owner{}, false
	}
	defer got.Content.Close()
	r := tar.NewReader(got.Content)
	if _, err := r.Next(); err != nil {
		return owner{}, false
	}
	return findUser(io.LimitReader(r, 1<<20), user)
}

// findUser reads the text of a passwd file.
func findUser(r io.Reader, user string) (owner, bool) {
	for s := bufio.NewScanner(r); s.Scan(); {
		f := strings.Split(s.Text(), ":")
		if len(f) < 4 || f[0] != user && f[2] != user {
			continue
		}
		uid, err := strconv.Atoi(f[2])
		gid, err2 := strconv.Atoi(f[3])
		if err == nil && err2 == nil {
			return owner{uid, gid}, true
		}
	}
	return owner{}, false
}
