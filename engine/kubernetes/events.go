package kubernetes

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"

	"trellis/lazyregexp"
	"trellis/state"
)

// kindOverride is the kind of the event that something was asked for beside the file.
const kindOverride = "service.override"

// annotationEvent holds on an Event of the cluster what Trellis told with it.
const annotationEvent = "trellis.dev/event"

// eventsEvery is how often events are asked for by who follows them.
const eventsEvery = time.Second

// tell writes down what somebody asked for.
func (e *Engine) tell(ctx context.Context, kind, service, message, actor string) {
	e.write(ctx, state.Event{Actor: actor, Service: service, Kind: kind, Reason: "asked", Message: message}, corev1.EventTypeNormal)
}

// write writes down what happened, as an Event of the cluster of a type of its own, which keeps those for an hour mostly. It is
// told and not relied upon: one that cannot be written is logged.
func (e *Engine) write(ctx context.Context, ev state.Event, severity string) {
	ev.Time, ev.Actor, ev.Project = time.Now(), cmp.Or(ev.Actor, "trellis"), e.project
	o := object(events, "", labelsOf(e.project))
	o.SetGenerateName(notesName(e.project) + ".")
	o.SetAnnotations(map[string]string{annotationEvent: string(mustJSON(ev))})
	at := ev.Time.UTC().Format(time.RFC3339)
	for key, value := range map[string]any{
		"involvedObject": map[string]any{"kind": "ConfigMap", "apiVersion": "v1", "name": notesName(e.project), "namespace": e.client.Namespace},
		"reason":         camelCased(ev.Kind), "message": strings.TrimPrefix(ev.Service+": "+ev.Message, ": "), "type": severity, "count": int64(1),
		"firstTimestamp": at, "lastTimestamp": at, "source": map[string]any{"component": fieldManager},
	} {
		o.Object[key] = value
	}
	r, err := e.client.resource(events)
	if err == nil {
		_, err = r.Create(ctx, o, metav1.CreateOptions{FieldManager: fieldManager})
	}
	if err != nil {
		e.log.WarnContext(ctx, "an event is not written down", "project", e.project, "service", ev.Service, "err", e.client.explain(err))
	}
}

// camelCased writes drift.found as the cluster writes reasons, DriftFound.
func camelCased(kind string) string {
	var b strings.Builder
	for word := range strings.SplitSeq(kind, ".") {
		b.WriteString(strings.ToUpper(word[:1]) + word[1:])
	}
	return b.String()
}

// Events calls fn for each event that matches, oldest first; with follow it goes on until ctx is done. Those of revisions
// are kept as long as these are, those of the cluster as long as it keeps them.
func (e *Engine) Events(ctx context.Context, f state.EventFilter, follow bool, fn func(state.Event) error) error {
	told := map[string]bool{}
	for {
		all, err := e.events(ctx)
		if err != nil {
			return fmt.Errorf("read the events of %s: %w", e.project, err)
		}
		all = slices.DeleteFunc(all, func(ev happened) bool {
			return told[ev.id] || ev.Time.Before(f.Since) || f.Service != "" && ev.Service != f.Service
		})
		if f.Limit > 0 && len(all) > f.Limit {
			for _, ev := range all[:len(all)-f.Limit] {
				told[ev.id] = true
			}
			all = all[len(all)-f.Limit:]
		}
		for _, ev := range all {
			told[ev.id] = true
			if err := fn(ev.Event); err != nil {
				return err
			}
		}
		if !follow {
			return nil
		}
		f.Limit = 0
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(eventsEvery):
		}
	}
}

// happened is an event, and what tells it from others.
type happened struct {
	state.Event
	id string
}

// events returns everything that is known to have happened, oldest first.
func (e *Engine) events(ctx context.Context) ([]happened, error) {
	now, err := e.recent(ctx, e.project)
	if err != nil {
		return nil, err
	}
	var all []happened
	for _, r := range now.revisions {
		all = append(all, ofRevision(e.project, r)...)
	}
	r, err := e.client.resource(events)
	if err != nil {
		return nil, err
	}
	list, err := r.List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, e.client.explain(err)
	}
	of := newOwners(now.live)
	for _, o := range list.Items {
		if ev, ours := of.event(e.project, &o); ours {
			all = append(all, ev)
		}
	}
	slices.SortStableFunc(all, func(a, b happened) int { return a.Time.Compare(b.Time) })
	return all, nil
}

// ofRevision are the events that a revision is kept with.
func ofRevision(project string, r record) []happened {
	at := func(t time.Time, kind, service, reason, message, actor string) happened {
		return happened{
			state.Event{Time: t, Actor: cmp.Or(actor, "trellis"), Project: project, Service: service, Kind: kind, Reason: reason, Message: message, Revision: r.Number},
			fmt.Sprint(r.Number, kind, service),
		}
	}
	all := []happened{at(r.AppliedAt, "revision.applied", "", r.Cause, "applied", r.Actor)}
	for _, one := range r.rollouts {
		if one.Ended != nil && one.Reason != "" {
			all = append(all, at(*one.Ended, "rollout."+one.Phase, one.Service, one.Phase, one.Reason, one.Actor))
		}
	}
	if !r.settledAt.IsZero() {
		message := "revision " + r.Outcome
		for _, one := range r.rollouts {
			along := slices.ContainsFunc(r.rollouts, func(o state.Rollout) bool { return one.Reason == failedWith(o.Service) })
			if one.Over() && one.Phase != state.Promoted && one.Reason != "" && !along {
				message += ": " + one.Service + ": " + one.Reason
			}
		}
		all = append(all, at(r.settledAt, "revision."+r.Outcome, "", r.Cause, message, ""))
	}
	return all
}

// owners know which service an object belongs to by its name, also when it is no more.
type owners struct {
	pods      map[string]corev1.Pod
	workloads []workload
}

func newOwners(live Live) owners {
	of := owners{pods: map[string]corev1.Pod{}, workloads: live.workloads()}
	for _, pod := range live.Pods {
		of.pods[pod.Name] = pod
	}
	return of
}

// derived is what a workload adds to its name for what it makes: pods, and replica sets and their pods.
var derived = lazyregexp.New(`^-([a-z0-9]{8,10}(-[a-z0-9]{5})?|[a-z0-9]{5}|[0-9]+)$`)

// service returns whose service an object is, "" where it is none's. Of two workloads whose names begin the object's it is of the longer
// one: api-proxy is no pod of api.
func (of owners) service(name string) string {
	if pod, there := of.pods[name]; there {
		return serviceOf(&pod)
	}
	var best workload
	for _, w := range of.workloads {
		if rest, ok := strings.CutPrefix(name, w.name); ok && len(w.name) > len(best.name) && (rest == "" || derived.MatchString(rest)) {
			best = w
		}
	}
	return best.service
}

// reasons are the cluster's words that have a better one.
var reasons = map[string]string{
	"Killing": "stopping", "Unhealthy": "unready", "BackOff": "waiting", "ScalingReplicaSet": "scaling", "SuccessfulRescale": "scaled",
	"SuccessfulCreate": "created", "SuccessfulDelete": "deleted",
}

// event is an Event of the cluster as Trellis tells it; false where it is of something else.
func (of owners) event(project string, o *unstructured.Unstructured) (happened, bool) {
	var e corev1.Event
	if runtime.DefaultUnstructuredConverter.FromUnstructured(o.Object, &e) != nil {
		return happened{}, false
	}
	id := fmt.Sprint(e.UID, e.Count)
	if text := e.Annotations[annotationEvent]; text != "" && ours(o, project) {
		var own state.Event
		err := json.Unmarshal([]byte(text), &own)
		return happened{own, id}, err == nil
	}
	service := of.service(e.InvolvedObject.Name)
	if service == "" {
		return happened{}, false
	}
	what := "service"
	ev := state.Event{
		Time: latest(latest(e.LastTimestamp.Time, e.EventTime.Time), e.FirstTimestamp.Time), Actor: cmp.Or(e.Source.Component, e.ReportingController),
		Project: project, Service: service, Reason: e.Reason, Message: strings.TrimSpace(e.Message),
	}
	if e.InvolvedObject.Kind == "Pod" {
		what, ev.Instance = "instance", e.InvolvedObject.Name
		if pod, there := of.pods[ev.Instance]; there {
			ev.Revision = revisionOf(pod.ObjectMeta)
		}
	}
	ev.Kind = what + "." + cmp.Or(reasons[e.Reason], hyphenated(e.Reason))
	if e.Count > 1 {
		ev.Message += fmt.Sprintf(" (%d times)", e.Count)
	}
	return happened{ev, id}, true
}

// hyphenated writes FailedScheduling as failed-scheduling.
func hyphenated(word string) string {
	var b strings.Builder
	for i, c := range word {
		if unicode.IsUpper(c) && i > 0 {
			b.WriteByte('-')
		}
		b.WriteRune(unicode.ToLower(c))
	}
	return b.String()
}
