package server

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"trellis/engine/local"
	"trellis/errdefs"
	"trellis/holder"
	"trellis/state"
)

// Resumed says what Resume has done.
type Resumed struct {
	Project  string
	Revision int64
	Cause    string // of the revision
	Ran      bool   // it ran already: nothing was done
	Down     bool   // it was taken down: nothing is to run
}

// resumeWait is how long Resume tries to start a control plane: a machine that boots is slow.
const resumeWait = 2 * time.Minute

// Resume brings the project back that keeps its state in stateDir, after the machine was started again: from that
// state alone, no file of the project is read. The newest revision comes back if it was healthy, otherwise the last
// healthy one. It returns when a control plane runs, which starts the services; it does not wait for them. Nothing was
// ever applied there: ErrNotFound.
func Resume(ctx context.Context, stateDir, actor string) (Resumed, error) {
	newest, err := applied(ctx, stateDir)
	if err != nil {
		return Resumed{}, err
	}
	l, err := Locate(newest.Project.Name, newest.Project.WorkingDir, stateDir)
	if err != nil {
		return Resumed{}, err
	}
	l.Files = newest.Project.Files
	done := Resumed{Project: l.Project, Revision: newest.Number, Cause: newest.Cause}
	if held(ctx, l) {
		done.Ran = true
		return done, nil
	}
	rev, wanted, err := bringBack(ctx, l, actor)
	if err != nil || !wanted {
		done.Down = err == nil
		return done, err
	}
	done.Revision, done.Cause = rev.Number, rev.Cause
	ctx, cancel := context.WithTimeout(ctx, resumeWait)
	defer cancel()
	for {
		_, closer, err := Ensure(ctx, l)
		if err == nil {
			return done, closer.Close()
		}
		if ctx.Err() != nil {
			return done, err
		}
		select {
		case <-ctx.Done():
			return done, err
		case <-time.After(time.Second):
		}
	}
}

// applied returns the newest revision of the state in a folder, without making anything.
func applied(ctx context.Context, stateDir string) (state.Revision, error) {
	file := filepath.Join(stateDir, "state.db")
	if _, err := os.Stat(file); errors.Is(err, fs.ErrNotExist) {
		return state.Revision{}, fmt.Errorf("no project keeps its state in %s: %w: nothing was applied there", stateDir, errdefs.ErrNotFound)
	}
	store, err := state.Open(file)
	if err != nil {
		return state.Revision{}, err
	}
	newest, err := store.Latest(ctx)
	if err != nil {
		err = fmt.Errorf("read the state in %s: %w", stateDir, err)
	}
	return newest, errors.Join(err, store.Close())
}

// bringBack writes down what runs now, in place of a control plane.
func bringBack(ctx context.Context, l Location, actor string) (rev state.Revision, wanted bool, err error) {
	unlock, err := lock(filepath.Join(l.StateDir, "control.lock"))
	if err != nil {
		return rev, false, fmt.Errorf("bring %s back: %w", l.Project, err)
	}
	defer unlock()
	store, err := state.Open(filepath.Join(l.StateDir, "state.db"))
	if err != nil {
		return rev, false, fmt.Errorf("bring %s back: %w", l.Project, err)
	}
	rev, wanted, err = local.BringBack(ctx, store, l.Project, actor)
	return rev, wanted, errors.Join(err, store.Close())
}

// Halt stops the project that keeps its state in stateDir for a stop of the machine: control plane, data plane and
// holder, then every instance, those first that others do not depend on. It stays wanted: Resume, or `trellis up`,
// brings it back as it was.
func Halt(ctx context.Context, stateDir string) error {
	newest, err := applied(ctx, stateDir)
	if err != nil {
		return err
	}
	l, err := Locate(newest.Project.Name, newest.Project.WorkingDir, stateDir)
	if err != nil {
		return err
	}
	if client, err := holder.Dial(ctx, l.holderSocket()); err == nil {
		err = errors.Join(client.Stop(ctx), client.Close())
		if err != nil {
			return fmt.Errorf("stop %s: %w", l.Project, err)
		}
	}
	unlock, err := lock(filepath.Join(l.StateDir, "control.lock"))
	if err != nil {
		return fmt.Errorf("stop %s: %w", l.Project, err)
	}
	defer unlock()
	run, err := newDrivers(l, slog.New(slog.DiscardHandler))
	if err != nil {
		return fmt.Errorf("stop %s: %w", l.Project, err)
	}
	return local.Halt(ctx, newest.Project, run.byName())
}
