package server

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"trellis/errdefs"
)

// TestRoom: a disk on which no more files can be made, full or not, has no room for instances.
func TestRoom(t *testing.T) {
	dir := t.TempDir()
	if err := roomForInstance(dir); err != nil {
		t.Error(err)
	}
	if left, _ := os.ReadDir(dir); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
	if err := roomForInstance(filepath.Join(dir, "missing")); !errors.Is(err, errdefs.ErrUnavailable) {
		t.Errorf("no folder: %v", err)
	}
	if os.Geteuid() != 0 {
		t.Skip("a disk of one's own needs root")
	}
	if err := unix.Mount("trellis-test", dir, "tmpfs", 0, "size=1m,nr_inodes=20"); err != nil {
		t.Fatal(err)
	}
	defer unix.Unmount(dir, unix.MNT_DETACH)
	if err := roomForInstance(dir); err != nil {
		t.Error(err)
	}
	for i := range 15 {
		if err := os.WriteFile(filepath.Join(dir, fmt.Sprint(i)), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	err := roomForInstance(dir)
	if !errors.Is(err, errdefs.ErrUnavailable) || !errors.Is(err, unix.ENOSPC) || !strings.Contains(err.Error(), "'df -i "+dir+"'") {
		t.Errorf("files run out: %v", err)
	}
	if left, _ := os.ReadDir(dir); len(left) != 15 {
		t.Errorf("left: %v", left)
	}
}
