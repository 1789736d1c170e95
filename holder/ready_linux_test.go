package holder

import (
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

// TestReadyBeforeStartReturns: a process that says that it is ready as soon as there is one is believed.
func TestReadyBeforeStartReturns(t *testing.T) {
	if _, err := os.Stat("/proc/thread-self/children"); err != nil {
		t.Skipf("this kernel does not list the children of a process, by which the test sees one before it has started: %v", err)
	}
	for range 10 {
		c := newChild(RoleDataPlane, nil, nil, timing{}, nil, slog.New(slog.DiscardHandler))
		before, stop, told := children(), make(chan struct{}), make(chan struct{})
		go func() {
			defer close(told)
			for {
				for pid := range children() {
					if !before[pid] {
						before[pid] = true // it says so once
						c.isReady(pid)
					}
				}
				select {
				case <-stop:
					return
				default:
				}
			}
		}()
		p, err := c.start([]string{"sleep", "60"}, &c.next)
		if err != nil {
			t.Fatal(err)
		}
		select {
		case <-p.ready:
		case <-time.After(10 * time.Second):
			t.Error("what it said was not heard")
		}
		close(stop)
		<-told
		p.end(0)
		<-p.done
	}
}

// children are the processes that this one has started.
func children() map[int]bool {
	all := map[int]bool{}
	threads, _ := filepath.Glob("/proc/self/task/*/children")
	for _, file := range threads {
		list, _ := os.ReadFile(file)
		for field := range strings.FieldsSeq(string(list)) {
			pid, _ := strconv.Atoi(field)
			all[pid] = true
		}
	}
	return all
}
