package server

import (
	"context"
	"fmt"
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

// followOutput keeps what the instances write, each from where it was read last.
func (s *sight) followOutput(ctx context.Context) error {
	known, err := s.logs.Newest(ctx)
	if err != nil {
		return err
	}
	var running sync.WaitGroup
	defer running.Wait()
	var mu sync.Mutex
	active, since := map[engine.InstanceID]bool{}, map[engine.InstanceID]time.Time{}
	for id, at := range known {
		since[engine.InstanceID(id)] = at.Add(time.Nanosecond)
	}
	out := s.merger(api.LogsRequest{})
	for {
		next := s.changed.next()
		sources, err := out.sources(ctx)
		if err != nil {
			return err
		}
		for _, one := range sources {
			mu.Lock()
			from, seen := since[one.id]
			if !seen {
				from = time.Now().Add(-outputBack)
			}
			start := !active[one.id] && !(seen && one.exited)
			active[one.id] = active[one.id] || start
			mu.Unlock()
			if !start {
				continue
			}
			running.Go(func() {
				last := s.readOutput(ctx, out, one, from)
				mu.Lock()
				defer mu.Unlock()
				active[one.id], since[one.id] = false, last
			})
		}
		select {
		case <-next:
		case <-ctx.Done():
			return nil
		}
	}
}

// readOutput keeps what one instance writes until it ends, and returns the time from which to go on.
func (s *sight) readOutput(ctx context.Context, out *logMerger, one source, from time.Time) time.Time {
	var mu sync.Mutex
	joiner := logs.NewJoiner(func(r telemetry.Record) { s.AddRecords([]telemetry.Record{r}) })
	flush := time.AfterFunc(outputFlush, func() {
		mu.Lock()
		defer mu.Unlock()
		joiner.Flush()
	})
	defer func() {
		flush.Stop()
		mu.Lock()
		defer mu.Unlock()
		joiner.Flush()
	}()
	revision := s.revisionOf(ctx, one.id)
	last := from
	err := out.lines(ctx, one, driver.LogOptions{Follow: true, Since: from}, func(l api.LogLine) error {
		mu.Lock()
		defer mu.Unlock()
		joiner.Add(l.Text, telemetry.Record{
			Time: l.Time, Service: one.service, Instance: string(one.id), Revision: revision, Stream: l.Stream,
		})
		flush.Reset(outputFlush)
		last = l.Time.Add(time.Nanosecond)
		return nil
	})
	if err != nil && ctx.Err() == nil {
		s.log.Debug("output ended", "instance", one.id, "err", err)
	}
	return last
}

// revisionOf returns the revision of an instance, 0 when it is gone.
func (s *sight) revisionOf(ctx context.Context, id engine.InstanceID) int64 {
	st, err := s.of.observe(ctx)
	if err != nil {
		return 0
	}
	for _, svc := range st.Services {
		for _, in := range svc.Instances {
			if in.ID == id {
				return in.Revision
			}
		}
	}
	return 0
}
