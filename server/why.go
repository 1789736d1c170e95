package server

import (
	"cmp"
	"context"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"trellis/api"
	"trellis/compose"
	"trellis/engine"
	"trellis/errdefs"
	"trellis/state"
	"trellis/telemetry"
)

// How far back a cause is looked for.
const (
	whyBack   = 24 * time.Hour
	whyRecent = 5 * time.Minute // after which what happened to instances no longer explains how requests go
	whyWindow = "2m"            // that "now" is averaged over
	whyLast   = 2 * time.Minute // the same
	whyBefore = "10m"           // that what was usual is averaged over, up to the beginning of whyWindow
)

// Why implements api.Seer.
func (s *sight) Why(ctx context.Context, service string) (api.Why, error) {
	st, err := s.of.observe(ctx)
	if err != nil {
		return api.Why{}, err
	}
	i := slices.IndexFunc(st.Services, func(s engine.Service) bool { return s.Name == service })
	if i < 0 {
		return api.Why{}, fmt.Errorf("explain %s: %w: no such service", service, errdefs.ErrNotFound)
	}
	w := inquiry{service: st.Services[i], services: map[string]engine.Service{}, now: time.Now()}
	for _, svc := range st.Services {
		w.services[svc.Name] = svc
	}
	for e, err := range s.of.happened(ctx, state.EventFilter{Since: w.now.Add(-whyBack), Limit: 5000}) {
		if err != nil {
			return api.Why{}, err
		}
		w.events = append(w.events, e)
	}
	if w.calls, err = s.callsAt(ctx, whyWindow, w.now); err != nil {
		return api.Why{}, err
	}
	if w.usual, err = s.callsAt(ctx, whyBefore+" offset "+whyWindow, w.now); err != nil {
		return api.Why{}, err
	}
	if w.measured, err = s.pressures(ctx, w.now); err != nil {
		return api.Why{}, err
	}
	w.changes = func(revision int64) []string { return s.changesOf(ctx, revision, service) }
	w.said = func(instance string, since, until time.Time) (telemetry.Record, bool) {
		return s.lastWords(ctx, service, instance, since, until)
	}
	w.traced = func(failing bool) (telemetry.TraceSummary, bool) { return s.lastTrace(ctx, service, failing, w.now) }
	if st.Desired != nil && routed(*st.Desired, service) {
		w.certificates = s.of.certificates(*st.Desired)
		w.unserved = slices.DeleteFunc(slices.Clone(st.Unserved), func(u engine.Unserved) bool { return u.Service != "" && u.Service != service })
	}
	return api.Why{Service: service, State: w.service.State, Reason: w.service.Reason, Findings: w.findings()}, nil
}

// callNow is how the calls from one service to another go, per second.
type callNow struct{ rate, failed, p50, p99, held, retries float64 }

// callsAt returns how calls go in a window (PromQL's range, with its offset), by who calls whom; the caller "*" stands for
// all together.
func (s *sight) callsAt(ctx context.Context, window string, at time.Time) (map[way]callNow, error) {
	width, offset, _ := strings.Cut(window, " ")
	over := func(metric string) string { return fmt.Sprintf("rate(%s[%s] %s)", metric, width, offset) }
	calls := map[way]callNow{}
	for _, q := range []struct {
		format, metric string
		set            func(*callNow, float64)
	}{
		{"sum by (%s) (%s)", "trellis_requests_total", func(n *callNow, v float64) { n.rate = v }},
		{"sum by (%s) (%s)", "trellis_request_failures_total", func(n *callNow, v float64) { n.failed = v }},
		{"sum by (%s) (%s)", "trellis_requests_held_total", func(n *callNow, v float64) { n.held = v }},
		{"sum by (%s) (%s)", "trellis_retries_total", func(n *callNow, v float64) { n.retries = v }},
		{"histogram_quantile(0.5, sum by (%s) (%s))", "trellis_request_duration_seconds", func(n *callNow, v float64) { n.p50 = v }},
		{"histogram_quantile(0.99, sum by (%s) (%s))", "trellis_request_duration_seconds", func(n *callNow, v float64) { n.p99 = v }},
	} {
		for _, by := range []string{"service", "service, caller"} {
			found, err := s.metrics.Query(ctx, fmt.Sprintf(q.format, by, over(q.metric)), at)
			if err != nil {
				return nil, err
			}
			for _, s := range found {
				if math.IsNaN(s.Value) { // of nothing
					continue
				}
				at := way{"*", s.Labels["service"]}
				if by != "service" {
					at.caller = s.Labels["caller"]
				}
				n := calls[at]
				q.set(&n, s.Value)
				calls[at] = n
			}
		}
	}
	return calls, nil
}

// pressure is how near something is to its end: 1 is all that there is.
type pressure struct {
	cpu    map[string]float64 // by service: its busiest instance, of its limit, over half a minute
	disk   float64            // in use of the disk that the project's state is on
	free   float64            // bytes of it
	broken map[string]float64 // by instance: the share of requests that it cut off or failed, of the last half minute
}

// pressures returns what is nearly used up.
func (s *sight) pressures(ctx context.Context, now time.Time) (pressure, error) {
	p := pressure{cpu: map[string]float64{}, broken: map[string]float64{}}
	found, err := s.metrics.Query(ctx, "max by (service) (rate(trellis_instance_cpu_seconds_total[30s]) / trellis_instance_cpu_limit)", now)
	if err != nil {
		return p, err
	}
	for _, s := range found {
		p.cpu[s.Labels["service"]] = s.Value
	}
	for expr, to := range map[string]*float64{"trellis_disk_free_bytes": &p.free, "1 - trellis_disk_free_bytes / trellis_disk_size_bytes": &p.disk} {
		v, err := s.number(ctx, expr, now)
		if err != nil {
			return p, err
		}
		if v != nil {
			*to = *v
		}
	}
	if steps, _ := s.traffic.since(0); len(steps) > 0 && steps[len(steps)-1].Recent != nil {
		for id, f := range steps[len(steps)-1].Recent.Instances {
			if f.Requests > 0 {
				p.broken[id] = float64(f.Failed) / float64(f.Requests)
			}
		}
	}
	return p, nil
}

// changesOf returns the paths in which a revision differs from the one before for a service; none where either is not
// kept any more.
func (s *sight) changesOf(ctx context.Context, revision int64, service string) []string {
	rev, err := s.of.revision(ctx, revision)
	if err != nil {
		return nil
	}
	before, err := s.of.revision(ctx, revision-1)
	if err != nil {
		return nil
	}
	var paths []string
	for _, change := range engine.Diff(rev.Project, engine.State{Desired: &before.Project}) {
		own := strings.HasPrefix(change.Path, compose.JoinPath("services", service)+".")
		if own || strings.HasPrefix(change.Path, "configs.") || strings.HasPrefix(change.Path, "secrets.") {
			paths = append(paths, change.Path)
		}
	}
	return paths
}

// lastTrace returns the newest trace with a failed request to a service, or the slowest of those that took long.
func (s *sight) lastTrace(ctx context.Context, service string, failing bool, now time.Time) (telemetry.TraceSummary, bool) {
	f := telemetry.TraceFilter{Service: service, Since: now.Add(-whyLast), Until: now, Errors: failing, Limit: 20}
	if !failing {
		f.MinDuration = slowTrace
	}
	found, err := s.traces.Search(ctx, f)
	if err != nil || len(found) == 0 { // an explanation without an example is one too
		return telemetry.TraceSummary{}, false
	}
	if failing {
		return found[0], true
	}
	return slices.MaxFunc(found, func(a, b telemetry.TraceSummary) int { return cmp.Compare(a.Duration, b.Duration) }), true
}

// slowTrace is what a trace takes at least that is an example of slow ones: what is faster is never called slow.
const slowTrace = 100 * time.Millisecond

// lastWords returns the last error that a service wrote in a time. Of one instance it is, where there is none, whatever it
// wrote last.
func (s *sight) lastWords(ctx context.Context, service, instance string, since, until time.Time) (telemetry.Record, bool) {
	f := telemetry.RecordFilter{
		Services: []string{service}, Instance: instance, Since: since, Until: until, Severity: telemetry.SeverityError,
		Streams: []string{telemetry.StreamStdout, telemetry.StreamStderr, telemetry.StreamOTLP}, Limit: 1,
	}
	var last telemetry.Record
	keep := func(r telemetry.Record) error {
		if at := strings.LastIndexByte(strings.TrimSpace(r.Body), '\n'); at >= 0 && strings.HasPrefix(r.Body, "Traceback") {
			r.Body = strings.TrimSpace(r.Body)[at+1:] // Python says last what it is about
		}
		r.Body, _, _ = strings.Cut(r.Body, "\n")
		last = r
		return nil
	}
	err := s.logs.Records(ctx, f, false, keep)
	if err == nil && last.Time.IsZero() && instance != "" {
		f.Severity = ""
		err = s.logs.Records(ctx, f, false, keep)
	}
	return last, err == nil && !last.Time.IsZero() // what cannot be read explains nothing
}
