package kubernetes

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"trellis/compose"
	"trellis/engine"
	"trellis/state"
)

// Read tells in Compose terms what a cluster says of a project, whose newest revision is rev. It is pure. A port that is open at
// every node has no HostIP yet.
func Read(rev state.Revision, live Live) engine.State {
	s := engine.State{
		Project: rev.Project.Name, Revision: rev.Number, Engine: "kubernetes", Services: []engine.Service{}, ID: stateID(rev, live),
		Desired: &rev.Project, Outcome: rev.Outcome, Settled: rev.Outcome != state.Pending,
	}
	pods := map[string][]corev1.Pod{}
	for _, pod := range live.Pods {
		name := serviceOf(&pod)
		pods[name] = append(pods[name], pod)
	}
	open := opening(live.Objects)
	for _, w := range live.workloads() {
		if w.failed && w.kind == "Deployment" && underWay(pods[w.service], w.revision, rev.Project.Services[w.service], live.At) {
			w.failed = false
		}
		svc := service(w, pods[w.service])
		svc.Autoscale = autoscaleOf(w, live.Objects)
		svc.Ports = append(svc.Ports, openPorts(rev.Project.Services[w.service], open[w.service])...)
		s.Services = append(s.Services, svc)
	}
	slices.SortFunc(s.Services, func(a, b engine.Service) int { return cmp.Compare(a.Name, b.Name) })
	s.Unserved = unserved(rev.Project, live)
	return s
}

// stateID stands for what is wanted: a workload that somebody edits has another generation.
func stateID(rev state.Revision, live Live) engine.StateID {
	h := sha256.New()
	fmt.Fprintln(h, rev.Number)
	for _, w := range live.workloads() {
		fmt.Fprintln(h, w.kind, w.name, w.uid, w.generation)
	}
	return engine.StateID(hex.EncodeToString(h.Sum(nil)[:8]))
}

func service(w workload, pods []corev1.Pod) engine.Service {
	s := engine.Service{Name: w.service, Want: w.want, Ports: []engine.Port{}, Instances: []engine.Instance{}, Revision: w.revision, Reason: w.why}
	slices.SortFunc(pods, func(a, b corev1.Pod) int { return cmp.Compare(a.Name, b.Name) })
	looping, newest := false, 0
	for _, pod := range pods {
		if job := pod.Labels[batchv1.JobNameLabel]; job != "" && job != w.name {
			continue // of the Job of an earlier revision
		}
		one := instance(pod)
		if pod.DeletionTimestamp != nil && one.State == engine.InstanceExited {
			continue // it is over, and its pod about to go
		}
		if one.Ready {
			s.Ready++
			if one.Revision == w.revision && madeBy(&pod, w.kind) {
				newest++
			}
		}
		s.Instances = append(s.Instances, one)
		why, loops := trouble(pod)
		looping = looping || loops
		s.Reason = cmp.Or(s.Reason, why)
	}
	if newest >= s.Want && s.Want > 0 {
		w.failed = w.failed && w.kind != "Deployment" // a controller that is slow has not looked at its pods again since it gave up
	}
	w.current = w.current && newest >= s.Want // what is ready beside a new pod that is not is the one that it replaces
	s.State = stateOf(w, s, looping)
	if s.State == engine.ServiceHealthy || s.State == engine.ServiceStopped || s.State == engine.ServiceCompleted {
		s.Reason = ""
	}
	return s
}

// making is how long a pod may be made at most, its image pulled for one: Kubernetes' own default for the progress of a Deployment.
const making = 10 * time.Minute

// beingMade are the reasons for which a container waits whose pod the kubelet is at work on.
var beingMade = []string{"ContainerCreating", "PodInitializing"}

// underWay says whether pods of a service's revision are still being made, or have run for less time than they have to become ready. The time
// of a Deployment, whose cluster says then that it makes no progress, begins before that.
func underWay(pods []corev1.Pod, revision int64, svc compose.Service, at time.Time) bool {
	limit := time.Duration(patience(svc)+minReady(svc)) * time.Second
	return !at.IsZero() && slices.ContainsFunc(pods, func(pod corev1.Pod) bool {
		if revisionOf(pod.ObjectMeta) != revision || pod.DeletionTimestamp != nil || pod.Spec.NodeName == "" {
			return false
		}
		c := programStatus(&pod)
		switch {
		case c == nil, c.State.Waiting != nil && slices.Contains(beingMade, c.State.Waiting.Reason):
			return at.Sub(pod.CreationTimestamp.Time) < making
		case c.State.Running != nil && !c.Ready:
			return at.Sub(c.State.Running.StartedAt.Time) < limit
		}
		return false
	})
}

// stateOf says how a service is doing. One whose newest template is not yet looked at is not yet healthy.
func stateOf(w workload, s engine.Service, looping bool) string {
	switch {
	case w.stopped && !slices.ContainsFunc(s.Instances, func(in engine.Instance) bool { return in.State != engine.InstanceExited }):
		return engine.ServiceStopped
	case w.completed:
		return engine.ServiceCompleted
	case s.Want == 0:
		return engine.ServiceStopped
	case looping:
		return engine.ServiceCrashLooping
	case w.failed:
		return engine.ServiceFailed
	case s.Ready >= s.Want && w.current:
		return engine.ServiceHealthy
	case s.Ready == 0 || s.Ready >= s.Want:
		return engine.ServiceStarting
	}
	return engine.ServiceDegraded
}

func instance(pod corev1.Pod) engine.Instance {
	one := engine.Instance{
		ID: engine.InstanceID(pod.Name), Driver: "kubernetes", State: engine.InstancePending, Revision: revisionOf(pod.ObjectMeta),
	}
	if pod.Status.PodIP != "" {
		one.Address = pod.Status.PodIP
		if ports := program(&pod).Ports; len(ports) > 0 {
			one.Address = net.JoinHostPort(one.Address, strconv.Itoa(int(ports[0].ContainerPort)))
		}
	}
	c := programStatus(&pod)
	if c == nil {
		return one
	}
	_, one.Container, _ = strings.Cut(c.ContainerID, "://")
	one.Restarts = int(c.RestartCount)
	one.Exit = exitOf(c.LastTerminationState.Terminated)
	switch running := c.State.Running; {
	case c.State.Terminated != nil:
		one.State, one.Exit = engine.InstanceExited, exitOf(c.State.Terminated)
		one.StartedAt = c.State.Terminated.StartedAt.Time
	case running == nil: // waits for its image, or to be started again
	case pod.DeletionTimestamp != nil:
		one.State, one.StartedAt = engine.InstanceDraining, running.StartedAt.Time
	case c.Ready && !forsaken(pod):
		one.State, one.Ready, one.StartedAt = engine.InstanceReady, true, running.StartedAt.Time
	case wasReady(pod, running) || c.Ready:
		one.State, one.StartedAt = engine.InstanceUnready, running.StartedAt.Time
	default:
		one.State, one.StartedAt = engine.InstanceStarting, running.StartedAt.Time
	}
	return one
}

// forsaken says whether the cluster has lost sight of the pod's node. Then it calls the pod not ready, without a reason, and all that
// the kubelet has said of it last stays as it was (markPodsNotReady of the node lifecycle controller).
func forsaken(pod corev1.Pod) bool {
	is := func(kind corev1.PodConditionType, status corev1.ConditionStatus) bool {
		return slices.ContainsFunc(pod.Status.Conditions, func(c corev1.PodCondition) bool {
			return c.Type == kind && c.Status == status && (kind != corev1.PodReady || c.Reason == "")
		})
	}
	return pod.Spec.NodeName != "" && is(corev1.PodReady, corev1.ConditionFalse) && is(corev1.ContainersReady, corev1.ConditionTrue)
}

// nodeless says what is known of a pod whose node the cluster has lost sight of. One of a Deployment is replaced elsewhere in five
// minutes. A StatefulSet's is not while it might still run and write its volume, and somebody has to vouch that it does not: see
// https://kubernetes.io/docs/concepts/cluster-administration/node-shutdown/#non-graceful-node-shutdown.
func nodeless(pod corev1.Pod) string {
	node := pod.Spec.NodeName
	why := fmt.Sprintf("its node %s does not answer: nobody knows how it is", node)
	if owner := metav1.GetControllerOf(&pod); owner != nil && owner.Kind == "StatefulSet" {
		why += fmt.Sprintf(", and nothing may write its volume meanwhile; is the node off for good, 'kubectl taint node %s %s=nodeshutdown:NoExecute' has it replaced", node, corev1.TaintNodeOutOfService)
	}
	return why
}

// wasReady says whether a container that is not ready was so before: its pod became unready after it had started.
func wasReady(pod corev1.Pod, running *corev1.ContainerStateRunning) bool {
	return slices.ContainsFunc(pod.Status.Conditions, func(c corev1.PodCondition) bool {
		return c.Type == corev1.ContainersReady && c.Status == corev1.ConditionFalse && c.LastTransitionTime.After(running.StartedAt.Time)
	})
}

func exitOf(t *corev1.ContainerStateTerminated) *engine.ExitStatus {
	if t == nil {
		return nil
	}
	e := &engine.ExitStatus{Code: int(t.ExitCode), OOM: t.Reason == "OOMKilled", Time: t.FinishedAt.Time}
	if t.Signal != 0 {
		e.Signal = fmt.Sprint("signal ", t.Signal)
	}
	if t.Reason == "ContainerCannotRun" || t.Reason == "StartError" {
		e.Error = t.Message
	}
	return e
}

// trouble says in one sentence what keeps a pod from being ready, and whether it is that it crashes again and again.
func trouble(pod corev1.Pod) (why string, looping bool) {
	if why, is := untaken(pod); is {
		return "no node takes it: " + why, false
	}
	if forsaken(pod) {
		return nodeless(pod), false
	}
	for i, c := range slices.Concat(pod.Status.InitContainerStatuses, pod.Status.ContainerStatuses) {
		w := c.State.Waiting
		if w == nil {
			continue
		}
		switch w.Reason {
		case "CrashLoopBackOff":
			if i < len(pod.Status.InitContainerStatuses) {
				return beforeStart(c) + " fails again and again: " + exitWords(c.LastTerminationState.Terminated), true
			}
			return "crashes again and again: " + exitWords(c.LastTerminationState.Terminated), true
		case "ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull":
			return fmt.Sprintf("its image %s cannot be had: %s", c.Image, w.Message), false
		case "CreateContainerConfigError", "CreateContainerError", "RunContainerError":
			return "its container cannot be started: " + w.Message, false
		}
	}
	return "", false
}

// untaken says whether no node takes a pod, and why.
func untaken(pod corev1.Pod) (why string, is bool) {
	for _, c := range pod.Status.Conditions {
		if c.Type == corev1.PodScheduled && c.Status == corev1.ConditionFalse {
			return c.Message, true
		}
	}
	return "", false
}

// beforeStart names what runs in a pod before its program does.
func beforeStart(c corev1.ContainerStatus) string {
	number, ours := strings.CutPrefix(strings.TrimSuffix(c.Name, besideSuffix), preparation+"-")
	if n, err := strconv.Atoi(number); ours && err == nil {
		return fmt.Sprintf("its pre_start[%d]", n-1)
	}
	return "its init container " + c.Name
}

func exitWords(t *corev1.ContainerStateTerminated) string {
	switch {
	case t == nil:
		return "nothing is known of its last end"
	case t.Reason == "OOMKilled":
		return "it ran out of memory"
	}
	return fmt.Sprintf("exit code %d", t.ExitCode)
}
