package shim

import (
	"flag"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestHurry: it brings forward the deadline of a stop. Without one it does nothing: whoever signals every process of a
// name ends no instance.
func TestHurry(t *testing.T) {
	for name, stopping := range map[string]bool{"after a stop": true, "without a stop": false} {
		t.Run(name, func(t *testing.T) {
			p := &place{dir: t.TempDir(), stopping: stopping}
			p.now = newSupervisor(p)
			signals := make(chan os.Signal, 1)
			signals <- Hurry
			close(signals)
			p.listen(signals)
			if p.stopping != stopping || p.now.asked {
				t.Errorf("stopping is %v, asked is %v: it is no stop of its own", p.stopping, p.now.asked)
			}
			select {
			case at := <-p.now.deadline:
				if !stopping || time.Until(at) > 0 {
					t.Errorf("a deadline in %s", time.Until(at))
				}
			default:
				if stopping {
					t.Error("no deadline")
				}
			}
		})
	}
}

// TestAHookThatDoesNotStart: a hook whose second stage waits for a disk, or stands still with its control group, keeps no stop
// from its deadline, and the end of the program from being seen.
func TestAHookThatDoesNotStart(t *testing.T) {
	if flag.Arg(0) == "exec" { // this is that second stage
		time.Sleep(time.Minute)
		os.Exit(1)
	}
	dir := t.TempDir()
	out, err := openOutput(dir, LogLimit{})
	if err != nil {
		t.Fatal(err)
	}
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	p := &place{
		dir: dir, first: 1, out: out, prefix: []string{"-test.run=^" + t.Name() + "$"},
		spec: Spec{ID: "shop/web-1-a", PreStop: []Hook{{Command: []string{"true"}}}},
	}
	s := newSupervisor(p)
	s.run.Run, s.write, p.now = 1, [2]*os.File{null, null}, s
	close(s.begun)
	if err := Publish(dir, StopFile, Stop{Version: Version, Run: 1, Deadline: time.Now().Add(time.Second)}); err != nil {
		t.Fatal(err)
	}
	signals := make(chan os.Signal, 1)
	go p.listen(signals)
	signals <- unix.SIGTERM
	below := func() (all []Stat) {
		if all, err = Descendants(os.Getpid()); err != nil {
			t.Fatal(err)
		}
		return all
	}
	var stage []Stat
	for began := time.Now(); len(stage) == 0; stage = below() {
		if time.Since(began) > 10*time.Second {
			t.Fatal("the hook was not begun")
		}
		time.Sleep(time.Millisecond)
	}
	defer func() {
		_ = Process{PID: stage[0].PID, StartTime: stage[0].StartTime}.Signal(unix.SIGKILL)
		close(s.done)
		_, _ = wait(stage[0].PID)
		close(signals)
	}()
	seen := make(chan bool)
	go func() {
		s.mu.Lock() // as who sees the end of the program does
		defer s.mu.Unlock()
		close(seen)
	}()
	select {
	case <-seen:
	case <-time.After(500 * time.Millisecond):
		t.Error("the end of the program would not be seen")
	}
	for began := time.Now(); len(below()) > 0; time.Sleep(10 * time.Millisecond) {
		if time.Since(began) > 10*time.Second {
			t.Fatal("the deadline has passed, and the hook lives")
		}
	}
}
