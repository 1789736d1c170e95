package state

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"trellis/errdefs"
)

// writerEnv makes the test binary a writer on that file; lockEnv makes it say who has it locked.
const (
	writerEnv = "STATE_TEST_WRITER"
	lockEnv   = "STATE_TEST_LOCK"
)

func TestMain(m *testing.M) {
	if path := os.Getenv(writerEnv); path != "" {
		fmt.Fprintln(os.Stderr, writeForever(path))
		os.Exit(1)
	}
	if path := os.Getenv(lockEnv); path != "" {
		fmt.Print(lockHolder(path))
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// lockHolder returns who keeps other processes from taking SQLite's exclusive lock on the file, 0 for nobody. The range
// is SHARED_FIRST and SHARED_SIZE of SQLite's os.h.
func lockHolder(path string) (pid int32, err error) {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	lock := unix.Flock_t{Type: unix.F_WRLCK, Start: 0x40000000 + 2, Len: 510}
	err = unix.FcntlFlock(f.Fd(), unix.F_GETLK, &lock)
	return lock.Pid, err
}

// Closing any descriptor of a file drops all of a process's POSIX locks on it: an Open that looked into the file by
// itself would take the locks of a store that this process has open already, and another process could then remove
// the WAL that it goes on writing to.
func TestSecondOpenKeepsTheLocksOfTheFirst(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state.db")
	s := openTest(t, path)
	if err := s.Append(t.Context(), Event{}); err != nil {
		t.Fatal(err)
	}
	mustPut(t, s, testRevision(), 0)
	if err := s.(*store).backup.wait(); err != nil {
		t.Fatal(err)
	}
	if err := openTest(t, path).Close(); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), lockEnv+"="+path)
	out, err := cmd.CombinedOutput()
	if want := fmt.Sprint(os.Getpid(), " <nil>"); err != nil || string(out) != want {
		t.Errorf("the lock is held by %q, %v; want %q", out, err, want)
	}
}

// writeForever puts a revision, two events, a value and a content in turn, and says so on standard output after each.
func writeForever(path string) error {
	ctx := context.Background()
	s, err := Open(path)
	if err != nil {
		return err
	}
	contents, err := OpenContents(filepath.Join(filepath.Dir(path), "contents"))
	if err != nil {
		return err
	}
	rev, err := s.Latest(ctx)
	if err != nil && !errors.Is(err, errdefs.ErrNotFound) {
		return err
	}
	for n := rev.Number; ; n++ {
		if _, err := s.Put(ctx, testRevision(), n); err != nil {
			return err
		}
		fmt.Println("revision", n+1)
		name := fmt.Sprintf("e%d", n+1)
		if err := s.Append(ctx, Event{Message: name}, Event{Message: name}); err != nil {
			return err
		}
		fmt.Println("event", name)
		if err := s.SetValue(ctx, "n", n+1); err != nil {
			return err
		}
		fmt.Println("value", n+1)
		ref, err := contents.Put([]byte(name))
		if err != nil {
			return err
		}
		fmt.Println("content", ref)
	}
}

// acked is what a killed writer was told is on disk.
type acked struct {
	revision, value int64
	events          map[string]bool
	contents        map[string]bool
}

// read calls first after the first line.
func (a *acked) read(r io.Reader, first func()) {
	for s := bufio.NewScanner(r); s.Scan(); first = func() {} {
		first()
		kind, what, _ := strings.Cut(s.Text(), " ")
		switch kind {
		case "revision":
			fmt.Sscan(what, &a.revision)
		case "value":
			fmt.Sscan(what, &a.value)
		case "event":
			a.events[what] = true
		case "content":
			a.contents[what] = true
		}
	}
}

func TestKilledWriterLosesNothingAcknowledged(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state.db")
	a := acked{events: map[string]bool{}, contents: map[string]bool{}}
	for round := range 50 {
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), writerEnv+"="+path)
		cmd.Stderr = os.Stderr
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		// One in five is killed while it opens the store, the others some time after their first write.
		kill := func() {
			time.AfterFunc(time.Duration(rand.IntN(80))*time.Millisecond, func() { cmd.Process.Kill() })
		}
		if round%5 == 0 {
			kill()
			kill = func() {}
		}
		a.read(out, kill)
		if err := cmd.Wait(); err == nil || !strings.Contains(err.Error(), "killed") {
			t.Fatalf("round %d: the writer ended by itself: %v", round, err)
		}
		checkAcked(t, path, a)
	}
	if a.revision < 40 {
		t.Fatalf("only %d revisions were acknowledged in 50 rounds: nothing was tested", a.revision)
	}
	t.Logf("%d revisions", a.revision)
}

func checkAcked(t *testing.T, path string, a acked) {
	t.Helper()
	s, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	h, err := s.History(t.Context(), 0)
	if err != nil || int64(len(h)) < a.revision {
		t.Fatalf("%d revisions, %v; %d were acknowledged", len(h), err, a.revision)
	}
	for i, rev := range h {
		if want := int64(len(h) - i); rev.Number != want {
			t.Fatalf("revision %d stands where %d should", rev.Number, want)
		}
	}
	var value int64
	if err := s.Value(t.Context(), "n", &value); a.value > 0 && (err != nil || value < a.value) {
		t.Fatalf("value %d, %v; %d was acknowledged", value, err, a.value)
	}
	pairs := map[string]int{}
	for _, e := range collect(t, s, EventFilter{}) {
		pairs[e.Message]++
	}
	for name := range a.events {
		if pairs[name] == 0 {
			t.Fatalf("event %s was acknowledged and is gone", name)
		}
	}
	for name, n := range pairs {
		if n != 2 {
			t.Fatalf("event %s is there %d times: a batch is torn", name, n)
		}
	}
	checkContents(t, filepath.Join(filepath.Dir(path), "contents"), a.contents)
}

func checkContents(t *testing.T, dir string, refs map[string]bool) {
	t.Helper()
	if len(refs) == 0 {
		return
	}
	c, err := OpenContents(dir)
	if err != nil {
		t.Fatal(err)
	}
	for ref := range refs {
		if _, err := c.Get(ref); err != nil {
			t.Fatal(err)
		}
	}
}

func TestSeveralProcessesOpenAtOnce(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state.db")
	const writers = 3
	outs := make([]*bufio.Scanner, writers)
	for i := range outs {
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), writerEnv+"="+path)
		var stderr strings.Builder
		cmd.Stderr = &stderr
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			cmd.Process.Kill()
			cmd.Wait()
			// A writer that lost the race for a number ends with a conflict; nothing else may end it.
			if msg := stderr.String(); msg != "" && !strings.Contains(msg, "the newest revision is") {
				t.Errorf("writer: %s", msg)
			}
		})
		outs[i] = bufio.NewScanner(out)
	}
	for _, out := range outs {
		for i := 0; i < 5 && out.Scan(); i++ {
		}
	}
	s := openTest(t, path) // beside the writer that is left
	if _, err := s.Latest(t.Context()); err != nil {
		t.Error(err)
	}
	if err := s.Append(t.Context(), Event{Message: "from the reader"}); err != nil {
		t.Error(err)
	}
}
