package kubernetes

import (
	"cmp"
	"slices"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// workload is what Deployment, StatefulSet, DaemonSet and Job have in common: that of which a service's pods are made.
type workload struct {
	kind, name string
	service    string
	uid        types.UID
	generation int64
	made       metav1.Time
	revision   int64
	hash       string // of its pods
	want       int

	current   bool   // the newest template is looked at, and all pods that are wanted are of it
	stopped   bool   // a Job that is held
	completed bool   // of a Job
	failed    bool   // the cluster has given up
	why       string // it has
	refused   string // why the cluster makes no pods at all: an admission check, a quota
}

// workloadsOf returns the workloads of services, by name of the service; of several Jobs of one the newest. Jobs that
// prepare a service are none.
func workloadsOf(all []Object) []workload {
	var out []workload
	add := func(o Object, t metav1.ObjectMeta, w workload) {
		w.name, w.service, w.uid, w.generation, w.made = o.GetName(), serviceOf(o), o.GetUID(), o.GetGeneration(), o.GetCreationTimestamp()
		w.revision, w.hash = revisionOf(t), t.Annotations[annotationHash]
		out = append(out, w)
	}
	for _, o := range all {
		if slices.Contains([]string{dataPlane, controlPlane, preparation}, o.GetLabels()[labelComponent]) {
			continue
		}
		switch o := o.(type) {
		case *appsv1.Deployment:
			w := workload{kind: "Deployment", want: int(valueOr(o.Spec.Replicas, 1))}
			w.current = o.Status.ObservedGeneration >= o.Generation && int(o.Status.UpdatedReplicas) >= w.want && o.Status.Replicas <= o.Status.UpdatedReplicas
			for _, c := range o.Status.Conditions {
				switch {
				case o.Status.ObservedGeneration < o.Generation: // of the template before
				case c.Type == appsv1.DeploymentProgressing && c.Status == corev1.ConditionFalse && c.Reason == "ProgressDeadlineExceeded":
					w.failed = true
				case c.Type == appsv1.DeploymentReplicaFailure && c.Status == corev1.ConditionTrue:
					w.refused = c.Message
				}
			}
			add(o, o.Spec.Template.ObjectMeta, w)
		case *appsv1.StatefulSet:
			w := workload{kind: "StatefulSet", want: int(valueOr(o.Spec.Replicas, 1))}
			w.current = o.Status.ObservedGeneration >= o.Generation && int(o.Status.UpdatedReplicas) >= w.want
			add(o, o.Spec.Template.ObjectMeta, w)
		case *appsv1.DaemonSet:
			w := workload{kind: "DaemonSet", want: 1} // until the nodes are counted
			if seen := o.Status.ObservedGeneration >= o.Generation; seen {
				w.want = int(o.Status.DesiredNumberScheduled)
				w.current = int(o.Status.UpdatedNumberScheduled) >= w.want
			}
			add(o, o.Spec.Template.ObjectMeta, w)
		case *batchv1.Job:
			w := workload{kind: "Job", want: int(valueOr(o.Spec.Parallelism, 1)), current: true}
			if o.Spec.Suspend != nil && *o.Spec.Suspend {
				w.want, w.stopped = 0, true
			}
			for _, c := range o.Status.Conditions {
				switch {
				case c.Status != corev1.ConditionTrue:
				case c.Type == batchv1.JobComplete:
					w.completed = true
				case c.Type == batchv1.JobFailed:
					w.failed, w.why = true, c.Message
				}
			}
			add(o, o.Spec.Template.ObjectMeta, w)
		}
	}
	slices.SortFunc(out, func(a, b workload) int {
		return cmp.Or(cmp.Compare(a.service, b.service), b.made.Compare(a.made.Time), cmp.Compare(b.revision, a.revision), cmp.Compare(a.name, b.name))
	})
	return slices.CompactFunc(out, func(a, b workload) bool { return a.service == b.service })
}

func valueOr(p *int32, otherwise int32) int32 {
	if p == nil {
		return otherwise
	}
	return *p
}
