package kubernetes

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"trellis/compose"
	"trellis/engine"
)

const (
	// leaseSeconds is how long the cluster's control plane may be silent until another one takes over; client-go's default.
	leaseSeconds = 15
	// progressSeconds is what a rollout gets beyond its probes until it has failed, as the local engine gives it.
	progressSeconds = 60
)

// kind is what runs the pods of a service.
type kind int

const (
	deployment kind = iota
	statefulSet
	daemonSet
	job
)

// String is a kind as the API calls it.
func (k kind) String() string { return [...]string{"Deployment", "StatefulSet", "DaemonSet", "Job"}[k] }

// kindOf says what runs a service: a Job what is awaited to complete or never started again, a DaemonSet what runs once a
// node, a StatefulSet what owns a volume that two pods must not write, a Deployment anything else.
func (r *renderer) kindOf(svc compose.Service) kind {
	condition, _ := restart(svc)
	switch {
	case svc.Deploy.Mode == "global":
		return daemonSet
	case condition == "none", condition == "" && r.awaited[svc.Name], condition == "on-failure" && !serves(svc):
		return job
	case r.owns(svc):
		return statefulSet
	}
	return deployment
}

// restart returns the condition that the file gives for starting a service again ("" for none: none, on-failure, any),
// and how often, where that is bounded.
func restart(svc compose.Service) (condition string, attempts *int) {
	if p := svc.Deploy.RestartPolicy; p != nil {
		return cmp.Or(p.Condition, "any"), p.MaxAttempts
	}
	word, count, _ := strings.Cut(svc.Restart, ":")
	switch word {
	case "no":
		return "none", nil
	case "on-failure":
		if n, err := strconv.Atoi(count); err == nil {
			return word, &n
		}
		return word, nil
	case "always", "unless-stopped":
		return "any", nil
	}
	return "", nil
}

// serves says whether others reach a service, or ask how it is.
func serves(svc compose.Service) bool {
	return len(svc.Ports) > 0 || len(svc.Expose) > 0 || svc.Trellis.Probe != nil || svc.Healthcheck != nil || svc.Deploy.Trellis.Autoscale != nil
}

// owns says whether a service's pods have data of their own: the volume of its single replica, or volumes without a name.
func (r *renderer) owns(svc compose.Service) bool {
	if slices.ContainsFunc(svc.Volumes, anonymous) {
		return true
	}
	if engine.Replicas(svc) > 1 || svc.Deploy.UpdateConfig != nil && svc.Deploy.UpdateConfig.Order == compose.StartFirst {
		return false
	}
	return slices.ContainsFunc(svc.Volumes, func(m compose.Mount) bool {
		return !m.ReadOnly && (m.Type == compose.MountVolume || r.claims(svc, m))
	})
}

func anonymous(m compose.Mount) bool { return m.Type == compose.MountVolume && m.Source == "" }

// workload renders what runs the pods of a service, and what they need.
func (r *renderer) workload(svc compose.Service) {
	k := r.kindOf(svc)
	t, claims := r.podTemplate(svc, k)
	hash := r.stamp(&t, svc, k)
	switch k {
	case job:
		r.add(r.job(svc, t, hash))
	case daemonSet:
		r.add(r.daemonSet(svc, t))
	case statefulSet:
		r.add(r.statefulSet(svc, t, claims))
	default:
		r.add(r.deployment(svc, t))
	}
	if k == deployment || k == statefulSet {
		r.scaling(svc, k)
	}
	r.checkRestart(svc, k)
}

// checkRestart says where Kubernetes starts a program again otherwise than the file says.
func (r *renderer) checkRestart(svc compose.Service, k kind) {
	condition, _ := restart(svc)
	path := at(svc, "restart")
	if svc.Deploy.RestartPolicy != nil {
		if svc.Restart != "" {
			r.note(path, "has no effect: deploy.restart_policy stands beside it, and holds")
		}
		path = at(svc, "deploy.restart_policy")
	}
	switch {
	case k == job && condition != "none" && condition != "on-failure" && condition != "":
		r.note(path, "is changed: %s is awaited to complete, and so is a Job, which is started again only after a failure", svc.Name)
	case k == daemonSet && condition != "any" && condition != "":
		r.note(path, "is changed: what runs on each node is always started again")
	case (k == deployment || k == statefulSet) && condition == "on-failure":
		r.note(path, "is changed: a service that others reach is started again whatever its exit code")
	}
	if p := svc.Deploy.RestartPolicy; p != nil && p.MaxAttempts != nil && k != job {
		r.note(path+".max_attempts", "has no effect: what is to serve is started again however often it ends")
	}
	if k == job && svc.Deploy.Replicas != nil && *svc.Deploy.Replicas > 1 {
		r.note(at(svc, "deploy.replicas"), "is changed: so many pods of the Job have to complete")
	}
}

// stamp makes a pod template part of the mesh and marks it with its hash, and with the revision that asked for it: that of a live one, or of a pod that
// still runs, if that is the same and of the same kind. So who goes back from a revision that failed keeps the pods that were well all along. It
// returns the hash.
func (r *renderer) stamp(t *corev1.PodTemplateSpec, svc compose.Service, k kind) string {
	if follows := r.follows(svc); follows != "" {
		t.Annotations = with(t.Annotations, annotationFollows, follows)
	}
	restarts := r.opt.Overrides[svc.Name].Restart
	if restarts > 0 && k == job { // what has run to its end is run again as another Job
		t.Annotations = with(t.Annotations, annotationRestart, strconv.FormatInt(restarts, 10))
	}
	hashOf := func(t corev1.PodTemplateSpec) string {
		made := mustJSON(t)
		if policy, completions := runs(svc); k == job && (policy != corev1.RestartPolicyNever || completions != 1) { // which no apply changes of a Job either
			made = append(made, fmt.Sprint(policy, completions)...)
		}
		sum := sha256.Sum256(made)
		return hex.EncodeToString(sum[:8])
	}
	if k == job {
		*t = r.joined(svc, *t, func(t corev1.PodTemplateSpec) string { return r.jobName(svc, hashOf(t)) })
	} else {
		r.memberOf(&t.ObjectMeta, joins(svc))
	}
	hash := hashOf(*t)
	r.templates[svc.Name] = hash
	if r.opt.Revision == 0 {
		return hash
	}
	revision := strconv.FormatInt(r.opt.Revision, 10)
	for _, o := range r.live {
		was := templateOf(o)
		if was != nil && k.made(o) && serviceOf(o) == svc.Name && was.Annotations[annotationHash] == hash && was.Annotations[annotationRevision] != "" {
			revision = was.Annotations[annotationRevision]
		}
	}
	t.Annotations = with(with(t.Annotations, annotationRevision, revision), annotationHash, hash)
	if restarts > 0 {
		t.Annotations = with(t.Annotations, annotationRestart, strconv.FormatInt(restarts, 10))
	}
	return hash
}

// made says whether an object is a workload of that kind, or a pod of one.
func (k kind) made(o Object) bool {
	is := job
	switch o := o.(type) {
	case *corev1.Pod:
		return madeBy(o, k.String())
	case *appsv1.Deployment:
		is = deployment
	case *appsv1.StatefulSet:
		is = statefulSet
	case *appsv1.DaemonSet:
		is = daemonSet
	case *batchv1.Job:
	default:
		return false
	}
	return is == k
}

// follows returns what changes when a service does that svc is started again with, "" for none.
func (r *renderer) follows(svc compose.Service) string {
	var all []string
	for _, name := range slices.Sorted(maps.Keys(svc.DependsOn)) {
		if svc.DependsOn[name].Restart && r.templates[name] != "" {
			all = append(all, r.templates[name])
		}
	}
	if all == nil {
		return ""
	}
	return short(all...)
}

// templateOf returns the pods that a workload makes, nil for what is none. A pod stands for itself.
func templateOf(o Object) *corev1.PodTemplateSpec {
	switch o := o.(type) {
	case *appsv1.Deployment:
		return &o.Spec.Template
	case *appsv1.StatefulSet:
		return &o.Spec.Template
	case *appsv1.DaemonSet:
		return &o.Spec.Template
	case *batchv1.Job:
		return &o.Spec.Template
	case *corev1.Pod:
		return &corev1.PodTemplateSpec{ObjectMeta: o.ObjectMeta}
	}
	return nil
}

func with(m map[string]string, key, value string) map[string]string {
	if m == nil {
		m = map[string]string{}
	}
	m[key] = value
	return m
}

func mustJSON(v any) []byte {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err) // plain data
	}
	return b
}

// workloadMeta is that of a workload: deploy.labels, whose values may be anything, are its annotations.
func (r *renderer) workloadMeta(svc compose.Service, name string) metav1.ObjectMeta {
	m := r.meta(svc, name)
	m.Annotations = r.annotated(m.Annotations, svc.Deploy.Labels, at(svc, "deploy.labels"))
	return m
}

// replicas returns how many are asked for of a service; nil beside an autoscaler: two owners of one number would undo each
// other. An autoscaler leaves a service alone that has none.
func (r *renderer) replicas(svc compose.Service) *int32 {
	o := r.opt.Overrides[svc.Name]
	switch {
	case o.Stopped:
		return new(int32)
	case r.autoscaled(svc):
		return nil
	case o.Replicas != nil:
		return pointer(clamp(*o.Replicas))
	}
	return pointer(clamp(engine.Replicas(svc)))
}

func clamp(n int) int32 { return int32(max(0, min(n, math.MaxInt32))) }

// minReady is how long a new pod is watched before the next one is replaced.
func minReady(svc compose.Service) int32 {
	if u := svc.Deploy.UpdateConfig; u != nil {
		return seconds(max(u.Monitor.Or(0), u.Delay.Or(0)))
	}
	return 0
}

func (r *renderer) deployment(svc compose.Service, t corev1.PodTemplateSpec) *appsv1.Deployment {
	name := r.names.of[svc.Name]
	d := &appsv1.Deployment{
		TypeMeta:   metav1.TypeMeta{APIVersion: "apps/v1", Kind: "Deployment"},
		ObjectMeta: r.workloadMeta(svc, name),
		Spec: appsv1.DeploymentSpec{
			Replicas: r.replicas(svc), Selector: &metav1.LabelSelector{MatchLabels: r.selector(svc.Name)}, Template: t,
			Strategy: strategy(svc), MinReadySeconds: minReady(svc),
		},
	}
	if r.opt.Revision != 0 {
		d.Spec.RevisionHistoryLimit = new(int32) // revisions are Trellis' own, with secrets and configs
	}
	d.Spec.ProgressDeadlineSeconds = pointer(patience(svc) + d.Spec.MinReadySeconds)
	return d
}

// patience is how many seconds a pod may take until it is ready.
func patience(svc compose.Service) int32 {
	p := engine.Probe(svc)
	return clampSeconds(int64(seconds(p.StartPeriod)) + int64(p.Retries)*int64(seconds(p.Interval)) + progressSeconds)
}

func clampSeconds(n int64) int32 { return int32(min(n, math.MaxInt32/2)) }

func (r *renderer) statefulSet(svc compose.Service, t corev1.PodTemplateSpec, claims []corev1.PersistentVolumeClaim) *appsv1.StatefulSet {
	if u := svc.Deploy.UpdateConfig; u != nil {
		path := at(svc, "deploy.update_config")
		if u.Order == compose.StartFirst {
			r.note(path+".order", "is changed: a pod that has a volume of its own is stopped before the next one starts")
		}
		if n := engine.Replicas(svc); u.Parallelism != nil && *u.Parallelism != 1 && n > 1 {
			r.note(path+".parallelism", "has no effect: pods that have volumes of their own are replaced one after the other")
		}
	}
	return &appsv1.StatefulSet{
		TypeMeta:   metav1.TypeMeta{APIVersion: "apps/v1", Kind: "StatefulSet"},
		ObjectMeta: r.workloadMeta(svc, r.names.of[svc.Name]),
		Spec: appsv1.StatefulSetSpec{
			Replicas: r.replicas(svc), Selector: &metav1.LabelSelector{MatchLabels: r.selector(svc.Name)}, Template: t,
			ServiceName: r.governing(svc), VolumeClaimTemplates: claims, MinReadySeconds: minReady(svc),
			// Replicas of Compose do not wait for each other, and one that does not become ready is replaced like any other.
			PodManagementPolicy: appsv1.ParallelPodManagement,
		},
	}
}

func (r *renderer) daemonSet(svc compose.Service, t corev1.PodTemplateSpec) *appsv1.DaemonSet {
	if r.opt.Overrides[svc.Name].Stopped {
		t.Spec.NodeSelector = with(maps.Clone(t.Spec.NodeSelector), labelNowhere, "true")
	}
	d := &appsv1.DaemonSet{
		TypeMeta:   metav1.TypeMeta{APIVersion: "apps/v1", Kind: "DaemonSet"},
		ObjectMeta: r.workloadMeta(svc, r.names.of[svc.Name]),
		Spec: appsv1.DaemonSetSpec{
			Selector: &metav1.LabelSelector{MatchLabels: r.selector(svc.Name)}, Template: t, MinReadySeconds: minReady(svc),
		},
	}
	one, none := step(svc), intstr.FromInt32(0)
	u := &appsv1.RollingUpdateDaemonSet{MaxSurge: &one, MaxUnavailable: &none}
	stopFirst, _ := engine.StopFirst(svc, 1)
	if holdsHostPort(t) && !stopFirst && svc.Deploy.UpdateConfig != nil && svc.Deploy.UpdateConfig.Order == compose.StartFirst {
		r.note(at(svc, "deploy.update_config.order"), "is changed: a pod that has a port of its node is stopped before the next one starts")
	}
	if stopFirst || holdsHostPort(t) {
		u = &appsv1.RollingUpdateDaemonSet{MaxUnavailable: &one}
	}
	d.Spec.UpdateStrategy = appsv1.DaemonSetUpdateStrategy{Type: appsv1.RollingUpdateDaemonSetStrategyType, RollingUpdate: u}
	return d
}

func holdsHostPort(t corev1.PodTemplateSpec) bool {
	return t.Spec.HostNetwork || slices.ContainsFunc(t.Spec.Containers, func(c corev1.Container) bool {
		return slices.ContainsFunc(c.Ports, func(p corev1.ContainerPort) bool { return p.HostPort > 0 })
	})
}

func (r *renderer) jobName(svc compose.Service, hash string) string {
	return r.names.of[svc.Name] + "-" + hash[:10]
}

// job renders what runs to its end. A Job cannot be changed, so its name says what it is: the same one is not run again.
func (r *renderer) job(svc compose.Service, t corev1.PodTemplateSpec, hash string) *batchv1.Job {
	policy, completions := runs(svc)
	t.Spec.RestartPolicy = policy
	limit := int32(0)
	if policy == corev1.RestartPolicyOnFailure {
		limit = math.MaxInt32
		if _, attempts := restart(svc); attempts != nil {
			limit = clamp(*attempts)
		}
	}
	name := r.jobName(svc, hash)
	r.jobs[svc.Name] = name
	j := &batchv1.Job{
		TypeMeta: metav1.TypeMeta{APIVersion: "batch/v1", Kind: "Job"}, ObjectMeta: r.workloadMeta(svc, name),
		Spec: batchv1.JobSpec{BackoffLimit: &limit, Template: t},
	}
	if r.opt.Overrides[svc.Name].Stopped {
		j.Spec.Suspend = pointer(true)
	}
	if completions != 1 {
		j.Spec.Completions, j.Spec.Parallelism = pointer(completions), pointer(completions)
	}
	return j
}

// runs says how what runs to its end does so: whether a pod that fails is started again, and how many have to complete.
func runs(svc compose.Service) (policy corev1.RestartPolicy, completions int32) {
	policy = corev1.RestartPolicyNever
	if condition, _ := restart(svc); condition == "on-failure" || condition == "any" {
		policy = corev1.RestartPolicyOnFailure
	}
	return policy, clamp(engine.Replicas(svc))
}

// step is how many pods are replaced at a time.
func step(svc compose.Service) intstr.IntOrString {
	if u := svc.Deploy.UpdateConfig; u != nil && u.Parallelism != nil {
		if *u.Parallelism <= 0 {
			return intstr.FromString("100%")
		}
		return intstr.FromInt32(clamp(*u.Parallelism))
	}
	return intstr.FromInt32(1)
}

// strategy is deploy.update_config as far as Kubernetes knows it. Start-first never takes an available pod away.
func strategy(svc compose.Service) appsv1.DeploymentStrategy {
	replicas := engine.Replicas(svc)
	batch, none := step(svc), intstr.FromInt32(0)
	stopFirst, _ := engine.StopFirst(svc, replicas)
	switch {
	case stopFirst && replicas <= 1:
		return appsv1.DeploymentStrategy{Type: appsv1.RecreateDeploymentStrategyType}
	case stopFirst:
		return appsv1.DeploymentStrategy{
			Type: appsv1.RollingUpdateDeploymentStrategyType, RollingUpdate: &appsv1.RollingUpdateDeployment{MaxSurge: &none, MaxUnavailable: &batch},
		}
	}
	return appsv1.DeploymentStrategy{
		Type: appsv1.RollingUpdateDeploymentStrategyType, RollingUpdate: &appsv1.RollingUpdateDeployment{MaxSurge: &batch, MaxUnavailable: &none},
	}
}

// account is whom the pods of a service run as towards the cluster: nobody who may do anything, and without a token.
func (r *renderer) account(svc compose.Service) *corev1.ServiceAccount {
	a := &corev1.ServiceAccount{
		TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "ServiceAccount"}, ObjectMeta: r.meta(svc, r.names.of[svc.Name]),
		AutomountServiceAccountToken: new(bool),
	}
	for _, name := range r.opt.PullSecrets {
		a.ImagePullSecrets = append(a.ImagePullSecrets, corev1.LocalObjectReference{Name: name})
	}
	return a
}

// lease is what the control plane holds while it serves; its holder is the election's, not ours.
func (r *renderer) lease() *coordinationv1.Lease {
	m := r.meta(compose.Service{}, cleaned("trellis-"+r.p.Name, maxName))
	m.Labels[labelComponent] = controlPlane
	return &coordinationv1.Lease{
		TypeMeta: metav1.TypeMeta{APIVersion: "coordination.k8s.io/v1", Kind: "Lease"}, ObjectMeta: m,
		Spec: coordinationv1.LeaseSpec{LeaseDurationSeconds: pointer(int32(leaseSeconds))},
	}
}
