package main

import (
	"context"
	"fmt"
	"time"

	"trellis/api"
	"trellis/errdefs"
	"trellis/telemetry"
)

// seen is what the fake control plane's project tells of itself.
type seen struct {
	Metrics api.MetricResult
	Traces  []telemetry.TraceSummary
	Trace   api.Trace
	Records []telemetry.Record
	Alerts  api.Alerts
	Why     api.Why
}

func (f *fake) Metrics(_ context.Context, q api.MetricQuery) (api.MetricResult, error) {
	return f.Seen.Metrics, f.failure("metrics " + q.Query)
}

func (f *fake) Traces(_ context.Context, filter telemetry.TraceFilter) ([]telemetry.TraceSummary, error) {
	err := f.called("traces of %q, errors %v, slower than %s, attributes %v", filter.Service, filter.Errors, filter.MinDuration, filter.Attributes)
	return f.Seen.Traces, err
}

func (f *fake) Trace(_ context.Context, id telemetry.TraceID) (api.Trace, error) {
	if id != f.Seen.Trace.ID {
		return api.Trace{}, fmt.Errorf("trace %s: %w", id, errdefs.ErrNotFound)
	}
	return f.Seen.Trace, nil
}

func (f *fake) Graph(context.Context, time.Duration) (api.Graph, error) { return api.Graph{}, nil }

func (f *fake) Records(_ context.Context, filter telemetry.RecordFilter, _ bool, fn func(telemetry.Record) error) error {
	if err := f.called("records of %v, grep %q, level %q, trace %q, at most %d", filter.Services, filter.Grep, filter.Severity, filter.Trace, filter.Limit); err != nil {
		return err
	}
	for _, r := range f.Seen.Records {
		if err := fn(r); err != nil {
			return err
		}
	}
	return nil
}

func (f *fake) Alerts(context.Context) (api.Alerts, error) { return f.Seen.Alerts, nil }

func (f *fake) Silence(_ context.Context, s api.Silence) (string, error) {
	return "ABCD", f.called("silence %v for %q until %s", s.Labels, s.Comment, s.Ends.Sub(fixedNow()))
}

func (f *fake) Unsilence(_ context.Context, id string) error { return f.called("unsilence %s", id) }

func (f *fake) Why(context.Context, string) (api.Why, error) { return f.Seen.Why, nil }

func (f *fake) Telemetry(context.Context) (api.TelemetryHealth, error) {
	return api.TelemetryHealth{}, nil
}
