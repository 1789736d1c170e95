//go:build linux

package process

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"trellis/driver"
	"trellis/errdefs"
	"trellis/shim"
)

var _ driver.Examiner = (*Driver)(nil)

// Examine implements driver.Examiner. Environment and command line are not compared: a process's own are its to change,
// and nobody else can.
func (d *Driver) Examine(ctx context.Context, spec driver.Spec) ([]driver.Deviation, error) {
	all, err := d.examine(spec)
	if err != nil {
		return nil, fmt.Errorf("examine %s: %w", spec.ID, err)
	}
	return all, ctx.Err()
}

func (d *Driver) examine(spec driver.Spec) ([]driver.Deviation, error) {
	r, err := d.runs(spec.ID)
	if err == nil && r.spec.Hash != spec.Hash {
		err = fmt.Errorf("%w: it was started as something else", errdefs.ErrNotFound)
	}
	if err != nil {
		return nil, err
	}
	pid := r.running.Program.PID
	groups := shim.RunGroups(r.spec.Cgroups, r.running.Run)
	all := frozen(pid, groups)
	all = append(all, limitsOf(pid, groups, spec.Limits)...)
	all = append(all, ulimitsOf(pid, spec.Ulimits)...)
	if spec.OomScore != 0 {
		if now, ok := readNumber(fmt.Sprintf("/proc/%d/oom_score_adj", pid)); ok && int(now) != spec.OomScore {
			all = append(all, driver.Deviation{Field: driver.DeviatesOom, Want: int64(spec.OomScore), Have: now})
		}
	}
	if d.isolate {
		view, err := examineView(pid, r.spec, len(spec.Mounts)) // those after these are files of /etc, of our own
		if err != nil {
			return nil, err
		}
		names, err := d.examineHosts(r)
		if err != nil {
			return nil, err
		}
		all = append(append(all, view...), names...)
	}
	if !r.running.Program.Alive() { // what was read may have been another's
		return nil, fmt.Errorf("%w: it does not run", errdefs.ErrNotFound)
	}
	return all, nil
}

// frozen says whether a program stands still: by a signal, or with its control group.
func frozen(pid int, groups []shim.Cgroup) []driver.Deviation {
	why := ""
	if s, err := shim.ReadStat(pid); err == nil && s.State == 'T' {
		why = "a signal (SIGSTOP) has stopped it; SIGCONT lets it go on"
	}
	for _, g := range groups {
		if n, ok := readNumber(filepath.Join(g.Dir, "cgroup.freeze")); ok && n == 1 {
			why = "its control group is frozen"
		}
	}
	if why == "" {
		return nil
	}
	return []driver.Deviation{{Field: driver.DeviatesState, Want: "running", Have: "paused", Message: why}}
}

// limitNames are the limits of an instance, in the order in which they are told.
var limitNames = []string{"cpus", "memory", "pids"}

// limitsOf compares what its control groups allow a program with what they were given.
func limitsOf(pid int, groups []shim.Cgroup, want driver.Limits) []driver.Deviation {
	var all []driver.Deviation
	page := int64(os.Getpagesize())
	for _, name := range limitNames {
		value := map[string]float64{"cpus": want.CPUs, "memory": float64(want.Memory), "pids": float64(want.Pids)}[name]
		for _, g := range groups {
			now, ok := readLimit(g.Dir, name)
			if !ok {
				continue
			}
			message := ""
			if value > 0 && !contains(filepath.Join(g.Dir, "cgroup.procs"), pid) {
				now, message = 0, "the program was taken out of its control group"
			}
			expected := value
			switch name {
			case "memory": // the kernel counts in pages
				expected = float64(want.Memory / page * page)
			case "cpus":
				if value > 0 {
					expected = math.Max(math.Round(value*100000), 1000) / 100000
				}
			}
			if math.Abs(now-expected) > 1e-6 {
				all = append(all, driver.Deviation{
					Field: driver.DeviatesLimit, Key: name, Want: amount(name, value), Have: amount(name, now), Message: message,
				})
			}
			break
		}
	}
	return all
}

// amount is a limit as a Deviation has it.
func amount(name string, v float64) any {
	switch {
	case v == 0:
		return nil
	case name == "cpus":
		return v
	}
	return int64(v)
}

// readLimit returns a limit of a control group, 0 for none; false where the group does not have it.
func readLimit(dir, name string) (float64, bool) {
	read := func(file string) (string, bool) {
		b, err := os.ReadFile(filepath.Join(dir, file))
		return strings.TrimSpace(string(b)), err == nil
	}
	number := func(text string) float64 {
		n, err := strconv.ParseFloat(text, 64)
		if err != nil || n < 0 || n > 1<<60 { // "max", -1, and version 1's largest number of pages
			return 0
		}
		return n
	}
	switch name {
	case "memory":
		text, ok := read("memory.max")
		if !ok {
			text, ok = read("memory.limit_in_bytes")
		}
		return number(text), ok
	case "pids":
		text, ok := read("pids.max")
		return number(text), ok
	}
	if text, ok := read("cpu.max"); ok {
		quota, period, _ := strings.Cut(text, " ")
		return ratio(number(quota), number(period)), true
	}
	quota, ok := read("cpu.cfs_quota_us")
	period, _ := read("cpu.cfs_period_us")
	return ratio(number(quota), number(period)), ok
}

func ratio(a, b float64) float64 {
	if b == 0 {
		return 0
	}
	return a / b
}

// contains says whether a list of processes names pid, or cannot be read.
func contains(file string, pid int) bool {
	b, err := os.ReadFile(file)
	return err != nil || slices.Contains(strings.Fields(string(b)), strconv.Itoa(pid))
}

// readNumber reads a file that holds one number.
func readNumber(file string) (int64, bool) {
	b, err := os.ReadFile(file)
	if err != nil {
		return 0, false
	}
	n, err := strconv.ParseInt(strings.TrimSpace(string(b)), 10, 64)
	return n, err == nil
}

// ulimitsOf compares hard limits: the soft ones are a program's own to raise, and many do.
func ulimitsOf(pid int, want map[string]driver.Ulimit) []driver.Deviation {
	var all []driver.Deviation
	for _, name := range slices.Sorted(maps.Keys(want)) {
		now, err := shim.ReadUlimit(pid, name)
		if err != nil || now.Hard == want[name].Hard {
			continue
		}
		all = append(all, driver.Deviation{Field: driver.DeviatesUlimit, Key: name, Want: want[name].Hard, Have: now.Hard})
	}
	return all
}

// examineHosts compares the names that an instance resolves with those that it was given.
func (d *Driver) examineHosts(r record) ([]driver.Deviation, error) {
	for _, m := range r.spec.Mounts {
		if filepath.Clean(m.Target) == "/etc/hosts" && m.Source != filepath.Join(r.dir, hostsFile) {
			return nil, nil // the file's own
		}
	}
	defer d.lock(r.dir)() // SetHosts writes what is compared here
	var names map[string]string
	if b, err := os.ReadFile(filepath.Join(r.dir, namesFile)); err == nil {
		_ = json.Unmarshal(b, &names)
	}
	want := hostsOf(hostsText(r.spec.Hostname, r.own, names))
	root, err := openRoot(r.running.Program.PID)
	if err != nil {
		return nil, nil // it has just ended: Alive tells
	}
	defer root.Close()
	text, err := root.read("/etc/hosts")
	if err != nil {
		text = nil // taken away: no name is resolved
	}
	have := hostsOf(string(text))
	var all []driver.Deviation
	for _, name := range slices.Compact(slices.Sorted(keysOf(want, have))) {
		if want[name] != have[name] {
			all = append(all, driver.Deviation{Field: driver.DeviatesHost, Key: name, Want: orNil(want[name]), Have: orNil(have[name])})
		}
	}
	return all, nil
}

func orNil(text string) any {
	if text == "" {
		return nil
	}
	return text
}

func keysOf(all ...map[string]string) func(func(string) bool) {
	return func(yield func(string) bool) {
		for _, m := range all {
			for key := range m {
				if !yield(key) {
					return
				}
			}
		}
	}
}

// hostsOf reads the text of a hosts file: name to address, the first one of a name.
func hostsOf(text string) map[string]string {
	all := map[string]string{}
	for line := range strings.Lines(text) {
		line, _, _ = strings.Cut(line, "#")
		fields := strings.Fields(line)
		for i, name := range fields {
			if _, there := all[name]; i > 0 && !there {
				all[name] = fields[0]
			}
		}
	}
	return all
}
