//go:build linux

package process_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"trellis/driver"
	"trellis/errdefs"
)

func (w *world) prepare(spec driver.Spec) string {
	w.Helper()
	ctx, cancel := contextFor(30 * time.Second)
	defer cancel()
	path, err := w.d.Prepare(ctx, spec)
	if err != nil {
		w.Fatal(err)
	}
	return path
}

func (w *world) remove(id driver.ID) {
	w.Helper()
	ctx, cancel := contextFor(30 * time.Second)
	defer cancel()
	if err := w.d.Remove(ctx, id); err != nil {
		w.Fatal(err)
	}
}

// empty fails the test if the driver keeps anything.
func (w *world) empty(when string) {
	w.Helper()
	if left := leftovers(w.cfg); len(left) > 0 {
		w.Errorf("%s: left behind: %v", when, left)
	}
}

// listenIn listens in the network namespace at path.
func listenIn(t *testing.T, path, address string) net.Listener {
	t.Helper()
	type result struct {
		l   net.Listener
		err error
	}
	done := make(chan result)
	go func() {
		runtime.LockOSThread() // for good: the thread ends with this function
		fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err == nil {
			err = unix.Setns(fd, unix.CLONE_NEWNET)
			unix.Close(fd)
		}
		if err != nil {
			done <- result{nil, err}
			return
		}
		l, err := net.Listen("tcp", address)
		done <- result{l, err}
	}()
	r := <-done
	if r.err != nil {
		t.Fatal(r.err)
	}
	return r.l
}

// TestPrepared: what listens in the prepared namespace is there when the program begins, and the program has it all.
func TestPrepared(t *testing.T) {
	w := newWorld(t, false)
	spec := w.spec("web", "sh", "-c", "readlink /proc/self/ns/net; grep -c :3AF0 /proc/net/tcp")
	path := w.prepare(spec)
	if again := w.prepare(spec); path == "" || again != path {
		t.Fatalf("prepared %q, then %q", path, again)
	}
	l := listenIn(t, path, driver.NamesListener)
	defer l.Close()
	if _, ok := w.find(spec.ID); ok {
		t.Error("what is only prepared is listed")
	}
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		t.Fatal(err)
	}
	got := w.result(spec)
	if want := fmt.Sprintf("net:[%d]", st.Ino); len(got) != 2 || got[0] != want || got[1] != "1" {
		t.Errorf("the program saw %q, want namespace %s and the listener", got, want)
	}
	inst, _ := w.find(spec.ID)
	if inst.Netns != path || inst.Host == "" {
		t.Errorf("instance %+v, want the namespace %s", inst, path)
	}
	if again := w.prepare(spec); again != path {
		t.Errorf("before a restart: %q", again)
	}
	other := spec
	other.Hash = "b"
	if _, err := w.d.Prepare(t.Context(), other); !errors.Is(err, errdefs.ErrConflict) {
		t.Errorf("another specification: %v", err)
	}
	w.remove(spec.ID)
	w.empty("removed")
}

// TestPreparedAndNeverStarted leaves nothing, however it ends.
func TestPreparedAndNeverStarted(t *testing.T) {
	w := newWorld(t, false)
	spec := w.spec("web", "true")
	isThere := func() bool { return len(leftovers(w.cfg)) > 0 }

	w.prepare(spec)
	w.remove(spec.ID)
	w.empty("removed")

	w.prepare(spec)
	w.find(spec.ID)
	if !isThere() {
		t.Error("a List took away what was just prepared")
	}
	w.reopen() // as after a crash
	w.find(spec.ID)
	w.empty("listed by the next driver")

	w.prepare(spec)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := w.d.Run(ctx); err != nil {
		t.Fatal(err)
	}
	w.empty("after Run")

	w.prepare(spec)
	missing := spec
	missing.Mounts = []driver.Mount{{Kind: "volume", Source: "drivertest_data", Target: "/data"}}
	if err := os.WriteFile(filepath.Join(w.cfg.StateDir, "volumes"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := w.d.Start(t.Context(), missing); err == nil {
		t.Error("started with a volume that cannot be made")
	}
	w.find(spec.ID)
	w.empty("refused and listed")
}

// TestNothingToPrepare: no namespace of its own, no path.
func TestNothingToPrepare(t *testing.T) {
	shared := newWorld(t, true)
	if path := shared.prepare(shared.spec("web", "true")); path != "" {
		t.Errorf("without privileges: %q", path)
	}
	w := newWorld(t, false)
	host := w.spec("web", "true")
	host.HostNetwork = true
	if path := w.prepare(host); path != "" {
		t.Errorf("on the machine's network: %q", path)
	}
	bad := w.spec("web")
	if _, err := w.d.Prepare(t.Context(), bad); !errors.Is(err, errdefs.ErrInvalid) {
		t.Errorf("no command: %v", err)
	}
	w.empty("nothing prepared")
}

func roomMounts(t *testing.T, dir string) int {
	t.Helper()
	resolved, err := filepath.EvalSymlinks(dir)
	if err != nil {
		return 0
	}
	b, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	return strings.Count(string(b), " "+resolved+" ")
}

// TestRoomIsMountedOnce, whoever starts first, and through a link too; the last Remove of any driver takes it away.
func TestRoomIsMountedOnce(t *testing.T) {
	w := newWorld(t, false)
	link := filepath.Join(t.TempDir(), "run")
	if err := os.Symlink(w.cfg.RuntimeDir, link); err != nil {
		t.Fatal(err)
	}
	real := w.cfg.RuntimeDir
	w.cfg.RuntimeDir = link
	w.reopen()
	var group sync.WaitGroup
	spec := func(n int) driver.Spec { return w.spec(fmt.Sprint("web", n), "sleep", "1000") }
	for n := range 6 {
		group.Go(func() { w.start(spec(n)) })
	}
	group.Wait()
	if n := roomMounts(t, filepath.Join(real, "netns")); n != 1 {
		t.Errorf("the room is mounted %d times", n)
	}
	w.reopen()
	for n := range 6 {
		end(t, w.d, spec(n).ID)
	}
	w.empty("removed")
	if n := roomMounts(t, filepath.Join(real, "netns")); n != 0 {
		t.Errorf("the room is mounted %d times after all", n)
	}
}

// TestStackedRoom: another mount above the room hides namespaces; everything goes in the end all the same.
func TestStackedRoom(t *testing.T) {
	for _, order := range []string{"hidden first", "hidden last"} {
		t.Run(order, func(t *testing.T) {
			w := newWorld(t, false)
			room := filepath.Join(w.cfg.RuntimeDir, "netns")
			hidden, upper := w.spec("hidden", "sleep", "1000"), w.spec("upper", "sleep", "1000")
			w.start(hidden)
			if err := unix.Mount(room, room, "", unix.MS_BIND, ""); err != nil {
				t.Fatal(err)
			}
			w.start(upper)
			w.reopen()
			all := []driver.ID{hidden.ID, upper.ID}
			if order == "hidden last" {
				all = []driver.ID{upper.ID, hidden.ID}
			}
			for _, id := range all {
				end(t, w.d, id)
			}
			w.find(hidden.ID)
			w.empty("removed and listed")
		})
	}
}

// TestRoomOfTheDead: whoever made the room was killed before there was an instance.
func TestRoomOfTheDead(t *testing.T) {
	w := newWorld(t, false)
	room := filepath.Join(w.cfg.RuntimeDir, "netns")
	if err := os.MkdirAll(room, 0o700); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := unix.Mount(room, room, "", unix.MS_BIND, ""); err != nil {
			t.Fatal(err)
		}
	}
	w.find("drivertest/web-1-0000000a")
	w.empty("an empty room")
	if err := os.MkdirAll(room, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount(room, room, "", unix.MS_BIND, ""); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(room, "web-1-0000000a"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	w.find("drivertest/web-1-0000000a")
	w.empty("a file on which nothing was mounted yet")
}

// TestVolumeBelongsToTheFirst: whoever mounts it first; one that is there, empty or not, is not touched. Removing follows
// no link.
func TestVolumeBelongsToTheFirst(t *testing.T) {
	w := newWorld(t, false)
	write := func(name, user, volume string) driver.Spec {
		spec := w.spec(name, "sh", "-c", "stat -c '%u:%g %a' /data; touch /data/x 2>/dev/null && echo written; rm -f /data/x")
		spec.User = user
		spec.Mounts = []driver.Mount{{Kind: "volume", Source: volume, Target: "/data"}}
		return spec
	}
	if err := os.MkdirAll(w.d.VolumeDir("drivertest_old"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(w.d.VolumeDir(".new-drivertest_a"), 0o755); err != nil { // as a crash leaves it
		t.Fatal(err)
	}
	for _, c := range []struct{ name, user, volume, want string }{
		{"first", "1234:4321", "drivertest_a", "[1234:4321 755 written]"},
		{"second", "2345:4321", "drivertest_a", "[1234:4321 755]"},
		{"root", "", "drivertest_b", "[0:0 755 written]"},
		{"nobody", "nobody", "drivertest_b", "[0:0 755]"},
		{"old", "1234", "drivertest_old", "[0:0 755]"},
	} {
		if got := fmt.Sprint(w.result(write(c.name, c.user, c.volume))); got != c.want {
			t.Errorf("%s: %s, want %s", c.name, got, c.want)
		}
	}
	if err := w.d.Start(t.Context(), write("unknown", "no-such-user", "drivertest_c")); err == nil || !strings.Contains(err.Error(), "no-such-user") {
		t.Errorf("a volume of nobody: %v", err)
	}
	outside := filepath.Join(t.TempDir(), "kept")
	if err := os.MkdirAll(outside, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, link := range []string{w.d.VolumeDir("drivertest_link"), filepath.Join(w.d.VolumeDir("drivertest_a"), "link")} {
		if err := os.Symlink(filepath.Dir(outside), link); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.d.RemoveVolumes(t.Context(), []string{"drivertest_a", "drivertest_b", "drivertest_link", "drivertest_old"}); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(outside); err != nil {
		t.Errorf("a link was followed: %v", err)
	}
	if _, err := os.Lstat(w.d.VolumeDir("")); !os.IsNotExist(err) {
		t.Errorf("the folder of volumes is left: %v", err)
	}
}
