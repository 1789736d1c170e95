package kubernetes

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"

	"trellis/engine"
	"trellis/errdefs"
	"trellis/state"
)

// begun are the rollouts that an apply of rev begins: of the services whose pods are others than before.
func begun(objects []Object, live Live, rev state.Revision) []state.Rollout {
	from := map[string]int64{}
	for _, w := range live.workloads() {
		from[w.service] = w.revision
	}
	var all []state.Rollout
	for _, w := range workloadsOf(objects) {
		if was, there := from[w.service]; there && w.revision == rev.Number && w.kind != "Job" {
			all = append(all, state.Rollout{Revision: rev.Number, Service: w.service, From: was, Phase: state.Rolling, Began: rev.AppliedAt})
		}
	}
	return all
}

// ended are rollouts of which those that were still under way ended then.
func ended(all []state.Rollout, phase, reason string, then time.Time) []state.Rollout {
	all = slices.Clone(all)
	for i := range all {
		if !all[i].Over() {
			all[i].Phase, all[i].Reason, all[i].Ended = phase, reason, &then
		}
	}
	return all
}

// rolloutsOf are the rollouts of the newest revision, and of the one that it undoes.
func rolloutsOf(all []record) []state.Rollout {
	out := slices.Clone(all[0].rollouts)
	for _, r := range all[1:] {
		if undone := all[0].Undoes; undone != 0 && r.Number == undone {
			out = append(out, r.rollouts...)
		}
	}
	return out
}

// failureOf is the rollout of a service that failed, with what is known of the instance that made it fail.
func failureOf(s engine.State, service, why string) state.Rollout {
	r := state.Rollout{Service: service, Reason: why}
	for _, svc := range s.Services {
		if svc.Name != service {
			continue
		}
		r.Reason = cmp.Or(r.Reason, svc.Reason)
		r.Failure = &state.Failure{Log: svc.LastLog}
		for _, in := range svc.Instances {
			if !in.Ready {
				r.Failure.Instance, r.Failure.Probe = string(in.ID), in.Probe
			}
		}
	}
	return r
}

// worseOf is the rollout of a service whose new instances do worse than the old ones, with what the newest of them has written.
func (e *Engine) worseOf(ctx context.Context, one record, live Live, service, why string) state.Rollout {
	r := state.Rollout{Service: service, Reason: why}
	var newest *corev1.Pod
	for i, pod := range live.Pods {
		if serviceOf(&pod) == service && revisionOf(pod.ObjectMeta) == one.Number && (newest == nil || newest.CreationTimestamp.Before(&pod.CreationTimestamp)) {
			newest = &live.Pods[i]
		}
	}
	if newest != nil {
		r.Failure = &state.Failure{Instance: newest.Name, Log: e.client.tail(ctx, newest, false)}
	}
	return r
}

// goBack writes down why the newest revision failed, and applies the last healthy one again; where there is none, what is
// there stays as it is, to be looked at.
func (e *Engine) goBack(ctx context.Context, all []record, why state.Rollout, actor string) error {
	failed := all[0]
	failed.rollouts = slices.Clone(failed.rollouts) // others read them meanwhile
	back := lastHealthy(all, failed.Number)
	outcome, phase := state.Failed, state.Incomplete
	if back != nil {
		outcome, phase = state.RolledBack, state.TakenBack
	}
	now := time.Now()
	i := slices.IndexFunc(failed.rollouts, func(r state.Rollout) bool { return r.Service == why.Service })
	if i < 0 {
		i = len(failed.rollouts)
		failed.rollouts = append(failed.rollouts, state.Rollout{Revision: failed.Number, Service: why.Service, Began: failed.AppliedAt})
		if back != nil {
			failed.rollouts[i].From = back.Number
		}
	}
	r := &failed.rollouts[i]
	r.Phase, r.Ended, r.Reason, r.Failure, r.Actor = phase, &now, why.Reason, why.Failure, why.Actor
	failed.rollouts = ended(failed.rollouts, phase, failedWith(why.Service), now)
	if err := e.client.settle(ctx, failed, outcome); err != nil || back == nil {
		return err
	}
	return e.bringBack(ctx, failed, *back, why, actor)
}

// bringBack applies a healthy revision again in place of one that failed.
func (e *Engine) bringBack(ctx context.Context, failed, back record, why state.Rollout, actor string) error {
	_, err := e.Apply(ctx, state.Revision{
		Project: back.Project, Commit: back.Commit, Actor: actor, Undoes: failed.Number,
		Cause: fmt.Sprintf("rollback to %d: %s: %s", back.Number, why.Service, why.Reason),
	}, "")
	return err
}

// finishBack brings the last healthy revision back where that was decided, and whoever did so was killed before it was done: the newest
// revision is one that was taken back.
func (e *Engine) finishBack(ctx context.Context, all []record) error {
	failed := all[0]
	back := lastHealthy(all, failed.Number)
	if back == nil {
		return nil
	}
	why := state.Rollout{Service: e.project, Reason: "it failed"}
	for _, r := range failed.rollouts {
		if r.Phase == state.TakenBack && r.Reason != "" && !slices.ContainsFunc(failed.rollouts, func(o state.Rollout) bool { return r.Reason == failedWith(o.Service) }) {
			why = r
		}
	}
	return e.bringBack(ctx, failed, *back, why, "trellis")
}

// failedWith is why a rollout ended that was taken back with that of another service.
func failedWith(service string) string { return service + " failed" }

// Instruct implements engine.Engine. A cluster holds no pod back that could be promoted.
func (e *Engine) Instruct(ctx context.Context, project, service, action, actor string) error {
	all, _, _, err := e.look(ctx, project)
	if err != nil {
		return err
	}
	fail := func(err error) error { return fmt.Errorf("%s the rollouts of %s: %w", action, project, err) }
	if action != engine.Abort {
		return fail(fmt.Errorf("%w on kubernetes: pods are replaced in batches, and none is held back", errdefs.ErrUnsupported))
	}
	open := slices.DeleteFunc(slices.Clone(all[0].rollouts), func(r state.Rollout) bool { return r.Over() || service != "" && r.Service != service })
	if all[0].Outcome != state.Pending || len(open) == 0 {
		return fail(fmt.Errorf("%w: none is under way", errdefs.ErrConflict))
	}
	if lastHealthy(all, all[0].Number) == nil {
		return fail(fmt.Errorf("%w: no revision before it was healthy", errdefs.ErrConflict))
	}
	why := state.Rollout{Service: open[0].Service, Reason: "aborted by " + actor, Actor: actor}
	return e.goBack(ctx, all, why, actor)
}

// lastHealthy returns the newest healthy revision before that number, nil where there is none.
func lastHealthy(all []record, before int64) *record {
	i := slices.IndexFunc(all, func(r record) bool { return r.Number < before && r.Outcome == state.Healthy })
	if i < 0 {
		return nil
	}
	return &all[i]
}
