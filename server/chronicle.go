package server

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"trellis/engine"
	"trellis/errdefs"
	"trellis/state"
)

// chronicle writes down what happens to a project in a cluster: what the cluster itself tells, which it forgets after an hour, and how
// instances ended, which it tells only by their state.
type chronicle struct {
	store   state.Store
	project string
	observe func(context.Context) (engine.State, error)
	events  func(ctx context.Context, f state.EventFilter, follow bool, fn func(state.Event) error) error
	changed *broadcast
}

const (
	// watchedValue is where the store keeps what was seen of the instances last.
	watchedValue = "watched instances"
	// tellingPause is the pause between two looks at the cluster's events.
	tellingPause = 3 * time.Second
)

// watched is what was seen of an instance last.
type watched struct {
	Ready bool      `json:"ready"`
	Ended time.Time `json:"ended,omitzero"` // when it ended last
}

// watch writes down how instances end and become ready, until ctx is done.
func (c *chronicle) watch(ctx context.Context) error {
	before := map[string]watched{}
	if err := c.store.Value(ctx, watchedValue, &before); err != nil && !errors.Is(err, errdefs.ErrNotFound) {
		return err
	}
	for {
		next := c.changed.next()
		st, err := c.observe(ctx)
		if err == nil {
			after, happened := seenIn(before, st, time.Now())
			if len(happened) > 0 {
				if err := c.store.Append(ctx, happened...); err != nil {
					return err
				}
			}
			if len(happened) > 0 || len(after) != len(before) {
				if err := c.store.SetValue(ctx, watchedValue, after); err != nil {
					return err
				}
			}
			if len(happened) > 0 {
				c.changed.wake() // who follows events may have looked before there were these
			}
			before = after
		}
		select {
		case <-ctx.Done():
			return nil
		case <-next:
		}
	}
}

// seenIn returns what there is to tell of instances after what was seen of them before. It is pure.
func seenIn(before map[string]watched, st engine.State, now time.Time) (after map[string]watched, happened []state.Event) {
	after = map[string]watched{}
	for _, svc := range st.Services {
		for _, in := range svc.Instances {
			was := before[string(in.ID)]
			is := watched{Ready: in.Ready, Ended: was.Ended}
			tell := func(at time.Time, kind, reason, message string) {
				happened = append(happened, state.Event{
					Time: at, Actor: "cluster", Project: st.Project, Service: svc.Name, Instance: string(in.ID), Kind: kind, Reason: reason,
					Message: message, Revision: in.Revision,
				})
			}
			if in.Exit != nil && in.Exit.Time.After(was.Ended) {
				is.Ended = in.Exit.Time
				reason, message := endOf(*in.Exit)
				tell(in.Exit.Time, "instance.exited", reason, message)
			}
			if in.Ready && (!was.Ready || is.Ended.After(was.Ended)) {
				tell(now, "instance.ready", "observed", "")
			}
			after[string(in.ID)] = is
		}
	}
	return after, happened
}

// endOf says how an instance ended, with the reasons and words that the engine of one machine has. A cluster tells of a signal by the
// exit code alone, as shells do.
func endOf(e engine.ExitStatus) (reason, message string) {
	const signals = 128
	switch {
	case e.OOM:
		return "oom", "killed because it used more memory than its limit"
	case e.Error != "":
		return "error", e.Error
	case e.Signal != "":
		return "signal", "killed by " + e.Signal
	case e.Code > signals && e.Code < signals+65:
		return "signal", fmt.Sprintf("killed by signal %d", e.Code-signals)
	case e.Code == 0:
		return "completed", "exited with code 0"
	}
	return "crashed", fmt.Sprintf("exited with code %d", e.Code)
}

// listen writes down what the cluster tells, until ctx is done. Every look takes all that the cluster still has: who has stamped an event
// goes by a clock of their own, so that none is known to be the newest.
func (c *chronicle) listen(ctx context.Context) error {
	type identity struct{ at, kind, service, instance, message string }
	of := func(e state.Event) identity {
		return identity{e.Time.UTC().Format(time.RFC3339Nano), e.Kind, e.Service, e.Instance, e.Message}
	}
	told := map[identity]time.Time{}
	for e, err := range c.store.Events(ctx, state.EventFilter{Since: time.Now().Add(-2 * keptByCluster)}) {
		if err != nil {
			return err
		}
		told[of(e)] = e.Time
	}
	for {
		var fresh []state.Event
		err := c.events(ctx, state.EventFilter{Since: time.Now().Add(-keptByCluster)}, false, func(e state.Event) error {
			if _, again := told[of(e)]; !again {
				told[of(e)] = e.Time
				e.Project = cmp.Or(e.Project, c.project)
				fresh = append(fresh, e)
			}
			return nil
		})
		if err != nil && ctx.Err() == nil {
			return fmt.Errorf("read the cluster's events: %w", err)
		}
		if len(fresh) > 0 {
			if err := c.store.Append(ctx, fresh...); err != nil {
				return err
			}
			c.changed.wake() // who follows events: nothing else of the cluster need change with them
		}
		maps.DeleteFunc(told, func(_ identity, at time.Time) bool { return time.Since(at) > 2*keptByCluster })
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(tellingPause):
		}
	}
}

// keptByCluster is more than how long a cluster keeps its events; what its revisions tell of an earlier time is not written down again.
const keptByCluster = 24 * time.Hour

// inOrder returns events of the store by their time: what the cluster tells comes late, and two sources of it in no order.
func inOrder(all []state.Event) []state.Event {
	slices.SortStableFunc(all, func(a, b state.Event) int { return a.Time.Compare(b.Time) })
	return all
}
