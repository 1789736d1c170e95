// Package traces keeps spans in SQLite files of one hour each and answers questions about them: which traces match,
// what is in one, who calls whom.
package traces

import (
	"cmp"
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"trellis/errdefs"
	"trellis/telemetry"
	"trellis/telemetry/segment"
)

// Config says what a Store keeps; zero values are the defaults of segment.Config.
type Config struct {
	Dir      string
	MaxBytes int64
	MaxAge   time.Duration
	Log      *slog.Logger
}

// Store is a telemetry.SpanStore. Nothing is written unless Run runs.
type Store struct {
	*segment.Store[telemetry.Span]
}

var _ telemetry.SpanStore = (*Store)(nil)

// CallerAttribute is the attribute of a span that the data plane recorded: the service that called, "" from outside.
const CallerAttribute = "trellis.caller"

const schema = `
CREATE TABLE IF NOT EXISTS rows (
	trace   BLOB NOT NULL,
	span    BLOB NOT NULL,
	parent  BLOB,
	start   INTEGER NOT NULL,
	took    INTEGER NOT NULL,
	service TEXT NOT NULL,
	name    TEXT NOT NULL,
	kind    TEXT NOT NULL,
	status  TEXT NOT NULL,
	caller  TEXT,
	body    TEXT NOT NULL
) STRICT;
CREATE INDEX IF NOT EXISTS rows_trace ON rows (trace, span);
CREATE INDEX IF NOT EXISTS rows_start ON rows (start);
`

// New returns a store of the folder. It touches no file.
func New(cfg Config) *Store {
	return &Store{segment.New(segment.Config[telemetry.Span]{
		Dir: cfg.Dir, Name: "traces", Schema: schema, MaxBytes: cfg.MaxBytes, MaxAge: cfg.MaxAge, Log: cfg.Log,
		Columns: []string{"trace", "span", "parent", "start", "took", "service", "name", "kind", "status", "caller", "body"},
		Row:     row, Size: size, Time: func(s *telemetry.Span) time.Time { return s.Start },
	})}
}

// AddSpans implements telemetry.SpanSink.
func (s *Store) AddSpans(spans []telemetry.Span) (int, string) { return s.Add(spans) }

// rest is what of a span is not searched by itself.
type rest struct {
	Instance   string                `json:"i,omitempty"`
	Revision   int64                 `json:"r,omitempty"`
	Message    string                `json:"m,omitempty"`
	Scope      string                `json:"s,omitempty"`
	Attributes telemetry.Attributes  `json:"a,omitempty"`
	Events     []telemetry.SpanEvent `json:"e,omitempty"`
	Links      []telemetry.SpanLink  `json:"l,omitempty"`
}

func row(s *telemetry.Span) []any {
	body, err := json.Marshal(rest{s.Instance, s.Revision, s.Message, s.Scope, s.Attributes, s.Events, s.Links})
	if err != nil {
		body, _ = json.Marshal(rest{Instance: s.Instance, Revision: s.Revision, Message: "attributes cannot be written: " + err.Error()})
	}
	var parent, caller any
	if !s.Parent.IsZero() {
		parent = s.Parent[:]
	}
	if c, ok := s.Attributes[CallerAttribute].(string); ok {
		caller = c
	}
	return []any{s.Trace[:], s.ID[:], parent, s.Start.UnixNano(), int64(s.Duration), s.Service, s.Name, s.Kind, s.Status, caller, string(body)}
}

func size(s *telemetry.Span) int {
	n := 200 + len(s.Service) + len(s.Name) + len(s.Message) + telemetry.SizeOf(s.Attributes)
	for _, e := range s.Events {
		n += 50 + len(e.Name) + telemetry.SizeOf(e.Attributes)
	}
	for _, l := range s.Links {
		n += 50 + telemetry.SizeOf(l.Attributes)
	}
	return n
}

const columns = "trace, span, parent, start, took, service, name, kind, status, body"

func scan(rows *sql.Rows) (telemetry.Span, error) {
	var s telemetry.Span
	var trace, span, parent []byte
	var start, took int64
	var body string
	if err := rows.Scan(&trace, &span, &parent, &start, &took, &s.Service, &s.Name, &s.Kind, &s.Status, &body); err != nil {
		return s, err
	}
	copy(s.Trace[:], trace)
	copy(s.ID[:], span)
	copy(s.Parent[:], parent)
	s.Start, s.Duration = time.Unix(0, start).UTC(), time.Duration(took)
	var r rest
	if err := json.Unmarshal([]byte(body), &r); err != nil {
		return s, fmt.Errorf("span %s: %w", s.ID, err)
	}
	s.Instance, s.Revision, s.Message, s.Scope = r.Instance, r.Revision, r.Message, r.Scope
	s.Attributes, s.Events, s.Links = r.Attributes, r.Events, r.Links
	return s, nil
}

// Trace implements telemetry.SpanStore. Of more than maxSpans it returns those of the newest files.
func (s *Store) Trace(ctx context.Context, id telemetry.TraceID) ([]telemetry.Span, error) {
	var spans []telemetry.Span
	err := s.Each(ctx, time.Time{}, time.Now().Add(time.Hour), func(db *sql.DB) (bool, error) {
		rows, err := db.QueryContext(ctx, "SELECT "+columns+" FROM rows WHERE trace = ? LIMIT ?", id[:], maxSpans-len(spans))
		if err != nil {
			return false, err
		}
		defer rows.Close()
		for rows.Next() {
			span, err := scan(rows)
			if err != nil {
				return false, err
			}
			spans = append(spans, span)
		}
		return len(spans) < maxSpans, rows.Err()
	})
	if err != nil {
		return nil, err
	}
	if len(spans) == 0 {
		return nil, fmt.Errorf("trace %s: %w: it was not sampled, or is not kept any more", id, errdefs.ErrNotFound)
	}
	slices.SortStableFunc(spans, func(a, b telemetry.Span) int { return a.Start.Compare(b.Start) })
	return spans, nil
}

// maxSpans is how many spans of one trace are looked at at most, those of the newest files: one that a program never ends would be
// all of the store, in memory.
const maxSpans = 10_000

// Search implements telemetry.SpanStore.
func (s *Store) Search(ctx context.Context, f telemetry.TraceFilter) ([]telemetry.TraceSummary, error) {
	now := time.Now()
	if f.Until.IsZero() {
		f.Until = now.Add(time.Minute)
	}
	if f.Since.IsZero() {
		f.Since = f.Until.Add(-time.Hour)
	}
	if f.Limit <= 0 {
		f.Limit = telemetry.DefaultTraceLimit
	}
	f.Limit = min(f.Limit, telemetry.MaxTraceLimit)
	var ids []telemetry.TraceID
	seen := map[telemetry.TraceID]bool{}
	first, last := now, time.Time{}
	cond, args := where(f)
	body := "body"
	if f.Name == "" && len(f.Attributes) == 0 {
		body = "NULL" // nobody looks into it
	}
	err := s.Each(ctx, f.Since, f.Until, func(db *sql.DB) (bool, error) {
		rows, err := db.QueryContext(ctx, "SELECT trace, start, name, "+body+" FROM rows WHERE "+cond+" ORDER BY start DESC", args...)
		if err != nil {
			return false, err
		}
		defer rows.Close()
		for rows.Next() {
			var span telemetry.Span
			var trace, text sql.RawBytes
			var start int64
			if err := rows.Scan(&trace, &start, &span.Name, &text); err != nil {
				return false, err
			}
			if copy(span.Trace[:], trace); seen[span.Trace] {
				continue
			}
			span.Start = time.Unix(0, start).UTC()
			if len(text) > 0 {
				var r rest
				if err := json.Unmarshal(text, &r); err != nil {
					return false, fmt.Errorf("span of trace %s: %w", span.Trace, err)
				}
				if span.Attributes = r.Attributes; !hasName(span, f.Name) || !hasAttributes(span, f.Attributes) {
					continue
				}
			}
			seen[span.Trace] = true
			ids = append(ids, span.Trace)
			first, last = earlier(first, span.Start), later(last, span.Start)
			if len(ids) == f.Limit {
				return false, nil
			}
		}
		return true, rows.Err()
	})
	if err != nil || len(ids) == 0 {
		return []telemetry.TraceSummary{}, err
	}
	return s.summaries(ctx, ids, first.Add(-time.Hour), last.Add(time.Hour), enoughSpans)
}

func earlier(a, b time.Time) time.Time {
	if b.Before(a) {
		return b
	}
	return a
}

func later(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}

// where returns the condition for what f says of one span. Of the name it lets through whatever has it in any attribute, and of an
// attribute whatever has one of its name.
func where(f telemetry.TraceFilter) (string, []any) {
	cond, args := "start >= ? AND start <= ?", []any{f.Since.UnixNano(), f.Until.UnixNano()}
	if f.Service != "" {
		cond, args = cond+" AND service = ?", append(args, f.Service)
	}
	if f.Name != "" {
		cond, args = cond+" AND (instr(name, ?) > 0 OR instr(body, ?) > 0)", append(args, f.Name, inJSON(f.Name))
	}
	for k := range f.Attributes {
		cond, args = cond+" AND instr(body, ?) > 0", append(args, inJSON(k))
	}
	if f.MinDuration > 0 {
		cond, args = cond+" AND took >= ?", append(args, int64(f.MinDuration))
	}
	if f.Errors {
		cond, args = cond+" AND status = ?", append(args, telemetry.StatusError)
	}
	return cond, args
}

// inJSON is text as it stands between quotes in JSON.
func inJSON(text string) string {
	b, err := json.Marshal(text)
	if err != nil {
		return text
	}
	return string(b[1 : len(b)-1])
}

func hasName(s telemetry.Span, part string) bool {
	path, _ := s.Attributes[telemetry.PathAttribute].(string)
	return strings.Contains(s.Name, part) || strings.Contains(path, part)
}

func hasAttributes(s telemetry.Span, want map[string]string) bool {
	for k, v := range want {
		have, ok := s.Attributes[k]
		if !ok || fmt.Sprint(have) != v && !isNumber(have, v) {
			return false
		}
	}
	return true
}

// isNumber says whether have is a float that people write as text.
func isNumber(have any, text string) bool {
	f, ok := have.(float64)
	return ok && strconv.FormatFloat(f, 'f', -1, 64) == text
}

// graphRows bounds on how many of the newest spans a Graph rests, so that it takes less than half a second.
const graphRows = 50_000

// Graph implements telemetry.SpanStore. Durations are kept to three digits while they are counted: SQLite counts several
// times faster than it hands out rows.
func (s *Store) Graph(ctx context.Context, from, to time.Time) ([]telemetry.Edge, time.Time, error) {
	return s.graphOf(ctx, from, to, graphRows)
}

// graphOf is the Graph of at most so many spans.
func (s *Store) graphOf(ctx context.Context, from, to time.Time, most int64) ([]telemetry.Edge, time.Time, error) {
	g := graph{calls: map[way]map[time.Duration]int64{}, failed: map[way]int64{}, since: from, left: most}
	err := s.Each(ctx, from, to, func(db *sql.DB) (bool, error) {
		begin, err := g.begin(ctx, db, from.UnixNano(), to.UnixNano())
		if err != nil {
			return false, err
		}
		return g.left > 0, g.add(ctx, db, begin, to.UnixNano())
	})
	return g.edges(), g.since, err
}

type way struct{ caller, callee string }

// graph counts calls.
type graph struct {
	calls  map[way]map[time.Duration]int64 // how many took how long
	failed map[way]int64
	since  time.Time
	left   int64 // spans that may still be looked at
}

// begin returns the moment from which on the spans of a file are within what is left, and takes them off it.
func (g *graph) begin(ctx context.Context, db *sql.DB, from, to int64) (int64, error) {
	var n int64
	if err := db.QueryRowContext(ctx, "SELECT count(*) FROM rows WHERE start >= ? AND start <= ?", from, to).Scan(&n); err != nil {
		return 0, err
	}
	if n >= g.left { // what is older is not looked at
		err := db.QueryRowContext(ctx, "SELECT start FROM rows WHERE start >= ? AND start <= ? ORDER BY start DESC LIMIT 1 OFFSET ?", from, to, g.left-1).Scan(&from)
		if err != nil {
			return 0, err
		}
		g.since = time.Unix(0, from)
	}
	g.left -= n
	return from, nil
}

// add counts the calls of one file: those that the data plane recorded, and those that spans tell of by their parents. A call has one
// parent, whatever IDs a program gives to how many spans, and however often it has sent them.
func (g *graph) add(ctx context.Context, db *sql.DB, from, to int64) error {
	rows, err := db.QueryContext(ctx, `SELECT caller AS by, service AS of, status, length(took) AS digits, substr(took, 1, 3) AS lead, count(*)
		FROM rows WHERE start >= ? AND start <= ? AND caller IS NOT NULL GROUP BY by, of, status, digits, lead
		UNION ALL SELECT by, of, status, digits, lead, count(*) FROM (
			SELECT (SELECT p.service FROM rows p WHERE p.trace = c.trace AND p.span = c.parent LIMIT 1) AS by,
			c.service AS of, c.status, length(c.took) AS digits, substr(c.took, 1, 3) AS lead
			FROM rows c WHERE c.start >= ? AND c.start <= ? AND c.caller IS NULL AND c.parent IS NOT NULL
		) WHERE by <> of GROUP BY by, of, status, digits, lead`,
		from, to, from, to)
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		var w way
		var status string
		var digits, took, n int64
		if err := rows.Scan(&w.caller, &w.callee, &status, &digits, &took, &n); err != nil {
			return err
		}
		for ; digits > 3; digits-- {
			took *= 10
		}
		if g.calls[w] == nil {
			g.calls[w] = map[time.Duration]int64{}
		}
		g.calls[w][time.Duration(took)] += n
		if status == telemetry.StatusError {
			g.failed[w] += n
		}
	}
	return rows.Err()
}

// edges returns what was counted, by the names of the two.
func (g *graph) edges() []telemetry.Edge {
	edges := []telemetry.Edge{}
	for w, took := range g.calls {
		var n int64
		for _, of := range took {
			n += of
		}
		edges = append(edges, telemetry.Edge{
			Caller: w.caller, Callee: w.callee, Calls: n, Errors: g.failed[w], P50: ranked(took, (n-1)/2), P99: ranked(took, (n-1)*99/100),
		})
	}
	slices.SortFunc(edges, func(a, b telemetry.Edge) int {
		return cmp.Or(cmp.Compare(a.Caller, b.Caller), cmp.Compare(a.Callee, b.Callee))
	})
	return edges
}

// ranked returns the duration that rank others are before.
func ranked(took map[time.Duration]int64, rank int64) time.Duration {
	for _, d := range slices.Sorted(maps.Keys(took)) {
		if rank -= took[d]; rank < 0 {
			return d
		}
	}
	return 0
}

// Health says how the store does.
func (s *Store) Health() telemetry.Health { return telemetry.Health(s.Store.Health()) }
