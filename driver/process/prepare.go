//go:build linux

package process

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"trellis/driver"
	"trellis/errdefs"
)

// preparedFor is how long a network that was prepared waits for its Start before List takes it away.
const preparedFor = time.Minute

// Prepare makes the network namespace of an instance that is about to be started and returns its path, so that names
// can be served in it before the program runs; "" where the instance has no namespace of its own. Start of the same spec
// uses it, Remove takes it away. What is never started goes by itself: with the end of Run, or with a List of the
// next Driver. The errors are those of Start.
func (d *Driver) Prepare(ctx context.Context, spec driver.Spec) (string, error) {
	path, err := d.prepareNetwork(ctx, spec)
	if err != nil {
		return "", fmt.Errorf("prepare %s: %w", spec.ID, err)
	}
	return path, nil
}

func (d *Driver) prepareNetwork(ctx context.Context, spec driver.Spec) (string, error) {
	if err := check(spec); err != nil {
		return "", err
	}
	if !d.isolate || spec.HostNetwork {
		return "", nil
	}
	dir, err := d.directory(spec.ID)
	if err != nil {
		return "", err
	}
	defer d.lock(dir)()
	if err := ctx.Err(); err != nil {
		return "", err
	}
	before, err := d.settle(dir)
	switch {
	case isMissing(err):
		d.setPrepared(dir, time.Now())
	case err != nil:
		return "", err
	case before.spec.Hash != spec.Hash:
		return "", fmt.Errorf("%w: it is there with another specification", errdefs.ErrConflict)
	case before.state != driver.Exited:
		return before.spec.Netns, nil
	}
	n, err := d.network(dir, before.own.Address)
	if err != nil {
		d.setPrepared(dir, time.Time{}) // what there is of it goes with the next List
		return "", fmt.Errorf("make the network: %w", err)
	}
	return n.path, nil
}

// setPrepared notes when a network was prepared; the zero time: it waits for no Start any more.
func (d *Driver) setPrepared(dir string, at time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if at.IsZero() {
		delete(d.prepared, dir)
		return
	}
	d.prepared[dir] = at
}

// waits says whether a network was prepared a short while ago and its instance has not been started.
func (d *Driver) waits(dir string) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	at, ok := d.prepared[dir]
	return ok && time.Since(at) < preparedFor
}

// sweepNetworks takes away the networks of instances of project that are not there and that nobody is about to start:
// Trellis ended, or gave up, after it had prepared them. known are the instance directories.
func (d *Driver) sweepNetworks(project string, known []string) error {
	if !d.isolate {
		return nil
	}
	entries, err := os.ReadDir(d.netnsDir())
	if isMissing(err) {
		return nil
	}
	if err != nil {
		return err
	}
	if len(entries) == 0 {
		return locked(d.tidyNetwork)
	}
	for _, e := range entries {
		if slices.Contains(known, e.Name()) || !mayHold(e.Name(), project, d.cfg.Project) {
			continue
		}
		if dir := filepath.Join(d.root, e.Name()); !d.waits(dir) {
			if err := d.clearNetwork(dir); err != nil {
				return err
			}
		}
	}
	return nil
}

// clearNetwork takes away the network of a directory that is not there. One that somebody works on is left to them.
func (d *Driver) clearNetwork(dir string) error {
	l := d.mutex(dir)
	if !l.TryLock() {
		return nil
	}
	defer l.Unlock()
	if _, err := os.Stat(dir); !isMissing(err) {
		return err
	}
	return d.forget(record{dir: dir})
}

// abandon takes away what was prepared and not started.
func (d *Driver) abandon() {
	d.mu.Lock()
	var left []string
	for dir := range d.prepared {
		left = append(left, dir)
	}
	clear(d.prepared)
	d.mu.Unlock()
	for _, dir := range left {
		if err := d.clearNetwork(dir); err != nil {
			d.log.Warn("a network that was prepared could not be removed", "project", d.cfg.Project, "instance", filepath.Base(dir), "err", err)
		}
	}
}
