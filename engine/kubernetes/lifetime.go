package kubernetes

import (
	"context"
	"fmt"
	"math"
	"slices"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"trellis/errdefs"
)

// What has a time to live is owned by a Job of no pods. Such a Job is complete at once; the cluster removes it when its time is
// over (ttlSecondsAfterFinished), and then all that it owns. Nothing of Trellis has to run for that.

// lifetimeName is the name of that Job.
func lifetimeName(project string) string { return cleaned("trellis-"+project+"-lifetime", maxName) }

// lifetimeIn returns that Job among objects, nil where there is none.
func lifetimeIn(all []Object, project string) *batchv1.Job {
	for _, j := range objectsOf[*batchv1.Job](all) {
		if j.Labels[labelComponent] == controlPlane && j.Name == lifetimeName(project) {
			return j
		}
	}
	return nil
}

// lifetime renders the Job, where the project has a time to live, and makes everything else its own once it is there.
func (r *renderer) lifetime() {
	ttl := r.p.TTL()
	if r.opt.Revision == 0 || ttl == 0 {
		return
	}
	there := lifetimeIn(r.live, r.p.Name)
	if there != nil {
		// The time is counted from when the Job was complete, and is to begin with the revision.
		begun := there.CreationTimestamp.Time
		if there.Status.CompletionTime != nil {
			begun = there.Status.CompletionTime.Time
		}
		ttl = max(r.opt.AppliedAt.Add(ttl).Sub(begun), time.Second)
		owner := metav1.OwnerReference{APIVersion: "batch/v1", Kind: "Job", Name: there.Name, UID: there.UID}
		for _, o := range r.out {
			o.SetOwnerReferences([]metav1.OwnerReference{owner})
		}
	}
	for _, set := range objectsOf[*appsv1.StatefulSet](r.out) {
		if len(set.Spec.VolumeClaimTemplates) > 0 { // the cluster makes these, and gives them no owner otherwise
			set.Spec.PersistentVolumeClaimRetentionPolicy = &appsv1.StatefulSetPersistentVolumeClaimRetentionPolicy{
				WhenDeleted: appsv1.DeletePersistentVolumeClaimRetentionPolicyType, WhenScaled: appsv1.RetainPersistentVolumeClaimRetentionPolicyType,
			}
		}
	}
	m := metav1.ObjectMeta{Name: lifetimeName(r.p.Name), Namespace: r.opt.Namespace, Labels: labelsOf(r.p.Name)}
	job := &batchv1.Job{
		TypeMeta: metav1.TypeMeta{APIVersion: "batch/v1", Kind: "Job"}, ObjectMeta: m,
		Spec: batchv1.JobSpec{
			Completions: new(int32), Parallelism: new(int32), TTLSecondsAfterFinished: pointer(clamp(int(math.Ceil(ttl.Seconds())))),
			Template: corev1.PodTemplateSpec{Spec: corev1.PodSpec{
				RestartPolicy: corev1.RestartPolicyNever, Containers: []corev1.Container{{Name: "none", Image: "none"}}, // never run
			}},
		},
	}
	r.out = slices.Insert(r.out, 0, Object(job))
}

// begin makes the Job of a revision that has a time to live, and returns what is there with it: what it is to own needs to know
// its UID. Where the rest is never applied it goes by itself.
func (e *Engine) begin(ctx context.Context, one record, live Live, g ground) (Live, error) {
	if one.Project.TTL() == 0 || lifetimeIn(live.Objects, e.project) != nil {
		return live, nil
	}
	objects, err := e.renderWith(one, live, nil, g)
	if err != nil {
		return live, err
	}
	job := lifetimeIn(objects, e.project)
	want, err := plainObject(job)
	if err != nil {
		return live, err
	}
	fail := func(err error) (Live, error) { return live, fmt.Errorf("begin the time of %s: %w", e.project, err) }
	if err := e.client.apply(ctx, e.project, want, 0, false); err != nil {
		return fail(err)
	}
	r, err := e.client.resource(want.GroupVersionKind())
	if err != nil {
		return fail(err)
	}
	there, err := r.Get(ctx, job.Name, metav1.GetOptions{})
	if err != nil {
		return fail(e.client.explain(err))
	}
	made, err := typed(there)
	if err != nil {
		return fail(err)
	}
	live.Objects = append(slices.Clone(live.Objects), made)
	return live, nil
}

// timed says whether what was applied has a time to live.
func timed(items []item, project string) bool {
	return slices.ContainsFunc(items, lifetimeItem(project).same)
}

// lifetimeItem is the Job that stands for the time to live of a project, whatever its version.
func lifetimeItem(project string) item {
	return item{Group: "batch", Kind: "Job", Name: lifetimeName(project)}
}

// over says that the time of what was applied is over: the cluster has removed it, or is about to.
func over(items []item, live Live, project string) error {
	if !timed(items, project) || lifetimeIn(live.Objects, project) != nil {
		return nil
	}
	return fmt.Errorf("%w: its time to live is over", errdefs.ErrNotFound)
}

// Ends returns when a project is taken down by the cluster, nil for never or where it does not run.
func (e *Engine) Ends(ctx context.Context) (*time.Time, error) {
	revisions, err := e.History(ctx, 1)
	if err != nil || len(revisions) == 0 || revisions[0].Project.TTL() == 0 {
		return nil, err
	}
	ends := revisions[0].AppliedAt.Add(revisions[0].Project.TTL())
	return &ends, nil
}
