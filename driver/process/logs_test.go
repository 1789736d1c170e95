//go:build linux

package process_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"trellis/driver"
	"trellis/shim"
)

// batches is an instance that writes ten lines for each number it is told: "<number>.1" to "<number>.10".
type batches struct {
	*world
	dir  string
	pipe *os.File
	read io.ReadCloser
}

func newBatches(t *testing.T, limits driver.LogLimits) *batches {
	t.Helper()
	w := newWorld(t, true)
	pipe := filepath.Join(t.TempDir(), "batches")
	if err := unix.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	spec := w.spec("web", "sh", "-c", `exec 3<>"$0"; while read n <&3; do for i in 1 2 3 4 5 6 7 8 9 10; do echo $n.$i; done; done`, pipe)
	spec.Log = limits
	w.start(spec)
	ctx, cancel := contextFor(30 * time.Second)
	t.Cleanup(cancel)
	r, err := w.d.Logs(ctx, spec.ID, driver.LogOptions{Follow: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close() })
	f, err := os.OpenFile(pipe, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return &batches{world: w, dir: filepath.Join(w.cfg.StateDir, "instances", "web-1-0000000a"), pipe: f, read: r}
}

func (b *batches) write(n int) {
	b.Helper()
	if _, err := fmt.Fprintln(b.pipe, n); err != nil {
		b.Fatal(err)
	}
}

// hear follows the output up to the end of batch n, and returns how many lines came.
func (b *batches) hear(n int, lines *json.Decoder) int {
	b.Helper()
	for heard := 1; ; heard++ {
		var l driver.LogLine
		if err := lines.Decode(&l); err != nil {
			b.Fatalf("%v after %d lines of batch %d", err, heard-1, n)
		}
		if l.Text == fmt.Sprintf("%d.10", n) {
			return heard
		}
	}
}

// TestFollowedLogsRotate: who follows an output hears all that is written, over many rotations, also where there is one file.
func TestFollowedLogsRotate(t *testing.T) {
	for _, files := range []int{1, 2} {
		t.Run(fmt.Sprint(files), func(t *testing.T) {
			b := newBatches(t, driver.LogLimits{MaxSize: 2000, MaxFiles: files})
			heard, lines := 0, json.NewDecoder(b.read)
			for n := range 30 { // a batch is written when the one before was heard, so that no two rotations come between
				b.write(n)
				heard += b.hear(n, lines)
			}
			if heard != 300 {
				t.Errorf("%d lines were heard of 300", heard)
			}
		})
	}
}

// TestFollowedLogIsCut: a log of which the end is cut off is followed on, before it is as long again as it was.
func TestFollowedLogIsCut(t *testing.T) {
	b := newBatches(t, driver.LogLimits{})
	lines := json.NewDecoder(b.read)
	for n := range 100 {
		b.write(n)
	}
	b.hear(99, lines)
	if err := os.Truncate(filepath.Join(b.dir, shim.LogFile), 0); err != nil {
		t.Fatal(err)
	}
	heard := make(chan error, 1)
	go func() {
		var l driver.LogLine
		heard <- lines.Decode(&l)
	}()
	for n := range 50 {
		b.write(100 + n)
		select {
		case err := <-heard:
			if err != nil {
				t.Error(err)
			}
			return
		case <-time.After(100 * time.Millisecond):
		}
	}
	t.Error("nothing was heard of 50 batches, half of what was there before")
}

// openFiles counts this process's descriptors of what the name begins with.
func openFiles(t *testing.T, prefix string) (n int) {
	t.Helper()
	all, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range all {
		if name, err := os.Readlink("/proc/self/fd/" + e.Name()); err == nil && strings.HasPrefix(name, prefix) {
			n++
		}
	}
	return n
}

// TestFollowersShareOneInotify: the kernel gives a user 128, and the output of every instance is followed. All hear what is
// written, and none leaves a file open behind.
func TestFollowersShareOneInotify(t *testing.T) {
	const inotify = "anon_inode:inotify"
	before := openFiles(t, inotify)
	b := newBatches(t, driver.LogLimits{})
	ctx, cancel := contextFor(30 * time.Second)
	defer cancel()
	all := []io.ReadCloser{b.read}
	for range 20 {
		r, err := b.d.Logs(ctx, "drivertest/web-1-0000000a", driver.LogOptions{Follow: true})
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, r)
	}
	if n := openFiles(t, inotify) - before; n != 1 {
		t.Errorf("%d inotify instances for %d who follow, want 1", n, len(all))
	}
	for n := range 3 {
		b.write(n)
		for i, r := range all {
			if b.hear(n, json.NewDecoder(r)) != 10 {
				t.Errorf("follower %d did not hear all of batch %d", i, n)
			}
		}
	}
	waiting := make(chan error, 1)
	go func() {
		_, err := all[0].Read(make([]byte, 1))
		waiting <- err
	}()
	for _, r := range all[1:] {
		r.Close()
	}
	if n := openFiles(t, filepath.Join(b.dir, shim.LogFile)); n != 1 {
		t.Errorf("%d files are open for one who follows", n)
	}
	b.write(3)
	if err := <-waiting; err != nil {
		t.Errorf("who is left when all others have left: %v", err)
	}
	all[0].Close()
	if n := openFiles(t, filepath.Join(b.dir, shim.LogFile)) + openFiles(t, inotify) - before; n != 0 {
		t.Errorf("%d files are open for nobody", n)
	}
}

// TestLogsOfACancelledCall: a call whose context has ended already gives a reader that has ended.
func TestLogsOfACancelledCall(t *testing.T) {
	b := newBatches(t, driver.LogLimits{})
	ctx, cancel := contextFor(30 * time.Second)
	cancel()
	for range 20 {
		r, err := b.d.Logs(ctx, "drivertest/web-1-0000000a", driver.LogOptions{Follow: true})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadAll(r); !errors.Is(err, context.Canceled) {
			t.Errorf("%v", err)
		}
		r.Close()
	}
}
