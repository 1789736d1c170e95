package local

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"trellis/compose"
	"trellis/driver"
	"trellis/engine"
	"trellis/errdefs"
	"trellis/state"
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

// Volumes implements engine.Engine. Where a driver does not answer whose volumes only an earlier revision had, they are not known.
func (e *Engine) Volumes(ctx context.Context, project string) ([]string, error) {
	if err := e.checkProject(project); err != nil {
		return nil, err
	}
	rev, err := e.cfg.Store.Latest(ctx)
	if errors.Is(err, errdefs.ErrNotFound) {
		return []string{}, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read the newest revision: %w", err)
	}
	all, _, err := e.volumesOf(ctx, rev)
	if err != nil {
		return nil, fmt.Errorf("look for the volumes of %s: %w", project, err)
	}
	names := []string{}
	for _, of := range all {
		names = append(names, of...)
	}
	slices.Sort(names)
	return slices.Compact(names), nil
}

// removeVolumes removes the volumes of a project, of which rev is the newest revision.
func (e *Engine) removeVolumes(ctx context.Context, rev state.Revision, opt engine.DeleteOptions) error {
	all, unknown, err := e.volumesOf(ctx, rev)
	if err != nil {
		return fmt.Errorf("remove volumes: %w", err)
	}
	for _, name := range sortedKeys(all) {
		if err := e.cfg.Drivers[name].(VolumeRemover).RemoveVolumes(ctx, all[name]); err != nil {
			return fmt.Errorf("remove volumes: %w", err)
		}
	}
	for _, name := range sortedKeys(unknown) {
		e.left(rev, opt, fmt.Sprintf("volumes of earlier revisions stay where driver %s has made some: %v", name, unknown[name]))
	}
	return nil
}

// volumesOf returns the volumes that a project made, by driver: named ones that are not external and those without a name, of slots
// too that it has no more. Of what the newest revision does not mount any more those are meant that an earlier one did, as far as their
// driver has them for the project. A driver of which only such could be and that cannot say is among the unknown.
func (e *Engine) volumesOf(ctx context.Context, newest state.Revision) (all map[string][]string, unknown map[string]error, err error) {
	history, err := e.cfg.Store.History(ctx, 0)
	if err != nil {
		return nil, nil, err
	}
	now, before, external := map[string][]mounted{}, map[string][]mounted{}, map[string]bool{}
	for _, rev := range history {
		if rev.Number == newest.Number {
			e.addMounts(now, rev.Project)
		}
		e.addMounts(before, rev.Project)
		for key, v := range rev.Project.Volumes {
			if v.External {
				external[volumeName(rev.Project, key)] = true
			}
		}
	}
	all, unknown = map[string][]string{}, map[string]error{}
	for name, mounts := range before {
		remover, ok := e.cfg.Drivers[name].(VolumeRemover)
		if !ok && len(now[name]) > 0 {
			return nil, nil, fmt.Errorf("%w: driver %s keeps none", errdefs.ErrUnsupported, name)
		} else if !ok {
			continue
		}
		for _, m := range now[name] {
			if m.source != "" {
				all[name] = append(all[name], m.source)
			}
		}
		made, err := madeFor(ctx, remover, newest.Project.Name)
		if err != nil && len(now[name]) > 0 {
			return nil, nil, err
		} else if err != nil {
			unknown[name] = err
			continue
		}
		for _, volume := range made {
			is := func(m mounted) bool { return isVolume(newest.Project.Name, m.service, m.mount(), volume) }
			if !external[volume] && slices.ContainsFunc(mounts, is) {
				all[name] = append(all[name], volume)
			}
		}
		slices.Sort(all[name])
		all[name] = slices.Compact(all[name])
	}
	return all, unknown, nil
}

// madeFor asks a driver for the volumes that it made for a project.
func madeFor(ctx context.Context, of VolumeRemover, project string) ([]string, error) {
	ctx, cancel := context.WithTimeout(ctx, listLimit)
	defer cancel()
	return of.Volumes(ctx, project)
}

// mounted is a volume that a service mounts.
type mounted struct {
	service, source, target string // source is its full name, "" where it has none in the file
}

func (m mounted) mount() driver.Mount {
	return driver.Mount{Kind: compose.MountVolume, Source: m.source, Target: m.target}
}

// addMounts adds the volumes that a revision mounts, by driver, but for external ones. A service that no driver here runs has none.
func (e *Engine) addMounts(to map[string][]mounted, p compose.Project) {
	external := map[string]bool{}
	for key, v := range p.Volumes {
		external[volumeName(p, key)] = v.External
	}
	for _, name := range p.ServiceNames() {
		in, err := e.driverOf(p.Services[name])
		if err != nil {
			continue
		}
		for _, m := range mountsOf(p, p.Services[name]) {
			one := mounted{name, m.Source, m.Target}
			if m.Kind == compose.MountVolume && !external[m.Source] && !slices.Contains(to[in], one) {
				to[in] = append(to[in], one)
			}
		}
	}
}
