package logs

import (
	"cmp"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"math"
	"regexp"
	"regexp/syntax"
	"slices"
	"strings"
	"time"

	"trellis/errdefs"
	"trellis/telemetry"
)

// selection is a RecordFilter as SQL and what SQL cannot say.
type selection struct {
	since, until time.Time
	from         time.Time // files of before have nothing; zero: any may have
	cond         string
	args         []any
	grep         *regexp.Regexp // beyond what cond says of the body; nil: nothing
	wide         bool           // no index finds what cond means among what was written in the time
	after, upTo  int64          // bounds of Seq; upTo belongs to what is found
	limit        int
	probe        int // the newest rows of a file that are looked through before the rest of it
}

// probeRows is how many rows are looked through to see whether what is meant is frequent: a few milliseconds.
const probeRows = 5000

func selectionOf(f telemetry.RecordFilter) (*selection, error) {
	s := &selection{since: f.Since, until: f.Until, after: f.After, upTo: math.MaxInt64, limit: f.Limit, probe: probeRows}
	if s.until.IsZero() {
		s.until = time.Now().Add(10 * time.Minute)
	}
	if s.since.IsZero() && f.Trace.IsZero() {
		s.since = time.Now().Add(-time.Hour)
	}
	if s.limit <= 0 {
		s.limit = telemetry.DefaultRecordLimit
	}
	s.limit = min(s.limit, telemetry.MaxRecordLimit)
	s.wide = f.Trace.IsZero()
	s.in("service", f.Services)
	s.in("stream", f.Streams)
	if f.Instance != "" {
		s.and("instance = ?", f.Instance)
	}
	if f.Revision != 0 {
		s.and("revision = ?", f.Revision)
	}
	if !f.Trace.IsZero() {
		s.and("trace = ?", f.Trace[:])
	}
	if f.Severity != "" {
		level := slices.Index(severities(), f.Severity)
		if level < 0 {
			return nil, fmt.Errorf("severity %q: %w: want one of %s", f.Severity, errdefs.ErrInvalid, strings.Join(severities()[1:], ", "))
		}
		s.and("severity >= ?", level)
		if level >= slices.Index(severities(), telemetry.SeverityWarn) {
			s.cond, s.wide = s.cond+" AND "+grave, false
		}
	}
	if f.Grep == "" {
		return s, nil
	}
	re, err := regexp.Compile(f.Grep)
	if err != nil {
		return nil, fmt.Errorf("grep %q: %w: %w", f.Grep, errdefs.ErrInvalid, err)
	}
	if s.contain(f.Grep) {
		s.grep = re
	}
	return s, nil
}

// contain adds what whatever matches pattern contains, for SQLite leaves rows out several times faster than it hands them
// out; more says that pattern says more than that.
func (s *selection) contain(pattern string) (more bool) {
	re, err := syntax.Parse(pattern, syntax.Perl)
	if err != nil {
		return true
	}
	re = re.Simplify()
	longest := &syntax.Regexp{}
	parts := []*syntax.Regexp{re}
	if re.Op == syntax.OpConcat {
		parts = re.Sub
	}
	for _, part := range parts {
		if part.Op == syntax.OpLiteral && len(part.Rune) > len(longest.Rune) {
			longest = part
		}
	}
	switch text := string(longest.Rune); {
	case text == "" || len(text) > maxLike:
		return true
	case longest.Flags&syntax.FoldCase == 0:
		s.and("instr(body, ?) > 0", text)
		return longest != re
	default: // LIKE knows no body beyond a NUL
		s.and("(body LIKE ? ESCAPE '\\' OR instr(body, char(0)) > 0)", like(longest.Rune))
		return true
	}
}

// maxLike is far below what SQLite takes as a pattern.
const maxLike = 1000

// like is the pattern of LIKE for what contains a text in any case: a letter whose other case is not of ASCII alone may be any.
func like(text []rune) string {
	var b strings.Builder
	b.WriteByte('%')
	for _, r := range text {
		switch {
		case r > 'z', strings.ContainsRune("kKsS", r): // the sign for Kelvin and the long s are theirs too
			b.WriteByte('_')
		case r == '%' || r == '_' || r == '\\':
			b.WriteByte('\\')
			fallthrough
		default:
			b.WriteRune(r)
		}
	}
	b.WriteByte('%')
	return b.String()
}

func (s *selection) and(cond string, arg any) {
	s.cond += " AND " + cond
	s.args = append(s.args, arg)
}

func (s *selection) in(column string, values []string) {
	if len(values) == 0 {
		return
	}
	s.cond += " AND " + column + " IN (?" + strings.Repeat(",?", len(values)-1) + ")"
	for _, v := range values {
		s.args = append(s.args, v)
	}
}

const columns = "SELECT seq, time, service, instance, revision, stream, severity, body, trace, span, attrs FROM rows "

// query returns the question for one file, by an index, of which at most n rows are wanted.
func (s *selection) query(since, until int64, n int) (string, []any) {
	query := columns + "WHERE "
	var args []any
	order := " ORDER BY time DESC, seq DESC"
	if s.after > 0 { // few rows, found by their key
		query, args = query+"seq > ? AND seq <= ? AND time + 0 >= ? AND time + 0 <= ?", append(args, s.after, s.upTo)
		order = " ORDER BY seq DESC"
	} else {
		query, args = query+"seq + 0 <= ? AND time >= ? AND time <= ?", append(args, s.upTo)
	}
	query += s.cond + order
	if s.grep == nil {
		query += fmt.Sprintf(" LIMIT %d", n)
	}
	return query, append(append(args, since, until), s.args...)
}

// find returns the newest records that match, oldest first.
func (s *Store) find(ctx context.Context, sel *selection) ([]telemetry.Record, error) {
	var found []telemetry.Record
	from := sel.since
	if sel.from.After(from) {
		from = sel.from
	}
	err := s.Each(ctx, from, sel.until, func(db *sql.DB) (bool, error) {
		more, err := sel.look(ctx, db, sel.limit-len(found))
		found = append(found, more...)
		return len(found) < sel.limit, err
	})
	slices.SortStableFunc(found, func(a, b telemetry.Record) int {
		return cmp.Or(a.Time.Compare(b.Time), cmp.Compare(a.Seq, b.Seq))
	})
	return found, err
}

// look returns at most the newest n records of one file that match. Of what no index finds the newest rows have enough, where
// it is frequent. Where it is not, it is looked for in the order in which rows lie in the file: that has to go to its end, and
// takes a third of the time of a look in the order of their times.
func (s *selection) look(ctx context.Context, db *sql.DB, n int) ([]telemetry.Record, error) {
	since, until := nanos(s.since), nanos(s.until)
	edge := since
	if s.wide && s.cond != "" && s.after == 0 {
		err := db.QueryRowContext(ctx, "SELECT time FROM rows WHERE time >= ? AND time <= ? ORDER BY time DESC LIMIT 1 OFFSET ?", since, until, s.probe).Scan(&edge)
		if err != nil && !errors.Is(err, sql.ErrNoRows) {
			return nil, err
		}
	}
	found, err := s.indexed(ctx, db, edge, until, n)
	if err != nil || len(found) == n || edge <= since {
		return found, err
	}
	rest := s.scanned
	if frequent*len(found) >= n {
		rest = s.indexed
	}
	more, err := rest(ctx, db, since, edge-1, n-len(found))
	return append(found, more...), err
}

// frequent is how many times as many rows as the probe's are at most looked through by an index.
const frequent = 10

// indexed returns at most the newest n records between two moments, in the order of an index.
func (s *selection) indexed(ctx context.Context, db *sql.DB, since, until int64, n int) ([]telemetry.Record, error) {
	query, args := s.query(since, until, n)
	rows, err := db.QueryContext(ctx, query, args...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var found []telemetry.Record
	for rows.Next() && len(found) < n {
		r, err := scan(rows)
		if err != nil {
			return nil, err
		}
		if s.grep == nil || s.grep.MatchString(r.Body) {
			found = append(found, r)
		}
	}
	return found, rows.Err()
}

// hit is a row that matches.
type hit struct{ time, seq int64 }

// scanned returns at most the newest n records between two moments, by a look at each row of the file.
func (s *selection) scanned(ctx context.Context, db *sql.DB, since, until int64, n int) ([]telemetry.Record, error) {
	query := "SELECT time, seq, body FROM rows NOT INDEXED WHERE seq + 0 <= ? AND time >= ? AND time <= ?" + s.cond
	rows, err := db.QueryContext(ctx, query, append([]any{s.upTo, since, until}, s.args...)...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var hits []hit
	for rows.Next() {
		var h hit
		var body string
		if err := rows.Scan(&h.time, &h.seq, &body); err != nil {
			return nil, err
		}
		if s.grep != nil && !s.grep.MatchString(body) {
			continue
		}
		if hits = append(hits, h); len(hits) >= 2*n+1000 {
			hits = newest(hits, n)
		}
	}
	if err := rows.Err(); err != nil {
		return nil, err
	}
	return fetch(ctx, db, newest(hits, n))
}

// newest returns the newest n hits.
func newest(hits []hit, n int) []hit {
	slices.SortFunc(hits, func(a, b hit) int { return cmp.Or(cmp.Compare(b.time, a.time), cmp.Compare(b.seq, a.seq)) })
	return hits[:min(n, len(hits))]
}

// fetch returns the records of hits.
func fetch(ctx context.Context, db *sql.DB, hits []hit) ([]telemetry.Record, error) {
	found := make([]telemetry.Record, 0, len(hits))
	for part := range slices.Chunk(hits, 500) {
		args := make([]any, 0, len(part))
		for _, h := range part {
			args = append(args, h.seq)
		}
		rows, err := db.QueryContext(ctx, columns+"WHERE seq IN (?"+strings.Repeat(",?", len(part)-1)+")", args...)
		if err != nil {
			return nil, err
		}
		for rows.Next() {
			r, err := scan(rows)
			if err != nil {
				_ = rows.Close()
				return nil, err
			}
			found = append(found, r)
		}
		if err := rows.Err(); err != nil {
			return nil, err
		}
	}
	return found, nil
}

// nanos is t in nanoseconds since 1970; 0 for the zero time, which UnixNano has no number for.
func nanos(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixNano()
}
