//go:build linux

package process

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"trellis/driver"
	"trellis/errdefs"
	"trellis/shim"
)

// ticks is USER_HZ, which is 100 on every architecture that Trellis is built for: the unit of times in /proc.
const ticks = 100

// Stats implements driver.Driver.
func (d *Driver) Stats(ctx context.Context, id driver.ID) (driver.Usage, error) {
	u, err := d.stats(id)
	if err != nil {
		return u, fmt.Errorf("usage of %s: %w", id, err)
	}
	return u, ctx.Err()
}

func (d *Driver) stats(id driver.ID) (driver.Usage, error) {
	r, err := d.runs(id)
	if err != nil {
		return driver.Usage{}, err
	}
	u, err := ofTree(r)
	if err != nil {
		return u, err
	}
	groups := shim.RunGroups(r.spec.Cgroups, r.running.Run)
	for _, g := range groups {
		ofGroup(g.Dir, &u)
	}
	u.Enforced = d.groups.enforces() && (len(groups) > 0 || !r.own.Limited)
	if !u.Enforced {
		u.Why = "limits on CPU, memory and processes are measured, not enforced"
		if len(d.lacks) > 0 {
			u.Why = d.lacks[len(d.lacks)-1]
		}
	}
	return u, nil
}

// runs returns the record of an instance that runs, ErrNotFound otherwise.
func (d *Driver) runs(id driver.ID) (record, error) {
	dir, err := d.directory(id)
	if err != nil {
		return record{}, fmt.Errorf("%w: no such instance", errdefs.ErrNotFound)
	}
	r, err := d.settled(dir)
	if isMissing(err) {
		return r, fmt.Errorf("%w: no such instance", errdefs.ErrNotFound)
	}
	if err != nil {
		return r, err
	}
	if r.state != driver.Running {
		return r, fmt.Errorf("%w: it does not run", errdefs.ErrNotFound)
	}
	return r, nil
}

// ofTree measures the processes below the shim, and those that they and the shim have waited for.
func ofTree(r record) (driver.Usage, error) {
	var u driver.Usage
	tree, err := shim.Descendants(r.running.Shim.PID)
	if err != nil {
		return u, err
	}
	tree = slices.DeleteFunc(tree, shim.Stat.IsStage)
	var cpu uint64
	if s, err := shim.ReadStat(r.running.Shim.PID); err == nil && s.StartTime == r.running.Shim.StartTime {
		cpu = s.ChildTicks
	}
	page := int64(os.Getpagesize())
	for _, s := range tree {
		cpu += s.Ticks + s.ChildTicks
		u.Memory += s.ResidentPages * page
		read, written := ioOf(s.PID)
		u.ReadBytes += read
		u.WriteBytes += written
		u.CPU = max(u.CPU, preciseCPU(s.PID))
	}
	u.CPU = max(u.CPU, time.Duration(cpu)*(time.Second/ticks))
	u.Processes = len(tree)
	return u, nil
}

// preciseCPU returns a process's CPU time from /proc/PID/schedstat, in nanoseconds: a young process has used less than
// one tick.
func preciseCPU(pid int) time.Duration {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/schedstat", pid))
	if err != nil {
		return 0
	}
	word, _, _ := strings.Cut(string(b), " ")
	n, err := strconv.ParseInt(word, 10, 64)
	if err != nil {
		return 0
	}
	return time.Duration(n)
}

// ioOf returns what a process has read from and written to disks.
func ioOf(pid int) (read, written int64) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/io", pid))
	if err != nil {
		return 0, 0
	}
	return field(string(b), "read_bytes:"), field(string(b), "write_bytes:")
}

// field returns the number after key at the beginning of a line, 0 without one.
func field(text, key string) int64 {
	for line := range strings.Lines(text) {
		if rest, ok := strings.CutPrefix(line, key); ok {
			n, _ := strconv.ParseInt(strings.TrimSpace(rest), 10, 64)
			return n
		}
	}
	return 0
}

// ofGroup puts what a control group knows better into u.
func ofGroup(dir string, u *driver.Usage) {
	read := func(name string) string {
		b, _ := os.ReadFile(filepath.Join(dir, name))
		return string(b)
	}
	number := func(name string) int64 {
		n, _ := strconv.ParseInt(strings.TrimSpace(read(name)), 10, 64)
		return n
	}
	if n := number("cpuacct.usage"); n > 0 {
		u.CPU = time.Duration(n)
	}
	if n := field(read("cpu.stat"), "usage_usec "); n > 0 {
		u.CPU = time.Duration(n) * time.Microsecond
	}
	// What the kernel gives back at once when memory is short is not counted, as container engines do.
	if n := number("memory.usage_in_bytes"); n > 0 {
		u.Memory = max(n-field(read("memory.stat"), "total_inactive_file "), 1)
	}
	if n := number("memory.current"); n > 0 {
		u.Memory = max(n-field(read("memory.stat"), "inactive_file "), 1)
	}
	if n := len(strings.Fields(read("cgroup.procs"))); n > 0 {
		u.Processes = n
	}
}
