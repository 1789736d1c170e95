//go:build linux

package process

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"trellis/driver"
)

// TestEventsComeBeforeLooks: what has happened is told of also where looks at sockets are overdue, as they are while many
// instances start: no end of an instance waits for all of them to listen.
func TestEventsComeBeforeLooks(t *testing.T) {
	events, err := newInotify()
	if err != nil {
		t.Fatal(err)
	}
	defer events.close()
	dir := t.TempDir()
	if _, err := events.watch(dir, unix.IN_CREATE); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "exit.json"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	overdue := time.Now().Add(-time.Second)
	if c, ok, err := events.next(overdue); !ok || err != nil || c.name != "exit.json" {
		t.Errorf("%+v, %v, %v", c, ok, err)
	}
	if c, ok, err := events.next(overdue); ok || err != nil {
		t.Errorf("nothing has happened: %+v, %v", c, err)
	}
}

// TestNextPause: a young instance is looked at often, an old one hardly, and one that settled least.
func TestNextPause(t *testing.T) {
	for _, c := range []struct {
		age     time.Duration
		settled bool
		want    time.Duration
	}{
		{0, false, firstLook}, {time.Second, false, 20 * time.Millisecond}, {30 * time.Second, false, 600 * time.Millisecond},
		{time.Hour, false, steadyLook}, {0, true, slowerLook}, {5 * time.Second, true, time.Second}, {time.Hour, true, steadyLook},
	} {
		if got := nextPause(c.age, c.settled); got != c.want {
			t.Errorf("age %s, settled %v: %s, want %s", c.age, c.settled, got, c.want)
		}
	}
	known := record{own: owner{Ports: []int{80, 81}}}
	replaced := record{own: owner{Ports: []int{80, 81}, Port: 4000}}
	for _, c := range []struct {
		r         record
		listening []int
		want      bool
	}{
		{known, nil, false}, {known, []int{80}, false}, {known, []int{80, 81, 99}, true},
		{replaced, []int{80, 81}, true}, {replaced, []int{81, 4000}, true}, {replaced, []int{4000}, false},
		{record{}, nil, false}, {record{}, []int{9}, true},
	} {
		if got := settled(c.r, c.listening); got != c.want {
			t.Errorf("ports %+v, listening %v: %v", c.r.own, c.listening, got)
		}
	}
}

// TestRescanForgetsWhatIsGone: where the kernel has lost events, an instance that was removed meanwhile is told of once, and not
// looked at for ever.
func TestRescanForgetsWhatIsGone(t *testing.T) {
	dir := t.TempDir()
	d, err := New(Config{Project: "shop", StateDir: dir, RuntimeDir: dir, Shim: []string{"/bin/false"}, Unprivileged: true})
	if err != nil {
		t.Fatal(err)
	}
	events, err := newInotify()
	if err != nil {
		t.Fatal(err)
	}
	defer events.close()
	told := 0
	w := &watcher{d: d, project: "shop", changed: func(driver.ID) { told++ }, events: events, dirs: map[string]*watched{}, numbers: map[int32]string{}}
	there, gone := filepath.Join(d.root, "web-1-a"), filepath.Join(d.root, "web-2-a")
	for _, dir := range []string{there, gone} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.begin(); err != nil {
		t.Fatal(err)
	}
	w.dirs[gone].id, w.dirs[gone].running = "shop/web-2-a", true
	if err := os.Remove(gone); err != nil {
		t.Fatal(err)
	}
	if err := w.begin(); err != nil { // as after an overflow
		t.Fatal(err)
	}
	for range 5 {
		w.dirs[there].look = time.Time{}
		if x := w.dirs[gone]; x != nil {
			x.look = time.Time{}
		}
		w.lookAtSockets()
	}
	if len(w.dirs) != 1 || len(w.numbers) != 1 || told != 1 {
		t.Errorf("%d directories, %d watches, told %d times; want 1 of each", len(w.dirs), len(w.numbers), told)
	}
}
