//go:build linux

package process_test

import (
	"bytes"
	"io"
	"strings"
	"testing"
	"time"

	"trellis/driver"
)

// slow takes its time for what comes first.
type slow struct {
	pause time.Duration
	got   int
}

func (s *slow) Write(p []byte) (int, error) {
	time.Sleep(s.pause)
	s.pause = 0
	s.got += len(p)
	return len(p), nil
}

// TestExecOutput: a caller gets all that a command wrote, however long it takes over it, and does not wait for what the command
// left in the background, nor for its own input.
func TestExecOutput(t *testing.T) {
	w := newWorld(t, true)
	spec := w.spec("web", "sleep", "1000")
	w.start(spec)
	exec := func(t *testing.T, cmd driver.Command) (took time.Duration) {
		t.Helper()
		ctx, cancel := contextFor(30 * time.Second)
		defer cancel()
		began := time.Now()
		if code, err := w.d.Exec(ctx, spec.ID, cmd); code != 0 || err != nil {
			t.Fatalf("code %d, %v", code, err)
		}
		return time.Since(began)
	}
	t.Run("slow caller", func(t *testing.T) {
		out := &slow{pause: 2500 * time.Millisecond}
		exec(t, driver.Command{Args: []string{"head", "-c", "90000", "/dev/zero"}, Stdout: out})
		if out.got != 90000 {
			t.Errorf("%d bytes of 90000", out.got)
		}
	})
	t.Run("one writer", func(t *testing.T) {
		var out strings.Builder // would be torn by two who write at once
		exec(t, driver.Command{Args: []string{"sh", "-c", "for i in $(seq 500); do echo out; echo err >&2; done"}, Stdout: &out, Stderr: &out})
		if n := strings.Count(out.String(), "out\nerr\n"); n != 500 {
			t.Errorf("%d pairs of lines in turn of 500", n)
		}
	})
	t.Run("left in the background", func(t *testing.T) {
		var out bytes.Buffer
		if took := exec(t, driver.Command{Args: []string{"sh", "-c", "sleep 20 & echo said"}, Stdout: &out}); took > 15*time.Second || out.String() != "said\n" {
			t.Errorf("%q after %s", out.String(), took)
		}
	})
	t.Run("input that does not end", func(t *testing.T) {
		least := time.Hour
		for range 5 {
			in, feed := io.Pipe()
			time.AfterFunc(2*time.Second, func() { feed.Close() }) // or it would never end where it waits
			least = min(least, exec(t, driver.Command{Args: []string{"true"}, Stdin: in}))
		}
		if least >= time.Second {
			t.Errorf("it took %s", least)
		}
	})
}
