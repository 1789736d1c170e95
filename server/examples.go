package server

import (
	"sync"

	"trellis/proxy"
	"trellis/telemetry"
)

// examples are the slowest request of each way that requests go, since the last round: where a measure leads to a trace,
// that is the one somebody looks for. The zero value is ready to use; it is safe for concurrent use.
type examples struct {
	mu      sync.Mutex
	slowest map[waySeen]telemetry.Exemplar
}

// waySeen tells ways apart as proxy.Call does.
type waySeen struct{ service, instance, caller, route string }

// maxExamples bounds how many wait for a round.
const maxExamples = 5000

// add takes what data planes recorded.
func (e *examples) add(spans []telemetry.Span) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.slowest == nil {
		e.slowest = map[waySeen]telemetry.Exemplar{}
	}
	for i := range spans {
		s := &spans[i]
		caller, _ := s.Attributes[proxy.CallerAttribute].(string)
		route, _ := s.Attributes["http.route"].(string)
		at := waySeen{s.Service, s.Instance, caller, route}
		if before, ok := e.slowest[at]; ok && before.Value >= s.Duration.Seconds() || !ok && len(e.slowest) >= maxExamples {
			continue
		}
		e.slowest[at] = telemetry.Exemplar{Time: s.Start.Add(s.Duration), Value: s.Duration.Seconds(), Trace: s.Trace, Span: s.ID}
	}
}

// take returns the slowest request of a way, and forgets it; nil: none was traced.
func (e *examples) take(c proxy.Call) *telemetry.Exemplar {
	e.mu.Lock()
	defer e.mu.Unlock()
	at := waySeen{c.Service, c.Instance, c.Caller, c.Route}
	one, ok := e.slowest[at]
	if !ok {
		return nil
	}
	delete(e.slowest, at)
	return &one
}
