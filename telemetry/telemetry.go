// Package telemetry holds the nouns of what a project tells of itself (metric, span, log record) and the contracts of
// the stores that keep it.
//
// A store takes what it is given without making the giver wait: Add copies into a queue that one writer empties in
// batches. What does not fit, what is too large or too old, and what a full disk refused is dropped, and counted by
// reason (Loss): nothing is lost unseen, and nothing that is lost stops the program that told it.
package telemetry

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"trellis/errdefs"
)

// TraceID names a trace, SpanID a span within it, as W3C Trace Context and OpenTelemetry have them. Their text form is
// lower-case hex; zero is none and its text is "".
type (
	TraceID [16]byte
	SpanID  [8]byte
)

// IsZero says whether there is none.
func (id TraceID) IsZero() bool { return id == TraceID{} }

// IsZero says whether there is none.
func (id SpanID) IsZero() bool { return id == SpanID{} }

func (id TraceID) String() string { return text(id[:], id.IsZero()) }
func (id SpanID) String() string  { return text(id[:], id.IsZero()) }

// MarshalText implements encoding.TextMarshaler.
func (id TraceID) MarshalText() ([]byte, error) { return []byte(id.String()), nil }

// MarshalText implements encoding.TextMarshaler.
func (id SpanID) MarshalText() ([]byte, error) { return []byte(id.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (id *TraceID) UnmarshalText(b []byte) error { return parse("trace ID", id[:], string(b)) }

// UnmarshalText implements encoding.TextUnmarshaler.
func (id *SpanID) UnmarshalText(b []byte) error { return parse("span ID", id[:], string(b)) }

// ParseTraceID reads the 32 hex digits of a trace's ID.
func ParseTraceID(s string) (id TraceID, err error) {
	if err := id.UnmarshalText([]byte(s)); err != nil {
		return id, err
	}
	if id.IsZero() {
		return id, fmt.Errorf("trace ID %q: %w: want 32 hex digits", s, errdefs.ErrInvalid)
	}
	return id, nil
}

func text(id []byte, zero bool) string {
	if zero {
		return ""
	}
	return hex.EncodeToString(id)
}

func parse(what string, to []byte, s string) error {
	if s == "" {
		clear(to)
		return nil
	}
	if len(s) != 2*len(to) {
		return fmt.Errorf("%s %q: %w: want %d hex digits", what, s, errdefs.ErrInvalid, 2*len(to))
	}
	b, err := hex.DecodeString(s) // not into to: what is no ID is no part of one
	if err != nil {
		return fmt.Errorf("%s %q: %w: want %d hex digits", what, s, errdefs.ErrInvalid, 2*len(to))
	}
	copy(to, b)
	return nil
}

// The kinds of a Span.
const (
	KindInternal = "internal"
	KindServer   = "server"
	KindClient   = "client"
	KindProducer = "producer"
	KindConsumer = "consumer"
)

// The statuses of a Span; "" is not set.
const (
	StatusOK    = "ok"
	StatusError = "error"
)

// Attributes follow OpenTelemetry's semantic conventions. Their values are strings, bools, int64s, float64s, and slices and maps
// of those, also once they were JSON: an identifier is not rounded on its way.
type Attributes map[string]any

// UnmarshalJSON implements json.Unmarshaler.
func (a *Attributes) UnmarshalJSON(b []byte) error {
	var all map[string]any
	dec := json.NewDecoder(bytes.NewReader(b))
	dec.UseNumber()
	if err := dec.Decode(&all); err != nil {
		return err
	}
	for k, v := range all {
		all[k] = Exact(v)
	}
	*a = all
	return nil
}

// Exact makes of what JSON was decoded to with its numbers as text what Attributes hold; slices and maps are changed in place. A number
// beyond all others stays text.
func Exact(v any) any {
	switch v := v.(type) {
	case json.Number:
		if n, err := v.Int64(); err == nil {
			return n
		}
		if f, err := v.Float64(); err == nil {
			return f
		}
		return v.String()
	case []any:
		for i, one := range v {
			v[i] = Exact(one)
		}
	case map[string]any:
		for k, one := range v {
			v[k] = Exact(one)
		}
	}
	return v
}

// Span is one piece of work within a trace.
type Span struct {
	Trace      TraceID       `json:"trace_id"`
	ID         SpanID        `json:"span_id"`
	Parent     SpanID        `json:"parent_id"` // "" of a root
	Service    string        `json:"service"`
	Instance   string        `json:"instance,omitempty"`
	Revision   int64         `json:"revision,omitempty"`
	Name       string        `json:"name"`
	Kind       string        `json:"kind"`
	Start      time.Time     `json:"start"`
	Duration   time.Duration `json:"duration_ns"`
	Status     string        `json:"status"`
	Message    string        `json:"message,omitempty"` // of Status
	Scope      string        `json:"scope,omitempty"`   // the instrumentation library
	Attributes Attributes    `json:"attributes,omitempty"`
	Events     []SpanEvent   `json:"events,omitempty"`
	Links      []SpanLink    `json:"links,omitempty"`
}

// SpanEvent is something that happened during a span.
type SpanEvent struct {
	Time       time.Time  `json:"time"`
	Name       string     `json:"name"`
	Attributes Attributes `json:"attributes,omitempty"`
}

// SpanLink names a span of another trace that this one has to do with.
type SpanLink struct {
	Trace      TraceID    `json:"trace_id"`
	Span       SpanID     `json:"span_id"`
	Attributes Attributes `json:"attributes,omitempty"`
}

// The severities of a Record, in order.
const (
	SeverityTrace = "trace"
	SeverityDebug = "debug"
	SeverityInfo  = "info"
	SeverityWarn  = "warn"
	SeverityError = "error"
	SeverityFatal = "fatal"
)

// SeverityOf reads a level as programs write it; "" it is none.
func SeverityOf(level string) string {
	switch strings.ToLower(strings.Trim(level, "[]: ")) {
	case "trace", "verbose", "10", "finest":
		return SeverityTrace
	case "debug", "dbg", "20", "fine":
		return SeverityDebug
	case "info", "information", "notice", "inf", "30", "informational":
		return SeverityInfo
	case "warn", "warning", "wrn", "40":
		return SeverityWarn
	case "error", "err", "50", "severe":
		return SeverityError
	case "fatal", "critical", "crit", "panic", "alert", "emerg", "emergency", "60", "dpanic":
		return SeverityFatal
	}
	return ""
}

// The streams that a Record may come from.
const (
	StreamStdout = "stdout"
	StreamStderr = "stderr"
	StreamOTLP   = "otlp"   // sent by the program over OTLP
	StreamAccess = "access" // written by the data plane of a request
	StreamSystem = "system" // written by whoever runs the instance
)

// Record is one log record: a line that an instance wrote (several where they belong together), a record that a program
// sent over OTLP, or a request that the data plane saw.
type Record struct {
	Seq        int64      `json:"seq"` // within the store, later ones are larger; 0 until it is kept
	Time       time.Time  `json:"time"`
	Service    string     `json:"service"`
	Instance   string     `json:"instance,omitempty"`
	Revision   int64      `json:"revision,omitempty"`
	Stream     string     `json:"stream"`
	Severity   string     `json:"severity"` // "" where none was found
	Body       string     `json:"body"`
	Trace      TraceID    `json:"trace_id"` // "" none
	Span       SpanID     `json:"span_id"`
	Attributes Attributes `json:"attributes,omitempty"`
}

// Sample is the value of one series at one moment: a number, or a distribution.
type Sample struct {
	Labels map[string]string // the metric's name stands as "__name__"
	Time   time.Time
	Value  float64
	// Distribution is the value of a histogram, cumulative; nil for a number.
	Distribution *Distribution
	// Created is when a cumulative series began at nothing; zero: unknown.
	Created time.Time
	// Cumulative says that the value only grows, whatever its name says.
	Cumulative bool
	// Exemplar is an example of what a distribution has counted since the sample before; nil: none.
	Exemplar *Exemplar
}

// Exemplar is one request of many, and where it is seen whole.
type Exemplar struct {
	Time  time.Time
	Value float64
	Trace TraceID
	Span  SpanID
}

// Distribution is how often values were seen.
type Distribution struct {
	Counts map[float64]uint64 // by value; what is close together is counted together
}

// Sum is the sum of the values. It is added up in their order: the last digits of a sum depend on the order, and one that fell by them
// between two rounds would be taken for a counter that began anew, and be counted a second time as a whole.
func (d *Distribution) Sum() (sum float64) {
	for _, v := range slices.Sorted(maps.Keys(d.Counts)) {
		sum += v * float64(d.Counts[v])
	}
	return sum
}

// Rule is an alerting rule, or where Record is set a recording rule, in PromQL.
type Rule struct {
	Record      string
	Alert       string
	Expr        string
	For         time.Duration // that Expr holds before the alert fires
	KeepFor     time.Duration // that the alert goes on firing after Expr held last
	Labels      map[string]string
	Annotations map[string]string // Go templates as Prometheus has them
}

// RuleGroup is evaluated as one, its rules in order.
type RuleGroup struct {
	Name     string
	Interval time.Duration // 0: the store's default
	Offset   time.Duration // into the past, at which it is evaluated
	Limit    int           // on the alerts or series of one rule, beyond which it fails; 0: none
	Rules    []Rule
}

// Alert is an alert that a rule has found.
type Alert struct {
	Labels      map[string]string // "alertname" among them
	Annotations map[string]string
	Expr        string
	Value       float64
	ActiveAt    time.Time // since its condition holds
	FiredAt     time.Time // zero: it is pending
	ResolvedAt  time.Time // zero: it still is
	ValidUntil  time.Time // it counts as firing unless it is heard of again; zero: whoever hears of it decides
}

// SizeOf returns about how many bytes attributes take in memory.
func SizeOf(attributes map[string]any) int {
	n := 0
	for k, v := range attributes {
		n += len(k) + sizeOf(v)
	}
	return n
}

func sizeOf(v any) int {
	switch v := v.(type) {
	case string:
		return 16 + len(v)
	case []any:
		n := 24
		for _, one := range v {
			n += sizeOf(one)
		}
		return n
	case map[string]any:
		return 48 + SizeOf(v)
	}
	return 16
}
