package docker

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/moby/moby/api/pkg/stdcopy"
	"github.com/moby/moby/client"

	"trellis/driver"
	kinds "trellis/errdefs"
)

// hostsLimit bounds how long it takes to change the names of an instance.
const hostsLimit = 10 * time.Second

// Exec implements driver.Driver.
func (d *Driver) Exec(ctx context.Context, id driver.ID, cmd driver.Command) (int, error) {
	found, err := d.engine.api.ContainerInspect(ctx, containerName(id), client.ContainerInspectOptions{})
	if err == nil && (!found.Container.State.Running || found.Container.Config.Labels[labelState] != d.cfg.StateDir) {
		err = fmt.Errorf("%w: it does not run", kinds.ErrNotFound)
	}
	if err != nil {
		return 0, fmt.Errorf("exec in %s: %w", id, kind(err))
	}
	code, err := d.exec(ctx, found.Container.ID, cmd)
	if errors.Is(err, kinds.ErrConflict) { // it ended meanwhile
		err = fmt.Errorf("%w: %w", kinds.ErrNotFound, err)
	}
	if err != nil {
		return 0, fmt.Errorf("exec in %s: %w", id, err)
	}
	return code, nil
}

// exec runs a command in a container and waits for it. When ctx is done the command is killed where it can be reached.
func (d *Driver) exec(ctx context.Context, container string, cmd driver.Command) (int, error) {
	made, err := d.engine.api.ExecCreate(ctx, container, client.ExecCreateOptions{
		User: cmd.User, TTY: cmd.TTY, AttachStdin: cmd.Stdin != nil, AttachStdout: true, AttachStderr: true,
		Env: cmd.Env, WorkingDir: cmd.Dir, Cmd: cmd.Args,
	})
	if err != nil {
		return 0, kind(err)
	}
	conn, err := d.engine.api.ExecAttach(ctx, made.ID, client.ExecAttachOptions{TTY: cmd.TTY})
	if err != nil {
		return 0, kind(err)
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() {
		d.killExec(made.ID)
		conn.Close()
	})
	defer stop()
	if cmd.Stdin != nil {
		go func() {
			_, _ = io.Copy(conn.Conn, cmd.Stdin)
			_ = conn.CloseWrite()
		}()
	}
	if cmd.TTY && cmd.Resize != nil {
		go d.resize(ctx, made.ID, cmd.Resize)
	}
	stdout, stderr := orDiscard(cmd.Stdout), orDiscard(cmd.Stderr)
	if cmd.TTY {
		_, err = io.Copy(stdout, conn.Reader)
	} else {
		_, err = stdcopy.StdCopy(stdout, stderr, conn.Reader)
	}
	if ctx.Err() != nil {
		return 0, ctx.Err()
	}
	if err != nil {
		return 0, fmt.Errorf("read the output: %w", err)
	}
	return d.execCode(ctx, made.ID)
}

// execCode waits for the exit code: the output may end before the command does.
func (d *Driver) execCode(ctx context.Context, id string) (int, error) {
	for pause := time.Millisecond; ; pause = min(2*pause, 100*time.Millisecond) {
		said, err := d.engine.api.ExecInspect(ctx, id, client.ExecInspectOptions{})
		if err != nil {
			return 0, kind(err)
		}
		if !said.Running {
			return said.ExitCode, nil
		}
		select {
		case <-ctx.Done():
			d.killExec(id)
			return 0, ctx.Err()
		case <-time.After(pause):
		}
	}
}

// killExec kills a command whose caller has left: the engine has no call for it, so it is done where its process can be
// reached.
func (d *Driver) killExec(id string) {
	if !d.enter {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), hostsLimit)
	defer cancel()
	said, err := d.engine.api.ExecInspect(ctx, id, client.ExecInspectOptions{})
	if err == nil && said.Running && said.PID > 1 {
		kill(said.PID)
	}
}

func (d *Driver) resize(ctx context.Context, id string, sizes <-chan driver.WindowSize) {
	for {
		select {
		case <-ctx.Done():
			return
		case s, ok := <-sizes:
			if !ok {
				return
			}
			// One that comes before the command runs, or after, is of no use.
			_, _ = d.engine.api.ExecResize(ctx, id, client.ExecResizeOptions{Height: uint(s.Rows), Width: uint(s.Cols)})
		}
	}
}

func orDiscard(w io.Writer) io.Writer {
	if w == nil {
		return io.Discard
	}
	return w
}
