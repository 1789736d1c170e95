package kubernetes

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"trellis/engine"
	"trellis/state"
)

var began = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

// pod is one of a Deployment's, running and ready; change makes it something else.
func pod(d *appsv1.Deployment, name string, change func(*corev1.Pod)) corev1.Pod {
	p := corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: d.Spec.Template.Labels, Annotations: d.Spec.Template.Annotations},
		Spec:       d.Spec.Template.Spec,
		Status: corev1.PodStatus{PodIP: "10.0.0.9", ContainerStatuses: []corev1.ContainerStatus{{
			Image: "i", ContainerID: "containerd://abc", Ready: true,
			State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{StartedAt: metav1.NewTime(began)}},
		}}},
	}
	if change != nil {
		change(&p)
	}
	return p
}

// TestWhatIsRenderedIsReadBack: the objects of a project, carried out by an obedient cluster, are that project healthy.
func TestWhatIsRenderedIsReadBack(t *testing.T) {
	p := shop(t)
	live := Live{Objects: renderAs(t, p, nil, 7)}
	for _, d := range deployments(live.Objects) {
		want := int32(1)
		if d.Spec.Replicas != nil {
			want = *d.Spec.Replicas
		}
		d.Generation, d.Status = 1, appsv1.DeploymentStatus{ObservedGeneration: 1, UpdatedReplicas: want, ReadyReplicas: want}
		for n := range want {
			live.Pods = append(live.Pods, pod(d, d.Name+"-"+string('a'+n), nil))
		}
		live.Pods = append(live.Pods, pod(d, d.Name+"-over", func(p *corev1.Pod) {
			p.DeletionTimestamp = &metav1.Time{Time: began}
			p.Status.ContainerStatuses[0].State = corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{}}
		}))
	}
	s := Read(state.Revision{Number: 8, Project: p, Outcome: state.Healthy}, live)
	if len(engine.Diff(p, s)) > 0 {
		t.Errorf("what is read differs from what was rendered: %v", engine.Diff(p, s))
	}
	for _, svc := range s.Services {
		want := engine.Replicas(p.Services[svc.Name])
		if svc.State != engine.ServiceHealthy || svc.Want != want || svc.Ready != want || len(svc.Instances) != want || svc.Revision != 7 {
			t.Errorf("service %+v, want %d healthy ones of revision 7", svc, want)
		}
	}
	first := s.Services[0].Instances[0]
	want := engine.Instance{
		ID: "api-a", Driver: "kubernetes", Container: "abc", State: engine.InstanceReady, Ready: true, Address: "10.0.0.9:8080",
		Revision: 7, StartedAt: began,
	}
	if d := cmp.Diff(want, first); d != "" {
		t.Errorf("instance (-want +got):\n%s", d)
	}
}

// TestStateIDFollowsWhatIsWanted: a Deployment that somebody edits is another state, a pod that comes and goes is not.
func TestStateIDFollowsWhatIsWanted(t *testing.T) {
	p := shop(t)
	rev := state.Revision{Number: 1, Project: p}
	live := Live{Objects: renderAs(t, p, nil, 1)}
	before := Read(rev, live).ID
	live.Pods = append(live.Pods, pod(deployments(live.Objects)[0], "x", nil))
	if Read(rev, live).ID != before {
		t.Error("a pod changed what is wanted")
	}
	deployments(live.Objects)[0].Generation++
	if Read(rev, live).ID == before {
		t.Error("an edit did not change what is wanted")
	}
}

func waiting(reason, message string) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		c := &p.Status.ContainerStatuses[0]
		c.Ready, c.State = false, corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: reason, Message: message}}
		c.RestartCount, c.LastTerminationState.Terminated = 4, &corev1.ContainerStateTerminated{ExitCode: 3, FinishedAt: metav1.NewTime(began)}
	}
}

func TestTroubleInComposeTerms(t *testing.T) {
	p := shop(t)
	d := deployments(renderAs(t, p, nil, 1))[2]
	unready := func(at time.Time) func(*corev1.Pod) {
		return func(p *corev1.Pod) {
			p.Status.ContainerStatuses[0].Ready = false
			p.Status.Conditions = []corev1.PodCondition{{Type: corev1.ContainersReady, Status: corev1.ConditionFalse, LastTransitionTime: metav1.NewTime(at)}}
		}
	}
	notReady := func(reason string) func(*corev1.Pod) { // but its containers are, as far as anybody has heard
		return func(p *corev1.Pod) {
			p.Spec.NodeName = "n1"
			p.Status.Conditions = []corev1.PodCondition{
				{Type: corev1.ContainersReady, Status: corev1.ConditionTrue}, {Type: corev1.PodReady, Status: corev1.ConditionFalse, Reason: reason},
			}
		}
	}
	for name, c := range map[string]struct {
		change   func(*corev1.Pod)
		failed   bool
		service  string
		instance string
		reason   string
	}{
		"ready":     {nil, false, engine.ServiceHealthy, engine.InstanceReady, ""},
		"starting":  {unready(began.Add(-time.Second)), false, engine.ServiceStarting, engine.InstanceStarting, ""},
		"unready":   {unready(began.Add(time.Minute)), false, engine.ServiceStarting, engine.InstanceUnready, ""},
		"node lost": {notReady(""), false, engine.ServiceStarting, engine.InstanceUnready, "its node n1 does not answer: nobody knows how it is"},
		"node lost, data": {func(p *corev1.Pod) {
			notReady("")(p)
			controller := true
			p.OwnerReferences = []metav1.OwnerReference{{Kind: "StatefulSet", Controller: &controller}}
		}, false, engine.ServiceStarting, engine.InstanceUnready, "its node n1 does not answer: nobody knows how it is, and nothing may write its volume meanwhile; " +
			"is the node off for good, 'kubectl taint node n1 node.kubernetes.io/out-of-service=nodeshutdown:NoExecute' has it replaced"},
		"held by others": {notReady("ReadinessGatesNotReady"), false, engine.ServiceHealthy, engine.InstanceReady, ""},
		"crashes":        {waiting("CrashLoopBackOff", "back-off"), false, engine.ServiceCrashLooping, engine.InstancePending, "crashes again and again: exit code 3"},
		"no image":       {waiting("ImagePullBackOff", "not found"), false, engine.ServiceStarting, engine.InstancePending, "its image i cannot be had: not found"},
		"not created":    {waiting("CreateContainerConfigError", "no user"), false, engine.ServiceStarting, engine.InstancePending, "its container cannot be started: no user"},
		"given up":       {waiting("ImagePullBackOff", "not found"), true, engine.ServiceFailed, engine.InstancePending, "its image i cannot be had: not found"},
		"given up early": {nil, true, engine.ServiceHealthy, engine.InstanceReady, ""},
		"unschedulable":  {unschedulable, false, engine.ServiceStarting, engine.InstancePending, "no node takes it: too little memory"},
		"out of memory": {func(p *corev1.Pod) {
			waiting("CrashLoopBackOff", "")(p)
			p.Status.ContainerStatuses[0].LastTerminationState.Terminated.Reason = "OOMKilled"
		}, false, engine.ServiceCrashLooping, engine.InstancePending, "crashes again and again: it ran out of memory"},
		"leaving": {func(p *corev1.Pod) {
			p.DeletionTimestamp = &metav1.Time{Time: began}
		}, false, engine.ServiceStarting, engine.InstanceDraining, ""},
		"ended": {func(p *corev1.Pod) {
			p.Status.ContainerStatuses[0].Ready = false
			p.Status.ContainerStatuses[0].State = corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{ExitCode: 1}}
		}, false, engine.ServiceStarting, engine.InstanceExited, ""},
	} {
		t.Run(name, func(t *testing.T) {
			one := d.DeepCopy()
			one.Status = appsv1.DeploymentStatus{UpdatedReplicas: 1}
			if c.failed {
				one.Status.Conditions = []appsv1.DeploymentCondition{{Type: appsv1.DeploymentProgressing, Status: corev1.ConditionFalse, Reason: "ProgressDeadlineExceeded"}}
			}
			live := Live{Objects: []Object{one}, Pods: []corev1.Pod{pod(one, "p", c.change)}}
			s := Read(state.Revision{Project: p}, live).Services[0]
			if s.State != c.service || s.Instances[0].State != c.instance || s.Reason != c.reason {
				t.Errorf("%s, instance %s, %q; want %s, %s, %q", s.State, s.Instances[0].State, s.Reason, c.service, c.instance, c.reason)
			}
		})
	}
}

func unschedulable(p *corev1.Pod) {
	p.Status = corev1.PodStatus{Conditions: []corev1.PodCondition{{Type: corev1.PodScheduled, Status: corev1.ConditionFalse, Message: "too little memory"}}}
}

// TestWhatKeepsAReplicaFromStarting: of a pod whose own steps before the start fail it is said which and how, and what it wrote.
func TestWhatKeepsAReplicaFromStarting(t *testing.T) {
	crash := corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{ExitCode: 3}}
	waits := func(reason, message string) corev1.ContainerState {
		return corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: reason, Message: message}}
	}
	for name, test := range map[string]struct {
		init    corev1.ContainerStatus
		why     string
		looping bool
	}{
		"it fails again and again": {
			corev1.ContainerStatus{Name: "pre-start-2", State: waits("CrashLoopBackOff", "back-off"), LastTerminationState: crash, RestartCount: 3},
			"its pre_start[1] fails again and again: exit code 3", true,
		},
		"it has no image": {corev1.ContainerStatus{Name: "pre-start-1", Image: "prepare:1", State: waits("ImagePullBackOff", "not there")}, "its image prepare:1 cannot be had: not there", false},
		"it is another's": {corev1.ContainerStatus{Name: "istio-init", State: waits("CrashLoopBackOff", ""), LastTerminationState: crash}, "its init container istio-init fails again and again: exit code 3", true},
		"its service is called so": {
			corev1.ContainerStatus{Name: "pre-start-1-before", State: waits("CrashLoopBackOff", "back-off"), LastTerminationState: crash, RestartCount: 3},
			"its pre_start[0] fails again and again: exit code 3", true,
		},
		"it runs":           {corev1.ContainerStatus{Name: "pre-start-1", State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{}}}, "", false},
		"it has ended well": {corev1.ContainerStatus{Name: "pre-start-1", Ready: true, State: corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{}}}, "", false},
	} {
		t.Run(name, func(t *testing.T) {
			pod := corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "web-1", Labels: map[string]string{labelService: "web"}}}
			pod.Status.InitContainerStatuses = []corev1.ContainerStatus{test.init}
			pod.Status.ContainerStatuses = []corev1.ContainerStatus{{Name: "web", State: waits("PodInitializing", "")}}
			if why, looping := trouble(pod); why != test.why || looping != test.looping {
				t.Errorf("%q, looping %v", why, looping)
			}
			s, client := cluster(t)
			s.before = func(w http.ResponseWriter, r *http.Request) bool {
				if !strings.HasSuffix(r.URL.Path, "/log") {
					return false
				}
				w.Header().Set("Content-Type", "text/plain")
				fmt.Fprintln(w, "2026-01-02T03:04:05.6Z output of", r.URL.Query().Get("container"))
				return true
			}
			state := engine.State{Services: []engine.Service{{Name: "web", State: engine.ServiceStarting, Instances: []engine.Instance{}}}}
			client.enrich(t.Context(), &state, Live{Pods: []corev1.Pod{pod}})
			want := []string{"output of "}
			if test.why != "" && test.looping {
				want = []string{"output of " + test.init.Name}
			}
			if got := state.Services[0].LastLog; !cmp.Equal(got, want) {
				t.Errorf("it wrote %q, want %q", got, want)
			}
		})
	}
}
