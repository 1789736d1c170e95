package server

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"time"

	"trellis/api"
	"trellis/compose"
	"trellis/engine"
	"trellis/errdefs"
	"trellis/state"
)

// putBackWait is how long a service may take to become ready for its data.
const putBackWait = 5 * time.Minute

// PutBack starts the project that Restore has put in place at l and hands the data of each of the services to their own
// restore commands, while no other service runs but those that they depend on. Then it starts these. A service without
// such a command keeps its data in a file and is returned in left. It blocks until the commands have ended. On an error
// the other services stay stopped, so that nobody sees what is not whole; the files are still there.
func PutBack(ctx context.Context, l Location, services []string, actor string, tell func(string, ...any)) (left []string, err error) {
	newest, err := applied(ctx, l.StateDir)
	if err != nil {
		return nil, err
	}
	var with []string
	for _, name := range services {
		if b := newest.Project.Services[name].Trellis.Backup; b != nil && b.Restore != nil {
			with = append(with, name)
		} else {
			left = append(left, name)
		}
	}
	if len(with) == 0 {
		return left, nil
	}
	alone := apart(newest.Project, with)
	before, err := holdBack(ctx, l, alone)
	if err != nil {
		return left, fmt.Errorf("start %s: %w", l.Project, err)
	}
	if _, err := Resume(ctx, l.StateDir, actor); err != nil {
		return left, err
	}
	control, closer, err := Connect(ctx, l)
	if err != nil {
		return left, err
	}
	defer closer.Close()
	for _, name := range with {
		tell("putting the data of %s back by its own command", name)
		if err := putBack(ctx, l, control, newest.Project, name); err != nil {
			return left, fmt.Errorf("put the data of %s back from %s: %w", name, l.DumpFile(name), err)
		}
	}
	_ = os.Remove(filepath.Join(l.StateDir, partDumps)) // refused while one is left
	for _, name := range alone {
		stopped := before[name]
		if err := control.Override(ctx, api.OverrideRequest{Service: name, Stopped: &stopped, Actor: actor}); err != nil && !errors.Is(err, errdefs.ErrNotFound) {
			return left, err
		}
	}
	return left, nil
}

// apart returns the services that are neither of names nor what these depend on, in order of name.
func apart(p compose.Project, names []string) []string {
	needed := map[string]bool{}
	var need func(name string)
	need = func(name string) {
		if needed[name] {
			return
		}
		needed[name] = true
		for dep := range p.Services[name].DependsOn {
			need(dep)
		}
	}
	for _, name := range names {
		need(name)
	}
	return slices.DeleteFunc(slices.Clone(p.ServiceNames()), func(name string) bool { return needed[name] })
}

// holdBack writes down that services are stopped, before a control plane runs, and returns which of them were.
func holdBack(ctx context.Context, l Location, names []string) (before map[string]bool, err error) {
	store, err := state.Open(filepath.Join(l.StateDir, "state.db"))
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, store.Close()) }()
	all, err := store.Overrides(ctx)
	if err != nil {
		return nil, err
	}
	before = map[string]bool{}
	for _, name := range names {
		o := state.Override{Service: name}
		if i := slices.IndexFunc(all, func(o state.Override) bool { return o.Service == name }); i >= 0 {
			o = all[i]
		}
		before[name], o.Stopped = o.Stopped, true
		if err := store.SetOverride(ctx, o); err != nil {
			return nil, err
		}
	}
	return before, nil
}

// putBack waits for a service to be ready and gives its data to its command.
func putBack(ctx context.Context, l Location, control api.Control, p compose.Project, name string) error {
	waiting, cancel := context.WithTimeout(ctx, putBackWait)
	defer cancel()
	ready := errors.New("ready")
	err := control.Watch(waiting, func(s api.Status) error {
		i := slices.IndexFunc(s.Services, func(svc engine.Service) bool { return svc.Name == name })
		switch {
		case i < 0:
			return fmt.Errorf("%w: it is not in revision %d", errdefs.ErrNotFound, s.Revision)
		case s.Services[i].Ready > 0:
			return ready
		case s.Services[i].State == engine.ServiceFailed:
			return fmt.Errorf("%w: it does not start: %s", errdefs.ErrUnavailable, s.Services[i].Reason)
		}
		return nil
	})
	if !errors.Is(err, ready) {
		return err
	}
	data, err := os.Open(l.DumpFile(name))
	if err != nil {
		return err
	}
	defer data.Close()
	if err := command(ctx, control, name, p.Services[name].Trellis.Backup.Restore, data, io.Discard); err != nil {
		return err
	}
	return os.Remove(data.Name())
}
