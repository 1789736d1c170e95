//go:build linux

package process

import "path/filepath"

// CgroupName is the last element of the directories of a driver's control groups.
func CgroupName(stateDir string) string {
	h, _ := findHierarchy(stateDir)
	for _, dir := range h.roots {
		return filepath.Base(dir)
	}
	return "no control groups"
}
