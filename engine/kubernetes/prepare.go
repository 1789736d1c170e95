package kubernetes

import (
	"context"
	"slices"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"

	"trellis/state"
)

// prepares says whether an object is the Job that runs what comes before the start of a service.
func prepares(o Object) bool { return o.GetLabels()[labelComponent] == preparation }

// unprepared are the services for which the Job of their own has not succeeded yet.
func unprepared(objects []Object, live Live) map[string]bool {
	done := map[string]bool{}
	for _, job := range objectsOf[*batchv1.Job](live.Objects) {
		done[job.Name] = job.Status.Succeeded > 0
	}
	out := map[string]bool{}
	for _, job := range objectsOf[*batchv1.Job](objects) {
		if prepares(job) && !done[job.Name] {
			out[serviceOf(job)] = true
		}
	}
	return out
}

// failedToPrepare are the Jobs that come before a start and have failed.
func failedToPrepare(live Live) []*batchv1.Job {
	return slices.DeleteFunc(objectsOf[*batchv1.Job](live.Objects), func(job *batchv1.Job) bool {
		return !prepares(job) || !slices.ContainsFunc(job.Status.Conditions, func(c batchv1.JobCondition) bool {
			return c.Type == batchv1.JobFailed && c.Status == corev1.ConditionTrue
		})
	})
}

// unpreparedFor returns the rollout that a Job which comes before a start has failed, with how it ended and what it said last; false:
// there is none, or it was seen once only. What was there at the first look may be of an earlier revision, which the new one's Apply is
// about to remove.
func (w *watcher) unpreparedFor(ctx context.Context, one record, live Live) (state.Rollout, bool) {
	failed := failedToPrepare(live)
	if len(failed) == 0 {
		return state.Rollout{}, false
	}
	job := failed[0]
	if seen := (unpreparedJob{one.Number, string(job.UID)}); w.unprepared != seen {
		w.unprepared = seen
		return state.Rollout{}, false
	}
	r := state.Rollout{Service: serviceOf(job), Reason: "its pre_start failed"}
	for _, pod := range live.Pods {
		if pod.Labels[batchv1.JobNameLabel] != job.Name {
			continue
		}
		for _, c := range slices.Concat(pod.Status.InitContainerStatuses, pod.Status.ContainerStatuses) {
			if end := c.State.Terminated; end != nil && end.ExitCode != 0 {
				r.Reason = "its pre_start failed: " + exitWords(end)
				r.Failure = &state.Failure{Instance: pod.Name, Log: w.engine.client.lastOf(ctx, &pod, logsOf{container: c.Name})}
				return r, true
			}
		}
	}
	return r, true
}

// unpreparedJob is a Job that has failed, as it was seen when a revision was the newest.
type unpreparedJob struct {
	revision int64
	uid      string
}
