package docker

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
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
	if err := d.engine.greet(ctx); err != nil {
		return nil, fmt.Errorf("list volumes: %w", d.engine.unanswered(ctx, err))
	}
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

// RemoveVolumes removes volumes by their full names. Unknown ones: nil. One in use: ErrConflict, when all others are removed.
func (d *Driver) RemoveVolumes(ctx context.Context, names []string) error {
	var errs []error
	for _, name := range names {
		if _, err := d.engine.api.VolumeRemove(ctx, name, client.VolumeRemoveOptions{}); err != nil && !isNotFound(err) {
			errs = append(errs, fmt.Errorf("remove the volume %s: %w", name, kind(err)))
		}
	}
	return errors.Join(errs...)
}

// removeNetworks removes the networks that Trellis made for a project, none of whose containers is left. One that others are in stays,
// and Left says so.
func (d *Driver) removeNetworks(ctx context.Context, project string) error {
	list, err := d.engine.api.NetworkList(ctx, client.NetworkListOptions{Filters: d.mine(project)})
	if err != nil {
		return fmt.Errorf("list networks: %w", kind(err))
	}
	d.making.Lock()
	defer d.making.Unlock()
	var left []string
	for _, n := range list.Items {
		if err := d.removeNetwork(ctx, n.ID); err != nil {
			d.log.Warn("network stays", "network", n.Name, "err", err)
			left = append(left, fmt.Sprintf("the Docker network %s stays: %s; 'docker network rm %s' removes it when nobody uses it", n.Name, err, n.Name))
		}
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.left = left
	return nil
}

// Left says which networks stayed when the last container of the project was removed, and why.
func (d *Driver) Left() []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Clone(d.left)
}

const (
	// countedFor is how long an engine still counts who was removed a moment ago; a busy one takes longer to notice.
	countedFor = 2 * time.Second
	// busyFor is how long a busy one is asked to remove a network that nobody is in.
	busyFor = time.Minute
)

// removeNetwork removes a network, which takes an engine that still counts who was in it some time. One that others are in
// stays, and that is an error.
func (d *Driver) removeNetwork(ctx context.Context, id string) error {
	for began := time.Now(); ; {
		_, err := d.engine.api.NetworkRemove(ctx, id, client.NetworkRemoveOptions{})
		if err == nil || isNotFound(err) {
			return nil
		}
		if tried := time.Since(began); tried > busyFor || tried > countedFor && !d.isEmpty(ctx, id) {
			return kind(err)
		}
		select {
		case <-time.After(200 * time.Millisecond):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// isEmpty says whether no container is in a network. A busy engine names some that it has removed.
func (d *Driver) isEmpty(ctx context.Context, id string) bool {
	found, err := d.engine.api.NetworkInspect(ctx, id, client.NetworkInspectOptions{})
	if err != nil {
		return false
	}
	for c := range found.Network.Containers {
		if _, err := d.engine.api.ContainerInspect(ctx, c, client.ContainerInspectOptions{}); !isNotFound(err) {
			return false
		}
	}
	return true
}
