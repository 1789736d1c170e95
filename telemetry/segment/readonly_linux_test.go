package segment

import (
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestADamagedFileThatStays: a disk that damaged a file is often one that takes no more writes, so that it cannot be moved aside.
func TestADamagedFileThatStays(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "items")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for parent := filepath.Dir(dir); parent != filepath.Clean(os.TempDir()); parent = filepath.Dir(parent) {
		if err := os.Chmod(parent, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	now := time.Now()
	cfg := config(dir)
	cfg.MinFree = 1
	s := New(cfg)
	path := key{hour: hourOf(now)}.path(dir, cfg.Name)
	if err := os.WriteFile(path, []byte(strings.Repeat("no database ", 1000)), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o555); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.Chmod(dir, 0o755) })
	done := make(chan error)
	go func() {
		if os.Geteuid() == 0 { // who may write everywhere does so as somebody else; the thread ends with the goroutine
			runtime.LockOSThread()
			if err := unix.Setfsuid(65534); err != nil {
				t.Error(err)
			}
		}
		_, err := s.files.write([]item{{now, "a"}}, now)
		done <- err
	}()
	if err := <-done; err == nil || !strings.Contains(err.Error(), "aside") {
		t.Errorf("a damaged file that stays: %v", err)
	}
	if _, err := os.Stat(path); err != nil {
		t.Error(err)
	}
}
