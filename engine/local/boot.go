package local

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"trellis/compose"
	"trellis/driver"
	"trellis/errdefs"
	"trellis/state"
)

// BringBack writes down what runs after the machine was started again, for the loop that is started next: the newest
// revision where it was healthy, otherwise the last healthy one, as a new revision; the newest one where none ever was.
// Overrides stay: what was scaled is, what was stopped stays stopped. How often an instance crashed before is forgotten,
// and no rollout goes on: what the restart did to instances is no evidence against a revision.
// It returns the revision that is wanted now, and false where the project was taken down, so that nothing is. Nothing
// was ever applied: ErrNotFound. No loop of the project may run meanwhile.
func BringBack(ctx context.Context, store state.Store, project, actor string) (rev state.Revision, wanted bool, err error) {
	fail := func(err error) (state.Revision, bool, error) {
		return state.Revision{}, false, fmt.Errorf("bring %s back: %w", project, err)
	}
	newest, err := store.Latest(ctx)
	if err != nil {
		return fail(err)
	}
	var deleted int64
	if err := store.Value(ctx, valueDeleted, &deleted); err != nil && !errors.Is(err, errdefs.ErrNotFound) {
		return fail(err)
	}
	if deleted == newest.Number {
		return newest, false, nil
	}
	rev, message, err := backTo(ctx, store, newest, actor)
	if err != nil {
		return fail(err)
	}
	if err := endRollouts(ctx, store, newest.Number); err != nil {
		return fail(err)
	}
	if err := forgetFailures(ctx, store); err != nil {
		return fail(err)
	}
	err = store.Append(ctx, state.Event{
		Actor: actor, Project: project, Kind: "project.booted", Reason: "boot", Message: message, Revision: rev.Number,
	})
	if err != nil {
		return fail(err)
	}
	return rev, true, nil
}

// backTo returns the revision to run after newest, and says why it is that one.
func backTo(ctx context.Context, store state.Store, newest state.Revision, actor string) (state.Revision, string, error) {
	if newest.Outcome == state.Healthy {
		return newest, fmt.Sprintf("the machine was started again: revision %d is brought back", newest.Number), nil
	}
	all, err := store.History(ctx, 0)
	if err != nil {
		return newest, "", err
	}
	at := slices.IndexFunc(all, func(r state.Revision) bool { return r.Outcome == state.Healthy })
	if at < 0 {
		return newest, fmt.Sprintf("the machine was started again: revision %d is tried again, because none was ever healthy",
			newest.Number), nil
	}
	healthy := all[at]
	// It was found healthy then, under traffic; nobody is to judge it again by what it does while the machine boots.
	again := state.Revision{
		Project: healthy.Project, Commit: healthy.Commit, AppliedAt: time.Now(), Actor: actor,
		Outcome: state.Healthy, HealthyAt: healthy.HealthyAt, Undoes: newest.Number,
		Cause: fmt.Sprintf("boot: back to %d", healthy.Number),
	}
	if again, err = store.Put(ctx, again, newest.Number); err != nil {
		return newest, "", err
	}
	return again, fmt.Sprintf("the machine was started again while revision %d was %s: revision %d, the last healthy one, is brought back",
		newest.Number, newest.Outcome, healthy.Number), nil
}

// endRollouts ends the open rollouts of a revision.
func endRollouts(ctx context.Context, store state.Store, revision int64) error {
	all, err := store.Rollouts(ctx, revision)
	if err != nil {
		return err
	}
	now := time.Now()
	for _, r := range all {
		if r.Over() {
			continue
		}
		r.Phase, r.Ended, r.Reason = state.Overtaken, &now, "the machine was started again"
		if _, err := store.SetRollout(ctx, r); err != nil {
			return err
		}
	}
	return nil
}

// forgetFailures lets every instance be started at once, however long its back-off was.
func forgetFailures(ctx context.Context, store state.Store) error {
	all := map[driver.ID]kept{}
	err := store.Value(ctx, valueKept, &all)
	if errors.Is(err, errdefs.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	for id, k := range all {
		k.Failures = 0
		all[id] = k
	}
	return store.SetValue(ctx, valueKept, all)
}

// Halt stops every instance of p, those first that others do not depend on, each within its grace period, and returns
// when nothing runs any more. They are stopped as asked for, so a loop that is started later starts them again. No loop
// of the project may run meanwhile.
func Halt(ctx context.Context, p compose.Project, drivers map[string]driver.Driver) error {
	left, n := map[string][]running{}, 0
	var all []error
	for _, name := range sortedKeys(drivers) {
		asking, cancel := context.WithTimeout(ctx, listLimit)
		list, err := drivers[name].List(asking, p.Name)
		cancel()
		if err != nil {
			all = append(all, err) // what the others run is stopped
		}
		for _, inst := range list {
			if inst.State != driver.Exited {
				left[inst.Service] = append(left[inst.Service], running{drivers[name], inst.ID})
				n++
			}
		}
	}
	errs := make(chan error, n)
	for len(left) > 0 {
		var stops sync.WaitGroup
		for _, name := range undepended(p, left) {
			grace := p.Services[name].StopGracePeriod.Or(defaultGrace)
			for _, r := range left[name] {
				stops.Go(func() { errs <- r.driver.Stop(ctx, r.id, grace) })
			}
			delete(left, name)
		}
		stops.Wait()
	}
	close(errs)
	for err := range errs {
		all = append(all, err)
	}
	if err := errors.Join(all...); err != nil {
		return fmt.Errorf("stop %s: %w", p.Name, err)
	}
	return nil
}

// running is an instance and who runs it.
type running struct {
	driver driver.Driver
	id     driver.ID
}

// undepended returns the services of left that no other one of them depends on; all of them where there is none.
func undepended(p compose.Project, left map[string][]running) []string {
	names := sortedKeys(left)
	free := slices.DeleteFunc(slices.Clone(names), func(name string) bool {
		return slices.ContainsFunc(names, func(other string) bool {
			_, depends := p.Services[other].DependsOn[name]
			return depends && other != name
		})
	})
	if len(free) == 0 {
		return names
	}
	return free
}
