package docker

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/client"

	"trellis/driver"
	kinds "trellis/errdefs"
)

// killLimit bounds how long the engine may take to end a container that was killed.
const killLimit = 20 * time.Second

// stopping is one stop under way.
type stopping struct {
	hurry chan time.Time // an earlier time for the kill
	done  chan struct{}
	err   error // once done is closed
}

// Stop implements driver.Driver.
func (d *Driver) Stop(ctx context.Context, id driver.ID, grace time.Duration) error {
	deadline := time.Now().Add(grace)
	found, err := d.engine.api.ContainerInspect(ctx, containerName(id), client.ContainerInspectOptions{})
	if isNotFound(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("stop %s: %w", id, kind(err))
	}
	d.mu.Lock()
	s := d.stops[id]
	if s == nil {
		if !found.Container.State.Running || found.Container.Config.Labels[labelState] != d.cfg.StateDir {
			d.mu.Unlock()
			return nil
		}
		s = &stopping{hurry: make(chan time.Time, 16), done: make(chan struct{})}
		d.stops[id] = s
		go d.end(context.WithoutCancel(ctx), id, found.Container, s, deadline)
	} else {
		select {
		case s.hurry <- deadline:
		default: // so many have asked already
		}
	}
	d.mu.Unlock()
	select {
	case <-s.done:
		if s.err != nil {
			return fmt.Errorf("stop %s: %w", id, s.err)
		}
		return nil
	case <-ctx.Done():
		return fmt.Errorf("stop %s: %w", id, ctx.Err())
	}
}

// end ends a container by its hooks, its signal, or a kill at the deadline.
func (d *Driver) end(ctx context.Context, id driver.ID, c container.InspectResponse, s *stopping, deadline time.Time) {
	defer func() {
		d.mu.Lock()
		delete(d.stops, id)
		d.mu.Unlock()
		close(s.done)
	}()
	r := d.record(id, c.ID)
	r.Asked = time.Now()
	if err := d.keep(id, r); err != nil {
		// What fills the disk has to end all the same.
		d.log.Warn("a stop could not be written down", "instance", string(id), "err", err)
		d.mu.Lock()
		d.unwritten[id] = r
		d.mu.Unlock()
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	wait := d.engine.api.ContainerWait(ctx, c.ID, client.ContainerWaitOptions{Condition: container.WaitConditionNotRunning})
	hooks := make(chan struct{})
	hookCtx, endHooks := context.WithCancel(ctx)
	defer endHooks()
	go func() {
		defer close(hooks)
		for i, h := range r.PreStop {
			if err := d.hook(hookCtx, c.ID, h); err != nil && hookCtx.Err() == nil {
				d.log.Warn("pre_stop hook failed", "instance", string(id), "hook", i+1, "err", err)
			}
		}
	}()
	timer := time.NewTimer(time.Until(deadline))
	defer timer.Stop()
	killed := false
	for {
		select {
		case <-hooks:
			hooks = nil
			if !killed {
				d.signal(ctx, id, c.ID, firstOf(c.Config.StopSignal, "SIGTERM"))
			}
		case sooner := <-s.hurry:
			if !killed && sooner.Before(deadline) {
				deadline = sooner
				timer.Reset(time.Until(deadline))
			}
		case <-timer.C:
			if killed {
				s.err = fmt.Errorf("%w: the engine did not end it within %s of the kill", kinds.ErrUnavailable, killLimit)
				return
			}
			killed = true
			endHooks()
			d.signal(ctx, id, c.ID, "SIGKILL")
			timer.Reset(killLimit)
		case <-wait.Result:
			return
		case err := <-wait.Error:
			if err != nil && !isNotFound(err) {
				s.err = kind(err)
			}
			return
		}
	}
}

// signal sends a signal to a container; one that has ended meanwhile is fine.
func (d *Driver) signal(ctx context.Context, id driver.ID, container, signal string) {
	_, err := d.engine.api.ContainerKill(ctx, container, client.ContainerKillOptions{Signal: signal})
	if err != nil && !isNotFound(err) && !errors.Is(kind(err), kinds.ErrConflict) {
		d.log.Warn("signal could not be sent", "instance", string(id), "signal", signal, "err", err)
	}
}

// Remove implements driver.Driver.
func (d *Driver) Remove(ctx context.Context, id driver.ID) error {
	if err := d.remove(ctx, id); err != nil {
		return fmt.Errorf("remove %s: %w", id, err)
	}
	return nil
}

func (d *Driver) remove(ctx context.Context, id driver.ID) error {
	defer d.lock(id)()
	found, err := d.engine.api.ContainerInspect(ctx, containerName(id), client.ContainerInspectOptions{})
	if err != nil && !isNotFound(err) {
		return kind(err)
	}
	if err == nil {
		if found.Container.Config.Labels[labelState] != d.cfg.StateDir {
			return nil
		}
		if found.Container.State.Running {
			return fmt.Errorf("%w: it runs", kinds.ErrConflict)
		}
		_, err := d.engine.api.ContainerRemove(ctx, found.Container.ID, client.ContainerRemoveOptions{RemoveVolumes: true})
		if err != nil && !isNotFound(err) {
			return kind(err)
		}
	}
	if err := d.removeHolder(ctx, networkName(id)); err != nil {
		return err
	}
	if err := d.forget(id); err != nil {
		return err
	}
	// Also where there was no container any more: an earlier removal may have come no further.
	project, _, _ := strings.Cut(string(id), "/")
	left, err := d.engine.api.ContainerList(ctx, client.ContainerListOptions{All: true, Filters: d.mine(project)})
	if err != nil || len(left.Items) > 0 {
		return kind(err)
	}
	if err := d.removeNetworks(ctx, project); err != nil {
		return err
	}
	d.unused()
	return nil
}

// removeHolder removes a container that holds a network, if it is ours.
func (d *Driver) removeHolder(ctx context.Context, name string) error {
	found, err := d.engine.api.ContainerInspect(ctx, name, client.ContainerInspectOptions{})
	if isNotFound(err) || err == nil && found.Container.Config.Labels[labelState] != d.cfg.StateDir {
		return nil
	}
	if err != nil {
		return kind(err)
	}
	_, err = d.engine.api.ContainerRemove(ctx, found.Container.ID, client.ContainerRemoveOptions{Force: true, RemoveVolumes: true})
	if err != nil && !isNotFound(err) {
		return kind(err)
	}
	d.mu.Lock()
	delete(d.sandboxes, found.Container.ID)
	d.mu.Unlock()
	return nil
}
