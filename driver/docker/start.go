package docker

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/client"

	"trellis/driver"
	kinds "trellis/errdefs"
)

// Start implements driver.Driver.
func (d *Driver) Start(ctx context.Context, spec driver.Spec) error {
	if err := d.start(ctx, spec); err != nil {
		return fmt.Errorf("start %s: %w", spec.ID, err)
	}
	return nil
}

func (d *Driver) start(ctx context.Context, spec driver.Spec) error {
	if err := check(spec); err != nil {
		return err
	}
	defer d.lock(spec.ID)()
	if err := ctx.Err(); err != nil {
		return err
	}
	name := containerName(spec.ID)
	found, err := d.engine.api.ContainerInspect(ctx, name, client.ContainerInspectOptions{})
	fresh := isNotFound(err)
	if err != nil && !fresh {
		return fmt.Errorf("look at the container: %w", kind(err))
	}
	before := found.Container
	if !fresh {
		if err := d.owned(before.Config.Labels, name); err != nil {
			return err
		}
		switch {
		case before.Config.Labels[labelHash] != spec.Hash:
			return fmt.Errorf("%w: it is there with another specification", kinds.ErrConflict)
		case before.State.Running:
			return nil
		}
	}
	if err := d.use(); err != nil {
		return err
	}
	defer d.markStarting(spec.ID)()
	holder := ""
	if !spec.HostNetwork {
		if holder, err = d.holdNetwork(ctx, spec); err != nil {
			return err
		}
	}
	r := record{Revision: spec.Revision, PostStart: spec.PostStart, PreStop: spec.PreStop}
	id := before.ID
	if !fresh {
		r.count(d.record(spec.ID, id), before)
		if holder != "" && string(before.HostConfig.NetworkMode) != "container:"+holder {
			// Somebody took its network away: it cannot be joined to another one.
			if _, err := d.engine.api.ContainerRemove(ctx, id, client.ContainerRemoveOptions{RemoveVolumes: true}); err != nil {
				return fmt.Errorf("make the container anew: %w", kind(err))
			}
			fresh = true
		}
	}
	if fresh {
		if id, err = d.create(ctx, spec, holder); err != nil {
			d.giveUp(ctx, spec.ID)
			return err
		}
	}
	return d.launch(ctx, spec, id, r)
}

// giveUp removes the network of an instance that could not be made, and its secrets and configs: nobody knows the instance, so
// nobody would. What fails here of the network is found by List later.
func (d *Driver) giveUp(ctx context.Context, id driver.ID) {
	if err := os.RemoveAll(d.filesDir(id)); err != nil {
		d.log.Warn("the files of an instance that could not be made could not be removed", "instance", id, "err", err)
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer cancel()
	if err := d.removeHolder(ctx, networkName(id)); err != nil {
		d.log.Warn("the network of an instance that could not be made could not be removed", "instance", id, "err", err)
	}
}

// count takes the restarts over from before, and counts the one that follows the run which has ended.
func (r *record) count(before record, c container.InspectResponse) {
	r.Restarts, r.Counted = before.Restarts, before.Counted
	ended := parseTime(c.State.FinishedAt)
	if c.State.Status != container.StateCreated && !ended.Equal(r.Counted) || c.State.Status == container.StateCreated && c.State.Error != "" {
		r.Restarts++
		r.Counted = ended
	}
}

// launch starts the container.
func (d *Driver) launch(ctx context.Context, spec driver.Spec, id string, r record) error {
	r.Container = id
	if len(spec.Files) > 0 {
		who := d.userOf(ctx, id, d.userConfigured(ctx, id))
		if err := d.writeFiles(spec, who); err != nil {
			return err
		}
	}
	if err := d.keep(spec.ID, r); err != nil {
		return err
	}
	if _, err := d.engine.api.ContainerStart(ctx, id, client.ContainerStartOptions{}); err != nil {
		if now, ierr := d.engine.api.ContainerInspect(ctx, id, client.ContainerInspectOptions{}); ierr == nil && cannotRun(now.Container.State) {
			return nil // List tells why
		}
		return fmt.Errorf("start the container: %w", kind(err))
	}
	if len(spec.PostStart) > 0 {
		go d.postStart(spec.ID, id, spec.PostStart)
	}
	return nil
}

// cannotRun says whether the program could not be started: there is none, or it may not be run.
func cannotRun(s *container.State) bool {
	return !s.Running && s.Error != "" && (s.ExitCode == 126 || s.ExitCode == 127)
}

// userConfigured is the user that a container runs as: the file's, or else the image's.
func (d *Driver) userConfigured(ctx context.Context, id string) string {
	found, err := d.engine.api.ContainerInspect(ctx, id, client.ContainerInspectOptions{})
	if err != nil {
		return ""
	}
	return found.Container.Config.User
}

// markStarting lets List know that a container that was made and does not run is about to.
func (d *Driver) markStarting(id driver.ID) func() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.starting[id] = true
	return func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		delete(d.starting, id)
	}
}

// postStart runs the hooks that follow a start; one that fails stops the instance.
func (d *Driver) postStart(id driver.ID, container string, hooks []driver.Hook) {
	ctx := context.Background()
	for i, h := range hooks {
		if err := d.hook(ctx, container, h); err != nil {
			now, ierr := d.engine.api.ContainerInspect(ctx, container, client.ContainerInspectOptions{})
			if ierr != nil || !now.Container.State.Running {
				return // it has ended, which is what there is to tell
			}
			r := d.record(id, container)
			r.Trouble = fmt.Sprintf("post_start hook %d failed: %v", i+1, err)
			if err := d.keep(id, r); err != nil {
				d.log.Error("trouble could not be kept", "instance", string(id), "err", err)
			}
			if _, err := d.engine.api.ContainerKill(ctx, container, client.ContainerKillOptions{Signal: "SIGKILL"}); err != nil {
				d.log.Error("instance could not be stopped after its hook failed", "instance", string(id), "err", err)
			}
			return
		}
	}
}

// hook runs one hook in a container.
func (d *Driver) hook(ctx context.Context, container string, h driver.Hook) error {
	out := &head{}
	code, err := d.exec(ctx, container, driver.Command{Args: h.Command, Env: h.Env, Dir: h.Dir, User: h.User, Stdout: out, Stderr: out})
	if err == nil && code != 0 {
		err = fmt.Errorf("exit %d: %s", code, strings.TrimSpace(out.String()))
	}
	return err
}

// headSize is how much of what a hook says is told where it fails.
const headSize = 1 << 10

// head keeps the first bytes of what is written to it.
type head struct{ bytes.Buffer }

// Write implements io.Writer.
func (h *head) Write(p []byte) (int, error) {
	h.Buffer.Write(p[:min(max(headSize-h.Len(), 0), len(p))])
	return len(p), nil
}

// parseTime reads a time as the engine writes it; the zero time for none.
func parseTime(text string) time.Time {
	t, err := time.Parse(time.RFC3339Nano, text)
	if err != nil || t.Year() <= 1 {
		return time.Time{}
	}
	return t
}
