package kubernetes

import (
	"maps"
	"slices"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"trellis/compose"
)

const (
	// driftWatch is the component that tells of drift when nobody asks.
	driftWatch = "drift-watch"
	// driftSchedule is how often it looks: as often as on one machine.
	driftSchedule = "*/5 * * * *"
	// driftSeconds bounds one look, and how late it may begin.
	driftSeconds                        = 120
	driftWatchMemory, driftWatchCollect = "256Mi", "200MiB"
)

func driftWatchName(project string) string {
	return cleaned("trellis-"+project+"-"+driftWatch, maxName-11)
}

// driftWatch renders what looks for drift: a CronJob of Trellis' own image, and what it may do. It is rendered last, because that
// depends on the kinds of everything else.
func (r *renderer) driftWatch() {
	name := driftWatchName(r.p.Name)
	meta := r.meta(compose.Service{}, name)
	meta.Labels = with(meta.Labels, labelComponent, driftWatch)
	c := corev1.Container{
		Name: driftWatch, Image: r.opt.Image, Args: []string{"drift", "--tell", r.p.Name, "--namespace", r.opt.Namespace},
		Env: []corev1.EnvVar{{Name: "GOMEMLIMIT", Value: driftWatchCollect}, {Name: ImageEnv, Value: r.opt.Image}},
		Resources: corev1.ResourceRequirements{
			Requests: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("20m"), corev1.ResourceMemory: resource.MustParse("64Mi")},
			Limits:   corev1.ResourceList{corev1.ResourceMemory: resource.MustParse(driftWatchMemory)},
		},
	}
	pod, podMeta := r.ownPod(name, c), metav1.ObjectMeta{Labels: map[string]string{labelComponent: driftWatch}}
	r.memberOf(&podMeta, false) // it asks the API server, and whoever takes alerts
	pod.RestartPolicy = corev1.RestartPolicyNever
	role, binding := r.ownRole(meta)
	r.add(r.ownAccount(meta), role, binding,
		&batchv1.CronJob{
			TypeMeta: metav1.TypeMeta{APIVersion: "batch/v1", Kind: "CronJob"}, ObjectMeta: meta,
			Spec: batchv1.CronJobSpec{
				Schedule: driftSchedule, ConcurrencyPolicy: batchv1.ForbidConcurrent, StartingDeadlineSeconds: pointer(int64(driftSeconds)),
				SuccessfulJobsHistoryLimit: pointer(int32(1)), FailedJobsHistoryLimit: pointer(int32(1)),
				JobTemplate: batchv1.JobTemplateSpec{Spec: batchv1.JobSpec{
					BackoffLimit: new(int32), ActiveDeadlineSeconds: pointer(int64(driftSeconds)),
					Template: corev1.PodTemplateSpec{ObjectMeta: podMeta, Spec: pod},
				}},
			},
		})
	role.Rules = r.driftRights()
}

// driftRights are what a look for drift takes: what applying an object once more would make of it the API server says to those
// only that may apply it, and what a Role of the project gives, who applies it has to have.
func (r *renderer) driftRights() []rbacv1.PolicyRule {
	kinds, given := map[string][]string{"": {"configmaps", "secrets"}}, []rbacv1.PolicyRule{}
	for _, o := range r.out {
		kind := o.GetObjectKind().GroupVersionKind()
		kinds[kind.Group] = append(kinds[kind.Group], resources[kind.Kind])
		if role, ok := o.(*rbacv1.Role); ok {
			given = append(given, role.Rules...)
		}
	}
	rules := []rbacv1.PolicyRule{
		{APIGroups: []string{""}, Resources: []string{"pods"}, Verbs: []string{"get", "list"}},
		{APIGroups: []string{""}, Resources: []string{"events"}, Verbs: []string{"create"}},
	}
	for _, group := range slices.Sorted(maps.Keys(kinds)) {
		names := slices.Compact(slices.Sorted(slices.Values(kinds[group])))
		rules = append(rules, rbacv1.PolicyRule{APIGroups: []string{group}, Resources: names, Verbs: []string{"get", "list", "patch"}})
	}
	return append(rules, given...)
}
