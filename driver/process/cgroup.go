//go:build linux

package process

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"trellis/driver"
	"trellis/shim"
)

// hierarchy is where this driver's control groups live: version 1 has one tree per controller, version 2 one for all.
// The zero hierarchy has none.
type hierarchy struct {
	version int
	roots   map[string]string // controller to the directory of this driver's groups; version 2: "" to it
}

// controllers are what is limited or measured, in the order in which a program enters them.
var controllers = []string{"memory", "cpu", "cpuacct", "pids"}

// cgroupParent is the directory that all projects share.
const cgroupParent = "trellis"

// findHierarchy looks for control groups that this process may use; why says what is not there.
func findHierarchy(stateDir string) (h hierarchy, why string) {
	b, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return hierarchy{}, err.Error()
	}
	sum := sha256.Sum256([]byte(stateDir))
	own := filepath.Join(cgroupParent, hex.EncodeToString(sum[:6]))
	v1, v2 := parseCgroupMounts(string(b))
	if v2 != "" && len(v1) == 0 {
		b, err := os.ReadFile(filepath.Join(v2, "cgroup.controllers"))
		if err != nil {
			return hierarchy{}, err.Error()
		}
		have := strings.Fields(string(b))
		for _, c := range []string{"memory", "cpu", "pids"} {
			if !slices.Contains(have, c) {
				return hierarchy{}, "the cgroup at " + v2 + " has no controller " + c
			}
		}
		if err := delegate(v2); err != nil {
			return hierarchy{}, err.Error()
		}
		return hierarchy{version: 2, roots: map[string]string{"": filepath.Join(v2, own)}}, ""
	}
	h = hierarchy{version: 1, roots: map[string]string{}}
	for _, c := range controllers {
		dir, ok := v1[c]
		if !ok {
			return hierarchy{}, "there is no cgroup controller " + c
		}
		if err := unix.Access(dir, unix.W_OK); err != nil {
			return hierarchy{}, fmt.Sprintf("%s cannot be written: %v", dir, err)
		}
		h.roots[c] = filepath.Join(dir, own)
	}
	return h, ""
}

// delegate says whether groups with controllers can be made below root: the controllers are given on already, or root
// is the machine's own, which alone may have processes beside groups.
func delegate(root string) error {
	if err := unix.Access(root, unix.W_OK); err != nil {
		return fmt.Errorf("%s cannot be written: %w", root, err)
	}
	b, err := os.ReadFile(filepath.Join(root, "cgroup.subtree_control"))
	if err != nil {
		return err
	}
	given := strings.Fields(string(b))
	if slices.Contains(given, "memory") && slices.Contains(given, "cpu") && slices.Contains(given, "pids") {
		return nil
	}
	if _, err := os.Stat(filepath.Join(root, "cgroup.type")); err == nil { // only a group that is not the root has it
		return errors.New("the cgroup at " + root + " does not pass on cpu, memory and pids")
	}
	return nil
}

// parseCgroupMounts reads /proc/self/mountinfo: controller to mount point of version 1, and that of version 2. A
// version 2 beside version 1 has no controllers that matter.
func parseCgroupMounts(text string) (v1 map[string]string, v2 string) {
	v1 = map[string]string{}
	for line := range strings.Lines(text) {
		before, after, ok := strings.Cut(line, " - ")
		left, right := strings.Fields(before), strings.Fields(after)
		if !ok || len(left) < 5 || len(right) < 3 {
			continue
		}
		switch right[0] {
		case "cgroup2":
			v2 = left[4]
		case "cgroup":
			for option := range strings.SplitSeq(right[2], ",") {
				if slices.Contains(controllers, option) {
					v1[option] = left[4]
				}
			}
		}
	}
	return v1, v2
}

func (h hierarchy) enforces() bool { return h.version != 0 }

// of returns the groups of the instance of that name.
func (h hierarchy) of(name string, l driver.Limits) []shim.Cgroup {
	quota := int64(math.Round(l.CPUs * 100000))
	switch h.version {
	case 2:
		h.passOn()
		g := shim.Cgroup{Dir: filepath.Join(h.roots[""], name), OOM: "memory.events"}
		if l.CPUs > 0 {
			g.Set = append(g.Set, shim.CgroupSetting{File: "cpu.max", Value: fmt.Sprintf("%d 100000", max(quota, 1000))})
		}
		if l.Memory > 0 {
			g.Set = append(g.Set, shim.CgroupSetting{File: "memory.max", Value: strconv.FormatInt(l.Memory, 10)},
				shim.CgroupSetting{File: "memory.swap.max", Value: strconv.FormatInt(l.Memory, 10), Optional: true})
		}
		if l.Pids > 0 {
			g.Set = append(g.Set, shim.CgroupSetting{File: "pids.max", Value: strconv.FormatInt(l.Pids, 10)})
		}
		return []shim.Cgroup{g}
	case 1:
		return h.ofVersion1(name, l, quota)
	}
	return nil
}

// ofVersion1 takes the controllers that have something to do: each one costs a start some tenths of a millisecond.
func (h hierarchy) ofVersion1(name string, l driver.Limits, quota int64) []shim.Cgroup {
	var all []shim.Cgroup
	for _, c := range controllers {
		g := shim.Cgroup{Dir: filepath.Join(h.roots[c], name)}
		switch {
		case c == "memory":
			g.OOM = "memory.oom_control"
			if l.Memory > 0 {
				limit := strconv.FormatInt(l.Memory, 10)
				g.Set = []shim.CgroupSetting{{File: "memory.limit_in_bytes", Value: limit},
					{File: "memory.memsw.limit_in_bytes", Value: strconv.FormatInt(2*l.Memory, 10), Optional: true}}
			}
		case c == "cpu" && l.CPUs > 0:
			g.Set = []shim.CgroupSetting{{File: "cpu.cfs_period_us", Value: "100000"},
				{File: "cpu.cfs_quota_us", Value: strconv.FormatInt(max(quota, 1000), 10)}}
		case c == "pids" && l.Pids > 0:
			g.Set = []shim.CgroupSetting{{File: "pids.max", Value: strconv.FormatInt(l.Pids, 10)}}
		case c == "cpuacct" && h.roots["cpu"] != h.roots["cpuacct"]:
		default:
			continue
		}
		all = append(all, g)
	}
	return all
}

// passOn gives the controllers of version 2 on from the root to this driver's groups.
func (h hierarchy) passOn() {
	own := h.roots[""]
	if os.MkdirAll(own, 0o755) != nil {
		return // making the instance's own group will say why
	}
	parent := filepath.Dir(own)
	for _, dir := range []string{filepath.Dir(parent), parent, own} {
		_ = os.WriteFile(filepath.Join(dir, "cgroup.subtree_control"), []byte("+cpu +memory +pids"), 0)
		_ = os.WriteFile(filepath.Join(dir, "cgroup.subtree_control"), []byte("+io"), 0) // to measure; not everywhere
	}
}

// tidy removes the groups above the instances' when they are empty.
func (h hierarchy) tidy() {
	for _, dir := range h.roots {
		_ = unix.Rmdir(dir)
		_ = unix.Rmdir(filepath.Dir(dir))
	}
}
