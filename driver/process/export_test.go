//go:build linux

package process

import (
	"path/filepath"

	"trellis/shim"
)

// LetLive has d believe, while held says so, that something of an instance whose shim was killed lives on: nothing lives
// through a SIGKILL at will.
func (d *Driver) LetLive(held func() bool) {
	find := d.strays
	d.strays = func(r record) []shim.Process {
		if held() {
			return []shim.Process{{}}
		}
		return find(r)
	}
}

// CgroupName is the last element of the directories of a driver's control groups.
func CgroupName(stateDir string) string {
	h, _ := findHierarchy(stateDir)
	for _, dir := range h.roots {
		return filepath.Base(dir)
	}
	return "no control groups"
}
