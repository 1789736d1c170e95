package telemetry

import (
	"context"
	"strings"
	"time"
)

// SpanSink takes spans. It is safe for concurrent use.
type SpanSink interface {
	// AddSpans takes what it can of spans and returns how many it dropped, and why; it neither blocks nor keeps spans.
	AddSpans(spans []Span) (dropped int, why string)
}

// RecordSink takes log records. It is safe for concurrent use.
type RecordSink interface {
	// AddRecords takes what it can of records and returns how many it dropped, and why; it neither blocks nor keeps
	// records.
	AddRecords(records []Record) (dropped int, why string)
}

// SpanStore keeps spans for as long as its caps allow. It is safe for concurrent use.
type SpanStore interface {
	SpanSink
	// Search returns the traces that match, newest first; where they have very many spans, fewer than f.Limit of them.
	Search(ctx context.Context, f TraceFilter) ([]TraceSummary, error)
	// Trace returns the spans of one trace in order of their start. None: ErrNotFound.
	Trace(ctx context.Context, id TraceID) ([]Span, error)
	// Graph returns who called whom between two moments, by services, and since when it rests on all spans: of too many
	// the newest are enough.
	Graph(ctx context.Context, from, to time.Time) (edges []Edge, since time.Time, err error)
}

// RecordStore keeps log records for as long as its caps allow. It is safe for concurrent use.
type RecordStore interface {
	RecordSink
	// Records calls fn with each record that matches, oldest first; of more than f.Limit with the newest ones. With
	// follow it goes on with those that are added afterwards until ctx is done. An error of fn ends it and is returned.
	Records(ctx context.Context, f RecordFilter, follow bool, fn func(Record) error) error
}

// DefaultLimit is how many traces or records are returned where nothing is said.
const (
	DefaultTraceLimit  = 50
	DefaultRecordLimit = 1000
	MaxTraceLimit      = 1000
	MaxRecordLimit     = 100_000
)

// TraceFilter selects traces by the spans in them; zero fields select all. A trace matches when one of its spans meets
// all conditions.
type TraceFilter struct {
	Service     string            `json:"service,omitempty"`
	Name        string            `json:"name,omitempty"` // a part of a span's name or of the path that it was asked for
	Since       time.Time         `json:"since,omitzero"` // default: one hour ago
	Until       time.Time         `json:"until,omitzero"` // default: now
	MinDuration time.Duration     `json:"min_duration_ns,omitempty"`
	Errors      bool              `json:"errors,omitempty"`     // only spans with StatusError
	Attributes  map[string]string `json:"attributes,omitempty"` // each with exactly this value as text
	Limit       int               `json:"limit,omitempty"`      // DefaultTraceLimit; at most MaxTraceLimit
}

// TraceSummary is one trace in a list.
type TraceSummary struct {
	Trace    TraceID       `json:"trace_id"`
	Start    time.Time     `json:"start"`
	Duration time.Duration `json:"duration_ns"`
	Root     string        `json:"root"`        // name of the first span
	Path     string        `json:"path"`        // that the first span was asked for; "" it is not of HTTP
	Service  string        `json:"service"`     // that the first span is of
	Services []string      `json:"services"`    // that took part, by name
	Spans    int           `json:"spans"`       // that are kept
	Errors   int           `json:"errors"`      // of them
	Status   string        `json:"status"`      // of the first span
	HTTP     int           `json:"http_status"` // answer of the first span; 0 none
	Revision int64         `json:"revision"`    // of the first span's instance; 0 unknown
}

// Request is what was asked for, in as much detail as is known: the name of a span has a route where many paths go.
func (t TraceSummary) Request() string { return requested(t.Root, t.Path) }

// Request is TraceSummary.Request of one span.
func (s *Span) Request() string {
	path, _ := s.Attributes[PathAttribute].(string)
	return requested(s.Name, path)
}

func requested(name, path string) string {
	method, _, ok := strings.Cut(name, " ")
	if path == "" || !ok || method != strings.ToUpper(method) {
		return name
	}
	return method + " " + path
}

// PathAttribute is the attribute of a span that says for which path it was asked, by OpenTelemetry's conventions.
const PathAttribute = "url.path"

// Edge is one service calling another. Counts are of spans that were kept, so that they are shares, not totals, where
// traces are sampled.
type Edge struct {
	Caller string        `json:"caller"` // "" is from outside
	Callee string        `json:"callee"`
	Calls  int64         `json:"calls"`
	Errors int64         `json:"errors"`
	P50    time.Duration `json:"p50_ns"`
	P99    time.Duration `json:"p99_ns"`
}

// RecordFilter selects log records; zero fields select all.
type RecordFilter struct {
	Services []string  `json:"services,omitempty"`
	Instance string    `json:"instance,omitempty"`
	Revision int64     `json:"revision,omitempty"`
	Streams  []string  `json:"streams,omitempty"`
	Since    time.Time `json:"since,omitzero"`     // default: one hour ago, or the beginning where Trace is set
	Until    time.Time `json:"until,omitzero"`     // default: now
	Severity string    `json:"severity,omitempty"` // this one or a graver one
	Grep     string    `json:"grep,omitempty"`     // a regular expression (RE2) that the body has to match
	Trace    TraceID   `json:"trace_id,omitzero"`
	After    int64     `json:"after,omitempty"` // Seq
	Limit    int       `json:"limit,omitempty"` // DefaultRecordLimit; at most MaxRecordLimit
}

// Health says how a store does.
type Health struct {
	Accepted uint64            `json:"accepted"` // since this control plane started
	Lost     map[string]uint64 `json:"lost"`     // by reason, since this control plane started
	Bytes    int64             `json:"bytes"`    // on disk
	MaxBytes int64             `json:"max_bytes"`
	Oldest   time.Time         `json:"oldest,omitzero"`   // of what is kept
	Problem  string            `json:"problem,omitempty"` // why nothing can be written now; "" it can
}

// Reasons for a loss.
const (
	LossQueueFull = "queue full" // the writer could not keep up
	LossTooLate   = "too late"   // older than the oldest kept hour, or from the future
	LossTooLarge  = "too large"  // beyond the bounds of one item
	LossDisk      = "disk"       // the disk was full or failed
	LossInvalid   = "invalid"    // not what it says it is
	LossLimit     = "limit"      // beyond a limit on series or on a sender's rate
)

// RefusedHeader names the field of an answer to metrics that were written in part: how many samples were not. They must not be sent
// again.
const RefusedHeader = "X-Trellis-Refused-Samples"
