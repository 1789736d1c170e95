//go:build linux

package process

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"trellis/driver"
	"trellis/errdefs"
	"trellis/shim"
)

// Stop implements driver.Driver.
func (d *Driver) Stop(ctx context.Context, id driver.ID, grace time.Duration) error {
	if err := d.stop(ctx, id, grace); err != nil {
		return fmt.Errorf("stop %s: %w", id, err)
	}
	return nil
}

func (d *Driver) stop(ctx context.Context, id driver.ID, grace time.Duration) error {
	dir, err := d.directory(id)
	if err != nil {
		return err
	}
	deadline := time.Now().Add(max(grace, 0))
	for pause := time.Millisecond; ; pause = min(2*pause, 50*time.Millisecond) {
		if err := d.stopOnce(ctx, dir, deadline); !errors.Is(err, errTooEarly) {
			return err
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		time.Sleep(pause)
	}
}

// stopOnce is stop, or errTooEarly where it has to be tried again.
func (d *Driver) stopOnce(ctx context.Context, dir string, deadline time.Time) error {
	fd, told, err := d.askToStop(dir, deadline)
	if fd < 0 || err != nil {
		return err
	}
	defer unix.Close(fd)
	if told {
		err = await(ctx, fd)
	} else {
		err = hurry(ctx, fd, deadline)
	}
	if err != nil {
		return err
	}
	d.reap()
	r, err := d.settled(dir)
	switch {
	case isMissing(err):
		return nil
	case err == nil && r.left:
		return errTooEarly
	}
	return err
}

// errTooEarly says that a shim has its directory and has not yet said who it is, that it ends just now, or that it was killed
// and something of the instance lives on.
var errTooEarly = errors.New("the shim is not known, or what it left has not ended")

// askToStop tells the shim of dir to end by the deadline and returns a pidfd of it, -1 if there is none. told is false where
// the shim knows that it has to end and not by when: a full disk, of which this instance may be the reason, took no record.
func (d *Driver) askToStop(dir string, deadline time.Time) (fd int, told bool, err error) {
	defer d.lock(dir)()
	r, err := d.settle(dir)
	if isMissing(err) {
		return -1, true, nil
	}
	if err != nil {
		return -1, true, err
	}
	// An exited instance's shim may still be writing to the disk; it is waited for, so that nothing is left of it.
	fd, err = r.shim()
	if errors.Is(err, shim.ErrGone) {
		if r.state != driver.Exited {
			return -1, true, errTooEarly
		}
		return -1, true, nil
	}
	if err != nil || r.state == driver.Exited {
		return fd, true, err
	}
	wish := shim.Stop{Version: shim.Version, Run: r.running.Run, Deadline: deadline}
	unwritten := shim.Write(dir, shim.StopFile, wish)
	if unwritten != nil {
		d.log.Warn("a stop could not be written down", "project", r.spec.Project, "service", r.spec.Service,
			"instance", r.spec.ID, "err", unwritten)
		d.mu.Lock()
		d.asked[dir] = wish.Run
		d.mu.Unlock()
	}
	if err := tell(fd, unix.SIGTERM); err != nil {
		unix.Close(fd)
		return -1, true, fmt.Errorf("tell the shim: %w", err)
	}
	return fd, unwritten == nil, nil
}

// wasAsked says whether a run was told to stop.
func (d *Driver) wasAsked(dir string, run int) bool {
	d.mu.Lock()
	asked := d.asked[dir]
	d.mu.Unlock()
	wish, err := shim.ReadStop(dir)
	return asked == run || err == nil && wish.Run == run
}

// tell signals the process of a pidfd. One that is gone needs not know.
func tell(pidfd int, sig unix.Signal) error {
	if err := unix.PidfdSendSignal(pidfd, sig, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
		return err
	}
	return nil
}

// hurry returns when the shim of a pidfd has ended, by the deadline or by what it is told then. A signal may come before the
// one that was sent first, and is sent until it has done something.
func hurry(ctx context.Context, pidfd int, deadline time.Time) error {
	for early, cancel := context.WithDeadline(ctx, deadline); ; early, cancel = context.WithTimeout(ctx, 100*time.Millisecond) {
		err := await(early, pidfd)
		cancel()
		if err == nil || ctx.Err() != nil || !errors.Is(err, context.DeadlineExceeded) {
			return err
		}
		if err := tell(pidfd, shim.Hurry); err != nil {
			return fmt.Errorf("hurry the shim: %w", err)
		}
	}
}

// Revive says whether the shim of an instance begins another run at once when the one that the caller knows by its
// Restarts ends by itself. What is said holds for that run alone. Unknown: ErrNotFound.
func (d *Driver) Revive(id driver.ID, restarts int, when driver.Revival) error {
	dir, err := d.directory(id)
	if err != nil {
		return fmt.Errorf("let %s revive: %w", id, err)
	}
	if when == driver.ReviveNever {
		if err = os.Remove(filepath.Join(dir, shim.AgainFile)); isMissing(err) {
			return nil
		}
	} else {
		again := shim.Again{Version: shim.Version, Run: restarts + 1, Always: when == driver.ReviveAlways}
		err = shim.Publish(dir, shim.AgainFile, again)
		if isMissing(err) {
			err = fmt.Errorf("%w: no such instance", errdefs.ErrNotFound)
		}
	}
	if err == nil {
		err = d.tellShim(dir)
	}
	if err != nil {
		return fmt.Errorf("let %s revive: %w", id, err)
	}
	return nil
}

// tellShim lets a shim look at what it may do, in its own time. One that is gone needs not know.
func (d *Driver) tellShim(dir string) error {
	r, err := d.read(dir)
	if err != nil {
		return err
	}
	fd, err := r.shim()
	if errors.Is(err, shim.ErrGone) {
		return nil
	}
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if err := tell(fd, unix.SIGUSR1); err != nil {
		return fmt.Errorf("tell the shim: %w", err)
	}
	return nil
}

// await returns when the process of a pidfd has ended.
func await(ctx context.Context, pidfd int) error {
	for {
		fds := []unix.PollFd{{Fd: int32(pidfd), Events: unix.POLLIN}}
		n, err := unix.Poll(fds, 50)
		if n > 0 {
			return nil
		}
		if err != nil && !errors.Is(err, unix.EINTR) {
			return err
		}
		if err := ctx.Err(); err != nil {
			return err
		}
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
	dir, err := d.directory(id)
	if err != nil {
		return err
	}
	defer d.lock(dir)()
	r, err := d.settle(dir)
	if isMissing(err) {
		return d.forget(record{dir: dir})
	}
	if err != nil {
		return err
	}
	if r.state != driver.Exited {
		return fmt.Errorf("%w: it is %s", errdefs.ErrConflict, r.state)
	}
	if fd, err := r.shim(); err == nil { // it has only its own files to finish
		err = await(ctx, fd)
		unix.Close(fd)
		if err != nil {
			return err
		}
		d.reap()
	}
	// Another shim may have been started for it just now, by a Trellis that has ended: its run has no record yet.
	lock, running, err := d.take(ctx, dir)
	if err != nil {
		return err
	}
	if running {
		return fmt.Errorf("%w: it was started again", errdefs.ErrConflict)
	}
	defer unix.Close(lock)
	return d.forget(r)
}

// forget takes away what was made for r; what is not there is no error.
func (d *Driver) forget(r record) error {
	shim.KillGroups(ofEveryRun(r.spec.Cgroups))
	if err := d.removeNetwork(r.dir); err != nil {
		return fmt.Errorf("remove the network: %w", err)
	}
	// The record goes first: what is half removed is not an instance.
	if err := os.Remove(filepath.Join(r.dir, shim.SpecFile)); err != nil && !isMissing(err) {
		return err
	}
	if err := os.RemoveAll(r.dir); err != nil {
		return err
	}
	d.mu.Lock()
	delete(d.specs, r.dir)
	delete(d.unwritten, r.dir)
	delete(d.asked, r.dir)
	delete(d.left, r.dir)
	delete(d.ports, r.own.Port)
	delete(d.prepared, r.dir)
	d.mu.Unlock()
	d.sockets.forget(r.dir)
	d.tidy()
	return nil
}

// ofEveryRun returns the control groups that are left of any run: the shim of an earlier one may not be done yet.
func ofEveryRun(all []shim.Cgroup) []shim.Cgroup {
	var out []shim.Cgroup
	for _, c := range all {
		dirs, _ := filepath.Glob(c.Dir + ".*") // names have no characters that mean something in a pattern
		for _, dir := range dirs {
			c.Dir = dir
			out = append(out, c)
		}
	}
	return out
}

// tidy takes away what the last instance leaves: empty directories of this driver.
func (d *Driver) tidy() {
	d.groups.tidy()
	for _, path := range []string{d.root, filepath.Join(d.cfg.StateDir, "volumes")} {
		_ = unix.Rmdir(path) // refused while something is in it
	}
}
