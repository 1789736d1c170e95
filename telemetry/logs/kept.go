package logs

import (
	"context"
	"database/sql"
	"slices"
	"strings"
	"time"

	"trellis/telemetry"
)

// Kept is where what is kept of one instance's output ends. Many lines may be of one moment, and a record of several lines is of
// the moment of its first: reading goes on from Time itself, and Repeats says what is there already.
type Kept struct {
	Time    time.Time          // of the newest record; zero: none is kept
	Records []telemetry.Record // those of that moment, in their order: stream and body
}

// Add notes a record that follows.
func (k *Kept) Add(r telemetry.Record) {
	if !r.Time.Equal(k.Time) {
		*k = Kept{Time: r.Time}
	}
	k.Records = append(k.Records, telemetry.Record{Stream: r.Stream, Body: r.Body})
}

// Repeats returns what says of each line, read once more from Time on and in order, whether it is kept already. like says when
// and on which stream the line was written; clean is what was done to the records before they were kept.
func (k *Kept) Repeats(clean func(*telemetry.Record)) func(line string, like telemetry.Record) bool {
	at, left, begun := k.Time, slices.Clone(k.Records), false
	var stream string
	var rest []string // the lines to come of the record whose first was read
	return func(line string, like telemetry.Record) bool {
		line = readable(strings.TrimRight(line, "\r\n"))
		if len(rest) > 0 {
			next := telemetry.Record{Body: line}
			clean(&next)
			if like.Stream == stream && next.Body == rest[0] {
				rest = rest[1:]
				return true
			}
			rest = nil
		}
		if len(left) == 0 || !like.Time.Equal(at) {
			left = nil
			return false
		}
		first := telemetry.Record{Time: like.Time}
		Parse(line, &first)
		clean(&first)
		for i, one := range left {
			more, ok := strings.CutPrefix(one.Body, first.Body)
			if !ok || one.Stream != like.Stream || more != "" && more[0] != '\n' {
				continue
			}
			left, begun = slices.Delete(left, i, i+1), true
			if more != "" {
				stream, rest = one.Stream, strings.Split(more[1:], "\n")
			}
			return true
		}
		return !begun // what comes before the first of them ends the record before
	}
}

// Newest returns where what is kept of each instance's output ends, of those that wrote within two days.
func (s *Store) Newest(ctx context.Context) (map[string]Kept, error) {
	found := map[string]Kept{}
	now := time.Now()
	err := s.Each(ctx, now.Add(-48*time.Hour), now.Add(time.Hour), func(db *sql.DB) (bool, error) {
		here, err := newestIn(ctx, db)
		for instance, k := range here {
			newer := found[instance]
			switch {
			case k.Time.After(newer.Time):
				found[instance] = k
			case k.Time.Equal(newer.Time): // one moment in two files of an hour
				k.Records = append(k.Records, newer.Records...)
				found[instance] = k
			}
		}
		return true, err
	})
	return found, err
}

// newestIn returns the same of one file.
func newestIn(ctx context.Context, db *sql.DB) (map[string]Kept, error) {
	const output = "stream NOT IN (?1, ?2)"
	rows, err := db.QueryContext(ctx, "SELECT instance, time, stream, body FROM rows JOIN "+
		"(SELECT instance AS who, max(time) AS at FROM rows WHERE "+output+" GROUP BY instance) ON time = at AND instance = who "+
		"WHERE "+output+" ORDER BY seq", telemetry.StreamOTLP, telemetry.StreamAccess)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	found := map[string]Kept{}
	for rows.Next() {
		var instance string
		var at int64
		var r telemetry.Record
		if err := rows.Scan(&instance, &at, &r.Stream, &r.Body); err != nil {
			return nil, err
		}
		r.Time = time.Unix(0, at)
		k := found[instance]
		k.Add(r)
		found[instance] = k
	}
	return found, rows.Err()
}
