package kubernetes

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"

	"trellis/compose"
	"trellis/engine"
	"trellis/errdefs"
	"trellis/state"
)

// driftKey is the note of the drift that was told.
const driftKey = "drift"

// toldDrift is what was told of drift, and since when.
type toldDrift struct {
	Places engine.ToldDrift     `json:"places,omitempty"`
	Since  map[string]time.Time `json:"since,omitempty"` // by service
}

// DriftedService is a service that drifted, or does so no more.
type DriftedService struct {
	Service string
	Places  int // in how many places it differs from the revision
	Since   time.Time
	Until   time.Time // zero: it still does
}

// DriftNews is what became of drift since it was told last.
type DriftNews struct {
	Project  compose.Project   // of the revision in force
	Contents map[string][]byte // of that, by "secrets/NAME" and the like
	Services []DriftedService  // those that drift in other places now; none: there is no news
}

// TellDrift looks once at what has drifted and writes an event for each place that is new, and for each that is as the revision
// says again. alert is called in between, if there is any news: where it fails, the next look has the same news. What heals by
// itself does not count, and a revision that is on its way is left alone.
func (e *Engine) TellDrift(ctx context.Context, project string, alert func(DriftNews) error) error {
	fail := func(err error) error { return fmt.Errorf("tell of drift of %s: %w", project, err) }
	d, err := e.compare(ctx, project)
	if err != nil {
		return fail(err)
	}
	if d.revision.Outcome == state.Pending {
		return nil
	}
	text, err := e.client.note(ctx, project, driftKey)
	if err != nil {
		return fail(err)
	}
	var told toldDrift
	if text != "" {
		if err := json.Unmarshal([]byte(text), &told); err != nil {
			return fail(fmt.Errorf("what was told: %w: %w", errdefs.ErrInvalid, err))
		}
	}
	now, services, happened := told.next(d.drifts(), time.Now())
	if len(happened) == 0 {
		return nil
	}
	news := DriftNews{Project: d.project, Services: services}
	if news.Contents, err = contentsOf(d.project, d.revision.contents); err != nil {
		return fail(err)
	}
	if err := alert(news); err != nil {
		return fail(err)
	}
	for _, ev := range happened {
		severity := corev1.EventTypeNormal
		if ev.Kind == engine.EventDriftFound {
			severity = corev1.EventTypeWarning
		}
		e.write(ctx, ev, severity)
	}
	note := ""
	if len(now.Places) > 0 {
		note = string(mustJSON(now))
	}
	if err := e.client.setNote(ctx, project, driftKey, note); err != nil {
		return fail(err)
	}
	return nil
}

// next returns what there is to tell when that was found, and what was told then.
func (t toldDrift) next(found []engine.Drift, at time.Time) (now toldDrift, services []DriftedService, happened []state.Event) {
	places, fresh, gone := t.Places.Next(found)
	now = toldDrift{places, map[string]time.Time{}}
	changed := map[string]bool{}
	for _, one := range fresh {
		changed[one.Service] = true
		happened = append(happened, state.Event{
			Service: one.Service, Instance: string(one.Instance), Kind: engine.EventDriftFound, Reason: one.Kind, Message: one.Place() + ": " + one.Words(),
		})
	}
	for _, place := range gone {
		happened = append(happened, state.Event{Kind: engine.EventDriftGone, Reason: "observed", Message: place + ": as the revision says again"})
	}
	count := engine.DriftedServices(found)
	for _, name := range slices.Sorted(maps.Keys(count)) {
		now.Since[name] = at
		if since, known := t.Since[name]; known {
			now.Since[name] = since
		}
		if changed[name] {
			services = append(services, DriftedService{Service: name, Places: count[name], Since: now.Since[name]})
		}
	}
	for _, name := range slices.Sorted(maps.Keys(t.Since)) {
		if count[name] == 0 {
			services = append(services, DriftedService{Service: name, Since: t.Since[name], Until: at})
		}
	}
	return now, services, happened
}
