package server

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"trellis/api"
	"trellis/compose"
	"trellis/engine"
	"trellis/engine/local"
	"trellis/state"
	"trellis/telemetry"
)

// inquiry is what an explanation rests on. Nothing in it acts or waits, but said and changes, which read.
type inquiry struct {
	service  engine.Service
	services map[string]engine.Service // all of them
	now      time.Time
	events   []state.Event // of the project, oldest first
	calls    map[way]callNow
	usual    map[way]callNow // before calls
	measured pressure
	// changes returns the paths in which a revision changed the service.
	changes func(revision int64) []string
	// said returns the last words of the service in a time, of one instance or "" all.
	said func(instance string, since, until time.Time) (telemetry.Record, bool)
	// traced returns one of the last requests to the service: a failed one, or the slowest.
	traced       func(failing bool) (telemetry.TraceSummary, bool)
	certificates []certificate     // of the doors that lead to the service
	unserved     []engine.Unserved // of its routes
}

// findings returns what there is to explain, newest first. What goes on now stands before what is over; what only threatens
// stands after what has just happened, of which it is seldom the cause. A failure goes on.
func (w *inquiry) findings() []api.Explanation {
	found := []api.Explanation{}
	for _, find := range []func() (api.Explanation, bool){w.restart, w.refused, w.rollback, w.scaling} {
		if x, ok := find(); ok {
			found = append(found, x)
		}
	}
	slices.SortStableFunc(found, func(a, b api.Explanation) int { return b.Time.Compare(a.Time) })
	if x, ok := w.requests(found); ok {
		found = slices.Insert(found, 0, x)
	}
	known := func(x api.Explanation) bool {
		return slices.ContainsFunc(found, func(f api.Explanation) bool { return f.Kind == x.Kind && w.recent(f.Time) })
	}
	for _, find := range []func() (api.Explanation, bool){w.unknown, w.unready, w.unreached} {
		if x, ok := find(); ok && !known(x) {
			found = append(found, x)
		}
	}
	slices.SortStableFunc(found, func(a, b api.Explanation) int { return b.Time.Compare(a.Time) })
	over := slices.IndexFunc(found, func(f api.Explanation) bool { return f.What == "scale" || f.What != "failure" && !w.recent(f.Time) })
	if over < 0 {
		over = len(found)
	}
	for _, find := range []func() (api.Explanation, bool){w.disk, w.certificate} {
		if x, ok := find(); ok && !known(x) {
			found = slices.Insert(found, over, x)
		}
	}
	return found
}

func (w *inquiry) recent(at time.Time) bool { return w.now.Sub(at) < whyRecent }

func evidence(e state.Event) api.Evidence {
	text := e.Kind
	if e.Instance != "" {
		text += " " + e.Instance
	}
	if e.Message != "" {
		text += ": " + e.Message
	}
	if strings.HasPrefix(e.Kind, "revision.") && e.Revision > 0 {
		return api.Evidence{Time: e.Time, Kind: "revision", Text: text, Ref: strconv.FormatInt(e.Revision, 10)}
	}
	return api.Evidence{Time: e.Time, Kind: "event", Text: text}
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

// noSpace is how every program says that a disk is full, because libc does.
const noSpace = "no space left on device"

// restart explains the newest end of an instance that nobody asked for.
func (w *inquiry) restart() (api.Explanation, bool) {
	end, at := w.last(len(w.events), func(e state.Event) bool { return e.Service == w.service.Name && (w.ended(e) || hung(e)) })
	if at < 0 {
		return api.Explanation{}, false
	}
	if hung(end) {
		return w.replaced(end, at), true
	}
	x := api.Explanation{What: "restart", Title: end.Instance + " ended: " + end.Message, Time: end.Time, Kind: "crash", Cause: end.Message}
	x.Chain = []api.Evidence{evidence(end)}
	start, from := w.last(at, func(e state.Event) bool { return e.Instance == end.Instance && e.Kind == "instance.started" })
	ready := from >= 0 && slices.ContainsFunc(w.events[from:at], func(e state.Event) bool {
		return e.Instance == end.Instance && e.Kind == "instance.ready"
	})
	applied, _ := w.last(at, func(e state.Event) bool { return e.Kind == "revision.applied" && e.Revision == end.Revision })
	words, spoke := w.said(end.Instance, w.spokeSince(start, end), w.spokeUntil(end, at))
	if spoke {
		x.Chain = slices.Insert(x.Chain, 0, api.Evidence{Time: words.Time, Kind: "log", Text: words.Body, Ref: words.Instance})
	}
	if from >= 0 {
		x.Chain = slices.Insert(x.Chain, 0, evidence(start))
	}
	switch {
	case end.Reason == "oom":
		x.Kind = "memory"
	case strings.Contains(strings.ToLower(words.Body), noSpace):
		x.Kind, x.Cause = "disk", fmt.Sprintf("%s: %s", end.Message, words.Body)
	case end.Reason == "error" && ready: // it ran: what ended it says why
	case end.Reason == "error":
		x.Kind, x.Cause = "config-error", "it could not be run: "+end.Message
	case end.Reason == "signal":
		x.Cause = end.Message + ", which Trellis did not send"
	case from >= 0 && !ready && !applied.Time.IsZero() && !w.becameHealthy(end.Revision, at) && w.ranBefore(end.Revision, at):
		x.Kind, x.Cause = w.blame(end.Revision, "ends before it is ready ("+end.Message+")")
		x.Chain = slices.Insert(x.Chain, 0, evidence(applied))
	case spoke:
		x.Cause += ": " + words.Body
	}
	return x, true
}

// spokeSince is from when on the last words before an end are looked for: a start is told a moment after it.
func (w *inquiry) spokeSince(start, end state.Event) time.Time {
	if start.Time.IsZero() {
		return end.Time.Add(-time.Minute)
	}
	return start.Time.Add(-5 * time.Second)
}

// spokeUntil is until when they are looked for. Some come a moment after the end, of which it is written; where the next
// run began by then it is its words that do.
func (w *inquiry) spokeUntil(end state.Event, at int) time.Time {
	late := end.Time.Add(2 * time.Second)
	if slices.ContainsFunc(w.events[at:], func(e state.Event) bool {
		return e.Instance == end.Instance && e.Kind == "instance.started" && !e.Time.After(late)
	}) {
		return end.Time
	}
	return late
}

// ended says whether an event is the end of an instance that nobody asked for.
func (w *inquiry) ended(e state.Event) bool {
	return e.Kind == "instance.exited" && e.Reason != "stopped" && e.Reason != "completed"
}

// hung says whether an event is the stop of an instance that answered no more.
func hung(e state.Event) bool {
	return e.Kind == "instance.stopping" && strings.HasPrefix(e.Message, local.Hung)
}

// replaced explains an instance that was stopped because it answered no more.
func (w *inquiry) replaced(e state.Event, at int) api.Explanation {
	x := api.Explanation{What: "restart", Title: e.Instance + " was replaced: it " + e.Message, Time: e.Time, Kind: "hung", Cause: e.Instance + " " + e.Message}
	if unready, i := w.last(at, func(u state.Event) bool { return u.Instance == e.Instance && u.Kind == "instance.unready" }); i >= 0 {
		x.Chain = append(x.Chain, evidence(unready))
	}
	x.Chain = append(x.Chain, evidence(e))
	return x
}

// blame says what of a revision is the cause of what it does: its configuration where it changed nothing else.
func (w *inquiry) blame(revision int64, does string) (kind, cause string) {
	paths := w.changes(revision)
	if len(paths) == 0 || slices.ContainsFunc(paths, func(p string) bool { return !configures(p) }) {
		return "bad-version", fmt.Sprintf("revision %d %s; the one before did not", revision, does)
	}
	named := strings.Join(paths[:min(3, len(paths))], ", ")
	if more := len(paths) - 3; more > 0 {
		named += fmt.Sprintf(" and %d more", more)
	}
	return "config-error", fmt.Sprintf("revision %d changed nothing but %s, and %s", revision, named, does)
}

// configures says whether a path of the file is a service's configuration and not its program.
func configures(path string) bool {
	if strings.HasPrefix(path, "configs.") || strings.HasPrefix(path, "secrets.") {
		return true
	}
	segments := compose.SplitPath(path)
	if len(segments) < 3 {
		return false
	}
	key := strings.TrimPrefix(path, compose.JoinPath(segments[0], segments[1])+".")
	for _, of := range []string{"environment", "env_file", "configs", "secrets", "command", "entrypoint", "x-trellis.process.command", "volumes", "user", "working_dir"} {
		if key == of || strings.HasPrefix(key, of+".") || strings.HasPrefix(key, of+"[") {
			return true
		}
	}
	return false
}

// becameHealthy says whether a revision had become healthy before an event: whatever ends since then, the version ran.
func (w *inquiry) becameHealthy(revision int64, at int) bool {
	return slices.ContainsFunc(w.events[:at], func(e state.Event) bool {
		return e.Kind == "revision."+state.Healthy && e.Revision == revision
	})
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

// refused explains the newest start that could not be made, unless one could be since.
func (w *inquiry) refused() (api.Explanation, bool) {
	e, at := w.last(len(w.events), func(e state.Event) bool {
		return e.Service == w.service.Name && (e.Kind == "instance.refused" || e.Kind == "instance.started")
	})
	if at < 0 || e.Kind != "instance.refused" {
		return api.Explanation{}, false
	}
	x := api.Explanation{
		What: "failure", Title: e.Instance + " could not be started", Time: e.Time, Kind: "config-error", Cause: "it could not be started: " + e.Message,
		Chain: []api.Evidence{evidence(e)},
	}
	if strings.Contains(strings.ToLower(e.Message), noSpace) {
		x.Kind = "disk"
	}
	return x, true
}

// rollback explains the newest revision that was taken back because of the service.
func (w *inquiry) rollback() (api.Explanation, bool) {
	back, at := w.last(len(w.events), func(e state.Event) bool { return e.Kind == "revision."+state.RolledBack })
	if at < 0 || !names(back.Message, w.service.Name) {
		return api.Explanation{}, false
	}
	x := api.Explanation{What: "rollback", Title: fmt.Sprintf("revision %d was taken back", back.Revision), Time: back.Time}
	x.Kind, x.Cause = w.blame(back.Revision, "did not do: "+back.Message)
	if applied, i := w.last(at, func(e state.Event) bool { return e.Kind == "revision.applied" && e.Revision == back.Revision }); i >= 0 {
		x.Chain = append(x.Chain, evidence(applied))
	}
	x.Chain = append(x.Chain, evidence(back))
	return x, true
}

// names says whether a text names a service, and not one whose name begins or ends with it.
func names(text, service string) bool {
	part := func(r rune) bool {
		return r == '-' || r == '_' || r >= '0' && r <= '9' || r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z'
	}
	return slices.Contains(strings.FieldsFunc(text, func(r rune) bool { return !part(r) }), service)
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

// unknown explains that it is not known what runs, because a driver does not answer.
func (w *inquiry) unknown() (api.Explanation, bool) {
	u := w.service.Unknown
	if u == nil {
		return api.Explanation{}, false
	}
	x := api.Explanation{
		What: "failure", Title: "it is not known what runs, and it is left alone: " + u.Driver + " does not answer", Time: u.Since, Kind: "driver",
		Cause: u.Reason,
		Chain: []api.Evidence{{Time: u.Since, Kind: "metric", Text: "no answer since " + u.Since.Format(time.DateTime), Ref: fmt.Sprintf("trellis_service_unknown{service=%q}", w.service.Name)}},
	}
	if u.Remedy != "" {
		x.Cause += "; " + u.Remedy
	}
	if e, at := w.last(len(w.events), func(e state.Event) bool { return e.Kind == "driver.away" && !e.Time.Before(u.Since.Add(-time.Second)) }); at >= 0 {
		x.Chain = slices.Insert(x.Chain, 0, evidence(e))
	}
	return x, true
}

// unready explains an instance that runs and is not ready now, though it was.
func (w *inquiry) unready() (api.Explanation, bool) {
	for _, in := range w.service.Instances {
		if in.State != engine.InstanceUnready {
			continue
		}
		e, at := w.last(len(w.events), func(e state.Event) bool { return e.Instance == string(in.ID) && e.Kind == "instance.unready" })
		if at < 0 {
			continue
		}
		x := api.Explanation{What: "failure", Title: fmt.Sprintf("%s is not ready: %s", in.ID, e.Message), Time: e.Time, Chain: []api.Evidence{evidence(e)}}
		if silent(e.Message) {
			x.Kind, x.Cause = "hung", string(in.ID)+" runs and does not answer: "+e.Message
		} else {
			x.Title += "; the probe does not say why"
		}
		return x, true
	}
	return api.Explanation{}, false
}

// silent says whether a probe was not answered at all, rather than refused or answered badly.
func silent(message string) bool {
	return strings.Contains(message, "no answer") || strings.Contains(message, "deadline exceeded") || strings.Contains(message, "timeout")
}

// unreached explains routes that a gateway of the cluster's own does not serve.
func (w *inquiry) unreached() (api.Explanation, bool) {
	if len(w.unserved) == 0 {
		return api.Explanation{}, false
	}
	x := api.Explanation{What: "failure", Title: "nobody reaches " + w.service.Name + " by its routes", Time: w.now, Cause: w.unserved[0].Reason, Kind: "gateway"}
	for _, u := range w.unserved {
		text := u.Reason
		if u.Route != "" {
			text = u.Route + ": " + u.Reason
			x.Title = fmt.Sprintf("nobody reaches %s by %s", w.service.Name, u.Route)
		}
		if len(w.unserved) > 1 {
			x.Title = fmt.Sprintf("nobody reaches %s by some of its routes", w.service.Name)
		}
		x.Chain = append(x.Chain, api.Evidence{Time: w.now, Kind: "event", Text: text})
	}
	return x, true
}

// certificate explains a certificate that nobody renews.
func (w *inquiry) certificate() (api.Explanation, bool) {
	for _, c := range w.certificates {
		if !c.due(w.now) {
			continue
		}
		left := c.notAfter.Sub(w.now).Round(time.Minute)
		x := api.Explanation{
			What: "certificate", Title: fmt.Sprintf("the certificate of %s ends in %v", c.name, left), Time: w.now, Kind: "certificate",
			Cause: "it was not renewed, and nothing says why",
			Chain: []api.Evidence{{Time: w.now, Kind: "metric", Text: "valid until " + c.notAfter.Format(time.DateTime), Ref: fmt.Sprintf("trellis_certificate_not_after_timestamp_seconds{name=%q}", c.name)}},
		}
		if left <= 0 {
			x.Title = fmt.Sprintf("the certificate of %s has ended", c.name)
		}
		failed, at := w.last(len(w.events), func(e state.Event) bool {
			return e.Kind == "certificate.failed" && e.Reason == c.source && (c.source == certificateLocal || namesHost(e.Message, c.name))
		})
		switch {
		case c.source == certificateFile:
			x.Cause = "the file names it, so that nobody renews it but you: put a new one in its secret and deploy"
		case at >= 0 && failed.Time.After(c.notBefore):
			x.Cause = "it could not be renewed: " + failed.Message
			x.Chain = slices.Insert(x.Chain, 0, evidence(failed))
		}
		return x, true
	}
	return api.Explanation{}, false
}

// namesHost says whether a text names a host, and not one below it.
func namesHost(text, host string) bool {
	return slices.ContainsFunc(strings.Fields(text), func(word string) bool { return strings.TrimRight(word, ".,:;") == host })
}

// Where the disk is called full: as the alert DiskAlmostFull does.
const diskFull = 0.95

// disk explains what a full disk is about to do.
func (w *inquiry) disk() (api.Explanation, bool) {
	if w.measured.disk < diskFull {
		return api.Explanation{}, false
	}
	text := w.diskText()
	return api.Explanation{
		What: "disk", Title: "the disk is almost full", Time: w.now, Kind: "disk", Cause: text,
		Chain: []api.Evidence{{Time: w.now, Kind: "metric", Text: text, Ref: "trellis_disk_free_bytes"}},
	}, true
}

func (w *inquiry) diskText() string {
	return fmt.Sprintf("%.0f MB (%.1f %%) are left on the disk of the project's state", w.measured.free/1e6, 100*(1-w.measured.disk))
}
