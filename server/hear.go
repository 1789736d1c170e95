package server

import (
	"context"
	"fmt"
	"maps"
	"sync"
	"time"

	"trellis/api"
	"trellis/driver"
	"trellis/engine"
	"trellis/proxy"
	"trellis/telemetry"
	"trellis/telemetry/logs"
)

// followSpans keeps the spans of the data planes, and an access record of those that are of requests from outside.
func (s *sight) followSpans(ctx context.Context) error {
	return followPlanes(ctx, s.planes, "/spans", func(spans []telemetry.Span) {
		var records []telemetry.Record
		s.examples.add(spans)
		for i := range spans {
			if spans[i].Attributes[proxy.CallerAttribute] == "" {
				records = append(records, accessRecord(&spans[i]))
			}
		}
		s.AddSpans(spans) // what is dropped is counted by the store
		if len(records) > 0 {
			s.AddRecords(records)
		}
	})
}

// accessRecord is the line of an access log for a request that the data plane has recorded.
func accessRecord(span *telemetry.Span) telemetry.Record {
	status := "-"
	severity := telemetry.SeverityInfo
	if code, ok := span.Attributes["http.response.status_code"]; ok {
		status = fmt.Sprint(code)
	}
	if span.Status == telemetry.StatusError {
		severity = telemetry.SeverityError
	}
	a := map[string]any{}
	for _, k := range []string{"http.request.method", "url.path", "http.route", "http.response.status_code", "client.address", "server.address", "trellis.request_id"} {
		if v, ok := span.Attributes[k]; ok {
			a[k] = v
		}
	}
	a["duration_ms"] = float64(span.Duration.Microseconds()) / 1000
	body := fmt.Sprintf("%v %v %s %s", a["http.request.method"], a["url.path"], status, span.Duration.Round(10*time.Microsecond))
	if span.Message != "" {
		body += " " + span.Message
	}
	return telemetry.Record{
		Time: span.Start, Service: span.Service, Instance: span.Instance, Revision: span.Revision, Stream: telemetry.StreamAccess,
		Severity: severity, Body: body, Trace: span.Trace, Span: span.ID, Attributes: a,
	}
}

// How output is read: each instance's from where the store has it, one that the store does not know from this long ago.
const (
	outputBack  = time.Hour
	outputFlush = 250 * time.Millisecond // after which a line that nothing followed is kept
)

// listening is how far one instance's output was read.
type listening struct {
	active bool
	ended  bool // what it wrote before its last end was read by this control plane
	kept   logs.Kept
}

// followOutput keeps what the instances write, each from where it was read last. One that has ended is read once more after a
// start: its last words may have come while nobody read.
func (s *sight) followOutput(ctx context.Context) error {
	known, err := s.logs.Newest(ctx)
	if err != nil {
		return err
	}
	var running sync.WaitGroup
	defer running.Wait()
	var mu sync.Mutex
	heard := map[engine.InstanceID]*listening{}
	out := s.merger(api.LogsRequest{})
	for {
		next := s.changed.next()
		sources, err := out.sources(ctx)
		if err != nil {
			return err
		}
		there := map[engine.InstanceID]bool{}
		for _, one := range sources {
			there[one.id] = true
			mu.Lock()
			l := heard[one.id]
			if l == nil {
				l = &listening{kept: known[string(one.id)]}
				heard[one.id] = l
			}
			start := !l.active && !(l.ended && one.exited)
			l.active = l.active || start
			kept := l.kept
			mu.Unlock()
			if !start {
				continue
			}
			running.Go(func() {
				err := s.readOutput(ctx, out, one, &kept)
				mu.Lock()
				defer mu.Unlock()
				*l = listening{ended: err == nil, kept: kept}
			})
		}
		mu.Lock()
		maps.DeleteFunc(heard, func(id engine.InstanceID, l *listening) bool { return !l.active && !there[id] })
		mu.Unlock()
		select {
		case <-next:
		case <-ctx.Done():
			return nil
		}
	}
}

// readOutput keeps what one instance writes until it ends, from where kept ends, and moves that on.
func (s *sight) readOutput(ctx context.Context, out *logMerger, one source, kept *logs.Kept) error {
	if !s.secrets.have(one.revision) {
		if err := s.learnSecrets(ctx); err != nil {
			s.log.Debug("output of secrets that are not known", "instance", one.id, "err", err)
		}
	}
	var mu sync.Mutex
	repeated := kept.Repeats(func(r *telemetry.Record) { s.redactor.Load().Record(r) })
	from := kept.Time
	if from.IsZero() {
		from = time.Now().Add(-outputBack)
	}
	joiner := logs.NewJoiner(func(r telemetry.Record) {
		records := []telemetry.Record{r}
		s.AddRecords(records)
		kept.Add(records[0])
	})
	flush := time.AfterFunc(outputFlush, func() {
		mu.Lock()
		defer mu.Unlock()
		joiner.Flush()
	})
	last := kept.Time
	err := out.lines(ctx, one, driver.LogOptions{Follow: true, Since: from}, func(l api.LogLine) error {
		mu.Lock()
		defer mu.Unlock()
		last = l.Time
		like := telemetry.Record{Time: l.Time, Service: one.service, Instance: string(one.id), Revision: one.revision, Stream: l.Stream}
		if repeated(l.Text, like) {
			return nil
		}
		joiner.Add(l.Text, like)
		flush.Reset(outputFlush)
		return nil
	})
	flush.Stop()
	mu.Lock()
	defer mu.Unlock()
	joiner.Flush()
	switch {
	case err == nil && !last.IsZero(): // all that was written until then was read
		*kept = logs.Kept{Time: last.Add(time.Nanosecond)}
	case err != nil && ctx.Err() == nil:
		s.log.Debug("output ended", "instance", one.id, "err", err)
	}
	return err
}
