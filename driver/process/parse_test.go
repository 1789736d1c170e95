//go:build linux

package process

import (
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"trellis/driver"
)

func TestParseCgroupMounts(t *testing.T) {
	v1, v2 := parseCgroupMounts(`25 30 0:23 / /sys/fs/cgroup/cpu,cpuacct rw,nosuid shared:9 - cgroup cgroup rw,cpu,cpuacct
26 30 0:24 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory
27 30 0:25 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw
broken
28 30 0:26 / /sys rw - sysfs sysfs rw
`)
	if v1["cpu"] != "/sys/fs/cgroup/cpu,cpuacct" || v1["cpuacct"] != v1["cpu"] || v1["memory"] == "" || v1["pids"] != "" || v2 != "/sys/fs/cgroup/unified" {
		t.Errorf("%v, %q", v1, v2)
	}
}

// TestVersion2 shows what is written where one hierarchy has all controllers.
func TestVersion2(t *testing.T) {
	root := t.TempDir()
	h := hierarchy{version: 2, roots: map[string]string{"": filepath.Join(root, "trellis", "x")}}
	got := fmt.Sprint(h.of("web-1", driver.Limits{CPUs: 0.5, Memory: 1 << 20, Pids: 9}))
	want := "[{" + root + "/trellis/x/web-1 [{cpu.max 50000 100000 false} {memory.max 1048576 false} {memory.swap.max 1048576 true} {pids.max 9 false}] memory.events}]"
	if got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	if err := os.WriteFile(filepath.Join(root, "cgroup.subtree_control"), []byte("cpu memory pids io\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := delegate(root); err != nil {
		t.Errorf("a group that passes the controllers on: %v", err)
	}
	if err := os.WriteFile(filepath.Join(root, "cgroup.subtree_control"), []byte("cpu\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(root, "cgroup.type"), []byte("domain\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := delegate(root); err == nil {
		t.Error("a group that does not pass memory on is not enough")
	}
}

func FuzzCgroupMounts(f *testing.F) {
	f.Add("26 30 0:24 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n")
	f.Fuzz(func(_ *testing.T, text string) { parseCgroupMounts(text) })
}

func FuzzInotify(f *testing.F) {
	one := binary.NativeEndian.AppendUint32(nil, 1)
	one = binary.NativeEndian.AppendUint32(one, unix.IN_MOVED_TO)
	one = append(one, 0, 0, 0, 0)
	one = binary.NativeEndian.AppendUint32(one, 16)
	f.Add(append(one, "exit.json\x00\x00\x00\x00\x00\x00\x00"...))
	f.Fuzz(func(t *testing.T, b []byte) {
		for len(b) >= unix.SizeofInotifyEvent {
			var c change
			before := len(b)
			if c, b = parseChange(b); len(b) >= before || strings.ContainsRune(c.name, 0) {
				t.Fatalf("%+v, %d bytes are left of %d", c, len(b), before)
			}
		}
	})
}

func TestHostsText(t *testing.T) {
	own := owner{Address: "198.18.0.3", Gateway: "198.18.0.2", Hosts: map[string]string{"db": "127.1.0.1", "host": "host-gateway"}}
	got := hostsText("web-1", own, map[string]string{"db": "127.1.0.2", "api": "127.1.0.3"})
	want := "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n198.18.0.3\tweb-1\n" +
		"127.1.0.3\tapi\n127.1.0.2\tdb\n198.18.0.2\thost\n"
	if got != want {
		t.Errorf("got %q\nwant %q", got, want)
	}
}

func TestResolversOnLoopback(t *testing.T) {
	for text, want := range map[string]bool{
		"nameserver 127.0.0.53\noptions edns0\n":        true,
		"nameserver 127.0.0.1\nnameserver 192.0.2.1\n":  false,
		"nameserver ::1\n":                              true,
		"nameserver fe80::1%eth0\n":                     false,
		"search example.org\n":                          true,
		"# nameserver 192.0.2.1\nnameserver 127.0.0.1":  true,
		"nameserver not-an-address\nnameserver 1.1.1.1": false,
	} {
		if got := onLoopback(text); got != want {
			t.Errorf("%q: %v, want %v", text, got, want)
		}
	}
}

func FuzzResolv(f *testing.F) {
	f.Add("nameserver 127.0.0.53\n")
	f.Fuzz(func(_ *testing.T, text string) { onLoopback(text) })
}

// FuzzCheck: no spec makes the check panic, and no ID leads out of the directory of instances.
func FuzzCheck(f *testing.F) {
	f.Add("shop/web-1-00000001", "/data", "data", "sub/path")
	f.Add("shop/../x", "/../..", "..", "../..")
	d := &Driver{cfg: Config{Project: "shop"}, root: "/state/instances"}
	f.Fuzz(func(t *testing.T, id, target, volume, subpath string) {
		project, _, _ := strings.Cut(id, "/")
		s := driver.Spec{ID: driver.ID(id), Project: project, Service: "web", Command: []string{"true"},
			Mounts: []driver.Mount{{Kind: "volume", Source: volume, Target: target, Subpath: subpath}}}
		if check(s) != nil {
			return
		}
		dir, err := d.directory(s.ID)
		if err != nil || filepath.Dir(dir) != d.root || filepath.Dir(d.VolumeDir(volume)) != "volumes" || !filepath.IsLocal(subpath) && subpath != "" {
			t.Fatalf("%q, %q: %q, %v", id, volume, dir, err)
		}
	})
}
