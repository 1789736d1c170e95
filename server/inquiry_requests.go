package server

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"trellis/api"
	"trellis/state"
)

// From where on requests are called failing or slow.
const (
	whyFailing = 0.01                   // of the requests
	whySlow    = 500 * time.Millisecond // at p99
	whySlower  = 2.0                    // times what is usual
	whyHeld    = 0.05                   // of the requests wait for an instance
	whyRetried = 0.1                    // retries for each request
	whyBusy    = 0.9                    // of the CPU that an instance may use
	whyBroken  = 0.05                   // of an instance's requests
)

// requests explains why requests fail or wait now. It names no cause that the measures do not show: not the last deploy
// either, if it was no better before. found is what is known of the service's instances, newest first.
func (w *inquiry) requests(found []api.Explanation) (api.Explanation, bool) {
	own, usual := w.calls[way{"*", w.service.Name}], w.usual[way{"*", w.service.Name}]
	failing, retried := own.rate > 0 && own.failed/own.rate > whyFailing, w.retried()
	slow := own.p99 > whySlow.Seconds() || usual.rate > 0 && own.p99 > 0.1 && own.p99 > 3*usual.p99
	x := api.Explanation{What: "slow", Time: w.now, Title: fmt.Sprintf("p99 is %s over the last %s", seconds(own.p99), whyWindow)}
	if slow && usual.p99 > 0 {
		x.Title += ", and was " + seconds(usual.p99) + " before"
	}
	switch {
	case failing:
		x.What, x.Title = "errors", fmt.Sprintf("%.1f%% of its requests fail, of %.3g a second", 100*own.failed/own.rate, own.rate)
	case retried && !slow:
		x.Title = fmt.Sprintf("%.3g requests a second are tried again, of %.3g", own.retries, own.rate)
	}
	if own.rate == 0 || !failing && !slow && !retried && own.held <= whyHeld*own.rate {
		return x, false
	}
	x.Chain = w.symptoms(x.Title, failing, slow)
	switch {
	case (failing || slow) && w.blameDependency(&x, failing), w.blameInstances(&x, found), w.blameSelf(&x, failing), w.blameDeploy(&x, failing):
	default:
		x.Title += "; what is measured does not say why"
	}
	return x, true
}

// symptoms are what is seen of requests that fail or wait: what the service says, what is measured, one of the requests.
func (w *inquiry) symptoms(title string, failing, slow bool) []api.Evidence {
	chain := []api.Evidence{w.metric(title, fmt.Sprintf("trellis_request_duration_seconds{service=%q}", w.service.Name))}
	if words, spoke := w.said("", w.now.Add(-whyLast), w.now); failing && spoke && !strings.Contains(strings.ToLower(words.Body), noSpace) {
		chain = slices.Insert(chain, 0, api.Evidence{Time: words.Time, Kind: "log", Text: words.Body, Ref: words.Instance})
	}
	if !failing && !slow {
		return chain
	}
	if t, ok := w.traced(failing); ok {
		text := fmt.Sprintf("one of them: %s, %v", t.Request(), t.Duration.Round(10*time.Microsecond))
		if t.HTTP > 0 {
			text += fmt.Sprintf(", answered %d", t.HTTP)
		}
		chain = append(chain, api.Evidence{Time: t.Start, Kind: "trace", Text: text, Ref: t.Trace.String()})
	}
	return chain
}

func (w *inquiry) metric(text, ref string) api.Evidence {
	return api.Evidence{Time: w.now, Kind: "metric", Text: text, Ref: ref}
}

// retried says whether retries are a load of their own.
func (w *inquiry) retried() bool {
	own := w.calls[way{"*", w.service.Name}]
	return own.retries > 1 && own.retries > whyRetried*own.rate
}

// blameInstances takes what happened to the service's instances while requests suffer.
func (w *inquiry) blameInstances(x *api.Explanation, found []api.Explanation) bool {
	for _, f := range found {
		if f.What != "scale" && f.Kind != "" && w.recent(f.Time) && (f.What != "restart" || f.Kind == "memory" || f.Kind == "hung" || f.Kind == "disk" || w.service.Ready < w.service.Want || w.often()) {
			x.Kind, x.Cause, x.Chain = f.Kind, f.Cause, slices.Concat(f.Chain, x.Chain)
			return true
		}
	}
	if w.service.Ready == 0 && w.service.Want > 0 {
		x.Kind, x.Cause = "crash", "no instance is ready: "+w.service.Reason
		return true
	}
	return false
}

// often says whether instances of the service ended more than once in the window.
func (w *inquiry) often() bool {
	n := 0
	for _, e := range w.events {
		if e.Service == w.service.Name && w.ended(e) && w.recent(e.Time) {
			n++
		}
	}
	return n > 1
}

// blameDependency follows what is slow or fails from callee to callee, to the last one.
func (w *inquiry) blameDependency(x *api.Explanation, failing bool) bool {
	seen := map[string]bool{w.service.Name: true}
	from, text := w.service.Name, ""
	for {
		callee, n := w.worst(from, failing)
		if callee == "" || seen[callee] {
			break
		}
		seen[callee] = true
		whose := from + "'s"
		if from == w.service.Name {
			whose = "its"
		}
		text = fmt.Sprintf("%s calls to %s take %s at p99", whose, callee, seconds(n.p99))
		if failing {
			text = fmt.Sprintf("%.1f%% of %s calls to %s fail", 100*n.failed/n.rate, whose, callee)
		}
		x.Chain = slices.Insert(x.Chain, 0, w.metric(text, fmt.Sprintf("trellis_request_duration_seconds{service=%q,caller=%q}", callee, from)))
		from = callee
	}
	if from == w.service.Name {
		return false
	}
	x.Kind, x.Cause = "dependency", text
	if svc := w.services[from]; svc.Reason != "" {
		x.Cause += "; " + from + ": " + svc.Reason
	}
	return true
}

// worst returns the service whose answers account for most of what is wrong with another's: at least half of it.
func (w *inquiry) worst(of string, failing bool) (string, callNow) {
	own := w.calls[way{"*", of}]
	worst, name := callNow{}, ""
	for at, n := range w.calls {
		if at.caller != of || n.rate == 0 || at.callee == of {
			continue
		}
		if failing && n.failed > 0 && n.failed >= own.failed/2 && n.failed > worst.failed || !failing && n.p99 >= own.p99/2 && n.p99 > worst.p99 {
			worst, name = n, at.callee
		}
	}
	return name, worst
}

// blameSelf takes what the service's instances lack, or do.
func (w *inquiry) blameSelf(x *api.Explanation, failing bool) bool {
	own, name := w.calls[way{"*", w.service.Name}], w.service.Name
	words, spoke := w.said("", w.now.Add(-whyRecent), w.now)
	full := spoke && strings.Contains(strings.ToLower(words.Body), noSpace)
	broken := w.brokenInstances()
	switch {
	case full:
		x.Kind, x.Cause = "disk", "it says: "+words.Body
		x.Chain = slices.Insert(x.Chain, 0, api.Evidence{Time: words.Time, Kind: "log", Text: words.Body, Ref: words.Instance})
		if w.measured.disk >= diskFull {
			x.Chain = slices.Insert(x.Chain, 0, w.metric(w.diskText(), "trellis_disk_free_bytes"))
		}
	case w.retried():
		x.Kind, x.Cause = "retry-storm", fmt.Sprintf("instances of %s take requests and do not answer them, so that %.3g a second are tried again", name, own.retries)
		if len(broken) > 0 {
			x.Cause = fmt.Sprintf("%s cut requests off, so that %.3g a second are tried again", strings.Join(broken, " and "), own.retries)
		}
		x.Chain = slices.Insert(x.Chain, 0, w.metric(x.Cause, fmt.Sprintf("trellis_retries_total{service=%q}", name)))
	case own.held > whyHeld*own.rate:
		x.Kind, x.Cause = "overload", fmt.Sprintf("%.1f requests a second wait because all %d instances are busy", own.held, w.service.Ready)
		x.Chain = slices.Insert(x.Chain, 0, w.metric(x.Cause, fmt.Sprintf("trellis_requests_held_total{service=%q}", name)))
	case !failing && w.measured.cpu[name] > whyBusy:
		x.Kind, x.Cause = "overload", fmt.Sprintf("an instance uses %.0f %% of the CPU that it may", 100*w.measured.cpu[name])
		x.Chain = slices.Insert(x.Chain, 0, w.metric(x.Cause, fmt.Sprintf("trellis_instance_cpu_seconds_total{service=%q}", name)))
	default:
		return false
	}
	return true
}

// brokenInstances names the instances that break more requests than the service does as a whole, in words.
func (w *inquiry) brokenInstances() []string {
	var all []string
	for _, in := range w.service.Instances {
		if share := w.measured.broken[string(in.ID)]; share > whyBroken {
			all = append(all, fmt.Sprintf("%s (%.0f %%)", in.ID, 100*share))
		}
	}
	return all
}

// blameDeploy takes the last deploy, if it changed the service and requests were better before it.
func (w *inquiry) blameDeploy(x *api.Explanation, failing bool) bool {
	own, usual := w.calls[way{"*", w.service.Name}], w.usual[way{"*", w.service.Name}]
	applied, at := w.last(len(w.events), func(e state.Event) bool { return e.Kind == "revision.applied" })
	if at < 0 || !w.recent(applied.Time) || applied.Revision < 2 || usual.rate == 0 {
		return false
	}
	paths := w.changes(applied.Revision)
	was := usual.failed / usual.rate
	if len(paths) == 0 || failing && own.failed/own.rate < whySlower*was || !failing && own.p99 < whySlower*usual.p99 {
		return false
	}
	x.Kind, x.Cause = "deploy", fmt.Sprintf("it began with revision %d, which changed %s", applied.Revision, strings.Join(paths[:min(3, len(paths))], ", "))
	x.Chain = slices.Insert(x.Chain, 0, evidence(applied))
	return true
}

func seconds(v float64) string {
	return time.Duration(v * float64(time.Second)).Round(100 * time.Microsecond).String()
}
