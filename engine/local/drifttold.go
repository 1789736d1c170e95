package local

import (
	"context"
	"fmt"
	"maps"
	"sync"

	"trellis/engine"
)

// valueDrift is what was found and told, in the store: a drift is told once, whatever becomes of the control plane.
const valueDrift = "engine/drift"

// drifts remembers which drift was told as an event.
type drifts struct {
	mu    sync.Mutex
	read  bool
	known engine.ToldDrift
	count map[string]int // by service, when it was looked at last
}

// Drifted returns in how many places each service differed from the revision in force when that was looked at last: on
// request, and every few minutes. What heals by itself does not count. Services without a difference are left out.
func (e *Engine) Drifted() map[string]int {
	e.drifts.mu.Lock()
	defer e.drifts.mu.Unlock()
	return maps.Clone(e.drifts.count)
}

// tell records an event for each drift that was not there before, and for each that is gone.
func (t *drifts) tell(ctx context.Context, e *Engine, all []engine.Drift) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.read {
		t.known = engine.ToldDrift{}
		if err := e.value(ctx, valueDrift, &t.known); err != nil {
			return err
		}
		t.read = true
	}
	t.count = engine.DriftedServices(all)
	now, fresh, gone := t.known.Next(all)
	for _, one := range fresh {
		ev := event{kind: engine.EventDriftFound, service: one.Service, reason: one.Kind, message: one.Place() + ": " + one.Words()}
		if one.Instance != "" {
			ev.id = full(e.cfg.Project, one.Instance)
		}
		e.record(ev)
	}
	for _, place := range gone {
		e.record(event{kind: engine.EventDriftGone, reason: "observed", message: place + ": as the revision says again"})
	}
	if len(fresh)+len(gone) == 0 {
		return nil
	}
	t.known = now
	if err := e.cfg.Store.SetValue(ctx, valueDrift, now); err != nil {
		return fmt.Errorf("keep what was found: %w", err)
	}
	return nil
}
