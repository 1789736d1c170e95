// Package logs keeps log records in SQLite files of one hour each, and makes records of what programs write: JSON,
// logfmt and plain text, levels found, lines that belong together joined, secrets taken out.
package logs

import (
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

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

// Store is a telemetry.RecordStore. Nothing is written unless Run runs.
type Store struct {
	*segment.Store[telemetry.Record]
	begun   sync.Once
	last    int64        // Seq; once it is begun only the writer reads and writes it
	written atomic.Int64 // whatever has a Seq up to this one is in its file

	mu    sync.Mutex
	hours map[time.Time]int64 // the last Seq that this process wrote of each hour: 24 a day
}

var _ telemetry.RecordStore = (*Store)(nil)

const schema = `
CREATE TABLE IF NOT EXISTS rows (
	seq      INTEGER PRIMARY KEY,
	time     INTEGER NOT NULL,
	service  TEXT NOT NULL,
	instance TEXT NOT NULL,
	revision INTEGER NOT NULL,
	stream   TEXT NOT NULL,
	severity INTEGER NOT NULL,
	body     TEXT NOT NULL,
	trace    BLOB,
	span     BLOB,
	attrs    TEXT
) STRICT;
CREATE INDEX IF NOT EXISTS rows_time ON rows (time);
CREATE INDEX IF NOT EXISTS rows_trace ON rows (trace) WHERE trace IS NOT NULL;
CREATE INDEX IF NOT EXISTS rows_grave ON rows (time) WHERE ` + grave + `;
`

// grave is the condition of an index: warnings and worse are asked for most, and few. SQLite uses the index where a query
// has the same words.
const grave = "severity >= 4"

// New returns a store of the folder. It touches no file.
func New(cfg Config) *Store {
	s := &Store{hours: map[time.Time]int64{}}
	s.Store = segment.New(segment.Config[telemetry.Record]{
		Dir: cfg.Dir, Name: "logs", Schema: schema, MaxBytes: cfg.MaxBytes, MaxAge: cfg.MaxAge, Log: cfg.Log,
		Columns: []string{"seq", "time", "service", "instance", "revision", "stream", "severity", "body", "trace", "span", "attrs"},
		Row:     s.row, Time: func(r *telemetry.Record) time.Time { return r.Time },
		Written: func() {
			s.begin() // of a batch that no file took there was no row
			s.written.Store(s.last)
		},
		Size: func(r *telemetry.Record) int {
			return 250 + len(r.Body) + len(r.Service) + len(r.Instance) + telemetry.SizeOf(r.Attributes)
		},
	})
	return s
}

// AddRecords implements telemetry.RecordSink.
func (s *Store) AddRecords(records []telemetry.Record) (int, string) { return s.Add(records) }

func severities() []string {
	return []string{"", telemetry.SeverityTrace, telemetry.SeverityDebug, telemetry.SeverityInfo, telemetry.SeverityWarn,
		telemetry.SeverityError, telemetry.SeverityFatal}
}

func (s *Store) row(r *telemetry.Record) []any {
	s.begin()
	s.last = max(s.last+1, time.Now().UnixMicro()) // in order also over restarts
	s.mu.Lock()
	s.hours[r.Time.UTC().Truncate(time.Hour)] = s.last
	s.mu.Unlock()
	var trace, span, attrs any
	if !r.Trace.IsZero() {
		trace = r.Trace[:]
	}
	if !r.Span.IsZero() {
		span = r.Span[:]
	}
	if len(r.Attributes) > 0 {
		b, err := json.Marshal(r.Attributes)
		if err != nil {
			b, _ = json.Marshal(map[string]string{"trellis.error": "attributes cannot be written: " + err.Error()})
		}
		attrs = string(b)
	}
	return []any{s.last, r.Time.UnixNano(), r.Service, r.Instance, r.Revision, r.Stream,
		max(0, slices.Index(severities(), r.Severity)), r.Body, trace, span, attrs}
}

// begin finds out which Seq come next, before anything is written. It blocks until that is known.
func (s *Store) begin() {
	s.begun.Do(func() {
		s.last = max(s.lastSeq(), time.Now().UnixMicro())
		s.written.Store(s.last)
	})
}

// news returns the first hour of which something was written after a Seq, the zero time where nothing was.
func (s *Store) news(after int64) (first time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for hour, seq := range s.hours {
		if seq > after && (first.IsZero() || hour.Before(first)) {
			first = hour
		}
	}
	return first
}

// lastSeq returns the largest Seq that was given before this process started, for a clock that went back since.
func (s *Store) lastSeq() (last int64) {
	now := time.Now()
	_ = s.Each(context.Background(), now.Add(-time.Hour), now.Add(48*time.Hour), func(db *sql.DB) (bool, error) {
		var one sql.NullInt64
		err := db.QueryRow("SELECT max(seq) FROM rows").Scan(&one)
		last = max(last, one.Int64)
		return true, err
	})
	return last
}

// Records implements telemetry.RecordStore.
func (s *Store) Records(ctx context.Context, f telemetry.RecordFilter, follow bool, fn func(telemetry.Record) error) error {
	sel, err := selectionOf(f)
	if err != nil {
		return err
	}
	s.begin()
	for {
		// What is written while a look goes from file to file is for the next one: of two batches it may find the second, and have
		// been in the file of the first before that.
		next := s.Changed()
		sel.upTo = s.written.Load()
		found, err := s.find(ctx, sel)
		if err != nil {
			return err
		}
		for _, r := range found {
			if err := fn(r); err != nil {
				return err
			}
		}
		if !follow {
			return nil
		}
		sel.limit, sel.after = telemetry.MaxRecordLimit, sel.upTo
		select {
		case <-next:
		case <-ctx.Done():
			return ctx.Err()
		}
		sel.until = time.Now().Add(10 * time.Minute)
		if sel.from = s.news(sel.after); sel.from.IsZero() {
			sel.from = sel.until
		}
	}
}

func scan(rows *sql.Rows) (telemetry.Record, error) {
	var r telemetry.Record
	var at int64
	var severity int
	var trace, span []byte
	var attrs sql.NullString
	err := rows.Scan(&r.Seq, &at, &r.Service, &r.Instance, &r.Revision, &r.Stream, &severity, &r.Body, &trace, &span, &attrs)
	if err != nil {
		return r, err
	}
	r.Time = time.Unix(0, at).UTC()
	if severity > 0 && severity < len(severities()) {
		r.Severity = severities()[severity]
	}
	copy(r.Trace[:], trace)
	copy(r.Span[:], span)
	if attrs.Valid {
		if err := json.Unmarshal([]byte(attrs.String), &r.Attributes); err != nil {
			return r, fmt.Errorf("record %d: %w", r.Seq, err)
		}
	}
	return r, nil
}

// Health says how the store does.
func (s *Store) Health() telemetry.Health { return telemetry.Health(s.Store.Health()) }
