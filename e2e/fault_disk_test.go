//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// brittleDisk is an ext4 file system on a device whose content lies in memory: what was not synced is not there yet, and
// when the memory is used up the device cannot be written.
type brittleDisk struct {
	t                  testing.TB
	memory, image, dir string
}

// newBrittleDisk mounts one at dir, until the test's end. The test is skipped where there are no loop devices.
func newBrittleDisk(t testing.TB, dir string) *brittleDisk {
	t.Helper()
	memory := smallDisk(t, t.TempDir(), "size=320m")
	d := &brittleDisk{t, memory, filepath.Join(memory, "image"), dir}
	file, err := os.Create(d.image)
	if err == nil {
		err = file.Truncate(64 << 20)
	}
	if err != nil {
		t.Fatal(err)
	}
	_ = file.Close()
	if out, err := exec.Command("mkfs.ext4", "-q", "-F", "-E", "lazy_itable_init=0", d.image).CombinedOutput(); err != nil {
		t.Fatalf("mkfs.ext4: %v: %s", err, out)
	}
	if out, err := d.mount(d.image); err != nil {
		t.Skipf("no loop device can be mounted here: %v: %s", err, out)
	}
	t.Cleanup(d.unmount)
	return d
}

// mount puts a device at dir. Nothing reaches it before it is synced, or for half a minute.
func (d *brittleDisk) mount(image string) (string, error) {
	out, err := exec.Command("mount", "-o", "loop,commit=300", image, d.dir).CombinedOutput()
	return string(out), err
}

func (d *brittleDisk) unmount() {
	eventually(d.t, 20*time.Second, "the disk unmounted", func() string {
		if out, err := exec.Command("umount", d.dir).CombinedOutput(); err != nil {
			return string(out)
		}
		return ""
	})
}

// powerCut ends everything of the project at once, and leaves of the disk what had reached the device by then. It waits for
// users, whose commands end too.
func (d *brittleDisk) powerCut(p *project, users func()) {
	t := d.t.(*testing.T)
	t.Helper()
	all := everyProcess(t, p)
	for _, pid := range all {
		_ = unix.Kill(pid, unix.SIGSTOP)
	}
	users()
	time.Sleep(100 * time.Millisecond) // until the kernel is through with what it was asked to write
	cut := filepath.Join(d.memory, "cut")
	if out, err := exec.Command("cp", "--sparse=always", d.image, cut).CombinedOutput(); err != nil {
		t.Fatalf("cp: %v: %s", err, out)
	}
	p.end(all)
	p.crash() // what was started meanwhile
	d.unmount()
	if err := os.Rename(cut, d.image); err != nil {
		t.Fatal(err)
	}
	if out, err := d.mount(d.image); err != nil {
		t.Fatalf("mount: %v: %s", err, out)
	}
}

// diskProject is a shop whose state is on a brittle disk.
func diskProject(t *testing.T, port int) (*project, *brittleDisk) {
	t.Helper()
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, ".trellis"), 0o755); err != nil {
		t.Fatal(err)
	}
	disk := newBrittleDisk(t, filepath.Join(dir, ".trellis"))
	p := projectIn(t, dir)
	p.write("ledger/.keep", "")
	p.write("compose.yaml", shop(port, 1, "v0", ""))
	return p, disk
}

// leave takes the project down while the machine that it runs on is there.
func (p *project) leave() {
	if out, err := p.try("down", "--volumes", "--yes"); err != nil {
		p.t.Errorf("down: %v\n%s", err, out)
	}
	p.trellis = built.trellis
}

// acknowledged are the revisions that trellis says there are, and when they were applied.
func (p *project) acknowledged() map[int64]string {
	p.t.Helper()
	var all []struct {
		Revision int64
		Applied  string `json:"applied_at"`
	}
	p.json(&all, "history")
	found := map[int64]string{}
	for _, r := range all {
		found[r.Revision] = r.Applied
	}
	return found
}

// TestPowerCuts takes the power away in the middle of deploys: what was acknowledged is there afterwards, and what was on
// its way is whole or not there.
func TestPowerCuts(t *testing.T) {
	longAlone(t)
	t.Parallel()
	f, port := newFault(t), freePort(t)
	p, disk := diskProject(t, port)
	p.run("up", "-d")
	defer p.leave()
	for i := range 10 {
		f.try("power cut", func() {
			ctx, cancel := context.WithCancel(t.Context())
			var user sync.WaitGroup
			user.Go(func() { p.deploys(ctx, port, i) })
			time.Sleep(time.Duration(500+f.random.IntN(2500)) * time.Millisecond)
			known := p.acknowledged()
			disk.powerCut(p, func() { cancel(); user.Wait() })
			p.trellis = newMachine(t, built.trellis).script // another boot
			p.run("up", "-d", "--yes")
			now := p.acknowledged()
			for revision, applied := range known {
				if now[revision] != applied {
					f.lost++
					t.Errorf("revision %d of %s was acknowledged before the cut, and is %q", revision, applied, now[revision])
				}
			}
		})
	}
}

// deploys deploys one version after the other until ctx is done.
func (p *project) deploys(ctx context.Context, port, round int) {
	for i := 0; ctx.Err() == nil; i++ {
		text := shop(port, 1, fmt.Sprintf("v%d-%d", round, i), "")
		if os.WriteFile(filepath.Join(p.dir, "compose.yaml"), []byte(text), 0o644) != nil {
			return
		}
		cmd := exec.CommandContext(ctx, p.trellis, "up", "-d", "--yes", "--timeout", "20s")
		cmd.Dir, cmd.Env = p.dir, p.env
		_ = cmd.Run() // it ends with the power
	}
}

// TestDiskFails: the device under the state cannot be written any more, in the middle of what the file system promised.
func TestDiskFails(t *testing.T) {
	longAlone(t)
	t.Parallel()
	f, port := newFault(t), freePort(t)
	p, disk := diskProject(t, port)
	p.run("up", "-d")
	defer p.leave()
	known := p.acknowledged()
	tr := f.underLoad(url(port), 100, func() {
		fillBytes(t, disk.memory)
		f.try("a deploy", func() {
			p.write("compose.yaml", shop(port, 1, "v1", ""))
			out, err := p.try("up", "-d", "--timeout", "20s")
			if err == nil {
				t.Errorf("a deploy is acknowledged that cannot have been written:\n%s", out)
			}
			t.Logf("up: %s", out)
			if v := version(t, port); v != "v0" {
				t.Errorf("version %q serves", v)
			}
		})
	})
	tr.NoneLost(t)
	f.try("the disk mended, the machine restarted", func() {
		p.crash()
		disk.unmount()
		if err := os.Remove(filepath.Join(disk.memory, "fill")); err != nil {
			t.Fatal(err)
		}
		// Another device with the same content: the kernel may still know the one that failed.
		mended := filepath.Join(disk.memory, "mended")
		if out, err := exec.Command("cp", "--sparse=always", disk.image, mended).CombinedOutput(); err != nil {
			t.Fatalf("cp: %v: %s", err, out)
		}
		disk.image = mended
		if out, err := exec.Command("fsck.ext4", "-fy", disk.image).CombinedOutput(); err != nil && !strings.Contains(string(out), "FILE SYSTEM WAS MODIFIED") {
			t.Fatalf("fsck: %v: %s", err, out)
		}
		if out, err := disk.mount(disk.image); err != nil {
			t.Fatalf("mount: %v: %s", err, out)
		}
		p.trellis = newMachine(t, built.trellis).script
		p.run("up", "-d", "--yes")
		now := p.acknowledged()
		for revision, applied := range known {
			if now[revision] != applied {
				t.Errorf("revision %d of %s is gone: %v", revision, applied, now)
			}
		}
		if v := version(t, port); v != "v1" {
			t.Errorf("version %q serves after the disk was mended", v)
		}
	})
}
