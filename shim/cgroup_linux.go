package shim

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// groups are the control groups of a run.
type groups struct {
	all []Cgroup
	oom int // kills before the run
}

// RunGroups returns the groups of a run: each has its own, so that one that ends is never in the way of the next.
func RunGroups(all []Cgroup, run int) []Cgroup {
	out := slices.Clone(all)
	for i := range out {
		out[i].Dir += "." + strconv.Itoa(run)
	}
	return out
}

// openGroups returns what moves this process into the groups, whatever it sees of the machine then.
func openGroups(all []Cgroup) (enter func() error, err error) {
	var files []*os.File
	for _, c := range all {
		f, err := os.OpenFile(filepath.Join(c.Dir, "cgroup.procs"), os.O_WRONLY, 0)
		if err != nil {
			return nil, fmt.Errorf("enter cgroup: %w", err)
		}
		files = append(files, f)
	}
	return func() error {
		for _, f := range files {
			if _, err := f.WriteString("0"); err != nil {
				return fmt.Errorf("enter cgroup %s: %w", f.Name(), err)
			}
			f.Close()
		}
		return nil
	}, nil
}

// makeGroups makes the groups and sets their limits.
func makeGroups(all []Cgroup) (groups, error) {
	g := groups{all: all}
	for _, c := range all {
		if err := os.MkdirAll(c.Dir, 0o755); err != nil {
			return g, fmt.Errorf("make cgroup: %w", err)
		}
		for _, set := range c.Set {
			err := writeFile(filepath.Join(c.Dir, set.File), set.Value)
			if err != nil && !set.Optional {
				return g, fmt.Errorf("set %s of cgroup %s to %s: %w", set.File, c.Dir, set.Value, err)
			}
		}
	}
	g.oom = g.oomKills()
	return g, nil
}

// take moves another process into the groups.
func (g groups) take(pid int) error {
	for _, c := range g.all {
		if err := writeFile(filepath.Join(c.Dir, "cgroup.procs"), strconv.Itoa(pid)); err != nil {
			return fmt.Errorf("enter cgroup %s: %w", c.Dir, err)
		}
	}
	return nil
}

// oomKills counts the processes of the instance that the kernel killed for want of memory.
func (g groups) oomKills() int {
	for _, c := range g.all {
		if c.OOM == "" {
			continue
		}
		b, err := os.ReadFile(filepath.Join(c.Dir, c.OOM))
		if err != nil {
			continue
		}
		return OOMKills(string(b))
	}
	return 0
}

// OOMKills reads memory.oom_control (version 1) or memory.events (version 2).
func OOMKills(text string) int {
	for line := range strings.SplitSeq(text, "\n") {
		if value, ok := strings.CutPrefix(line, "oom_kill "); ok {
			n, _ := strconv.Atoi(strings.TrimSpace(value))
			return n
		}
	}
	return 0
}

func (g groups) outOfMemory() bool { return g.oomKills() > g.oom }

// members returns the processes in the groups, by what /proc says of them now.
func (g groups) members() []Process {
	var all []Process
	seen := map[int]bool{}
	for _, c := range g.all {
		b, err := os.ReadFile(filepath.Join(c.Dir, "cgroup.procs"))
		if err != nil {
			continue
		}
		for word := range strings.FieldsSeq(string(b)) {
			pid, err := strconv.Atoi(word)
			if err != nil || pid < 1 || seen[pid] || pid == os.Getpid() {
				continue
			}
			seen[pid] = true
			if p, err := Identify(pid); err == nil {
				all = append(all, p)
			}
		}
	}
	return all
}

func (g groups) empty() bool { return len(g.members()) == 0 }

// kill sends SIGKILL to everything in the groups.
func (g groups) kill() {
	for _, c := range g.all {
		_ = writeFile(filepath.Join(c.Dir, "cgroup.kill"), "1") // version 2, Linux 5.14
	}
	for _, p := range g.members() {
		fd, err := p.Open()
		if err != nil {
			continue
		}
		// The pid was read before the descriptor was held: what is killed is in the group now.
		if g.has(p.PID) {
			_ = unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0)
		}
		unix.Close(fd)
	}
}

func (g groups) has(pid int) bool {
	for _, c := range g.all {
		b, err := os.ReadFile(filepath.Join(c.Dir, "cgroup.procs"))
		if err != nil {
			continue
		}
		for word := range strings.FieldsSeq(string(b)) {
			if word == strconv.Itoa(pid) {
				return true
			}
		}
	}
	return false
}

// remove removes the groups. The kernel takes a moment to forget the last member.
func (g groups) remove() {
	for _, c := range g.all {
		for range 50 {
			err := unix.Rmdir(c.Dir)
			if err == nil || errors.Is(err, unix.ENOENT) {
				break
			}
			time.Sleep(2 * time.Millisecond)
		}
	}
}

// KillGroups kills what is in control groups whose shim is gone, and removes them.
func KillGroups(all []Cgroup) {
	g := groups{all: all}
	for range 200 {
		if g.empty() {
			break
		}
		g.kill()
		time.Sleep(time.Millisecond)
	}
	g.remove()
}
