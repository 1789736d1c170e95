package api

import (
	"context"
	"encoding/json"
	"time"

	"trellis/telemetry"
)

// Seer answers what a project tells of itself: its metrics, traces, logs and alerts, and why something is as it is.
type Seer interface {
	// Metrics evaluates a PromQL expression. One that is wrong, or too large: ErrInvalid.
	Metrics(ctx context.Context, q MetricQuery) (MetricResult, error)
	// Traces returns the traces that match, newest first.
	Traces(ctx context.Context, f telemetry.TraceFilter) ([]telemetry.TraceSummary, error)
	// Trace returns one trace with the log records that belong to it. None: ErrNotFound.
	Trace(ctx context.Context, id telemetry.TraceID) (Trace, error)
	// Graph returns who calls whom, measured over the window that ends now.
	Graph(ctx context.Context, window time.Duration) (Graph, error)
	// Records calls fn for each log record that matches, oldest first; with follow it goes on until ctx is done.
	Records(ctx context.Context, f telemetry.RecordFilter, follow bool, fn func(telemetry.Record) error) error
	// Alerts returns what is pending or firing, the silences and the error budgets.
	Alerts(ctx context.Context) (Alerts, error)
	// Silence keeps alerts from being sent; it returns the silence's ID.
	Silence(ctx context.Context, s Silence) (string, error)
	// Unsilence ends a silence before its time. Unknown: ErrNotFound.
	Unsilence(ctx context.Context, id string) error
	// Why returns what is behind a service's last restart, scaling, rollback, failure or slowness. Unknown service:
	// ErrNotFound.
	Why(ctx context.Context, service string) (Why, error)
	// Telemetry returns how the stores do: what they took, what was lost and why, and how much disk they use.
	Telemetry(ctx context.Context) (TelemetryHealth, error)
}

// MetricQuery is a PromQL expression and when it is evaluated: at Time, or from Start to End every Step.
type MetricQuery struct {
	Query string        `json:"query"`
	Time  time.Time     `json:"time,omitzero"` // default: now
	Start time.Time     `json:"start,omitzero"`
	End   time.Time     `json:"end,omitzero"` // default, where Start is set: now
	Step  time.Duration `json:"step,omitempty"`
}

// MetricResult is the data of an answer of Prometheus' HTTP API: https://prometheus.io/docs/prometheus/latest/querying/api.
type MetricResult struct {
	Type     string          `json:"resultType"` // vector, matrix, scalar or string
	Result   json.RawMessage `json:"result"`
	Warnings []string        `json:"warnings,omitempty"`
}

// Trace is one trace.
type Trace struct {
	ID      telemetry.TraceID  `json:"trace_id"`
	Spans   []telemetry.Span   `json:"spans"`   // in order of their start
	Records []telemetry.Record `json:"records"` // that carry the trace's ID, in order of time
}

// Graph is who calls whom.
type Graph struct {
	Window time.Duration `json:"window_ns"`
	Nodes  []GraphNode   `json:"nodes"` // by name; "" is what comes from outside
	Edges  []GraphEdge   `json:"edges"`
}

// GraphNode is one service of a Graph.
type GraphNode struct {
	Service string `json:"service"`
	State   string `json:"state"` // as in Status; "" for what is no service of the project
	Want    int    `json:"want"`
	Ready   int    `json:"ready"`
}

// GraphEdge is one service calling another. Rates are per second over the window, from the data plane's counters where
// the calls pass through it, otherwise from spans; latencies are null where there was no call.
type GraphEdge struct {
	Caller   string   `json:"caller"`
	Callee   string   `json:"callee"`
	Rate     float64  `json:"rate"`
	Errors   float64  `json:"error_rate"` // of Rate
	P50      *float64 `json:"p50_seconds"`
	P99      *float64 `json:"p99_seconds"`
	Declared bool     `json:"declared"` // the file says it: depends_on or calls
}

// Alerts are the alerts of a project.
type Alerts struct {
	Alerts   []Alert   `json:"alerts"` // firing before pending, then newest first
	Silences []Silence `json:"silences"`
	Budgets  []Budget  `json:"budgets"`
	Receiver *string   `json:"receiver"` // where alerts are sent, without what may be secret; null: nowhere
	// Failing says since when, and why, the receiver could not be reached; "" it can.
	Failing string `json:"failing,omitempty"`
	Waiting int    `json:"waiting"` // notifications that were not delivered yet
}

// The states of an Alert.
const (
	AlertPending = "pending" // its condition holds, not yet long enough
	AlertFiring  = "firing"
)

// Alert is one alert.
type Alert struct {
	Name        string            `json:"name"`
	State       string            `json:"state"`
	Service     string            `json:"service"`  // "" of the project
	Severity    string            `json:"severity"` // page, ticket
	Summary     string            `json:"summary"`
	Since       time.Time         `json:"since"`
	Value       float64           `json:"value"`
	Labels      map[string]string `json:"labels"`
	Annotations map[string]string `json:"annotations"`
	Silenced    bool              `json:"silenced"`
	Query       string            `json:"query"`  // PromQL
	Source      string            `json:"source"` // what made the rule: default, objective, or the rule file
}

// Silence keeps alerts whose labels have these values from being sent.
type Silence struct {
	ID      string            `json:"id"` // when one is made: of the one it replaces, "" of none
	Labels  map[string]string `json:"labels"`
	Starts  time.Time         `json:"starts,omitzero"` // default: now
	Ends    time.Time         `json:"ends"`
	Comment string            `json:"comment,omitempty"`
	Actor   string            `json:"actor"`
}

// Budget is how much of an objective's error budget is left over its window.
type Budget struct {
	Service   string   `json:"service"`
	Objective string   `json:"objective"` // "availability 99.9%", "p99 250ms"
	Target    float64  `json:"target"`    // share of good requests
	Window    string   `json:"window"`    // "30d", or what has been measured so far if that is less
	Good      *float64 `json:"good"`      // share of good requests in the window; null: there was none
	Left      *float64 `json:"left"`      // of the budget: 1 untouched, 0 spent, below 0 overspent
	Burn      *float64 `json:"burn"`      // over the last hour, in budgets per window: 1 spends it exactly
}

// Why is the explanation of what happened to a service.
type Why struct {
	Service  string        `json:"service"`
	State    string        `json:"state"`
	Reason   string        `json:"reason,omitempty"` // of the state, where it is not well
	Findings []Explanation `json:"findings"`         // newest first; none: nothing happened that needs explaining
}

// Explanation is the chain of causes behind one thing that happened.
type Explanation struct {
	What  string    `json:"what"` // restart, scale, rollback, failure, slow, errors, alert
	Title string    `json:"title"`
	Time  time.Time `json:"time"`
	// Cause is the first cause in one sentence; "" where what is known does not tell, and then Title says that.
	Cause string `json:"cause"`
	// Kind names the cause for programs: crash, bad-version, config-error, dependency, overload, memory, hung, disk,
	// certificate, gateway (of the cluster's own), retry-storm, driver (it does not answer), deploy, load, operator; "" unknown.
	Kind  string     `json:"kind"`
	Chain []Evidence `json:"chain"` // from the first cause to what was seen
}

// Evidence is one thing that an explanation rests on.
type Evidence struct {
	Time time.Time `json:"time"`
	Kind string    `json:"kind"` // event, metric, trace, log, revision
	Text string    `json:"text"`
	// Ref is where to look further: a PromQL expression, a trace's ID, a revision's number.
	Ref string `json:"ref,omitempty"`
}

// TelemetryHealth says how the stores do.
type TelemetryHealth struct {
	Metrics telemetry.Health `json:"metrics"`
	Traces  telemetry.Health `json:"traces"`
	Logs    telemetry.Health `json:"logs"`
}
