package kubernetes

import (
	"maps"
	"strconv"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"trellis/compose"
)

const (
	// planeReplicas are as many as one of which may be missing.
	planeReplicas = 2
	// planeDrain bounds what is in flight when a pod of the data plane is stopped: its own 30 s, and what it takes to close.
	planeDrain = 40
	// planeMemory is what a pod of the data plane may have; the collector is told of a little less.
	planeMemory, planeCollect = "512Mi", "450MiB"

	// HealthPort is where a pod of the data plane says under HealthPath whether it serves.
	HealthPort = 19000
	HealthPath = "/readyz"
	// gatewayPort and securePort are those of the data plane's pods behind the gateway's own.
	gatewayPort = 19080
	securePort  = 19443

	certificatesPath = "/certificates"
)

// planned says whether the project has a data plane of its own in the cluster.
func (r *renderer) planned() bool { return !r.opt.Standalone && r.opt.Image != "" }

// meshed says whether the name of a service leads to the data plane. Where not everyone may reach everyone it does not:
// policies of the cluster are about pods, and whom the data plane speaks for they could not tell.
func (r *renderer) meshed(svc compose.Service) bool {
	return r.planned() && !r.limited && r.throughPlane(svc)
}

// throughPlane says whether a service can be reached through the data plane: its file says at which ports.
func (r *renderer) throughPlane(svc compose.Service) bool {
	return !svc.Provided() && r.kindOf(svc) != job && svc.Deploy.EndpointMode != "dnsrr" && svc.NetworkMode != "none" && len(ports(svc)) > 0
}

func planeName(project string) string { return cleaned("trellis-"+project+"-data-plane", maxName) }

// planeMeta is that of what the data plane consists of.
func (r *renderer) planeMeta() metav1.ObjectMeta {
	m := r.meta(compose.Service{}, planeName(r.p.Name))
	m.Labels = with(m.Labels, labelComponent, dataPlane)
	return m
}

// planeSelector finds the pods of the data plane.
func (r *renderer) planeSelector() map[string]string {
	return map[string]string{labelProject: labelValue(r.p.Name), labelComponent: dataPlane}
}

// plane renders the data plane: its pods, what they may read of the cluster, and what they have to know that the cluster
// does not say.
func (r *renderer) plane() {
	if !r.planned() {
		return
	}
	for _, name := range r.order() {
		if svc := r.p.Services[name]; r.throughPlane(svc) {
			for _, p := range ports(svc) {
				give(r.ports, meshPort{name, p.name})
			}
		}
	}
	certificates := r.frontDoor()
	secret, err := r.plan()
	if err != nil {
		r.refuse("x-trellis", err.Error())
		return
	}
	one := intstr.FromInt32(1)
	r.add(secret, r.ownAccount(r.planeMeta()))
	r.add(r.planeRights(secret.Name)...)
	r.add(r.planeDeployment(certificates), &policyv1.PodDisruptionBudget{
		TypeMeta: metav1.TypeMeta{APIVersion: "policy/v1", Kind: "PodDisruptionBudget"}, ObjectMeta: r.planeMeta(),
		Spec: policyv1.PodDisruptionBudgetSpec{
			MaxUnavailable: &one, Selector: &metav1.LabelSelector{MatchLabels: r.planeSelector()},
			UnhealthyPodEvictionPolicy: pointer(policyv1.AlwaysAllow),
		},
	})
}

// planeRights let the data plane read pods and its own plan, and nothing else.
func (r *renderer) planeRights(secret string) []Object {
	read := []string{"get", "list", "watch"}
	role, binding := r.ownRole(r.planeMeta())
	role.Rules = []rbacv1.PolicyRule{
		{APIGroups: []string{""}, Resources: []string{"pods"}, Verbs: read},
		{APIGroups: []string{""}, Resources: []string{"secrets"}, ResourceNames: []string{secret}, Verbs: read},
	}
	return []Object{role, binding}
}

func (r *renderer) planeDeployment(certificates []string) *appsv1.Deployment {
	one, none := intstr.FromInt32(1), intstr.FromInt32(0)
	meta := r.planeMeta()
	return &appsv1.Deployment{
		TypeMeta: metav1.TypeMeta{APIVersion: "apps/v1", Kind: "Deployment"}, ObjectMeta: meta,
		Spec: appsv1.DeploymentSpec{
			Replicas: pointer(int32(planeReplicas)), Selector: &metav1.LabelSelector{MatchLabels: r.planeSelector()},
			Strategy: appsv1.DeploymentStrategy{
				Type: appsv1.RollingUpdateDeploymentStrategyType, RollingUpdate: &appsv1.RollingUpdateDeployment{MaxSurge: &one, MaxUnavailable: &none},
			},
			RevisionHistoryLimit: new(int32), ProgressDeadlineSeconds: pointer(int32(progressSeconds)),
			Template: corev1.PodTemplateSpec{ObjectMeta: r.ownMember(meta.Labels, r.ownOutside()), Spec: r.planePod(certificates)},
		},
	}
}

// ownMember is the meta of pods of Trellis itself, which are in the mesh, but for ports at which who is not comes to them.
func (r *renderer) ownMember(labels map[string]string, past []int32) metav1.ObjectMeta {
	m := metav1.ObjectMeta{Labels: maps.Clone(labels)}
	r.memberOf(&m, true)
	if in, ok := meshNamed(r.inMesh()); ok {
		for key, value := range in.bypass(listed(past)) {
			m.Annotations = with(m.Annotations, key, value)
		}
	}
	return m
}

// noticesSilence is the environment of Trellis' own pods in which an API server that says nothing any more is noticed within ten seconds,
// not within 45.
func noticesSilence() []corev1.EnvVar {
	return []corev1.EnvVar{{Name: "HTTP2_PING_TIMEOUT_SECONDS", Value: "5"}, {Name: "HTTP2_READ_IDLE_TIMEOUT_SECONDS", Value: "5"}}
}

// ownReadiness is how each of them says that it serves.
func ownReadiness() *corev1.Probe {
	return &corev1.Probe{
		ProbeHandler:  corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{Path: HealthPath, Port: intstr.FromInt32(HealthPort), Scheme: corev1.URISchemeHTTP}},
		PeriodSeconds: 1, TimeoutSeconds: 1, FailureThreshold: 3,
	}
}

// planePod is a pod of the data plane.
func (r *renderer) planePod(certificates []string) corev1.PodSpec {
	memory := resource.MustParse(planeMemory)
	c := corev1.Container{
		Name: dataPlane, Image: r.opt.Image,
		Args:  []string{"proxy", "--cluster", r.p.Name, "--namespace", r.opt.Namespace},
		Env:   append([]corev1.EnvVar{{Name: "GOMEMLIMIT", Value: planeCollect}}, noticesSilence()...),
		Ports: []corev1.ContainerPort{{Name: "health", ContainerPort: HealthPort, Protocol: corev1.ProtocolTCP}},
		Resources: corev1.ResourceRequirements{
			Requests: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("100m"), corev1.ResourceMemory: resource.MustParse("64Mi")},
			Limits:   corev1.ResourceList{corev1.ResourceMemory: memory},
		},
		ReadinessProbe: ownReadiness(),
		Lifecycle:      &corev1.Lifecycle{PreStop: &corev1.LifecycleHandler{Sleep: &corev1.SleepAction{Seconds: unrouteSeconds}}},
	}
	var volumes []corev1.Volume
	for i, name := range certificates {
		volume := "certificate-" + strconv.Itoa(i)
		volumes = append(volumes, corev1.Volume{Name: volume, VolumeSource: corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: name, DefaultMode: pointer(int32(0o444))}}})
		c.VolumeMounts = append(c.VolumeMounts, corev1.VolumeMount{Name: volume, MountPath: certificatesPath + "/" + name, ReadOnly: true})
	}
	pod := r.ownPod(planeName(r.p.Name), c)
	pod.Volumes = append(pod.Volumes, volumes...)
	pod.PriorityClassName, pod.TerminationGracePeriodSeconds = r.opt.PriorityClass, pointer(int64(unrouteSeconds+planeDrain))
	pod.TopologySpreadConstraints = []corev1.TopologySpreadConstraint{{
		MaxSkew: 1, TopologyKey: corev1.LabelHostname, WhenUnsatisfiable: corev1.ScheduleAnyway,
		LabelSelector: &metav1.LabelSelector{MatchLabels: r.planeSelector()},
	}}
	return pod
}

// ownAccount is whom pods of Trellis itself run as.
func (r *renderer) ownAccount(meta metav1.ObjectMeta) *corev1.ServiceAccount {
	account := &corev1.ServiceAccount{
		TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "ServiceAccount"}, ObjectMeta: meta, AutomountServiceAccountToken: new(bool),
	}
	for _, name := range r.opt.PullSecrets {
		account.ImagePullSecrets = append(account.ImagePullSecrets, corev1.LocalObjectReference{Name: name})
	}
	return account
}

// ownRole is an empty Role of the account of that name, and its binding.
func (r *renderer) ownRole(meta metav1.ObjectMeta) (*rbacv1.Role, *rbacv1.RoleBinding) {
	const group = "rbac.authorization.k8s.io"
	return &rbacv1.Role{TypeMeta: metav1.TypeMeta{APIVersion: group + "/v1", Kind: "Role"}, ObjectMeta: meta}, &rbacv1.RoleBinding{
		TypeMeta: metav1.TypeMeta{APIVersion: group + "/v1", Kind: "RoleBinding"}, ObjectMeta: meta,
		RoleRef:  rbacv1.RoleRef{APIGroup: group, Kind: "Role", Name: meta.Name},
		Subjects: []rbacv1.Subject{{Kind: "ServiceAccount", Name: meta.Name, Namespace: r.opt.Namespace}},
	}
}

// bounded says how much of its node's disk a container of Trellis' own takes: it writes logs, of which a kubelet keeps 50 MiB
// (containerLogMaxSize times containerLogMaxFiles, as they come).
func bounded(c *corev1.Container) {
	c.Resources.Requests[corev1.ResourceEphemeralStorage] = resource.MustParse("32Mi")
	c.Resources.Limits[corev1.ResourceEphemeralStorage] = resource.MustParse("128Mi")
}

// nodePatience is how long a pod of Trellis' own stays on a node of which the cluster hears nothing any more, in seconds: where the
// cluster says nothing else it would be 300 (the admission controller DefaultTolerationSeconds).
const nodePatience = 30

// leavesNode has a pod be replaced on another node once the cluster has given up its own for nodePatience.
func leavesNode() []corev1.Toleration {
	var all []corev1.Toleration
	for _, key := range []string{corev1.TaintNodeNotReady, corev1.TaintNodeUnreachable} {
		all = append(all, corev1.Toleration{
			Key: key, Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoExecute, TolerationSeconds: pointer(int64(nodePatience)),
		})
	}
	return all
}

// ownPod is a pod of Trellis itself that asks the API server as an account: as restricted as a cluster can ask for.
func (r *renderer) ownPod(account string, c corev1.Container) corev1.PodSpec {
	const token = "token"
	c.VolumeMounts = append([]corev1.VolumeMount{{Name: token, MountPath: tokenPath, ReadOnly: true}}, c.VolumeMounts...)
	c.SecurityContext = &corev1.SecurityContext{
		AllowPrivilegeEscalation: new(bool), ReadOnlyRootFilesystem: pointer(true), Capabilities: &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}},
	}
	bounded(&c)
	return corev1.PodSpec{
		ServiceAccountName: account, AutomountServiceAccountToken: new(bool), EnableServiceLinks: new(bool), Tolerations: leavesNode(),
		SecurityContext: &corev1.PodSecurityContext{
			RunAsNonRoot: pointer(true), RunAsUser: pointer(int64(nobody)), RunAsGroup: pointer(int64(nobody)),
			SeccompProfile: &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeRuntimeDefault},
		},
		Containers: []corev1.Container{c},
		Volumes: []corev1.Volume{{Name: token, VolumeSource: corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{
			DefaultMode: pointer(int32(0o444)), Sources: tokenSources(),
		}}}},
	}
}
