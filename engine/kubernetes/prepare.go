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

// failedToPrepare are those of the Jobs among objects that come before a start and have failed.
func failedToPrepare(objects []Object, live Live) []*batchv1.Job {
	return slices.DeleteFunc(preparing(live), func(job *batchv1.Job) bool { return !jobHas(job, batchv1.JobFailed) || !hasJob(objects, job) })
}

// stillPreparing are the Jobs that come before a start in an earlier revision, and go on although objects have others.
func stillPreparing(objects []Object, live Live) (all []item) {
	for _, job := range preparing(live) {
		if !jobHas(job, batchv1.JobFailed) && !jobHas(job, batchv1.JobComplete) && !hasJob(objects, job) {
			all = append(all, jobItem(job))
		}
	}
	return all
}

// preparing are the Jobs that come before a start.
func preparing(live Live) []*batchv1.Job {
	return slices.DeleteFunc(objectsOf[*batchv1.Job](live.Objects), func(job *batchv1.Job) bool { return !prepares(job) })
}

func jobHas(job *batchv1.Job, condition batchv1.JobConditionType) bool {
	return slices.ContainsFunc(job.Status.Conditions, func(c batchv1.JobCondition) bool { return c.Type == condition && c.Status == corev1.ConditionTrue })
}

func hasJob(objects []Object, job *batchv1.Job) bool {
	return slices.ContainsFunc(objectsOf[*batchv1.Job](objects), func(o *batchv1.Job) bool { return o.Name == job.Name })
}

// jobItem is a Job by its name.
func jobItem(job *batchv1.Job) item {
	return item{Group: "batch", Version: "v1", Kind: "Job", Name: job.Name}
}

// unprepared is the rollout that a Job which comes before a start has failed, with how it ended and what it said last.
func (e *Engine) unprepared(ctx context.Context, job *batchv1.Job, live Live) state.Rollout {
	r := state.Rollout{Service: serviceOf(job), Reason: "its pre_start failed"}
	for _, pod := range live.Pods {
		if pod.Labels[batchv1.JobNameLabel] != job.Name {
			continue
		}
		for _, c := range slices.Concat(pod.Status.InitContainerStatuses, pod.Status.ContainerStatuses) {
			if end := c.State.Terminated; end != nil && end.ExitCode != 0 {
				r.Reason = "its pre_start failed: " + exitWords(end)
				r.Failure = &state.Failure{Instance: pod.Name, Log: e.client.lastOf(ctx, &pod, logsOf{container: c.Name})}
				return r
			}
		}
	}
	return r
}
