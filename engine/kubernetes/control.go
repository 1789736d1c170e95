package kubernetes

import (
	"fmt"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"trellis/compose"
)

const (
	// The ports of the control plane's pod. Those of APIPort, ConsolePort and PrometheusPort listen on its loopback alone: who may
	// forward ports of pods comes to them.
	OTLPPort       = 4318
	APIPort        = 19001
	ConsolePort    = 19002
	PrometheusPort = 19003

	// StateDir is where the control plane keeps what it knows.
	StateDir = "/state"
	// controlVolume is the size of that in bytes: the stores keep to 2 GiB together, and take more while they tidy up.
	controlVolume = 4 << 30
	// controlMemory is what the control plane may have; the collector is told of a little less.
	controlMemory, controlCollect = "1Gi", "900MiB"
	// controlGrace is how long it may take to write down what it has in memory.
	controlGrace = 20

	variableInstance, variableRevision = "TRELLIS_INSTANCE", "TRELLIS_REVISION"
)

// controlled says whether the project has a control plane of its own in the cluster: it keeps what Trellis keeps in the namespace.
func (r *renderer) controlled() bool { return r.planned() && r.opt.Revision != 0 }

func controlName(project string) string {
	return cleaned("trellis-"+project+"-"+controlPlane, maxName)
}

// checkWatch says what only the control plane carries out, where there is none.
func (r *renderer) checkWatch() {
	if r.controlled() {
		return
	}
	const why = "has no effect: only a control plane in the cluster watches, and there is none"
	if r.p.Trellis.Forward != nil {
		r.note("x-trellis.forward", why)
	}
	if r.p.Trellis.Alerts != nil && r.monitored() {
		r.note("x-trellis.alerts", "is changed: the cluster's Prometheus evaluates the rules that it names, and its Alertmanager says where alerts go")
	} else if r.p.Trellis.Alerts != nil {
		r.note("x-trellis.alerts", why)
	}
	for _, name := range r.p.ServiceNames() {
		svc := r.p.Services[name]
		if svc.Trellis.Objective != nil {
			r.note(at(svc, "x-trellis.objective"), why)
		}
		if svc.Trellis.Metrics != nil && !r.monitored() {
			r.note(at(svc, "x-trellis.metrics"), "is changed: its port is opened, and nothing in the cluster asks it but what you have there")
		}
	}
}

func (r *renderer) controlMeta(name string) metav1.ObjectMeta {
	m := r.meta(compose.Service{}, name)
	m.Labels = with(m.Labels, labelComponent, controlPlane)
	return m
}

// controlSelector finds the pod of the control plane.
func (r *renderer) controlSelector() map[string]string {
	return map[string]string{labelProject: labelValue(r.p.Name), labelComponent: controlPlane}
}

// receiver gives the Service its name at which telemetry is received. It is called before any service takes a name.
func (r *renderer) receiver() {
	if r.controlled() {
		r.telemetry = r.names.take(cleaned("trellis-"+r.p.Name, maxName), "telemetry")
	}
}

// control renders the control plane: one pod, what it keeps, and what it may do, which is what whoever deploys may do: it carries
// on what was cut short, and goes back from what fails. It depends on the kinds of everything else.
func (r *renderer) control() {
	if !r.controlled() {
		return
	}
	meta := r.controlMeta(controlName(r.p.Name))
	role, binding := r.ownRole(meta)
	r.add(r.lease(), r.ownAccount(meta), role, binding)
	if r.opt.Durable {
		r.add(r.controlClaim(meta))
	}
	service := r.clusterIP(compose.Service{}, r.telemetry, append([]corev1.ServicePort{
		{Name: "otlp-grpc", Port: 4317, TargetPort: intstr.FromInt32(OTLPPort), Protocol: corev1.ProtocolTCP},
		{Name: "otlp-http", Port: OTLPPort, TargetPort: intstr.FromInt32(OTLPPort), Protocol: corev1.ProtocolTCP},
	}, r.askedByKEDA()...))
	service.Labels = with(service.Labels, labelComponent, controlPlane)
	service.Spec.Selector = r.controlSelector()
	r.add(service, &appsv1.Deployment{
		TypeMeta: metav1.TypeMeta{APIVersion: "apps/v1", Kind: "Deployment"}, ObjectMeta: meta,
		Spec: appsv1.DeploymentSpec{
			Replicas: pointer(int32(1)), Selector: &metav1.LabelSelector{MatchLabels: r.controlSelector()},
			// Its volume is one pod's, and its files one process'.
			Strategy:             appsv1.DeploymentStrategy{Type: appsv1.RecreateDeploymentStrategyType},
			RevisionHistoryLimit: new(int32), ProgressDeadlineSeconds: pointer(int32(progressSeconds)),
			Template: corev1.PodTemplateSpec{ObjectMeta: r.ownMember(meta.Labels, []int32{HealthPort}), Spec: r.controlPod()},
		},
	})
	r.driftWatch()
	role.Rules = rights(r.out)
}

func (r *renderer) controlClaim(meta metav1.ObjectMeta) *corev1.PersistentVolumeClaim {
	claim := r.claim(meta, corev1.ReadWriteOnce)
	claim.Spec.Resources.Requests[corev1.ResourceStorage] = *resource.NewQuantity(controlVolume, resource.BinarySI)
	return claim
}

func (r *renderer) controlPod() corev1.PodSpec {
	const volume, scratch = "state", "scratch"
	c := corev1.Container{
		Name: controlPlane, Image: r.opt.Image,
		Args: []string{"serve", "--cluster", r.p.Name, "--namespace", r.opt.Namespace},
		Env:  append([]corev1.EnvVar{{Name: "GOMEMLIMIT", Value: controlCollect}, {Name: ImageEnv, Value: r.opt.Image}}, noticesSilence()...),
		Ports: []corev1.ContainerPort{
			{Name: "health", ContainerPort: HealthPort, Protocol: corev1.ProtocolTCP},
			{Name: "otlp", ContainerPort: OTLPPort, Protocol: corev1.ProtocolTCP}, // by gRPC and by HTTP
		},
		Resources: corev1.ResourceRequirements{
			Requests: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("100m"), corev1.ResourceMemory: resource.MustParse("192Mi")},
			Limits:   corev1.ResourceList{corev1.ResourceMemory: resource.MustParse(controlMemory)},
		},
		ReadinessProbe:           ownReadiness(),
		TerminationMessagePolicy: corev1.TerminationMessageFallbackToLogsOnError,
		VolumeMounts:             []corev1.VolumeMount{{Name: volume, MountPath: StateDir}, {Name: scratch, MountPath: "/tmp"}},
	}
	pod := r.ownPod(controlName(r.p.Name), c)
	pod.SecurityContext.FSGroup, pod.SecurityContext.FSGroupChangePolicy = pointer(int64(nobody)), pointer(corev1.FSGroupChangeOnRootMismatch)
	source := corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{SizeLimit: resource.NewQuantity(controlVolume, resource.BinarySI)}}
	if r.opt.Durable {
		source = corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: controlName(r.p.Name)}}
	}
	pod.Volumes = append(pod.Volumes, corev1.Volume{Name: volume, VolumeSource: source},
		corev1.Volume{Name: scratch, VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}})
	if !r.opt.Durable { // what it keeps is then on its node's disk, with its log
		disk := pod.Containers[0].Resources.Limits[corev1.ResourceEphemeralStorage]
		disk.Add(*resource.NewQuantity(controlVolume, resource.BinarySI))
		pod.Containers[0].Resources.Limits[corev1.ResourceEphemeralStorage] = disk
	}
	pod.PriorityClassName, pod.TerminationGracePeriodSeconds = r.opt.PriorityClass, pointer(int64(controlGrace))
	return pod
}

// telemetryEnvironment is what a pod is told about where its telemetry goes and what it is called there, by the names that
// OpenTelemetry's SDKs read; what the file says itself holds. None of it differs from revision to revision: the cluster fills in
// what does when a pod starts.
func (r *renderer) telemetryEnvironment(svc compose.Service) []corev1.EnvVar {
	if !r.controlled() {
		return nil
	}
	field := func(name, path string) corev1.EnvVar {
		return corev1.EnvVar{Name: name, ValueFrom: &corev1.EnvVarSource{FieldRef: &corev1.ObjectFieldSelector{APIVersion: "v1", FieldPath: path}}}
	}
	all := []corev1.EnvVar{
		field(variableInstance, "metadata.name"), field(variableRevision, "metadata.annotations['"+annotationRevision+"']"),
		{Name: "OTEL_EXPORTER_OTLP_ENDPOINT", Value: fmt.Sprintf("http://%s:%d", r.telemetry, OTLPPort)},
		{Name: "OTEL_SERVICE_NAME", Value: svc.Name},
		{Name: "OTEL_RESOURCE_ATTRIBUTES", Value: fmt.Sprintf(
			"service.namespace=%s,service.instance.id=$(%s),trellis.revision=$(%s)", r.p.Name, variableInstance, variableRevision)},
	}
	var out []corev1.EnvVar
	for _, v := range all {
		if _, said := svc.Environment[v.Name]; !said {
			out = append(out, v)
		}
	}
	return out
}
