package local

import (
	"slices"
	"strconv"
	"strings"

	"trellis/compose"
	"trellis/driver"
)

// Writers returns the services of p that mount the volume of that full name writable, in order of name.
func Writers(p compose.Project, volume string) []string {
	var names []string
	for _, name := range p.ServiceNames() {
		mounts := mountsOf(p, p.Services[name])
		if slices.ContainsFunc(mounts, func(m driver.Mount) bool {
			return m.Kind == compose.MountVolume && !m.ReadOnly && isVolume(p.Name, name, m, volume)
		}) {
			names = append(names, name)
		}
	}
	return names
}

// isVolume says whether a mount of a service is that volume: one without a name in the file has one for each slot.
func isVolume(project, service string, m driver.Mount, volume string) bool {
	if m.Source != "" {
		return m.Source == volume
	}
	digits, ok := strings.CutPrefix(volume, project+"_"+service+"-")
	at := strings.IndexByte(digits, '-')
	if !ok || at < 0 {
		return false
	}
	slot, err := strconv.Atoi(digits[:at])
	return err == nil && anonymous(project, service, slot, m.Target) == volume
}
