package kubernetes

import (
	"context"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
)

// sighting is what a look at the cluster found of a project. Who gets one changes nothing in it.
type sighting struct {
	notes     map[string]string
	revisions []record // newest first
	items     []item   // of the inventory
	live      Live
	key       []byte // under which refs are made; only the control plane in the cluster looks for it
}

// keptLook is how long at most a look is kept: until the loop of the control plane has looked again even where nothing happens.
const keptLook = idleLook + idleLook/2

// lastLook is the last sighting of the control plane in the cluster, from which all of its parts read. It is good until a watch says that
// something has changed, this process has written something, or keptLook has passed.
type lastLook struct {
	mu    sync.Mutex
	what  *sighting
	at    time.Time // when the look began
	after uint64    // what had happened by then
}

// happenings counts what makes of a look that began before an old one.
func (e *Engine) happenings() uint64 { return e.woken.Load() + e.client.written.Load() }

// read looks at the cluster, and keeps what it finds where this is the control plane. What is noted is asked first: what is there is then
// no older than it, and a revision that was noted as applied whole is not judged by what was there before.
func (e *Engine) read(ctx context.Context, project string) (now sighting, err error) {
	began, after := time.Now(), e.happenings()
	if now.notes, err = e.client.notes(ctx, project); err != nil {
		return now, err
	}
	if now.items, err = inventoryIn(now.notes, project); err != nil {
		return now, err
	}
	g, reading := errgroup.WithContext(ctx)
	g.Go(func() (err error) {
		now.revisions, err = e.client.historyAfter(reading, project, now.notes[disturbedKey])
		return err
	})
	g.Go(func() (err error) {
		now.live, err = e.client.liveOf(reading, project, now.items)
		return err
	})
	if e.control != nil {
		g.Go(func() (err error) {
			now.key, err = e.client.refKey(reading, project, false)
			return err
		})
	}
	if err := g.Wait(); err != nil || e.control == nil || project != e.project {
		return now, err
	}
	mine := now
	mine.revisions = slices.Clone(now.revisions) // the loop notes in its own what it measures
	e.last.mu.Lock()
	defer e.last.mu.Unlock()
	if e.last.at.Before(began) {
		e.last.what, e.last.at, e.last.after = &mine, began, after
	}
	return now, nil
}

// recent returns what the control plane's last look has found, as long as that is good, and else what one finds.
func (e *Engine) recent(ctx context.Context, project string) (sighting, error) {
	if e.control == nil || project != e.project {
		return e.read(ctx, project)
	}
	e.last.mu.Lock()
	what, at, after := e.last.what, e.last.at, e.last.after
	e.last.mu.Unlock()
	if what != nil && after == e.happenings() && time.Since(at) < keptLook {
		return *what, nil
	}
	return e.read(ctx, project)
}

// history returns the revisions of the project, newest first.
func (e *Engine) history(ctx context.Context) ([]record, error) {
	if e.control == nil { // what else is there it need not know
		return e.client.history(ctx, e.project)
	}
	now, err := e.recent(ctx, e.project)
	return now.revisions, err
}

// pods returns those of a project.
func (e *Engine) pods(ctx context.Context, project string) ([]corev1.Pod, error) {
	if e.control == nil {
		return e.client.podsOf(ctx, project, "")
	}
	now, err := e.recent(ctx, project)
	return now.live.Pods, err
}
