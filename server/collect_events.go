package server

import (
	"context"
	"iter"
	"time"

	"trellis/engine"
	"trellis/state"
)

// endHung is the reason of an end that Trellis brought about because the instance answered no more; the others are those
// of the events.
const endHung = "hung"

// endReasons are why an instance ends that was not asked to.
func endReasons() []string { return []string{"crashed", "signal", "oom", "error", endHung} }

// ends counts the ends of instances that nobody asked for, and of deploys, since this control plane runs. Only collect uses
// it.
type ends struct {
	read   bool
	after  int64
	counts map[way]float64 // by service and reason
	back   float64         // revisions that were taken back
}

// add counts what happened since the last round, and adds what was counted.
func (e *ends) add(ctx context.Context, happened func(context.Context, state.EventFilter) iter.Seq2[state.Event, error], g *gathering, st engine.State) error {
	f := state.EventFilter{After: e.after}
	if !e.read { // what was before is not counted: only where it ends has to be known
		e.counts = map[way]float64{}
		for ev, err := range happened(ctx, state.EventFilter{Limit: 1}) {
			if err != nil {
				return err
			}
			e.after = ev.Seq
		}
		f.Since = g.started
	}
	for ev, err := range happened(ctx, f) {
		if err != nil {
			return err
		}
		e.after = max(e.after, ev.Seq)
		switch {
		case hung(ev):
			e.counts[way{ev.Service, endHung}]++
		case ev.Kind == "revision."+state.RolledBack:
			e.back++
		case ev.Kind == "instance.exited":
			e.counts[way{ev.Service, ev.Reason}]++
		}
	}
	e.read = true
	g.count("trellis_deploys_rolled_back_total", e.back)
	for _, svc := range st.Services {
		for _, reason := range endReasons() {
			g.count("trellis_instance_ends_total", e.counts[way{svc.Name, reason}], "service", svc.Name, "reason", reason)
		}
	}
	return nil
}

// secured adds the gateway's certificates.
func (s *sight) secured(g *gathering, st engine.State) {
	if st.Desired == nil {
		return
	}
	for _, c := range s.of.certificates(*st.Desired) {
		g.add("trellis_certificate_not_before_timestamp_seconds", unixSeconds(c.notBefore), "name", c.name, "source", c.source)
		g.add("trellis_certificate_not_after_timestamp_seconds", unixSeconds(c.notAfter), "name", c.name, "source", c.source)
	}
}

func unixSeconds(t time.Time) float64 { return float64(t.Unix()) }
