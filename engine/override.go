package engine

import (
	"fmt"
	"strings"

	"trellis/compose"
	"trellis/state"
)

// Remaining returns what is left of a wish beside the file when a service is applied as now after it was as before, nil
// where it was not there or is no more. Stop ends unless the engine goes back to that by itself, since nobody asked for a start
// then; scale ends where the file's own number changed, and everything of a service that is gone.
func Remaining(o state.Override, before, now *compose.Service, back bool) state.Override {
	if now == nil {
		return state.Override{Service: o.Service}
	}
	o.Stopped = o.Stopped && back
	if before != nil && Replicas(*before) != Replicas(*now) {
		o.Replicas = nil
	}
	return o
}

// Wish says a wish beside the file in words, for an event.
func Wish(o state.Override) string {
	var words []string
	if o.Replicas != nil {
		words = append(words, fmt.Sprintf("scaled to %d", *o.Replicas))
	}
	if o.Restart > 0 {
		words = append(words, fmt.Sprintf("restart %d", o.Restart))
	}
	if o.Stopped {
		words = append(words, "stopped")
	}
	if len(words) == 0 {
		return "as the file says"
	}
	return strings.Join(words, ", ")
}

// ServiceOf returns a service of a project, nil where p is nil or has none of that name.
func ServiceOf(p *compose.Project, name string) *compose.Service {
	if p == nil {
		return nil
	}
	if svc, ok := p.Services[name]; ok {
		return &svc
	}
	return nil
}
