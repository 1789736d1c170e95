package shim

import (
	"bufio"
	"os/exec"
	"testing"
)

// tree starts a process with two children, one of which has one of its own.
func tree(tb testing.TB) (pid int) {
	tb.Helper()
	cmd := exec.Command("sh", "-c", "sleep 300 & sh -c 'sleep 300 & echo ready; wait' & wait")
	out, err := cmd.StdoutPipe()
	if err != nil {
		tb.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		below, _ := Descendants(cmd.Process.Pid)
		_ = cmd.Process.Kill()
		for _, s := range below {
			_ = Process{PID: s.PID, StartTime: s.StartTime}.Signal(9)
		}
		_ = cmd.Wait()
	})
	if line, err := bufio.NewReader(out).ReadString('\n'); err != nil {
		tb.Fatalf("%q: %v", line, err)
	}
	return cmd.Process.Pid
}

func TestDescendantsByTheKernelsListsAreThoseOfTheMachine(t *testing.T) {
	pid := tree(t)
	all, err := descendantsOfAll(pid)
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := children(pid); err != nil {
		t.Skip("this kernel keeps no lists of children")
	}
	quick, ok := descendants(pid)
	if !ok || len(all) != 3 {
		t.Fatalf("%t, and of the machine's processes %v", ok, all)
	}
	parents, found := map[int]bool{pid: true}, map[int]bool{}
	for _, s := range quick {
		if !parents[s.Parent] {
			t.Errorf("%d comes before its parent: %v", s.PID, quick)
		}
		parents[s.PID], found[s.PID] = true, true
	}
	for _, s := range all {
		if !found[s.PID] || len(quick) != len(all) {
			t.Errorf("%v, want %v", quick, all)
		}
	}
	if gone, ok := descendants(1 << 30); ok {
		t.Errorf("who is not there has %v", gone)
	}
}

// BenchmarkDescendants compares what a tree of three costs by its lists and by all processes of the machine.
func BenchmarkDescendants(b *testing.B) {
	pid := tree(b)
	b.Run("lists", func(b *testing.B) {
		for b.Loop() {
			if _, ok := descendants(pid); !ok {
				b.Fatal("no lists")
			}
		}
	})
	b.Run("machine", func(b *testing.B) {
		for b.Loop() {
			if _, err := descendantsOfAll(pid); err != nil {
				b.Fatal(err)
			}
		}
	})
}
