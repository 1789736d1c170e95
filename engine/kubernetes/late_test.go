package kubernetes

import (
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"trellis/compose"
	"trellis/state"
)

// TestLate: pods of a StatefulSet that replace others, run, and do not become ready have failed after as long as a Deployment's, of which
// the cluster says so itself; each one that does begins the time anew, and one of an earlier revision is no failure of this one. Nor does one
// wait for ever that no node takes.
func TestLate(t *testing.T) {
	one := record{rollouts: []state.Rollout{{Revision: 2, Service: "db", From: 1, Phase: state.Rolling}}}
	one.Revision = state.Revision{Number: 2, Project: compose.Project{Name: "shop", Services: map[string]compose.Service{"db": {Name: "db", Image: "db:2"}}}}
	template := corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{
		Labels: map[string]string{labelProject: "shop", labelService: "db"}, Annotations: map[string]string{annotationRevision: "2"},
	}}
	set := &appsv1.StatefulSet{
		ObjectMeta: metav1.ObjectMeta{Name: "db", Labels: template.Labels}, Spec: appsv1.StatefulSetSpec{Replicas: pointer(int32(2)), Template: template},
	}
	pod := func(name, revision string, ready bool) corev1.Pod {
		return corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Name: name, Labels: template.Labels, Annotations: map[string]string{annotationRevision: revision}},
			Status: corev1.PodStatus{ContainerStatuses: []corev1.ContainerStatus{{
				Name: "db", Ready: ready, State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{}},
			}}},
		}
	}
	w := watching(nil)
	w.stuck, w.late = map[string]time.Time{}, map[string]lateness{}
	failed := func(pods ...corev1.Pod) string {
		live := Live{Objects: []Object{set}, Pods: pods}
		service, why := w.failure([]record{one}, Read(one.Revision, live), live)
		if service != "" && service != "db" {
			t.Errorf("%s fails", service)
		}
		return why
	}
	older := func(d time.Duration) {
		for name, l := range w.late {
			l.since = l.since.Add(-d)
			w.late[name] = l
		}
	}
	untaken := pod("db-0", "2", false)
	untaken.Status = corev1.PodStatus{Conditions: []corev1.PodCondition{{Type: corev1.PodScheduled, Status: corev1.ConditionFalse, Message: "too little memory"}}}
	const whole = progressSeconds * time.Second
	for _, step := range []struct {
		what   string
		passed time.Duration
		pods   []corev1.Pod
		want   string
	}{
		{"the one before ends first", 0, []corev1.Pod{pod("db-0", "1", true)}, ""},
		{"it starts", 2 * whole, []corev1.Pod{pod("db-0", "2", false)}, ""},
		{"it takes a while", whole / 2, []corev1.Pod{pod("db-0", "2", false)}, ""},
		{"one is ready", whole, []corev1.Pod{pod("db-0", "2", true), pod("db-1", "2", false)}, ""},
		{"the other takes a while", whole / 2, []corev1.Pod{pod("db-0", "2", true), pod("db-1", "2", false)}, ""},
		{"too long", whole, []corev1.Pod{pod("db-0", "2", true), pod("db-1", "2", false)}, "is not ready after 1m0s"},
		{"it is", 0, []corev1.Pod{pod("db-0", "2", true), pod("db-1", "2", true)}, ""},
		{"and is not later", 0, []corev1.Pod{pod("db-0", "2", true), pod("db-1", "2", false)}, ""},
		{"no node takes the next one", 0, []corev1.Pod{untaken}, ""},
		{"nor in all of its time", whole + time.Second, []corev1.Pod{untaken}, "no node takes it: too little memory"},
		{"those of before are not", 2 * whole, []corev1.Pod{pod("db-0", "1", false), pod("db-1", "1", false)}, ""},
	} {
		older(step.passed)
		if got := failed(step.pods...); got != step.want {
			t.Errorf("%s: %q, want %q", step.what, got, step.want)
		}
	}
	refused := func() (why string) {
		live := Live{Objects: []Object{set}, Pods: []corev1.Pod{pod("db-0", "1", true)}, Refused: map[string]string{"db": "its pods are refused: no room"}}
		_, why = w.failure([]record{one}, Read(one.Revision, live), live)
		return why
	}
	if got := refused(); got != "" {
		t.Errorf("refused a moment ago: %q", got)
	}
	older(whole + time.Second)
	if got := refused(); got != "its pods are refused: no room" {
		t.Errorf("refused in all of its time: %q", got)
	}
	one.rollouts = nil
	for range 2 {
		if got := failed(pod("db-0", "2", false)); got != "" {
			t.Errorf("the first ones of a service: %q", got)
		}
		older(2 * whole)
	}
}

// TestLateOnEachNode: the pods of what runs on each node have as long, and those on a node that is lost say nothing of their revision.
func TestLateOnEachNode(t *testing.T) {
	one := record{rollouts: []state.Rollout{{Revision: 2, Service: "agent", From: 1, Phase: state.Rolling}}}
	one.Revision = state.Revision{Number: 2, Project: compose.Project{Name: "shop", Services: map[string]compose.Service{"agent": {Name: "agent", Image: "agent:2"}}}}
	labels := map[string]string{labelProject: "shop", labelService: "agent"}
	template := corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels, Annotations: map[string]string{annotationRevision: "2"}}}
	set := &appsv1.DaemonSet{ObjectMeta: metav1.ObjectMeta{Name: "agent", Labels: labels}, Spec: appsv1.DaemonSetSpec{Template: template}}
	pod := func(name string, conditions ...corev1.PodCondition) corev1.Pod {
		return corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Name: name, Labels: labels, Annotations: template.Annotations}, Spec: corev1.PodSpec{NodeName: "n1"},
			Status: corev1.PodStatus{Conditions: conditions, ContainerStatuses: []corev1.ContainerStatus{{
				Name: "agent", Ready: len(conditions) > 0, State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{}},
			}}},
		}
	}
	gone := pod("agent-2", corev1.PodCondition{Type: corev1.PodReady, Status: corev1.ConditionFalse}, corev1.PodCondition{Type: corev1.ContainersReady, Status: corev1.ConditionTrue})
	for name, c := range map[string]struct {
		pod  corev1.Pod
		want string
	}{
		"it does not become ready": {pod("agent-1"), "is not ready after 1m0s"},
		"its node is lost":         {gone, ""},
	} {
		w := watching(nil)
		w.stuck, w.late = map[string]time.Time{}, map[string]lateness{}
		live, why := Live{Objects: []Object{set}, Pods: []corev1.Pod{c.pod}}, ""
		for range 2 {
			_, why = w.failure([]record{one}, Read(one.Revision, live), live)
			for service, l := range w.late {
				l.since = l.since.Add(-2 * progressSeconds * time.Second)
				w.late[service] = l
			}
		}
		if why != c.want {
			t.Errorf("%s: %q, want %q", name, why, c.want)
		}
	}
}

// TestDeploymentIsNotGivenUpEarly: where a cluster says that a Deployment makes no progress, its pods have their whole time from when they
// run, however long their image took to come; what does not come at all has failed.
func TestDeploymentIsNotGivenUpEarly(t *testing.T) {
	one := record{Revision: state.Revision{Number: 2, Project: compose.Project{Name: "shop", Services: map[string]compose.Service{"web": {Name: "web", Image: "web:2"}}}}}
	template := corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{
		Labels: map[string]string{labelProject: "shop", labelService: "web"}, Annotations: map[string]string{annotationRevision: "2"},
	}}
	given := &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Name: "web", Labels: template.Labels}, Spec: appsv1.DeploymentSpec{Template: template},
		Status: appsv1.DeploymentStatus{Conditions: []appsv1.DeploymentCondition{{Type: appsv1.DeploymentProgressing, Status: corev1.ConditionFalse, Reason: "ProgressDeadlineExceeded"}}},
	}
	waits := func(reason string) corev1.ContainerState {
		return corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: reason}}
	}
	runs := func(since time.Duration) corev1.ContainerState {
		return corev1.ContainerState{Running: &corev1.ContainerStateRunning{StartedAt: metav1.NewTime(time.Now().Add(-since))}}
	}
	for name, c := range map[string]struct {
		age    time.Duration
		node   string
		state  corev1.ContainerState
		change func(*corev1.Pod)
		fails  bool
	}{
		"its image is pulled":          {3 * time.Minute, "n1", waits("ContainerCreating"), nil, false},
		"what comes before it runs":    {3 * time.Minute, "n1", waits("PodInitializing"), nil, false},
		"the kubelet has said nothing": {3 * time.Minute, "n1", corev1.ContainerState{}, func(p *corev1.Pod) { p.Status.ContainerStatuses = nil }, false},
		"it has just begun":            {3 * time.Minute, "n1", runs(time.Second), nil, false},
		"it had its time":              {3 * time.Minute, "n1", runs(progressSeconds*time.Second + time.Second), nil, true},
		"it is made for too long":      {making + time.Second, "n1", waits("ContainerCreating"), nil, true},
		"there is no image":            {3 * time.Minute, "n1", waits("ImagePullBackOff"), nil, true},
		"no node takes it":             {3 * time.Minute, "", corev1.ContainerState{}, func(p *corev1.Pod) { p.Status.ContainerStatuses = nil }, true},
		"it is of an earlier revision": {3 * time.Minute, "n1", runs(time.Second), func(p *corev1.Pod) { p.Annotations = map[string]string{annotationRevision: "1"} }, true},
	} {
		pod := corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{
				Name: "web-1", Labels: template.Labels, Annotations: template.Annotations, CreationTimestamp: metav1.NewTime(time.Now().Add(-c.age)),
			},
			Spec:   corev1.PodSpec{NodeName: c.node},
			Status: corev1.PodStatus{ContainerStatuses: []corev1.ContainerStatus{{Name: "web", State: c.state}}},
		}
		if c.change != nil {
			c.change(&pod)
		}
		w := watching(nil)
		w.stuck, w.late = map[string]time.Time{}, map[string]lateness{}
		live := Live{Objects: []Object{given}, Pods: []corev1.Pod{pod}, At: time.Now()}
		if service, why := w.failure([]record{one}, Read(one.Revision, live), live); (service != "") != c.fails {
			t.Errorf("%s: %q fails, %q", name, service, why)
		}
	}
}
