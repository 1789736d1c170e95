package server

import (
	"context"
	"fmt"
	"time"

	"trellis/api"
	"trellis/errdefs"
	"trellis/telemetry"
)

// absent are the parts of a control that need a control plane beside the project. Each says so.
type absent struct{}

func lacking(what string) error {
	return fmt.Errorf("%s: %w on kubernetes: there is no control plane in the cluster to ask", what, errdefs.ErrUnsupported)
}

// Traffic implements api.Viewer.
func (absent) Traffic(context.Context, func([]api.TrafficStep) error) error {
	return lacking("traffic")
}

// Door implements api.Viewer.
func (absent) Door(context.Context) (api.Door, error) { return api.Door{}, lacking("the console") }

// Metrics implements api.Seer.
func (absent) Metrics(context.Context, api.MetricQuery) (api.MetricResult, error) {
	return api.MetricResult{}, lacking("metrics")
}

// Traces implements api.Seer.
func (absent) Traces(context.Context, telemetry.TraceFilter) ([]telemetry.TraceSummary, error) {
	return nil, lacking("traces")
}

// Trace implements api.Seer.
func (absent) Trace(context.Context, telemetry.TraceID) (api.Trace, error) {
	return api.Trace{}, lacking("traces")
}

// Graph implements api.Seer.
func (absent) Graph(context.Context, time.Duration) (api.Graph, error) {
	return api.Graph{}, lacking("the graph of calls")
}

// Records implements api.Seer.
func (absent) Records(context.Context, telemetry.RecordFilter, bool, func(telemetry.Record) error) error {
	return lacking("log records")
}

// Alerts implements api.Seer.
func (absent) Alerts(context.Context) (api.Alerts, error) { return api.Alerts{}, lacking("alerts") }

// Silence implements api.Seer.
func (absent) Silence(context.Context, api.Silence) (string, error) { return "", lacking("alerts") }

// Unsilence implements api.Seer.
func (absent) Unsilence(context.Context, string) error { return lacking("alerts") }

// Why implements api.Seer.
func (absent) Why(context.Context, string) (api.Why, error) { return api.Why{}, lacking("why") }

// Telemetry implements api.Seer.
func (absent) Telemetry(context.Context) (api.TelemetryHealth, error) {
	return api.TelemetryHealth{}, lacking("telemetry")
}
