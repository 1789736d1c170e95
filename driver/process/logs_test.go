//go:build linux

package process_test

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
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
