package kubernetes

import (
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"trellis/engine"
	"trellis/state"
)

// TestEveryKindOfWorkloadIsAService: a service is as well as its workload, of whichever kind that is.
func TestEveryKindOfWorkloadIsAService(t *testing.T) {
	meta := func(name string) metav1.ObjectMeta {
		return metav1.ObjectMeta{Name: name, Generation: 2, Labels: map[string]string{labelProject: "shop", labelService: "one"}}
	}
	template := corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: meta("").Labels, Annotations: map[string]string{annotationRevision: "4"}}}
	ready := func(p *corev1.Pod) {
		p.Status.ContainerStatuses = []corev1.ContainerStatus{{Ready: true, State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{}}}}
	}
	ended := func(p *corev1.Pod) {
		p.Status.ContainerStatuses = []corev1.ContainerStatus{{State: corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{}}}}
	}
	of := func(job string, change func(*corev1.Pod)) corev1.Pod {
		p := corev1.Pod{ObjectMeta: *template.ObjectMeta.DeepCopy()}
		p.Name = "pod-" + job
		if job != "" {
			p.Labels[batchv1.JobNameLabel] = job
		}
		change(&p)
		return p
	}
	job := func(name string, made time.Time, condition batchv1.JobConditionType, message string) *batchv1.Job {
		j := &batchv1.Job{ObjectMeta: meta(name), Spec: batchv1.JobSpec{Template: template}}
		j.CreationTimestamp = metav1.NewTime(made)
		if condition != "" {
			j.Status.Conditions = []batchv1.JobCondition{{Type: condition, Status: corev1.ConditionTrue, Message: message}}
		}
		return j
	}
	preparing := job("one-prepare", began.Add(time.Hour), batchv1.JobFailed, "of another")
	preparing.Labels[labelComponent] = preparation
	two := int32(2)
	for name, c := range map[string]struct {
		objects []Object
		pods    []corev1.Pod
		state   string
		want    int
		reason  string
	}{
		"stateful, all new": {[]Object{&appsv1.StatefulSet{
			ObjectMeta: meta("one"), Spec: appsv1.StatefulSetSpec{Replicas: &two, Template: template}, Status: appsv1.StatefulSetStatus{ObservedGeneration: 2, UpdatedReplicas: 2},
		}}, []corev1.Pod{of("", ready), of("", ready)}, engine.ServiceHealthy, 2, ""},
		"stateful, one of before": {[]Object{&appsv1.StatefulSet{
			ObjectMeta: meta("one"), Spec: appsv1.StatefulSetSpec{Replicas: &two, Template: template}, Status: appsv1.StatefulSetStatus{ObservedGeneration: 2, UpdatedReplicas: 1},
		}}, []corev1.Pod{of("", ready), of("", ready)}, engine.ServiceStarting, 2, ""},
		"on every node": {[]Object{&appsv1.DaemonSet{
			ObjectMeta: meta("one"), Spec: appsv1.DaemonSetSpec{Template: template},
			Status: appsv1.DaemonSetStatus{ObservedGeneration: 2, DesiredNumberScheduled: 2, UpdatedNumberScheduled: 2},
		}}, []corev1.Pod{of("", ready), of("", ready)}, engine.ServiceHealthy, 2, ""},
		"the nodes are not counted yet": {[]Object{&appsv1.DaemonSet{
			ObjectMeta: meta("one"), Spec: appsv1.DaemonSetSpec{Template: template}, Status: appsv1.DaemonSetStatus{ObservedGeneration: 1},
		}}, nil, engine.ServiceStarting, 1, ""},
		"a job runs":    {[]Object{job("j", began, "", "")}, []corev1.Pod{of("j", ready)}, engine.ServiceHealthy, 1, ""},
		"a job is done": {[]Object{job("j", began, batchv1.JobComplete, ""), preparing}, []corev1.Pod{of("j", ended)}, engine.ServiceCompleted, 1, ""},
		"a job is given up": {
			[]Object{job("j", began, batchv1.JobFailed, "backoff limit")}, nil, engine.ServiceFailed, 1, "backoff limit"},
		"the job of before is done": {
			[]Object{job("old", began, batchv1.JobComplete, ""), job("new", began.Add(time.Minute), "", "")},
			[]corev1.Pod{of("old", ended)}, engine.ServiceStarting, 1, ""},
	} {
		t.Run(name, func(t *testing.T) {
			s := Read(state.Revision{}, Live{Objects: c.objects, Pods: c.pods})
			if len(s.Services) != 1 {
				t.Fatalf("%d services: %+v", len(s.Services), s.Services)
			}
			got := s.Services[0]
			if got.Name != "one" || got.State != c.state || got.Want != c.want || got.Reason != c.reason || got.Revision != 4 {
				t.Errorf("%+v, want %s of %d, %q", got, c.state, c.want, c.reason)
			}
		})
	}
}
