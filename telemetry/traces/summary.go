package traces

import (
	"cmp"
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"time"

	"trellis/telemetry"
)

const (
	// enoughSpans is how many spans a search counts before it returns no more traces. The default of traces, each of maxSpans, is
	// within it.
	enoughSpans = telemetry.DefaultTraceLimit * maxSpans
	// maxRoots is how many spans without a parent are looked at in one file to find the first span of a trace.
	maxRoots = 20
	// longest is how long a span counts at most: SQLite makes a float of what an integer does not hold.
	longest = 30 * 365 * 24 * time.Hour
)

// tally is what was counted of a trace's spans.
type tally struct {
	spans, errors int
	start, end    int64
	services      map[string]bool
	roots         []root // the first ones in each file, in order of their start
	files         int    // that have spans of it
	shown         bool   // summary is whole
	summary       telemetry.TraceSummary
}

// root is a span whose parent is not in its file.
type root struct {
	span, parent telemetry.SpanID
	start        int64
}

// summaries describes traces, newest first. Whoever lists traces needs a few words of each: SQLite counts their spans, and what a span
// carries is read of the first one alone. As soon as most spans were counted the rest of ids is left out, which are to be in
// order of their age.
func (s *Store) summaries(ctx context.Context, ids []telemetry.TraceID, from, to time.Time, most int) ([]telemetry.TraceSummary, error) {
	all := make([]telemetry.TraceSummary, 0, len(ids))
	counted := 0
	for some := range slices.Chunk(ids, telemetry.DefaultTraceLimit) {
		if counted >= most {
			break
		}
		tallies, err := s.tallies(ctx, some, from, to)
		if err != nil {
			return nil, err
		}
		for _, id := range some {
			if t := tallies[id]; t.spans > 0 {
				counted += t.spans
				all = append(all, t.summary)
			}
		}
	}
	slices.SortStableFunc(all, func(a, b telemetry.TraceSummary) int { return b.Start.Compare(a.Start) })
	return all, nil
}

// tallies returns what is said of each trace.
func (s *Store) tallies(ctx context.Context, ids []telemetry.TraceID, from, to time.Time) (map[telemetry.TraceID]*tally, error) {
	found := map[telemetry.TraceID]*tally{}
	for _, id := range ids {
		found[id] = &tally{services: map[string]bool{}}
	}
	each := func(do func(*tally, context.Context, *sql.DB, telemetry.TraceID) error) error {
		return s.Each(ctx, from, to, func(db *sql.DB) (bool, error) {
			for _, id := range ids {
				if err := do(found[id], ctx, db, id); err != nil {
					return false, err
				}
			}
			return true, nil
		})
	}
	if err := each((*tally).count); err != nil {
		return nil, err
	}
	for _, t := range found {
		slices.SortStableFunc(t.roots, func(a, b root) int { return cmp.Compare(a.start, b.start) })
	}
	if err := each((*tally).adopt); err != nil {
		return nil, err
	}
	return found, each((*tally).show)
}

// count adds the spans of one file.
func (t *tally) count(ctx context.Context, db *sql.DB, id telemetry.TraceID) error {
	const some = "(SELECT span, parent, start, took, service, status FROM rows WHERE trace = ?1 LIMIT ?2) AS c"
	left := maxSpans - t.spans
	if left == 0 {
		return nil
	}
	var spans, errors int
	var start, end sql.NullInt64
	var services string
	err := db.QueryRowContext(ctx, "SELECT count(*), coalesce(sum(status = ?3), 0), min(start), max(start + min(took, ?4)), json_group_array(DISTINCT service) FROM "+some,
		id[:], left, telemetry.StatusError, int64(longest)).Scan(&spans, &errors, &start, &end, &services)
	if err != nil || spans == 0 {
		return err
	}
	if t.spans == 0 {
		t.start, t.end = start.Int64, end.Int64
	}
	t.start, t.end = min(t.start, start.Int64), max(t.end, end.Int64)
	t.spans, t.errors, t.files = t.spans+spans, t.errors+errors, t.files+1
	var names []string
	if err := json.Unmarshal([]byte(services), &names); err != nil {
		return fmt.Errorf("services of trace %s: %w", id, err)
	}
	for _, name := range names {
		t.services[name] = true
	}
	rows, err := db.QueryContext(ctx, "SELECT span, parent, start FROM "+some+
		" WHERE parent IS NULL OR NOT EXISTS (SELECT 1 FROM rows p WHERE p.trace = ?1 AND p.span = c.parent) ORDER BY start, span LIMIT ?3", id[:], left, maxRoots)
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		var r root
		var span, parent sql.RawBytes
		if err := rows.Scan(&span, &parent, &r.start); err != nil {
			return err
		}
		copy(r.span[:], span)
		copy(r.parent[:], parent)
		t.roots = append(t.roots, r)
	}
	return rows.Err()
}

// adopt leaves out those roots whose parent is in this file.
func (t *tally) adopt(ctx context.Context, db *sql.DB, id telemetry.TraceID) error {
	if t.files < 2 || len(t.roots) == 0 || t.roots[0].parent.IsZero() {
		return nil
	}
	var left []root
	for _, r := range t.roots {
		var there bool
		err := db.QueryRowContext(ctx, "SELECT EXISTS (SELECT 1 FROM rows WHERE trace = ? AND span = ?)", id[:], r.parent[:]).Scan(&there)
		if err != nil {
			return err
		}
		if !there {
			left = append(left, r)
		}
	}
	t.roots = left
	return nil
}

// show completes the summary, once the file has the first span.
func (t *tally) show(ctx context.Context, db *sql.DB, id telemetry.TraceID) error {
	if t.shown || t.spans == 0 {
		return nil
	}
	cond, args := "trace = ? AND start = ?", []any{id[:], t.start} // where all of them have parents
	if len(t.roots) > 0 {
		cond, args = "trace = ? AND start = ? AND span = ?", []any{id[:], t.roots[0].start, t.roots[0].span[:]}
	}
	rows, err := db.QueryContext(ctx, "SELECT "+columns+" FROM rows WHERE "+cond+" ORDER BY span LIMIT 1", args...)
	if err != nil {
		return err
	}
	defer rows.Close()
	if !rows.Next() {
		return rows.Err()
	}
	first, err := scan(rows)
	if err != nil {
		return err
	}
	t.shown = true
	t.summary = telemetry.TraceSummary{
		Trace: id, Start: time.Unix(0, t.start).UTC(), Duration: time.Duration(t.end - t.start), Spans: t.spans, Errors: t.errors,
		Root: first.Name, Service: first.Service, Status: first.Status, Revision: first.Revision,
	}
	for name := range t.services {
		t.summary.Services = append(t.summary.Services, name)
	}
	slices.Sort(t.summary.Services)
	t.summary.Path, _ = first.Attributes[telemetry.PathAttribute].(string)
	if n, err := strconv.Atoi(fmt.Sprint(first.Attributes["http.response.status_code"])); err == nil {
		t.summary.HTTP = n
	}
	return nil
}
