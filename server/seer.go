package server

import (
	"cmp"
	"context"
	"fmt"
	"math"
	"slices"
	"time"

	"trellis/api"
	"trellis/compose"
	"trellis/telemetry"
)

// maxPoints bounds how many moments a range query is evaluated at, as Prometheus does.
const maxPoints = 11_000

// Metrics implements api.Seer.
func (s *sight) Metrics(ctx context.Context, q api.MetricQuery) (api.MetricResult, error) {
	now := time.Now()
	end := cmp.Or(q.Time, q.End, now)
	step := time.Duration(0)
	if !q.Start.IsZero() {
		end = cmp.Or(q.End, now)
		step = q.Step
		if step <= 0 {
			step = max(end.Sub(q.Start)/250, time.Second)
		}
		step = max(step, end.Sub(q.Start)/maxPoints)
	}
	a, err := s.metrics.Ask(ctx, q.Query, q.Start, end, step)
	return api.MetricResult{Type: a.Type, Result: a.Result, Warnings: a.Warnings}, err
}

// Traces implements api.Seer.
func (s *sight) Traces(ctx context.Context, f telemetry.TraceFilter) ([]telemetry.TraceSummary, error) {
	return s.traces.Search(ctx, f)
}

// Trace implements api.Seer.
func (s *sight) Trace(ctx context.Context, id telemetry.TraceID) (api.Trace, error) {
	spans, err := s.traces.Trace(ctx, id)
	if err != nil {
		return api.Trace{}, err
	}
	t := api.Trace{ID: id, Spans: spans, Records: []telemetry.Record{}}
	err = s.logs.Records(ctx, telemetry.RecordFilter{Trace: id}, false, func(r telemetry.Record) error {
		t.Records = append(t.Records, r)
		return nil
	})
	return t, err
}

// Records implements api.Seer.
func (s *sight) Records(ctx context.Context, f telemetry.RecordFilter, follow bool, fn func(telemetry.Record) error) error {
	return s.logs.Records(ctx, f, follow, fn)
}

// Telemetry implements api.Seer.
func (s *sight) Telemetry(context.Context) (api.TelemetryHealth, error) {
	return api.TelemetryHealth{Metrics: s.metrics.Health(), Traces: s.traces.Health(), Logs: s.logs.Health()}, nil
}

// Graph implements api.Seer.
func (s *sight) Graph(ctx context.Context, window time.Duration) (api.Graph, error) {
	now := time.Now()
	g := api.Graph{Window: window, Nodes: []api.GraphNode{}, Edges: []api.GraphEdge{}}
	edges, err := s.measuredEdges(ctx, window, now)
	if err != nil {
		return g, err
	}
	spans, since, err := s.traces.Graph(ctx, now.Add(-window), now)
	if err != nil {
		return g, err
	}
	measured := now.Sub(since).Seconds()
	for _, e := range spans { // what does not pass through the data plane: a database that a program's spans name
		w := way{e.Caller, e.Callee}
		if edges[w] == nil {
			p50, p99 := e.P50.Seconds(), e.P99.Seconds()
			edges[w] = &api.GraphEdge{Rate: float64(e.Calls) / measured, P50: &p50, P99: &p99}
			if e.Calls > 0 {
				edges[w].Errors = float64(e.Errors) / measured
			}
		}
	}
	nodes, err := s.nodes(ctx, edges)
	if err != nil {
		return g, err
	}
	for w, e := range edges {
		e.Caller, e.Callee = w.caller, w.callee
		g.Edges = append(g.Edges, *e)
		for _, name := range []string{w.caller, w.callee} {
			if _, known := nodes[name]; !known {
				nodes[name] = api.GraphNode{Service: name}
			}
		}
	}
	for _, n := range nodes {
		g.Nodes = append(g.Nodes, n)
	}
	slices.SortFunc(g.Nodes, func(a, b api.GraphNode) int { return cmp.Compare(a.Service, b.Service) })
	slices.SortFunc(g.Edges, func(a, b api.GraphEdge) int {
		return cmp.Or(cmp.Compare(a.Caller, b.Caller), cmp.Compare(a.Callee, b.Callee))
	})
	return g, nil
}

// way is who calls whom.
type way struct{ caller, callee string }

// measuredEdges returns what the data plane's counters say of a window.
func (s *sight) measuredEdges(ctx context.Context, window time.Duration, now time.Time) (map[way]*api.GraphEdge, error) {
	edges := map[way]*api.GraphEdge{}
	w := fmt.Sprintf("[%ds]", max(15, int(window.Seconds())))
	for _, q := range []struct {
		expr string
		set  func(*api.GraphEdge, float64)
	}{
		{"sum by (caller, service) (rate(trellis_requests_total" + w + "))", func(e *api.GraphEdge, v float64) { e.Rate = v }},
		{"sum by (caller, service) (rate(trellis_request_failures_total" + w + "))", func(e *api.GraphEdge, v float64) { e.Errors = v }},
		{"histogram_quantile(0.5, sum by (caller, service) (rate(trellis_request_duration_seconds" + w + ")))", func(e *api.GraphEdge, v float64) { e.P50 = &v }},
		{"histogram_quantile(0.99, sum by (caller, service) (rate(trellis_request_duration_seconds" + w + ")))", func(e *api.GraphEdge, v float64) { e.P99 = &v }},
	} {
		samples, err := s.metrics.Query(ctx, q.expr, now)
		if err != nil {
			return nil, err
		}
		for _, one := range samples {
			if math.IsNaN(one.Value) {
				continue
			}
			at := way{one.Labels["caller"], one.Labels["service"]}
			if edges[at] == nil {
				edges[at] = &api.GraphEdge{}
			}
			q.set(edges[at], one.Value)
		}
	}
	for at, e := range edges {
		if e.Rate == 0 { // nobody called in the window
			delete(edges, at)
		}
	}
	return edges, nil
}

// nodes returns the project's services, and adds to edges what the file says of who depends on whom.
func (s *sight) nodes(ctx context.Context, edges map[way]*api.GraphEdge) (map[string]api.GraphNode, error) {
	nodes := map[string]api.GraphNode{}
	st, err := s.of.observe(ctx)
	if err != nil {
		return nil, err
	}
	for _, svc := range st.Services {
		nodes[svc.Name] = api.GraphNode{Service: svc.Name, State: svc.State, Want: svc.Want, Ready: svc.Ready}
	}
	if st.Desired == nil {
		return nodes, nil
	}
	for name, svc := range st.Desired.Services {
		for _, callee := range declared(svc) {
			if edges[way{name, callee}] == nil {
				edges[way{name, callee}] = &api.GraphEdge{}
			}
			edges[way{name, callee}].Declared = true
		}
	}
	return nodes, nil
}

// declared returns the services that one says it needs.
func declared(svc compose.Service) []string {
	all := slices.Clone(svc.Trellis.Calls)
	for name := range svc.DependsOn {
		all = append(all, name)
	}
	slices.Sort(all)
	return slices.Compact(all)
}
