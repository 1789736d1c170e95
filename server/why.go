package server

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"trellis/api"
	"trellis/engine"
	"trellis/errdefs"
	"trellis/state"
	"trellis/telemetry"
)

// How far back a cause is looked for.
const (
	whyBack     = 24 * time.Hour
	whyDeployed = 10 * time.Minute // after which a deploy is no longer the likely cause of slowness
	whyWindow   = "2m"             // that "now" is averaged over
)

// Why implements api.Seer.
func (c *control) Why(ctx context.Context, service string) (api.Why, error) {
	st, err := c.observe(ctx)
	if err != nil {
		return api.Why{}, err
	}
	i := slices.IndexFunc(st.Services, func(s engine.Service) bool { return s.Name == service })
	if i < 0 {
		return api.Why{}, fmt.Errorf("explain %s: %w: no such service", service, errdefs.ErrNotFound)
	}
	w := inquiry{service: st.Services[i], now: time.Now()}
	for e, err := range c.store.Events(ctx, state.EventFilter{Since: w.now.Add(-whyBack), Limit: 5000}) {
		if err != nil {
			return api.Why{}, err
		}
		w.events = append(w.events, e)
	}
	if w.calls, err = c.callsNow(ctx, w.now); err != nil {
		return api.Why{}, err
	}
	for _, find := range []func() (api.Explanation, bool){w.restart, w.rollback, w.scaling, w.requests} {
		if x, ok := find(); ok {
			w.found = append(w.found, x)
		}
	}
	for i := range w.found {
		if err := c.lastWords(ctx, service, &w.found[i]); err != nil {
			return api.Why{}, err
		}
	}
	slices.SortStableFunc(w.found, func(a, b api.Explanation) int { return b.Time.Compare(a.Time) })
	return api.Why{Service: service, State: w.service.State, Findings: append([]api.Explanation{}, w.found...)}, nil
}

// callNow is how the calls from one service to another go.
type callNow struct{ rate, failed, p99, held float64 }

// callsNow returns how calls go, by who calls whom; the caller "*" stands for all together.
func (c *control) callsNow(ctx context.Context, now time.Time) (map[way]callNow, error) {
	calls := map[way]callNow{}
	for expr, set := range map[string]func(*callNow, float64){
		"rate(trellis_requests_total[%s])":           func(n *callNow, v float64) { n.rate = v },
		"rate(trellis_request_failures_total[%s])":   func(n *callNow, v float64) { n.failed = v },
		"rate(trellis_requests_held_total[%s])":      func(n *callNow, v float64) { n.held = v },
		"rate(trellis_request_duration_seconds[%s])": func(n *callNow, v float64) { n.p99 = v },
	} {
		expr = fmt.Sprintf(expr, whyWindow)
		for _, by := range []string{"service", "service, caller"} {
			q := "sum by (" + by + ") (" + expr + ")"
			if strings.Contains(expr, "duration") {
				q = "histogram_quantile(0.99, " + q + ")"
			}
			found, err := c.sight.metrics.Query(ctx, q, now)
			if err != nil {
				return nil, err
			}
			for _, s := range found {
				if s.Value != s.Value { // of nothing
					continue
				}
				at := way{"*", s.Labels["service"]}
				if by != "service" {
					at.caller = s.Labels["caller"]
				}
				n := calls[at]
				set(&n, s.Value)
				calls[at] = n
			}
		}
	}
	return calls, nil
}

// inquiry is what an explanation rests on.
type inquiry struct {
	service engine.Service
	now     time.Time
	events  []state.Event // of the project, oldest first
	calls   map[way]callNow
	found   []api.Explanation
}

func evidence(e state.Event) api.Evidence {
	text := e.Kind
	if e.Instance != "" {
		text += " " + e.Instance
	}
	if e.Message != "" {
		text += ": " + e.Message
	}
	ref := ""
	if e.Revision > 0 {
		ref = fmt.Sprintf("revision %d", e.Revision)
	}
	return api.Evidence{Time: e.Time, Kind: "event", Text: text, Ref: ref}
}

// last returns the newest event that fits, and its place.
func (w *inquiry) last(before int, fits func(state.Event) bool) (state.Event, int) {
	for i := before - 1; i >= 0; i-- {
		if fits(w.events[i]) {
			return w.events[i], i
		}
	}
	return state.Event{}, -1
}

// restart explains the newest end of an instance that nobody asked for.
func (w *inquiry) restart() (api.Explanation, bool) {
	exit, at := w.last(len(w.events), func(e state.Event) bool {
		return e.Service == w.service.Name && e.Kind == "instance.exited" && e.Reason != "stopped" && e.Reason != "completed"
	})
	if at < 0 {
		return w.hung()
	}
	x := api.Explanation{What: "restart", Title: exit.Instance + " ended: " + exit.Message, Time: exit.Time, Kind: "crash", Cause: exit.Message}
	x.Chain = append(x.Chain, evidence(exit))
	start, from := w.last(at, func(e state.Event) bool { return e.Instance == exit.Instance && e.Kind == "instance.started" })
	ready := from >= 0 && slices.ContainsFunc(w.events[from:at], func(e state.Event) bool {
		return e.Instance == exit.Instance && e.Kind == "instance.ready"
	})
	applied, _ := w.last(at, func(e state.Event) bool { return e.Kind == "revision.applied" && e.Revision == exit.Revision })
	switch {
	case exit.Reason == "oom":
		x.Kind = "memory"
	case exit.Reason == "error":
		x.Kind, x.Cause = "config-error", "it could not be run: "+exit.Message
	case exit.Reason == "signal":
		x.Cause = exit.Message + ", which Trellis did not send"
	case from >= 0 && !ready && !applied.Time.IsZero() && w.ranBefore(exit.Revision, at):
		x.Kind, x.Cause = "bad-version", fmt.Sprintf("revision %d ends before it is ready (%s); the one before did not", exit.Revision, exit.Message)
	}
	if from >= 0 {
		x.Chain = slices.Insert(x.Chain, 0, evidence(start))
	}
	if x.Kind == "bad-version" {
		x.Chain = slices.Insert(x.Chain, 0, evidence(applied))
	}
	return x, true
}

// ranBefore says whether an instance of an earlier revision of the service was ready before an event.
func (w *inquiry) ranBefore(revision int64, at int) bool {
	older := map[string]bool{}
	for _, e := range w.events[:at] {
		if e.Service != w.service.Name {
			continue
		}
		if e.Kind == "instance.started" && e.Revision > 0 && e.Revision < revision {
			older[e.Instance] = true
		}
		if e.Kind == "instance.ready" && older[e.Instance] {
			return true
		}
	}
	return false
}

// hung explains an instance that was stopped because it answered no more.
func (w *inquiry) hung() (api.Explanation, bool) {
	e, at := w.last(len(w.events), func(e state.Event) bool {
		return e.Service == w.service.Name && e.Kind == "instance.stopping" && strings.Contains(e.Message, "answer")
	})
	if at < 0 {
		return api.Explanation{}, false
	}
	x := api.Explanation{What: "restart", Title: e.Instance + " was replaced: " + e.Message, Time: e.Time, Kind: "hung", Cause: e.Message}
	if unready, i := w.last(at, func(u state.Event) bool { return u.Instance == e.Instance && u.Kind == "instance.unready" }); i >= 0 {
		x.Chain = append(x.Chain, evidence(unready))
	}
	x.Chain = append(x.Chain, evidence(e))
	return x, true
}

// rollback explains the newest revision that was taken back.
func (w *inquiry) rollback() (api.Explanation, bool) {
	back, at := w.last(len(w.events), func(e state.Event) bool { return e.Kind == "revision."+state.RolledBack })
	if at < 0 || !strings.Contains(back.Message, w.service.Name) {
		return api.Explanation{}, false
	}
	x := api.Explanation{
		What: "rollback", Title: fmt.Sprintf("revision %d was taken back", back.Revision), Time: back.Time, Kind: "bad-version", Cause: back.Message,
	}
	if applied, i := w.last(at, func(e state.Event) bool { return e.Kind == "revision.applied" && e.Revision == back.Revision }); i >= 0 {
		x.Chain = append(x.Chain, evidence(applied))
	}
	x.Chain = append(x.Chain, evidence(back))
	return x, true
}

// scaling explains the newest change of the number of instances.
func (w *inquiry) scaling() (api.Explanation, bool) {
	e, at := w.last(len(w.events), func(e state.Event) bool {
		return e.Service == w.service.Name && (e.Kind == "service.scaled" || e.Kind == "service.override")
	})
	if at < 0 {
		return api.Explanation{}, false
	}
	x := api.Explanation{What: "scale", Title: "scaled " + e.Message, Time: e.Time, Kind: "load", Cause: e.Message, Chain: []api.Evidence{evidence(e)}}
	if e.Kind == "service.override" {
		x.Kind, x.Title, x.Cause = "operator", "changed by hand: "+e.Message, strings.TrimSpace(e.Actor+" asked for it: "+e.Message)
	}
	return x, true
}

// requests explains why requests fail or wait now. It names no cause that the measures do not show.
func (w *inquiry) requests() (api.Explanation, bool) {
	own := w.calls[way{"*", w.service.Name}]
	failing := own.rate > 0 && own.failed/own.rate > 0.01
	x := api.Explanation{What: "slow", Time: w.now, Title: fmt.Sprintf("p99 is %s over the last %s", seconds(own.p99), whyWindow)}
	if failing {
		x.What, x.Title = "errors", fmt.Sprintf("%.1f%% of its requests fail, of %.3g a second", 100*own.failed/own.rate, own.rate)
	}
	if own.rate == 0 || !failing && own.p99 < 0.5 && own.held == 0 {
		return x, false
	}
	x.Chain = []api.Evidence{{Time: w.now, Kind: "metric", Text: x.Title, Ref: fmt.Sprintf("trellis_request_duration_seconds{service=%q}", w.service.Name)}}
	if callee, n := w.worst(failing); callee != "" {
		text := fmt.Sprintf("its calls to %s take %s at p99", callee, seconds(n.p99))
		if failing {
			text = fmt.Sprintf("%.1f%% of its calls to %s fail", 100*n.failed/n.rate, callee)
		}
		x.Kind, x.Cause = "dependency", text
		x.Chain = slices.Insert(x.Chain, 0, api.Evidence{Time: w.now, Kind: "metric", Text: text, Ref: fmt.Sprintf("trellis_request_duration_seconds{service=%q,caller=%q}", callee, w.service.Name)})
		return x, true
	}
	applied, at := w.last(len(w.events), func(e state.Event) bool { return e.Kind == "revision.applied" })
	switch {
	case w.service.Ready == 0 && w.service.Want > 0:
		x.Kind, x.Cause = "crash", "no instance is ready: "+w.service.Reason
	case own.held > 0.05*own.rate:
		x.Kind, x.Cause = "overload", fmt.Sprintf("%.1f requests a second wait because all %d instances are busy", own.held, w.service.Ready)
	case at >= 0 && w.now.Sub(applied.Time) < whyDeployed && applied.Revision == w.service.Revision && applied.Revision > 1:
		x.Kind, x.Cause = "deploy", fmt.Sprintf("nothing else changed since revision %d was applied", applied.Revision)
		x.Chain = slices.Insert(x.Chain, 0, evidence(applied))
	default:
		x.Title += "; what is measured does not say why"
	}
	return x, true
}

// worst returns the service whose answers account for most of what is wrong: at least half of it.
func (w *inquiry) worst(failing bool) (string, callNow) {
	own := w.calls[way{"*", w.service.Name}]
	worst, name := callNow{}, ""
	for at, n := range w.calls {
		if at.caller != w.service.Name || n.rate == 0 || at.callee == w.service.Name {
			continue
		}
		if failing && n.failed >= own.failed/2 && n.failed > worst.failed || !failing && n.p99 >= own.p99/2 && n.p99 > worst.p99 {
			worst, name = n, at.callee
		}
	}
	return name, worst
}

func seconds(v float64) string {
	return time.Duration(v * float64(time.Second)).Round(100 * time.Microsecond).String()
}

// lastWords adds what the instance wrote last before it ended.
func (c *control) lastWords(ctx context.Context, service string, x *api.Explanation) error {
	if x.What != "restart" {
		return nil
	}
	f := telemetry.RecordFilter{
		Services: []string{service}, Since: x.Time.Add(-time.Minute), Until: x.Time.Add(2 * time.Second), Severity: telemetry.SeverityError,
		Streams: []string{telemetry.StreamStdout, telemetry.StreamStderr}, Limit: 1,
	}
	return c.sight.logs.Records(ctx, f, false, func(r telemetry.Record) error {
		first, _, _ := strings.Cut(r.Body, "\n")
		x.Chain = slices.Insert(x.Chain, len(x.Chain)-1, api.Evidence{Time: r.Time, Kind: "log", Text: first, Ref: r.Instance})
		return nil
	})
}
