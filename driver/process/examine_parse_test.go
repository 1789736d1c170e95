//go:build linux

package process

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestHostsOf(t *testing.T) {
	got := hostsOf("127.0.0.1\tlocalhost # here\n::1 localhost ip6\n# 1.1.1.1 no\n10.0.0.1 a b\n10.0.0.2 a\nbroken\n")
	if d := cmp.Diff(map[string]string{"localhost": "127.0.0.1", "ip6": "::1", "a": "10.0.0.1", "b": "10.0.0.1"}, got); d != "" {
		t.Errorf("-want +got:\n%s", d)
	}
}

func TestParseReadOnly(t *testing.T) {
	got := parseReadOnly(`25 30 0:23 / /a ro,relatime shared:9 - tmpfs tmpfs rw
26 30 0:24 / /b rw - ext4 /dev/sda ro,errors=remount-ro
27 30 0:25 / /c rw,ro_but_not - ext4 /dev/sdb rw
broken
`)
	if d := cmp.Diff(map[string]bool{"25": true, "26": true, "27": false}, got); d != "" {
		t.Errorf("-want +got:\n%s", d)
	}
}

// TestLimitsOfVersion2 reads control groups of version 2, which this machine need not have.
func TestLimitsOfVersion2(t *testing.T) {
	dir := t.TempDir()
	for file, text := range map[string]string{"memory.max": "67108864\n", "cpu.max": "25000 100000\n", "pids.max": "max\n", "cpu.none": "max 100000\n"} {
		if err := os.WriteFile(filepath.Join(dir, file), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for name, want := range map[string]float64{"memory": 64 << 20, "cpus": 0.25, "pids": 0} {
		if got, ok := readLimit(dir, name); !ok || got != want {
			t.Errorf("%s is %v, %v, want %v", name, got, ok, want)
		}
	}
	if _, ok := readLimit(t.TempDir(), "cpus"); ok {
		t.Error("a limit is read where there is none")
	}
	if got := amount("cpus", 0.25); got != 0.25 || amount("memory", 1) != int64(1) || amount("pids", 0) != nil {
		t.Errorf("amounts: %v", got)
	}
}

func FuzzHostsOf(f *testing.F) {
	f.Add("127.0.0.1 localhost\n")
	f.Fuzz(func(t *testing.T, text string) {
		for name, address := range hostsOf(text) {
			if name == "" || address == "" {
				t.Errorf("%q is %q", name, address)
			}
		}
	})
}

func FuzzReadOnly(f *testing.F) {
	f.Add("25 30 0:23 / /a ro,relatime shared:9 - tmpfs tmpfs rw\n")
	f.Fuzz(func(_ *testing.T, text string) { parseReadOnly(text) })
}
