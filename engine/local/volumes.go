package local

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"trellis/compose"
	"trellis/driver"
	"trellis/errdefs"
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

// removeVolumes removes the volumes that a project made: named ones that are not external, and those without a name, of
// slots too that it has no more.
func (e *Engine) removeVolumes(ctx context.Context, d *desired) error {
	p := d.rev.Project
	external := map[string]bool{}
	for key, v := range p.Volumes {
		external[volumeName(p, key)] = v.External
	}
	named, nameless := map[string][]string{}, map[string][]mounted{}
	for _, name := range p.ServiceNames() {
		s := d.services[name]
		for _, m := range s.template.spec.Mounts {
			switch {
			case m.Kind != compose.MountVolume || external[m.Source]:
			case m.Source != "":
				named[s.driver] = append(named[s.driver], m.Source)
			default:
				nameless[s.driver] = append(nameless[s.driver], mounted{name, m})
			}
		}
	}
	for _, name := range sortedKeys(e.cfg.Drivers) {
		names := named[name]
		if len(names)+len(nameless[name]) == 0 {
			continue
		}
		remover, ok := e.cfg.Drivers[name].(VolumeRemover)
		if !ok {
			return fmt.Errorf("remove volumes: %w: driver %s keeps none", errdefs.ErrUnsupported, name)
		}
		if len(nameless[name]) > 0 {
			all, err := remover.Volumes(ctx, p.Name)
			if err != nil {
				return fmt.Errorf("remove volumes: %w", err)
			}
			names = slices.Concat(names, slices.DeleteFunc(all, func(volume string) bool {
				return !slices.ContainsFunc(nameless[name], func(m mounted) bool { return isVolume(p.Name, m.service, m.mount, volume) })
			}))
		}
		slices.Sort(names)
		if err := remover.RemoveVolumes(ctx, slices.Compact(names)); err != nil {
			return fmt.Errorf("remove volumes: %w", err)
		}
	}
	return nil
}

// mounted is a mount of a service.
type mounted struct {
	service string
	mount   driver.Mount
}
