//go:build e2e

package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestFullDisk: what is full is the disk that the state is on, while an instance dies, a deploy comes and the control
// plane is killed.
func TestFullDisk(t *testing.T) {
	longAlone(t)
	t.Parallel()
	for what, fill := range map[string]func(t *testing.T, dir string) (free func()){"bytes": fillBytes, "files": fillFiles} {
		t.Run(what, func(t *testing.T) { fullDiskUnderLoad(t, fill) })
	}
}

func fullDiskUnderLoad(t *testing.T, fill func(t *testing.T, dir string) (free func())) {
	f, port := newFault(t), freePort(t)
	dir := t.TempDir()
	disk := filepath.Join(dir, ".trellis")
	if err := os.Mkdir(disk, 0o755); err != nil {
		t.Fatal(err)
	}
	smallDisk(t, disk, "size=48m,nr_inodes=2000")
	p := projectIn(t, dir)
	p.write("ledger/.keep", "")
	p.write("compose.yaml", shop(port, 2, "v1", ""))
	p.run("up", "-d")
	tr := f.underLoad(url(port), 100, func() {
		free := fill(t, disk)
		killed := p.instances("web")[0]
		f.try("an instance is killed", func() {
			signal(t, killed.PID, "KILL") // what comes after it can be started where its record finds room
			eventually(t, 30*time.Second, "its end is known", func() string {
				for _, in := range p.instances("web") {
					if in.ID == killed.ID && in.PID == killed.PID {
						return "it is said to run"
					}
				}
				return ""
			})
			if v := version(t, port); v != "v1" {
				t.Errorf("version %q serves", v)
			}
		})
		f.try("a deploy", func() {
			p.write("compose.yaml", shop(port, 2, "v2", ""))
			began := time.Now()
			if out, err := p.try("up", "-d"); err == nil || !strings.Contains(out, "no space left") || !strings.Contains(out, "free some and repeat") {
				t.Errorf("up on a full disk: %v\n%s", err, out)
			}
			if took := time.Since(began); took > 20*time.Second {
				t.Errorf("it took %s to say that the disk is full", took)
			}
			if v := version(t, port); v != "v1" {
				t.Errorf("version %q serves", v)
			}
		})
		f.try("the control plane is killed", func() {
			pid := own(p.ps())["control"]
			signal(t, pid, "KILL")
			time.Sleep(2 * time.Second)
			if v := version(t, port); v != "v1" {
				t.Errorf("version %q serves", v)
			}
		})
		f.try("there is space again", func() {
			free()
			eventually(t, 30*time.Second, "a deploy", func() string {
				if out, err := p.try("up", "-d"); err != nil {
					return out
				}
				return ""
			})
			p.ready("web", 2, nil, 30*time.Second)
			if v := version(t, port); v != "v2" {
				t.Errorf("version %q serves", v)
			}
		})
	})
	tr.NoGetLost(t)
	f.postsCutOff(tr, 1)
	tr.Ledger(t, ledgers(t, filepath.Join(p.dir, "ledger", "web")))
}

// fillBytes takes every byte of a disk.
func fillBytes(t *testing.T, dir string) (free func()) {
	t.Helper()
	name := filepath.Join(dir, "fill")
	file, err := os.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	for size := 1 << 20; size > 0; {
		if n, err := file.Write(make([]byte, size)); err != nil {
			size = n / 2
			if n == 0 {
				size = 0
			}
		}
	}
	for size := 4096; size > 0; size /= 2 {
		_, _ = file.Write(make([]byte, size))
	}
	return func() { _ = os.Remove(name) }
}

// fillFiles takes every inode of a disk.
func fillFiles(t *testing.T, dir string) (free func()) {
	t.Helper()
	dir = filepath.Join(dir, "fill")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for i := range 100_000 {
		file, err := os.Create(filepath.Join(dir, fmt.Sprint(i)))
		if err != nil {
			break
		}
		_ = file.Close()
	}
	return func() { _ = os.RemoveAll(dir) }
}

// smallDisk mounts a disk of its own at dir, until the test's end.
func smallDisk(t testing.TB, dir, options string) string {
	t.Helper()
	if out, err := exec.Command("mount", "-t", "tmpfs", "-o", options, "trellis-e2e", dir).CombinedOutput(); err != nil {
		t.Fatalf("mount: %v: %s", err, out)
	}
	t.Cleanup(func() {
		if out, err := exec.Command("umount", "-l", dir).CombinedOutput(); err != nil {
			t.Errorf("umount: %v: %s", err, out)
		}
	})
	return dir
}
