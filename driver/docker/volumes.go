package docker

import (
	"context"
	"fmt"
	"maps"
	"strings"
	"time"

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

// Volumes returns the full names of the volumes that were made for a project.
func (d *Driver) Volumes(ctx context.Context, project string) ([]string, error) {
	list, err := d.engine.api.VolumeList(ctx, client.VolumeListOptions{Filters: make(client.Filters).Add("label", labelProject+"="+project)})
	if err != nil {
		return nil, fmt.Errorf("list volumes: %w", kind(err))
	}
	var names []string
	for _, v := range list.Items {
		names = append(names, v.Name)
	}
	return names, nil
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

// removeNetworks removes the networks that Trellis made for a project, none of whose containers is left. One that others are in stays.
func (d *Driver) removeNetworks(ctx context.Context, project string) error {
	list, err := d.engine.api.NetworkList(ctx, client.NetworkListOptions{Filters: d.mine(project)})
	if err != nil {
		return fmt.Errorf("list networks: %w", kind(err))
	}
	d.making.Lock()
	defer d.making.Unlock()
	for _, n := range list.Items {
		if err := d.removeNetwork(ctx, n.ID); err != nil {
			d.log.Warn("network stays", "network", n.Name, "err", err)
		}
	}
	return nil
}

// removeNetwork removes a network. A busy engine still counts who was removed a moment ago: it is asked again for two seconds.
func (d *Driver) removeNetwork(ctx context.Context, id string) error {
	for tries := 10; ; tries-- {
		_, err := d.engine.api.NetworkRemove(ctx, id, client.NetworkRemoveOptions{})
		if err == nil || isNotFound(err) {
			return nil
		}
		if tries == 0 {
			return kind(err)
		}
		select {
		case <-time.After(200 * time.Millisecond):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
