package docker

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/moby/moby/api/types/events"
	"github.com/moby/moby/client"

	"trellis/driver"
)

// How often instances are looked at for what they begin to listen on: after a part of their age until they listen where
// the file says, and now and then from there on.
const (
	firstLook    = 5 * time.Millisecond
	steadyLook   = 10 * time.Second
	waitingShare = 50
	// hangAfter is how long the engine has for a list until it is said to hang.
	hangAfter = 10 * time.Second
)

// Watch implements driver.Driver.
func (d *Driver) Watch(ctx context.Context, project string, changed func(driver.ID)) error {
	if err := d.watch(ctx, project, changed); err != nil && ctx.Err() == nil {
		return fmt.Errorf("watch %s: %w", project, kind(err))
	}
	return nil
}

func (d *Driver) watch(ctx context.Context, project string, changed func(driver.ID)) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	d.mu.Lock()
	first := d.first
	d.mu.Unlock()
	if !d.used() {
		select {
		case <-first:
		case <-ctx.Done():
			return nil
		}
	}
	stream := d.engine.api.Events(ctx, client.EventsListOptions{Filters: d.mine(project).Add("type", string(events.ContainerEventType))})
	w := &watcher{listening: map[driver.ID][]int{}}
	look := time.NewTimer(0)
	defer look.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case err := <-stream.Err:
			return err
		case m := <-stream.Messages:
			if id := driver.ID(m.Actor.Attributes[labelID]); id != "" && told(m.Action) {
				changed(id)
				look.Reset(0)
			}
		case <-look.C:
			asking, cancel := context.WithTimeout(ctx, hangAfter)
			list, err := d.List(asking, project)
			cancel()
			if err != nil {
				return err
			}
			for _, id := range w.news(list) {
				changed(id)
			}
			look.Reset(w.pause(list, time.Now()))
		}
	}
}

// told says whether an event is about the life of a container: those of a probe's command are not.
func told(a events.Action) bool {
	switch a {
	case events.ActionCreate, events.ActionStart, events.ActionDie, events.ActionDestroy, events.ActionOOM, events.ActionPause,
		events.ActionUnPause, events.ActionRestart:
		return true
	}
	return false
}

// watcher remembers what instances listened on.
type watcher struct{ listening map[driver.ID][]int }

// news returns the running instances that listen on something else than before.
func (w *watcher) news(list []driver.Instance) []driver.ID {
	now := map[driver.ID][]int{}
	var all []driver.ID
	for _, inst := range list {
		if inst.State != driver.Running {
			continue
		}
		now[inst.ID] = inst.Listening
		if !slices.Equal(inst.Listening, w.listening[inst.ID]) {
			all = append(all, inst.ID)
		}
	}
	w.listening = maps.Clone(now)
	return all
}

// pause returns when to look again.
func (w *watcher) pause(list []driver.Instance, now time.Time) time.Duration {
	next := steadyLook
	for _, inst := range list {
		if inst.State == driver.Running && len(inst.Listening) == 0 {
			next = min(next, max(now.Sub(inst.StartedAt)/waitingShare, firstLook))
		}
	}
	return next
}
