package docker

import (
	"context"
	"fmt"
	"maps"
	"strings"

	"github.com/moby/moby/client"

	"trellis/driver"
	kinds "trellis/errdefs"
)

// makeVolume makes a volume where it is not there, as docker compose would have made it.
func (d *Driver) makeVolume(ctx context.Context, spec driver.Spec, name string) error {
	v, said := containerOf(spec).Volumes[name]
	_, err := d.engine.api.VolumeInspect(ctx, name, client.VolumeInspectOptions{})
	switch {
	case err == nil:
		return nil
	case !isNotFound(err):
		return fmt.Errorf("look at the volume %s: %w", name, kind(err))
	case v.External:
		return fmt.Errorf("%w: the volume %s is external and is not there; make it with `docker volume create %s`", kinds.ErrNotFound, name, name)
	}
	labels := maps.Clone(v.Labels)
	if labels == nil {
		labels = map[string]string{}
	}
	labels[labelProject] = spec.Project
	if said || strings.HasPrefix(name, spec.Project+"_") {
		labels[composeProject] = spec.Project
		labels[composeVolume] = firstOf(v.Key, strings.TrimPrefix(name, spec.Project+"_"))
	}
	_, err = d.engine.api.VolumeCreate(ctx, client.VolumeCreateOptions{Name: name, Driver: v.Driver, DriverOpts: v.Options, Labels: labels})
	if err != nil {
		return fmt.Errorf("make the volume %s: %w", name, kind(err))
	}
	return nil
}

// RemoveVolumes removes volumes by their full names. Unknown ones: nil. One in use: ErrConflict.
func (d *Driver) RemoveVolumes(ctx context.Context, names []string) error {
	for _, name := range names {
		if _, err := d.engine.api.VolumeRemove(ctx, name, client.VolumeRemoveOptions{}); err != nil && !isNotFound(err) {
			return fmt.Errorf("remove the volume %s: %w", name, kind(err))
		}
	}
	return nil
}

// removeNetworks removes the networks that Trellis made for a project and that nobody is in any more.
func (d *Driver) removeNetworks(ctx context.Context, project string) error {
	list, err := d.engine.api.NetworkList(ctx, client.NetworkListOptions{Filters: d.mine(project)})
	if err != nil {
		return fmt.Errorf("list networks: %w", kind(err))
	}
	d.making.Lock()
	defer d.making.Unlock()
	for _, n := range list.Items {
		found, err := d.engine.api.NetworkInspect(ctx, n.ID, client.NetworkInspectOptions{})
		if err != nil || len(found.Network.Containers) > 0 {
			continue
		}
		// Refused while something that does not run belongs to it: the last one takes it away.
		_, _ = d.engine.api.NetworkRemove(ctx, n.ID, client.NetworkRemoveOptions{})
	}
	return nil
}
